// Pieces of latent attention (DeepSeek-V2, arXiv 2405.04434), for inference: parts of rows, keys and values from their
// common latent, and rotation of a part of each head in interleaved pairs.
// Shapes: T tokens, H heads, C = N + R head width of queries and keys (N plain, R rotated), M rank, U value width <= C.

import { defineKernel } from "./kernel.ts";

export const rowPart = defineKernel({
  name: "rowPart",
  summary: "columns `first` to `first + count` of every row",
  buffers: { x: "in f32", y: "out f32" },
  params: { rows: "int", width: "int", first: "int", count: "int" },
  sizes: ({ rows, width, count }) => ({ x: rows * width, y: rows * count }),
  reference({ x, y }, { rows, width, first, count }) {
    for (let n = 0; n < rows; n++) {
      for (let i = 0; i < count; i++) y[n * count + i] = x[n * width + first + i];
    }
  },
  samples: () => [
    { name: "1 of 5 columns", params: { rows: 3, width: 5, first: 4, count: 1 } },
    { name: "all columns", params: { rows: 7, width: 24, first: 0, count: 24 } },
    { name: "512 of 576 columns", params: { rows: 4096, width: 576, first: 0, count: 512 }, large: true },
  ],
});

const latentShapes = [
  { name: "3 tokens", params: { tokens: 3, heads: 2, plain: 5, rotated: 2, rank: 3, value: 4 } },
  {
    name: "values as wide as keys",
    params: { tokens: 5, heads: 3, plain: 16, rotated: 8, rank: 24, value: 24 },
  },
  {
    name: "512 tokens",
    params: { tokens: 512, heads: 16, plain: 128, rotated: 64, rank: 512, value: 128 },
    large: true,
  },
];

export const latentKeyValue = defineKernel({
  name: "latentKeyValue",
  summary: "keys [plain ; the token's rotary part] and values, padded with zeros to the width of keys",
  buffers: { expanded: "in f32", latent: "in f32", k: "out f32", v: "out f32" },
  params: { tokens: "int", heads: "int", plain: "int", rotated: "int", rank: "int", value: "int" },
  sizes: ({ tokens, heads, plain, rotated, rank, value }) => ({
    expanded: tokens * heads * (plain + value),
    latent: tokens * (rank + rotated),
    k: tokens * heads * (plain + rotated),
    v: tokens * heads * (plain + rotated),
  }),
  reference({ expanded, latent, k, v }, { tokens, heads, plain, rotated, rank, value }) {
    const width = plain + rotated;
    for (let t = 0; t < tokens; t++) {
      for (let h = 0; h < heads; h++) {
        const from = (t * heads + h) * (plain + value);
        const to = (t * heads + h) * width;
        for (let i = 0; i < width; i++) {
          k[to + i] = i < plain ? expanded[from + i] : latent[t * (rank + rotated) + rank + i - plain];
          v[to + i] = i < value ? expanded[from + plain + i] : 0;
        }
      }
    }
  },
  samples: () => latentShapes,
});

function ropeSample(tokens: number, heads: number, headDim: number, rotated: number) {
  const maxPositions = 2 * tokens;
  const table = Array.from({ length: maxPositions * rotated }, (_, i) => Math.sin(1.3 * i));
  return {
    name: `${tokens} tokens, ${heads} heads of ${headDim}, ${rotated} rotated`,
    params: { tokens, heads, headDim, rotated, maxPositions },
    inputs: { table, positions: Array.from({ length: tokens }, (_, t) => (3 * t) % maxPositions) },
  };
}

export const ropeInterleaved = defineKernel({
  name: "ropeInterleaved",
  summary: "rotates the last R elements of each head as pairs (x[2i], x[2i+1])",
  buffers: { x: "in f32", table: "in f32", positions: "in u32", y: "out f32" },
  params: { tokens: "int", heads: "int", headDim: "int", rotated: "int", maxPositions: "int" },
  sizes: ({ tokens, heads, headDim, rotated, maxPositions }) => ({
    x: tokens * heads * headDim,
    table: maxPositions * rotated,
    positions: tokens,
    y: tokens * heads * headDim,
  }),
  reference({ x, table, positions, y }, { tokens, heads, headDim, rotated }) {
    const plain = headDim - rotated;
    for (let t = 0; t < tokens; t++) {
      const row = positions[t] * rotated;
      for (let h = 0; h < heads; h++) {
        const at = (t * heads + h) * headDim;
        for (let i = 0; i < plain; i++) y[at + i] = x[at + i];
        for (let i = 0; i < rotated / 2; i++) {
          const [cos, sin] = [table[row + i], table[row + rotated / 2 + i]];
          const [a, b] = [x[at + plain + 2 * i], x[at + plain + 2 * i + 1]];
          y[at + plain + 2 * i] = a * cos - b * sin;
          y[at + plain + 2 * i + 1] = b * cos + a * sin;
        }
      }
    }
  },
  samples: () => [
    ropeSample(3, 2, 6, 4),
    ropeSample(9, 3, 8, 8),
    { ...ropeSample(512, 16, 192, 64), large: true },
  ],
});
