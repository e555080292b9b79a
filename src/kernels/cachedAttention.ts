// Attention for generation: new tokens of many sequences at once, over a cache of keys and values.
// Shapes: N new rows, S slots (sequences in the cache), P positions per slot, H query heads, G key/value heads,
// C = head_dim. Row n belongs to slot slots_N[n] at position positions_N[n] and sees that slot's positions up to its
// own (at most `window` of them, if positive). No gradients: training attends within its batch (attention.ts).
//
// The cache is f32 or bf16. Keys lie in blocks of 32 positions, [S, G, P / 32, C, 32], so that a query meets 32 of them
// without summing across a vector; values lie in rows, [S, G, P, C]; P is rounded up to whole blocks.

import { type ArrayOf, defineKernel, fromBf16, toBf16 } from "./kernel.ts";

/** Positions of a block of keys. */
export const KEY_BLOCK = 32;

export type CacheType = "f32" | "bf16";

const suffixOf = { f32: "F32", bf16: "Bf16" } as const;

/** Elements of the keys, and of the values, of a cache. */
export function cacheSize(slots: number, maxPositions: number, kvHeads: number, headDim: number): number {
  return slots * kvHeads * wholeBlocks(maxPositions) * headDim;
}

const wholeBlocks = (positions: number) => Math.ceil(positions / KEY_BLOCK) * KEY_BLOCK;

/** Where elements lie; `head` is slot * G + group. */
function places(maxPositions: number, headDim: number) {
  const rows = wholeBlocks(maxPositions);
  return {
    key: (head: number, position: number, c: number) =>
      (head * rows + position - (position % KEY_BLOCK)) * headDim + c * KEY_BLOCK + (position % KEY_BLOCK),
    value: (head: number, position: number, c: number) => (head * rows + position) * headDim + c,
  };
}

interface Shape {
  slots: number[];
  positions: number[];
  maxPositions: number;
  heads: number;
  kvHeads: number;
  headDim: number;
  window?: number;
  large?: boolean;
}

const range = (count: number, first = 0) => Array.from({ length: count }, (_, n) => first + n);

const shapes: Shape[] = [
  { slots: [0, 0, 0], positions: [0, 1, 2], maxPositions: 5, heads: 2, kvHeads: 1, headDim: 6 },
  { slots: [2, 0, 1, 1], positions: [8, 3, 0, 5], maxPositions: 9, heads: 4, kvHeads: 2, headDim: 16 },
  { slots: [1], positions: [69], maxPositions: 80, heads: 2, kvHeads: 2, headDim: 32, window: 20 },
  { slots: [0], positions: [130], maxPositions: 131, heads: 6, kvHeads: 1, headDim: 24 },
  // A prompt, its continuation by another piece beside a sequence of one token, and one with a window.
  { slots: range(40).fill(0), positions: range(40), maxPositions: 64, heads: 2, kvHeads: 1, headDim: 32 },
  {
    slots: [1, ...range(50).fill(0), 2],
    positions: [7, ...range(50, 300), 0],
    maxPositions: 350,
    heads: 2,
    kvHeads: 2,
    headDim: 20,
  },
  {
    slots: range(70).fill(0),
    positions: range(70, 9),
    maxPositions: 80,
    heads: 1,
    kvHeads: 1,
    headDim: 16,
    window: 13,
  },
  {
    slots: range(8),
    positions: range(8, 500),
    maxPositions: 512,
    heads: 8,
    kvHeads: 8,
    headDim: 64,
    large: true,
  },
  {
    slots: range(512).fill(0),
    positions: range(512),
    maxPositions: 512,
    heads: 8,
    kvHeads: 8,
    headDim: 64,
    large: true,
  },
];

function sampleOf({ slots, positions, large, ...shape }: Shape) {
  const window = shape.window ?? 0;
  const { heads, kvHeads, headDim } = shape;
  const at =
    positions.length > 1 ? `${positions[0]} to ${positions[positions.length - 1]}` : `${positions[0]}`;
  return {
    name: `${slots.length} rows at ${at}, ${heads}/${kvHeads} heads of ${headDim}${window ? `, window ${window}` : ""}`,
    params: {
      ...shape,
      rows: slots.length,
      cacheSlots: Math.max(...slots) + 1,
      window,
      scale: headDim ** -0.5,
    },
    inputs: { slots, positions },
    ...(large && { large }),
  };
}

function storeKeyValue(type: CacheType) {
  const encode = type === "bf16" ? toBf16 : (value: number) => value;
  return defineKernel({
    name: `storeKeyValue${suffixOf[type]}`,
    summary: `puts new keys and values into a cache of ${type}`,
    buffers: {
      k: "in f32",
      v: "in f32",
      slots: "in u32",
      positions: "in u32",
      keys: `inout ${type}`,
      values: `inout ${type}`,
    },
    params: {
      rows: "int",
      cacheSlots: "int",
      maxPositions: "int",
      kvHeads: "int",
      headDim: "int",
    },
    sizes: ({ rows, cacheSlots, maxPositions, kvHeads, headDim }) => ({
      k: rows * kvHeads * headDim,
      v: rows * kvHeads * headDim,
      slots: rows,
      positions: rows,
      keys: cacheSize(cacheSlots, maxPositions, kvHeads, headDim),
      values: cacheSize(cacheSlots, maxPositions, kvHeads, headDim),
    }),
    reference({ k, v, slots, positions, keys, values }, { rows, maxPositions, kvHeads, headDim }) {
      const place = places(maxPositions, headDim);
      for (let n = 0; n < rows; n++) {
        for (let g = 0; g < kvHeads; g++) {
          const head = slots[n] * kvHeads + g;
          for (let c = 0; c < headDim; c++) {
            const from = (n * kvHeads + g) * headDim + c;
            keys[place.key(head, positions[n], c)] = encode(k[from]);
            values[place.value(head, positions[n], c)] = encode(v[from]);
          }
        }
      }
    },
    samples: () =>
      shapes.map(sampleOf).map(({ params: { heads, window, scale, ...params }, ...sample }) => ({
        ...sample,
        params,
      })),
  });
}

export const storeKeyValueF32 = storeKeyValue("f32");
export const storeKeyValueBf16 = storeKeyValue("bf16");

function cachedAttention(type: CacheType) {
  const decode = type === "bf16" ? fromBf16 : (value: number) => value;
  return defineKernel({
    name: `cachedAttention${suffixOf[type]}`,
    summary: `o = softmax(scale q k^T) v over the cached positions of each row's sequence, cache of ${type}`,
    buffers: {
      q: "in f32",
      keys: `in ${type}`,
      values: `in ${type}`,
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
      keys: cacheSize(cacheSlots, maxPositions, kvHeads, headDim),
      values: cacheSize(cacheSlots, maxPositions, kvHeads, headDim),
      slots: rows,
      positions: rows,
      o: rows * heads * headDim,
    }),
    reference({ q, keys, values, slots, positions, o }, params) {
      const { rows, maxPositions, heads, kvHeads, headDim, window, scale } = params;
      const place = places(maxPositions, headDim);
      // The types of the two caches are one union here, of which `decode` takes either.
      const [key, value] = [keys as ArrayOf<CacheType>, values as ArrayOf<CacheType>];
      for (let n = 0; n < rows; n++) {
        const first = window > 0 ? Math.max(0, positions[n] - window + 1) : 0;
        for (let h = 0; h < heads; h++) {
          const head = slots[n] * kvHeads + Math.floor(h / (heads / kvHeads));
          const at = (n * heads + h) * headDim;
          const scores: number[] = [];
          for (let p = first; p <= positions[n]; p++) {
            let dot = 0;
            for (let c = 0; c < headDim; c++) dot += q[at + c] * decode(key[place.key(head, p, c)]);
            scores.push(scale * dot);
          }
          const largest = scores.reduce((a, b) => Math.max(a, b));
          const total = scores.reduce((sum, score) => sum + Math.exp(score - largest), 0);
          for (let c = 0; c < headDim; c++) {
            let sum = 0;
            scores.forEach((score, j) => {
              sum += Math.exp(score - largest) * decode(value[place.value(head, first + j, c)]);
            });
            o[at + c] = sum / total;
          }
        }
      }
    },
    samples: () => shapes.map(sampleOf),
  });
}

export const cachedAttentionF32 = cachedAttention("f32");
export const cachedAttentionBf16 = cachedAttention("bf16");
