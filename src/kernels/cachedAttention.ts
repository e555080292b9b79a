// Attention for generation: new tokens of many sequences at once, over a cache of keys and values.
// Shapes: N new rows, S slots (sequences in the cache), P positions per slot, H query heads, G key/value heads,
// C = head_dim. Row n belongs to slot slots_N[n] at position positions_N[n] and sees that slot's positions up to its
// own (at most `window` of them, if positive). The cache is laid out [S, P, G C].
// No gradients: training attends within its batch (attention.ts).

import { defineKernel } from "./kernel.ts";

const storeSamples = [
  { name: "3 rows of 5", params: { rows: 3, width: 5, cacheRows: 8 }, inputs: { indices: [7, 0, 3] } },
  { name: "1 row of 64", params: { rows: 1, width: 64, cacheRows: 4 }, inputs: { indices: [2] } },
];

export const storeRows = defineKernel({
  name: "storeRows",
  summary: "cache[indices[n]] = x[n]",
  buffers: { x: "in f32", indices: "in u32", cache: "inout f32" },
  params: { rows: "int", width: "int", cacheRows: "int" },
  sizes: ({ rows, width, cacheRows }) => ({ x: rows * width, indices: rows, cache: cacheRows * width }),
  reference({ x, indices, cache }, { rows, width }) {
    for (let n = 0; n < rows; n++) {
      for (let d = 0; d < width; d++) cache[indices[n] * width + d] = x[n * width + d];
    }
  },
  samples: storeSamples,
});

function sample(
  slots: number[],
  positions: number[],
  maxPositions: number,
  heads: number,
  kvHeads: number,
  headDim: number,
  window: number,
) {
  return {
    name: `${slots.length} rows, ${heads}/${kvHeads} heads of ${headDim}${window ? `, window ${window}` : ""}`,
    params: {
      rows: slots.length,
      cacheSlots: Math.max(...slots) + 1,
      maxPositions,
      heads,
      kvHeads,
      headDim,
      window,
      scale: headDim ** -0.5,
    },
    inputs: { slots, positions },
  };
}

export const cachedAttention = defineKernel({
  name: "cachedAttention",
  summary: "o = softmax(scale q k^T) v over the cached positions of each row's sequence",
  buffers: {
    q: "in f32",
    keys: "in f32",
    values: "in f32",
    slots: "in u32",
    positions: "in u32",
    o: "out f32",
  },
  params: {
    rows: "int",
    cacheSlots: "int",
    maxPositions: "int",
    heads: "int",
    kvHeads: "int",
    headDim: "int",
    window: "int",
    scale: "float",
  },
  sizes: ({ rows, cacheSlots, maxPositions, heads, kvHeads, headDim }) => ({
    q: rows * heads * headDim,
    keys: cacheSlots * maxPositions * kvHeads * headDim,
    values: cacheSlots * maxPositions * kvHeads * headDim,
    slots: rows,
    positions: rows,
    o: rows * heads * headDim,
  }),
  reference({ q, keys, values, slots, positions, o }, params) {
    const { rows, maxPositions, heads, kvHeads, headDim, window, scale } = params;
    for (let n = 0; n < rows; n++) {
      const first = window > 0 ? Math.max(0, positions[n] - window + 1) : 0;
      for (let h = 0; h < heads; h++) {
        const group = Math.floor(h / (heads / kvHeads));
        const at = (n * heads + h) * headDim;
        const rowAt = (position: number) =>
          ((slots[n] * maxPositions + position) * kvHeads + group) * headDim;
        const scores: number[] = [];
        for (let p = first; p <= positions[n]; p++) {
          let dot = 0;
          for (let c = 0; c < headDim; c++) dot += q[at + c] * keys[rowAt(p) + c];
          scores.push(scale * dot);
        }
        const largest = scores.reduce((a, b) => Math.max(a, b));
        const total = scores.reduce((sum, score) => sum + Math.exp(score - largest), 0);
        for (let c = 0; c < headDim; c++) {
          let value = 0;
          scores.forEach((score, j) => {
            value += Math.exp(score - largest) * values[rowAt(first + j) + c];
          });
          o[at + c] = value / total;
        }
      }
    }
  },
  samples: [
    sample([0, 0, 0], [0, 1, 2], 5, 2, 1, 6, 0),
    sample([2, 0, 1, 1], [8, 3, 0, 5], 9, 4, 2, 16, 0),
    sample([1], [69], 80, 2, 2, 32, 20),
    {
      ...sample(
        Array.from({ length: 8 }, (_, n) => n),
        Array.from({ length: 8 }, (_, n) => 500 + n),
        512,
        8,
        8,
        32,
        0,
      ),
      large: true,
    },
  ],
});
