// The heart of a Mixture of Neuron Experts: per row, the gate values G = act(gate), the K of largest |G| kept
// exactly (ties: the lower index wins), and their products with up. K = F keeps all of them: the plain expert.
// Shapes: R routed rows, F expert width. `keep` holds the kept set as bits, ceil(F / 32) words a row, bit j % 32 of
// word j / 32 for neuron j. Not here: choosing by other scores (src/study).

import { activate, activateGrad, activations } from "./activation.ts";
import { defineDifferentiable, defineKernel } from "./kernel.ts";

/** Words of `keep` per row of F neurons. */
export const keepWords = (width: number) => Math.ceil(width / 32);

/** Magnitudes at least 0.02 apart, so that a finite difference never changes which neurons are kept. */
function spreadGates(rows: number, width: number): number[] {
  return Array.from({ length: rows * width }, (_, i) => {
    const row = Math.floor(i / width);
    const rank = ((i % width) * 7 + row * 3) % width; // 7 and width have no common factor in the samples
    return (0.3 + 0.04 * rank) * ((i + row) % 3 === 0 ? 1 : -1) * (width > 60 ? 0.3 : 1);
  });
}

function topKSample(name: string, rows: number, width: number, kept: number, activation: number) {
  return { name, params: { rows, width, kept, activation }, inputs: { gate: spreadGates(rows, width) } };
}

const tie = [1, 1, -3, 1, 1, -3, 1, 1, 1];

const samples = [
  topKSample("silu, 3 of 10", 4, 10, 3, activations.silu),
  topKSample("silu, all of 10", 3, 10, 10, activations.silu),
  topKSample("silu, 1 of 33", 2, 33, 1, activations.silu),
  topKSample("silu, 25 of 100", 3, 100, 25, activations.silu),
  topKSample("gelu, 5 of 20", 2, 20, 5, activations.gelu),
  topKSample("gelu_tanh, 5 of 20", 2, 20, 5, activations.gelu_tanh),
  topKSample("relu, 5 of 20", 2, 20, 5, activations.relu),
  topKSample("sigmoid, 5 of 20", 2, 20, 5, activations.sigmoid),
  {
    name: "ties: lower index wins",
    params: { rows: 2, width: 9, kept: 4, activation: activations.sigmoid },
    inputs: { gate: [...tie, ...tie.map(() => 0.5)] },
    kink: true,
  },
  {
    name: "more equal magnitudes than any search keeps at hand",
    params: { rows: 3, width: 1000, kept: 250, activation: activations.silu },
    inputs: { gate: Array.from({ length: 3000 }, (_, i) => [1, 0, -2][Math.floor(i / 1000)]) },
    kink: true,
  },
  {
    name: "16384 rows, 64 of 256",
    params: { rows: 16384, width: 256, kept: 64, activation: activations.silu },
    large: true,
  },
  {
    name: "16384 rows, 256 of 256",
    params: { rows: 16384, width: 256, kept: 256, activation: activations.silu },
    large: true,
  },
];

export const neuronTopK = defineDifferentiable({
  name: "neuronTopK",
  summary: "hidden = act(gate) * up for the K neurons of largest |act(gate)| in each row, 0 for the others",
  buffers: { gate: "in f32", up: "in f32", hidden: "out f32", keep: "out u32" },
  params: { rows: "int", width: "int", kept: "int", activation: "int" },
  sizes: ({ rows, width }) => ({
    gate: rows * width,
    up: rows * width,
    hidden: rows * width,
    keep: rows * keepWords(width),
  }),
  reference({ gate, up, hidden, keep }, { rows, width, kept, activation }) {
    const words = keepWords(width);
    keep.fill(0, 0, rows * words);
    hidden.fill(0, 0, rows * width);
    for (let r = 0; r < rows; r++) {
      const values = Array.from({ length: width }, (_, j) => activate(activation, gate[r * width + j]));
      // Magnitudes are compared as the f32 numbers that every backend sees.
      const size = values.map((value) => Math.fround(Math.abs(value)));
      const order = values.map((_, j) => j).sort((a, b) => size[b] - size[a] || a - b);
      for (const j of order.slice(0, kept)) {
        keep[r * words + (j >>> 5)] |= 1 << (j & 31);
        hidden[r * width + j] = values[j] * up[r * width + j];
      }
    }
  },
  samples,
  gradient: {
    of: ["hidden"],
    wrt: ["gate", "up"],
    rule(g) {
      const { rows, width, activation } = g.params;
      g.run(
        neuronTopKGrad,
        {
          gate: g.value("gate"),
          up: g.value("up"),
          keep: g.value("keep"),
          dhidden: g.grad("hidden"),
          dgate: g.target("gate"),
          dup: g.target("up"),
        },
        { rows, width, activation, accumulateGate: g.accumulate("gate"), accumulateUp: g.accumulate("up") },
      );
    },
  },
});

export const neuronTopKGrad = defineKernel({
  name: "neuronTopKGrad",
  summary: "gradients of neuronTopK: through the kept neurons only",
  buffers: {
    gate: "in f32",
    up: "in f32",
    keep: "in u32",
    dhidden: "in f32",
    dgate: "inout f32",
    dup: "inout f32",
  },
  params: { rows: "int", width: "int", activation: "int", accumulateGate: "int", accumulateUp: "int" },
  sizes: ({ rows, width }) => ({
    gate: rows * width,
    up: rows * width,
    keep: rows * keepWords(width),
    dhidden: rows * width,
    dgate: rows * width,
    dup: rows * width,
  }),
  reference({ gate, up, keep, dhidden, dgate, dup }, params) {
    const { rows, width, activation, accumulateGate, accumulateUp } = params;
    for (let r = 0; r < rows; r++) {
      for (let j = 0; j < width; j++) {
        const i = r * width + j;
        const kept = isKept(keep, r, j, width);
        const gateGrad = kept ? dhidden[i] * up[i] * activateGrad(activation, gate[i]) : 0;
        const upGrad = kept ? dhidden[i] * activate(activation, gate[i]) : 0;
        dgate[i] = (accumulateGate ? dgate[i] : 0) + gateGrad;
        dup[i] = (accumulateUp ? dup[i] : 0) + upGrad;
      }
    }
  },
  samples: samples
    .filter((sample) => !("large" in sample) || sample.params.kept === 64)
    .flatMap(({ params: { rows, width, activation }, name, ...rest }) =>
      [0, 1].map((flag) => ({
        name: `${name}${flag ? " add" : ""}`,
        params: { rows, width, activation, accumulateGate: flag, accumulateUp: 1 - flag },
        inputs: {
          keep: Array.from({ length: rows * keepWords(width) }, (_, i) => ((i + 1) * 0x9e3779b9) >>> 0),
          ...("inputs" in rest ? rest.inputs : {}),
        },
        ...("large" in rest ? { large: true } : {}),
      })),
    ),
});

/** Whether row r keeps neuron j. */
export function isKept(keep: Uint32Array, r: number, j: number, width: number): boolean {
  return ((keep[r * keepWords(width) + (j >>> 5)] >>> (j & 31)) & 1) === 1;
}
