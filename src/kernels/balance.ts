// Balance losses over experts and over the neurons inside each expert, and how often neurons are kept.
// Shapes: T tokens, E experts, A experts per token, R = T A rows grouped by expert (offsets), F expert width,
// K neurons kept. Every loss is one number; the shares f are constants for the gradient.
// Source: Switch Transformer (Fedus 2021) for the experts; for the neurons the analogous form, our reading of
// arXiv 2510.05781 (NG-LBL), with the two switches of its open questions: normalise and masked.

import { activate, activateGrad, activations } from "./activation.ts";
import { defineDifferentiable, defineKernel, type FloatArray } from "./kernel.ts";
import { isKept, keepWords } from "./neuronTopK.ts";

function offsetsOf(counts: readonly number[]): number[] {
  const offsets = [0];
  for (const count of counts) offsets.push(offsets[offsets.length - 1] + count);
  return offsets;
}

const expertSamples = [
  {
    name: "6 tokens, 2 of 4",
    params: { tokens: 6, experts: 4, active: 2 },
    inputs: { offsets: [0, 5, 5, 9, 12] },
  },
  {
    name: "33 tokens, 1 of 3",
    params: { tokens: 33, experts: 3, active: 1 },
    inputs: { offsets: [0, 1, 20, 33] },
  },
  {
    name: "4096 tokens, 4 of 16",
    params: { tokens: 4096, experts: 16, active: 4 },
    inputs: { offsets: offsetsOf(Array.from({ length: 16 }, () => 1024)) },
    large: true,
  },
];

export const expertBalance = defineDifferentiable({
  name: "expertBalance",
  summary: "E sum_e f_e P_e: f the share of slots, P the mean router probability; 1 when balanced",
  buffers: { probs: "in f32", offsets: "in u32", loss: "out f32" },
  params: { tokens: "int", experts: "int", active: "int" },
  sizes: ({ tokens, experts }) => ({ probs: tokens * experts, offsets: experts + 1, loss: 1 }),
  reference({ probs, offsets, loss }, { tokens, experts, active }) {
    let total = 0;
    for (let e = 0; e < experts; e++) {
      const share = (offsets[e + 1] - offsets[e]) / (tokens * active);
      let mean = 0;
      for (let t = 0; t < tokens; t++) mean += probs[t * experts + e] / tokens;
      total += share * mean;
    }
    loss[0] = experts * total;
  },
  samples: expertSamples,
  gradient: {
    of: ["loss"],
    wrt: ["probs"],
    rule(g) {
      g.run(
        expertBalanceGrad,
        { offsets: g.value("offsets"), dloss: g.grad("loss"), dprobs: g.target("probs") },
        { ...g.params, accumulate: g.accumulate("probs") },
      );
    },
  },
});

export const expertBalanceGrad = defineKernel({
  name: "expertBalanceGrad",
  summary: "gradient of expertBalance with respect to the probabilities",
  buffers: { offsets: "in u32", dloss: "in f32", dprobs: "inout f32" },
  params: { tokens: "int", experts: "int", active: "int", accumulate: "int" },
  sizes: ({ tokens, experts }) => ({ offsets: experts + 1, dloss: 1, dprobs: tokens * experts }),
  reference({ offsets, dloss, dprobs }, { tokens, experts, active, accumulate }) {
    for (let t = 0; t < tokens; t++) {
      for (let e = 0; e < experts; e++) {
        const share = (offsets[e + 1] - offsets[e]) / (tokens * active);
        const at = t * experts + e;
        dprobs[at] = (accumulate ? dprobs[at] : 0) + (dloss[0] * experts * share) / tokens;
      }
    }
  },
  samples: expertSamples.flatMap((sample) =>
    [0, 1].map((accumulate) => ({
      ...sample,
      name: `${sample.name}${accumulate ? " add" : ""}`,
      params: { ...sample.params, accumulate },
    })),
  ),
});

/** The kept sets of random rows, and how often each neuron is kept. */
function keptSets(counts: readonly number[], width: number, kept: number) {
  const offsets = offsetsOf(counts);
  const words = keepWords(width);
  const keep = new Array<number>(offsets[counts.length] * words).fill(0);
  const usage = new Array<number>(counts.length * width).fill(0);
  counts.forEach((count, e) => {
    for (let r = offsets[e]; r < offsets[e] + count; r++) {
      for (let n = 0; n < kept; n++) {
        const j = (n * 3 + r * 5) % width; // 3 and width have no common factor in the samples
        keep[r * words + (j >>> 5)] = (keep[r * words + (j >>> 5)] | (1 << (j & 31))) >>> 0;
        usage[e * width + j]++;
      }
    }
  });
  return { offsets, keep, usage };
}

const neuronCases = [
  { name: "4 experts, one empty", counts: [3, 0, 5, 1], width: 10, kept: 3, large: false },
  { name: "2 experts, 40 neurons", counts: [9, 2], width: 40, kept: 10, large: false },
  { name: "16 experts x 1024 rows", counts: new Array(16).fill(1024), width: 256, kept: 64, large: true },
].map(({ counts, large, ...rest }) => ({
  ...rest,
  groups: counts.length,
  rows: counts.reduce((a: number, b: number) => a + b, 0),
  inputs: keptSets(counts, rest.width, rest.kept),
  ...(large && { large }),
}));

export const neuronUsage = defineKernel({
  name: "neuronUsage",
  summary: "counts, per expert and neuron, the rows that keep it",
  buffers: { keep: "in u32", offsets: "in u32", usage: "inout u32" },
  params: { groups: "int", rows: "int", width: "int", accumulate: "int" },
  sizes: ({ groups, rows, width }) => ({
    keep: rows * keepWords(width),
    offsets: groups + 1,
    usage: groups * width,
  }),
  reference({ keep, offsets, usage }, { groups, width, accumulate }) {
    for (let e = 0; e < groups; e++) {
      for (let j = 0; j < width; j++) {
        let count = accumulate ? usage[e * width + j] : 0;
        for (let r = offsets[e]; r < offsets[e + 1]; r++) count += isKept(keep, r, j, width) ? 1 : 0;
        usage[e * width + j] = count;
      }
    }
  },
  samples: neuronCases.flatMap(({ name, groups, rows, width, inputs, ...rest }) =>
    [0, 1].map((accumulate) => ({
      name: `${name}${accumulate ? " add" : ""}`,
      params: { groups, rows, width, accumulate },
      inputs,
      ...("large" in rest && { large: true }),
    })),
  ),
});

/** [normalise, masked, activation] */
const switches = [
  [0, 0, activations.silu],
  [0, 1, activations.silu],
  [1, 0, activations.silu],
  [1, 1, activations.silu],
  [1, 0, activations.gelu],
  [1, 1, activations.sigmoid],
];

const neuronSamples = neuronCases.flatMap(({ name, groups, rows, width, kept, inputs, ...rest }) =>
  ("large" in rest ? [[1, 0, activations.silu]] : switches).map(([normalise, masked, activation]) => ({
    name: `${name}, ${normalise ? "l1" : "none"}, ${masked ? "topk" : "all"}, activation ${activation}`,
    params: { groups, rows, width, kept, activation, normalise, masked },
    inputs,
    ...("large" in rest && { large: true }),
  })),
);
const neuronParams = {
  groups: "int",
  rows: "int",
  width: "int",
  kept: "int",
  activation: "int",
  normalise: "int",
  masked: "int",
} as const;

interface NeuronParams {
  groups: number;
  rows: number;
  width: number;
  kept: number;
  activation: number;
  normalise: number;
  masked: number;
}

/** Experts with rows, which the layer's loss averages over. */
function expertsInUse(offsets: Uint32Array, groups: number): number {
  let count = 0;
  for (let e = 0; e < groups; e++) count += offsets[e + 1] > offsets[e] ? 1 : 0;
  return count;
}

/** Sum of |G| over all F neurons of row r, or 1 when scores are not normalised. */
function scoreScale(gate: FloatArray, r: number, { width, activation, normalise }: NeuronParams): number {
  if (!normalise) return 1;
  let total = 0;
  for (let j = 0; j < width; j++) total += Math.abs(activate(activation, gate[r * width + j]));
  return total || 1; // a row of zeros has no scores
}

export const neuronBalance = defineDifferentiable({
  name: "neuronBalance",
  summary:
    "mean over experts with rows of sum_j f_j P_j: f = F/(K T_e) count(kept), P = mean score of the neuron",
  buffers: { gate: "in f32", keep: "in u32", offsets: "in u32", usage: "in u32", loss: "out f32" },
  params: neuronParams,
  sizes: ({ groups, rows, width }) => ({
    gate: rows * width,
    keep: rows * keepWords(width),
    offsets: groups + 1,
    usage: groups * width,
    loss: 1,
  }),
  reference({ gate, keep, offsets, usage, loss }, params) {
    const { groups, width, kept, activation, masked } = params;
    let total = 0;
    for (let e = 0; e < groups; e++) {
      const tokens = offsets[e + 1] - offsets[e];
      for (let r = offsets[e]; r < offsets[e + 1]; r++) {
        const scale = scoreScale(gate, r, params);
        for (let j = 0; j < width; j++) {
          if (masked && !isKept(keep, r, j, width)) continue;
          const f = (width * usage[e * width + j]) / (kept * tokens);
          const score = Math.abs(activate(activation, gate[r * width + j])) / scale;
          total += (f * score) / tokens;
        }
      }
    }
    loss[0] = total / Math.max(1, expertsInUse(offsets, groups));
  },
  samples: neuronSamples,
  gradient: {
    of: ["loss"],
    wrt: ["gate"],
    rule(g) {
      g.run(
        neuronBalanceGrad,
        {
          gate: g.value("gate"),
          keep: g.value("keep"),
          offsets: g.value("offsets"),
          usage: g.value("usage"),
          dloss: g.grad("loss"),
          dgate: g.target("gate"),
        },
        { ...g.params, accumulate: g.accumulate("gate") },
      );
    },
  },
});

export const neuronBalanceGrad = defineKernel({
  name: "neuronBalanceGrad",
  summary: "gradient of neuronBalance with respect to the gate projections",
  buffers: {
    gate: "in f32",
    keep: "in u32",
    offsets: "in u32",
    usage: "in u32",
    dloss: "in f32",
    dgate: "inout f32",
  },
  params: { ...neuronParams, accumulate: "int" },
  sizes: ({ groups, rows, width }) => ({
    gate: rows * width,
    keep: rows * keepWords(width),
    offsets: groups + 1,
    usage: groups * width,
    dloss: 1,
    dgate: rows * width,
  }),
  reference({ gate, keep, offsets, usage, dloss, dgate }, params) {
    const { groups, width, kept, activation, normalise, masked, accumulate } = params;
    const experts = Math.max(1, expertsInUse(offsets, groups));
    for (let e = 0; e < groups; e++) {
      const tokens = offsets[e + 1] - offsets[e];
      // c_j = f_j, or 0 where the score is masked. d/dG_j of sum_m c_m |G_m| / S is sign(G_j) (c_j - mean) / S,
      // with mean = sum_m c_m |G_m| / S when S = sum |G|, and 0 when S is the constant 1.
      const c = (r: number, j: number) =>
        masked && !isKept(keep, r, j, width) ? 0 : (width * usage[e * width + j]) / (kept * tokens);
      for (let r = offsets[e]; r < offsets[e + 1]; r++) {
        const scale = scoreScale(gate, r, params);
        let mean = 0;
        for (let j = 0; normalise && j < width; j++) {
          mean += (c(r, j) * Math.abs(activate(activation, gate[r * width + j]))) / scale;
        }
        for (let j = 0; j < width; j++) {
          const at = r * width + j;
          const sign = Math.sign(activate(activation, gate[at]));
          const perScore = dloss[0] / (experts * tokens * scale);
          const value = perScore * (c(r, j) - mean) * sign * activateGrad(activation, gate[at]);
          dgate[at] = (accumulate ? dgate[at] : 0) + value;
        }
      }
    }
  },
  samples: neuronSamples.flatMap((sample) =>
    [0, 1].map((accumulate) => ({
      ...sample,
      name: `${sample.name}${accumulate ? " add" : ""}`,
      params: { ...sample.params, accumulate },
    })),
  ),
});
