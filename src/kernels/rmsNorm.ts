// RMSNorm over rows: y = x / sqrt(mean(x^2) + eps) * weight. Per-head q/k norms are rows of width head_dim.
// Shapes: N rows, D width. `rstd_N` (the reciprocal root) is kept for the gradient.

import { defineDifferentiable, defineKernel } from "./kernel.ts";

const samples = () => [
  { name: "3 rows of 5", params: { rows: 3, width: 5, eps: 1e-6 } },
  { name: "150 rows of 33", params: { rows: 150, width: 33, eps: 1e-2 } },
  { name: "4096 rows of 256", params: { rows: 4096, width: 256, eps: 1e-6 }, large: true },
  { name: "32768 rows of 32", params: { rows: 32768, width: 32, eps: 1e-6 }, large: true },
];

export const rmsNorm = defineDifferentiable({
  name: "rmsNorm",
  summary: "y = x / sqrt(mean(x^2) + eps) * weight, row by row",
  buffers: { x: "in f32", weight: "in f32", y: "out f32", rstd: "out f32" },
  params: { rows: "int", width: "int", eps: "float" },
  sizes: ({ rows, width }) => ({ x: rows * width, weight: width, y: rows * width, rstd: rows }),
  reference({ x, weight, y, rstd }, { rows, width, eps }) {
    for (let n = 0; n < rows; n++) {
      let squares = 0;
      for (let d = 0; d < width; d++) squares += x[n * width + d] ** 2;
      const scale = 1 / Math.sqrt(squares / width + eps);
      rstd[n] = scale;
      for (let d = 0; d < width; d++) y[n * width + d] = x[n * width + d] * scale * weight[d];
    }
  },
  samples,
  gradient: {
    of: ["y"],
    wrt: ["x", "weight"],
    rule(g) {
      const { rows, width } = g.params;
      g.run(
        rmsNormGrad,
        {
          x: g.value("x"),
          weight: g.value("weight"),
          rstd: g.value("rstd"),
          dy: g.grad("y"),
          dx: g.target("x"),
          dweight: g.target("weight"),
        },
        { rows, width, accumulateX: g.accumulate("x"), accumulateWeight: g.accumulate("weight") },
      );
    },
  },
});

export const rmsNormGrad = defineKernel({
  name: "rmsNormGrad",
  summary: "gradients of rmsNorm with respect to x and weight",
  buffers: {
    x: "in f32",
    weight: "in f32",
    rstd: "in f32",
    dy: "in f32",
    dx: "inout f32",
    dweight: "inout f32",
  },
  params: { rows: "int", width: "int", accumulateX: "int", accumulateWeight: "int" },
  sizes: ({ rows, width }) => ({
    x: rows * width,
    weight: width,
    rstd: rows,
    dy: rows * width,
    dx: rows * width,
    dweight: width,
  }),
  reference({ x, weight, rstd, dy, dx, dweight }, { rows, width, accumulateX, accumulateWeight }) {
    const total = new Float64Array(width);
    for (let n = 0; n < rows; n++) {
      const at = n * width;
      let dot = 0;
      for (let d = 0; d < width; d++) dot += dy[at + d] * weight[d] * x[at + d];
      const shared = (dot * rstd[n] ** 3) / width;
      for (let d = 0; d < width; d++) {
        const value = dy[at + d] * weight[d] * rstd[n] - x[at + d] * shared;
        dx[at + d] = (accumulateX ? dx[at + d] : 0) + value;
        total[d] += dy[at + d] * x[at + d] * rstd[n];
      }
    }
    for (let d = 0; d < width; d++) dweight[d] = (accumulateWeight ? dweight[d] : 0) + total[d];
  },
  // The sample added here has a weight gradient of several partial sums.
  samples: () =>
    [...samples(), { name: "5000 rows of 5", params: { rows: 5000, width: 5, eps: 1e-6 } }].flatMap(
      ({ name, params: { rows, width }, large }) =>
        [0, 1].map((flag) => ({
          name: `${name}${flag ? " add" : ""}`,
          params: { rows, width, accumulateX: flag, accumulateWeight: 1 - flag },
          inputs: { rstd: Array.from({ length: rows }, (_, n) => 0.5 + (n % 7) / 8) },
          ...(large && { large }),
        })),
    ),
});
