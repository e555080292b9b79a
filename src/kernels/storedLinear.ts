// Products with a stored matrix, and rows picked from one: what inference does with attention's projections, the
// router, the head and the embedding. No gradients: training has linear.ts. Shapes: M rows, N output width, K input
// width; W is [N, K]. A few rows (decoding) are bound by reading W once; many (a prompt) by multiplying.

import { defineKernel } from "./kernel.ts";
import {
  readerOf,
  roundFor,
  type StoredArray,
  scaleOf,
  scalesFor,
  suffixOf,
  type WeightType,
} from "./stored.ts";

const shapes = [
  { m: 1, n: 7, k: 3 },
  { m: 2, n: 35, k: 31 },
  { m: 5, n: 48, k: 130 },
  { m: 32, n: 19, k: 64 },
  { m: 70, n: 33, k: 70 },
  { m: 40, n: 5, k: 600 },
];

function storedLinear(type: WeightType) {
  return defineKernel({
    name: `storedLinear${suffixOf[type]}`,
    summary: `y = x W^T, W stored as ${type}`,
    buffers: { x: "in f32", w: `in ${type}`, scales: "in f32", y: "out f32" },
    params: { m: "int", n: "int", k: "int" },
    sizes: ({ m, n, k }) => ({ x: m * k, w: n * k, scales: scalesFor(type, n), y: m * n }),
    reference({ x, w, scales, y }, { m, n, k }) {
      const weight = readerOf(type, w as StoredArray);
      const round = roundFor(type);
      for (let i = 0; i < m; i++) {
        for (let j = 0; j < n; j++) {
          let sum = 0;
          for (let p = 0; p < k; p++) sum += round(x[i * k + p]) * weight(j * k + p);
          y[i * n + j] = Math.fround(sum) * scaleOf(type, scales, j);
        }
      }
    },
    samples: () => [
      ...shapes.map(({ m, n, k }) => ({ name: `${m}x${n}x${k}`, params: { m, n, k } })),
      ...[1, 8, 32, 512].map((m) => ({
        name: `${m}x1024x2048`,
        params: { m, n: 1024, k: 2048 },
        large: true,
      })),
    ],
    flops: ({ m, n, k }) => 2 * m * n * k,
  });
}

export const storedLinearF32 = storedLinear("f32");
export const storedLinearBf16 = storedLinear("bf16");
export const storedLinearInt8 = storedLinear("i8");

const rowSamples = () => [
  { name: "3 of 4 rows of 5", params: { tokens: 3, width: 5, vocab: 4 }, inputs: { ids: [3, 0, 3] } },
  {
    name: "40 of 50 rows of 67",
    params: { tokens: 40, width: 67, vocab: 50 },
    inputs: { ids: Array.from({ length: 40 }, (_, t) => (t * t) % 50) },
  },
];

function storedRows(type: WeightType) {
  return defineKernel({
    name: `storedRows${suffixOf[type]}`,
    summary: `y[t] = table[ids[t]], the table stored as ${type}`,
    buffers: { ids: "in u32", table: `in ${type}`, scales: "in f32", y: "out f32" },
    params: { tokens: "int", width: "int", vocab: "int" },
    sizes: ({ tokens, width, vocab }) => ({
      ids: tokens,
      table: vocab * width,
      scales: scalesFor(type, vocab),
      y: tokens * width,
    }),
    reference({ ids, table, scales, y }, { tokens, width }) {
      const weight = readerOf(type, table as StoredArray);
      for (let t = 0; t < tokens; t++) {
        const scale = scaleOf(type, scales, ids[t]);
        for (let d = 0; d < width; d++) y[t * width + d] = weight(ids[t] * width + d) * scale;
      }
    },
    samples: rowSamples,
  });
}

export const storedRowsF32 = storedRows("f32");
export const storedRowsBf16 = storedRows("bf16");
export const storedRowsInt8 = storedRows("i8");
