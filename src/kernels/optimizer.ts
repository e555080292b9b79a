// AdamW with decoupled weight decay, and the sum of squares that the global gradient norm is made of. The clipping
// factor is computed where it is used, from that sum: the host never needs to know it.

import { defineKernel } from "./kernel.ts";

const lengths = [
  { name: "5 elements", n: 5 },
  { name: "1003 elements", n: 1003 },
  { name: "70001 elements", n: 70_001 }, // several pieces of a sum
  { name: "4 M elements", n: 1 << 22, large: true },
];

export const sumSquares = defineKernel({
  name: "sumSquares",
  summary: "total += sum of x^2, in an order that does not depend on the threads",
  buffers: { x: "in f32", total: "inout f32" },
  params: { n: "int", accumulate: "int" },
  sizes: ({ n }) => ({ x: n, total: 1 }),
  reference({ x, total }, { n, accumulate }) {
    let sum = 0;
    for (let i = 0; i < n; i++) sum += x[i] ** 2;
    total[0] = (accumulate ? total[0] : 0) + sum;
  },
  samples: () =>
    lengths.flatMap(({ name, n, ...rest }) =>
      [0, 1].map((accumulate) => ({
        name: `${name}${accumulate ? " add" : ""}`,
        params: { n, accumulate },
        ...rest,
      })),
    ),
});

/**
 * One AdamW update (Loshchilov and Hutter 2019, as in torch.optim.AdamW). `step` counts from 1. The gradient is first
 * multiplied by min(1, maxNorm / (norm + 1e-6)), norm = sqrt(normSquared), unless maxNorm is 0.
 */
export const adamW = defineKernel({
  name: "adamW",
  summary: "one AdamW update of a parameter and its two moments, with the gradient clipped by global norm",
  buffers: {
    param: "inout f32",
    m: "inout f32",
    v: "inout f32",
    grad: "in f32",
    normSquared: "in f32",
  },
  params: {
    n: "int",
    step: "int",
    lr: "float",
    beta1: "float",
    beta2: "float",
    eps: "float",
    weightDecay: "float",
    maxNorm: "float",
  },
  sizes: ({ n }) => ({ param: n, m: n, v: n, grad: n, normSquared: 1 }),
  reference({ param, m, v, grad, normSquared }, { n, step, lr, beta1, beta2, eps, weightDecay, maxNorm }) {
    const clip = maxNorm > 0 ? Math.min(1, maxNorm / (Math.sqrt(normSquared[0]) + 1e-6)) : 1;
    const correction1 = 1 - beta1 ** step;
    const correction2 = 1 - beta2 ** step;
    for (let i = 0; i < n; i++) {
      const g = grad[i] * clip;
      m[i] = beta1 * m[i] + (1 - beta1) * g;
      v[i] = beta2 * v[i] + (1 - beta2) * g * g;
      const update = m[i] / correction1 / (Math.sqrt(v[i] / correction2) + eps);
      param[i] = param[i] * (1 - lr * weightDecay) - lr * update;
    }
  },
  samples: () =>
    lengths.flatMap(({ name, n, ...rest }) =>
      [0, 0.5].map((maxNorm) => ({
        name: `${name}${maxNorm ? " clipped" : ""}`,
        params: { n, step: 3, lr: 0.01, beta1: 0.9, beta2: 0.95, eps: 1e-8, weightDecay: 0.1, maxNorm },
        inputs: () => ({ v: Array.from({ length: n }, (_, i) => 0.1 + (i % 10) / 10), normSquared: [4] }),
        ...rest,
      })),
    ),
});
