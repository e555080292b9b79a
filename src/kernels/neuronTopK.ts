// The heart of a Mixture of Neuron Experts: per row, the gate values G = act(gate), the K of largest |G| kept exactly
// (NaN is the largest; ties: the lower index wins), and their products with up. K = F keeps all: the plain expert.
// Two things are made on the way, where they cost next to nothing: the router's weight is multiplied in (`weighted`),
// and what the neuron balance loss is made of is added up per expert (`scored`; balance.ts makes the loss of it).
// Shapes: R routed rows, F expert width, E experts (`groups`), whose rows begin at `offsets`. `keep` holds the kept set
// as bits, ceil(F / 32) words a row, bit j % 32 of word j / 32 for neuron j. Not here: choosing by other scores.

import { activate, activateGrad } from "./activation.ts";
import { defineDifferentiable, defineKernel, type FloatArray } from "./kernel.ts";
import { gradSamples, topKSamples } from "./neuronTopKSamples.ts";

/** Words of `keep` per row of F neurons. */
export const keepWords = (width: number) => Math.ceil(width / 32);

/** Ones of a word: how many neurons it keeps. */
export function bitCount(word: number): number {
  let count = 0;
  for (let bits = word; bits !== 0; bits &= bits - 1) count++;
  return count;
}

/** Whether row r keeps neuron j. */
export function isKept(keep: Uint32Array, r: number, j: number, width: number): boolean {
  return ((keep[r * keepWords(width) + (j >>> 5)] >>> (j & 31)) & 1) === 1;
}

/** Indices of the `kept` largest, the largest first: NaN counts as larger than any number; of equals the lower index. */
export function largestIndices(values: readonly number[], kept: number): number[] {
  const order = values.map((value, index) => ({ value, index, isNaN: Number.isNaN(value) }));
  order.sort((a, b) => {
    if (a.isNaN || b.isNaN) return Number(b.isNaN) - Number(a.isNaN) || a.index - b.index;
    return a.value === b.value ? a.index - b.index : a.value < b.value ? 1 : -1;
  });
  return order.slice(0, kept).map(({ index }) => index);
}

const params = {
  rows: "int",
  width: "int",
  activation: "int",
  /** 1: the hidden values of row r are multiplied by weights[slotOfRow[r]]. 0: these two buffers may be empty. */
  weighted: "int",
  /** 1: makes `usage` and `scores` for rows grouped by `offsets`. 0: these three buffers may be empty. */
  scored: "int",
  groups: "int",
  /** Scores are |G_j| divided by the row's sum of |G|, or |G_j|. */
  normalise: "int",
  /** The neurons that are not kept have a score of zero. */
  masked: "int",
} as const;

type Params = { readonly [K in keyof typeof params]: number };

const sizes = ({ rows, width, weighted, scored, groups }: Params) => ({
  gate: rows * width,
  up: rows * width,
  weights: weighted * rows,
  slotOfRow: weighted * rows,
  offsets: scored * (groups + 1),
  keep: rows * keepWords(width),
  hidden: rows * width,
  perExpert: scored * groups * width,
});

/** Sum of |G| over all F neurons of row r, or 1 when scores are not normalised. */
function scoreScale(gate: FloatArray, r: number, { width, activation, normalise }: Params): number {
  if (!normalise) return 1;
  let total = 0;
  for (let j = 0; j < width; j++) total += Math.abs(activate(activation, gate[r * width + j]));
  return total === 0 ? 1 : total; // a row of zeros has no scores
}

/** Calls f for every expert and each of its rows. */
function forExpertRows(offsets: Uint32Array, groups: number, f: (e: number, r: number) => void): void {
  for (let e = 0; e < groups; e++) for (let r = offsets[e]; r < offsets[e + 1]; r++) f(e, r);
}

export const neuronTopK = defineDifferentiable({
  name: "neuronTopK",
  summary: "hidden = act(gate) * up for the K neurons of largest |act(gate)| in each row, 0 for the others",
  buffers: {
    gate: "in f32",
    up: "in f32",
    weights: "in f32",
    slotOfRow: "in u32",
    offsets: "in u32",
    hidden: "out f32",
    keep: "out u32",
    /** Rows of each expert that keep each neuron: [E, F]. */
    usage: "out u32",
    /** Sum over an expert's rows of the score of each neuron: [E, F]. */
    scores: "out f32",
  },
  params: { kept: "int", ...params },
  sizes: (params) => {
    const { perExpert, ...others } = sizes(params);
    return { ...others, usage: perExpert, scores: perExpert };
  },
  reference({ gate, up, weights, slotOfRow, offsets, hidden, keep, usage, scores }, params) {
    const { rows, width, kept, activation, weighted, scored, groups, masked } = params;
    const words = keepWords(width);
    keep.fill(0, 0, rows * words);
    hidden.fill(0, 0, rows * width);
    for (let r = 0; r < rows; r++) {
      const values = Array.from({ length: width }, (_, j) => activate(activation, gate[r * width + j]));
      const weight = weighted ? weights[slotOfRow[r]] : 1;
      // Magnitudes are compared as the f32 numbers that every backend sees.
      const size = values.map((value) => Math.fround(Math.abs(value)));
      for (const j of largestIndices(size, kept)) {
        keep[r * words + (j >>> 5)] |= 1 << (j & 31);
        hidden[r * width + j] = values[j] * up[r * width + j] * weight;
      }
    }
    if (!scored) return;
    usage.fill(0, 0, groups * width);
    scores.fill(0, 0, groups * width);
    forExpertRows(offsets, groups, (e, r) => {
      const scale = scoreScale(gate, r, params);
      for (let j = 0; j < width; j++) {
        const isIn = isKept(keep, r, j, width);
        if (isIn) usage[e * width + j]++;
        if (masked && !isIn) continue;
        scores[e * width + j] += Math.abs(activate(activation, gate[r * width + j])) / scale;
      }
    });
  },
  samples: topKSamples,
  gradient: {
    of: ["hidden", "scores"],
    wrt: ["gate", "up", "weights"],
    inPlace: ["gate", "up"],
    rule(g) {
      const { kept: _, ...params } = g.params;
      g.run(
        neuronTopKGrad,
        {
          gate: g.value("gate"),
          up: g.value("up"),
          weights: g.value("weights"),
          slotOfRow: g.value("slotOfRow"),
          offsets: g.value("offsets"),
          keep: g.value("keep"),
          dhidden: g.grad("hidden"),
          dscores: g.grad("scores"),
          dgate: g.target("gate"),
          dup: g.target("up"),
          dweights: g.target("weights"),
        },
        {
          ...params,
          scored: params.scored && g.flows("scores"),
          accumulateGate: g.accumulate("gate"),
          accumulateUp: g.accumulate("up"),
          accumulateWeights: g.accumulate("weights"),
        },
      );
    },
  },
});

export const neuronTopKGrad = defineKernel({
  name: "neuronTopKGrad",
  summary: "gradients of neuronTopK: of the hidden values through the kept neurons only, and of the scores",
  buffers: {
    gate: "in f32",
    up: "in f32",
    weights: "in f32",
    slotOfRow: "in u32",
    offsets: "in u32",
    keep: "in u32",
    dhidden: "in f32",
    dscores: "in f32",
    dgate: "inout f32",
    dup: "inout f32",
    dweights: "inout f32",
  },
  inPlace: { dgate: "gate", dup: "up" },
  params: { ...params, accumulateGate: "int", accumulateUp: "int", accumulateWeights: "int" },
  sizes: (params) => {
    const { hidden, perExpert, ...others } = sizes(params);
    const { gate, up, weights } = others;
    return { ...others, dhidden: hidden, dscores: perExpert, dgate: gate, dup: up, dweights: weights };
  },
  reference({ gate, up, weights, slotOfRow, offsets, keep, dhidden, dscores, dgate, dup, dweights }, params) {
    const { rows, width, activation, weighted, scored, groups, normalise, masked } = params;
    // With c_j = dscores_j, or 0 where the score is masked: d/dG_j of sum_m c_m |G_m| / S is sign(G_j) (c_j - mean) / S,
    // where mean = sum_m c_m |G_m| / S when S = sum |G|, and 0 when S is the constant 1.
    const scoreGrads = new Float64Array(rows * width); // complete before dgate, which may lie where gate does
    forExpertRows(offsets, scored ? groups : 0, (e, r) => {
      const c = (j: number) => (masked && !isKept(keep, r, j, width) ? 0 : dscores[e * width + j]);
      const scale = scoreScale(gate, r, params);
      let mean = 0;
      for (let j = 0; normalise && j < width; j++) {
        mean += (c(j) * Math.abs(activate(activation, gate[r * width + j]))) / scale;
      }
      for (let j = 0; j < width; j++) {
        const i = r * width + j;
        const sign = Math.sign(activate(activation, gate[i]));
        scoreGrads[i] = ((c(j) - mean) / scale) * sign * activateGrad(activation, gate[i]);
      }
    });
    for (let r = 0; r < rows; r++) {
      const weight = weighted ? weights[slotOfRow[r]] : 1;
      let dot = 0; // with the hidden values before they are weighted
      for (let j = 0; j < width; j++) {
        const i = r * width + j;
        const dh = isKept(keep, r, j, width) ? dhidden[i] : 0;
        const value = activate(activation, gate[i]);
        const gateGrad = dh * weight * up[i] * activateGrad(activation, gate[i]) + scoreGrads[i];
        const upGrad = dh * weight * value;
        dot += dh * value * up[i];
        dgate[i] = (params.accumulateGate ? dgate[i] : 0) + gateGrad;
        dup[i] = (params.accumulateUp ? dup[i] : 0) + upGrad;
      }
      if (weighted) {
        const slot = slotOfRow[r];
        dweights[slot] = (params.accumulateWeights ? dweights[slot] : 0) + dot;
      }
    }
  },
  samples: gradSamples,
});
