// Two probes of the machine itself, so that a benchmark can say which share of what is possible a kernel reaches: how
// fast memory is read, and how fast registers are multiplied. No model uses them.

import { defineKernel, roundToBf16 } from "./kernel.ts";

export const probeRead = defineKernel({
  name: "probeRead",
  summary: "total = sum of x, read in four streams a thread",
  buffers: { x: "in f32", total: "out f32" },
  params: { n: "int" },
  sizes: ({ n }) => ({ x: n, total: 1 }),
  reference({ x, total }, { n }) {
    let sum = 0;
    for (let i = 0; i < n; i++) sum += x[i];
    total[0] = sum;
  },
  samples: () => [
    // Whole numbers: no order of the sum is more exact than another.
    ...[1, 63, 1003, (1 << 20) + 77].map((n) => ({
      name: `${n} elements`,
      params: { n },
      inputs: () => ({ x: Array.from({ length: n }, (_, i) => (i * 7) % 11) }),
    })),
    { name: "16 M elements", params: { n: 1 << 24 }, large: true },
  ],
});

/** Sums that one task of `probeMultiply` works on: as many as four matrix tiles of 16 x 16 hold. */
export const PROBE_SUMS = 1024;
/** Products that one iteration adds to each of them: the inner length of a tile of bf16. */
export const PROBE_DEPTH = 32;

export const probeMultiply = defineKernel({
  name: "probeMultiply",
  summary: "each of 1024 sums a task += 32 times x[0] x[1] an iteration, in registers",
  buffers: { x: "in f32", y: "out f32" },
  /** `tasks` run at the same time as far as there are threads; `bf16` multiplies pairs of bf16 where hardware can. */
  params: { tasks: "int", iterations: "int", bf16: "int" },
  sizes: ({ tasks }) => ({ x: 2, y: tasks * PROBE_SUMS }),
  reference({ x, y }, { tasks, iterations, bf16 }) {
    const [a, b] = [x[0], x[1]].map((value) => (bf16 ? roundToBf16(value) : value));
    for (let i = 0; i < tasks * PROBE_SUMS; i++) {
      let sum = 0;
      for (let n = 0; n < iterations * PROBE_DEPTH; n++) sum += a * b;
      y[i] = sum;
    }
  },
  samples: () =>
    [0, 1].flatMap((bf16) => [
      // Powers of two, so that the sums are exact.
      {
        name: `3 tasks${bf16 ? ", bf16" : ""}`,
        params: { tasks: 3, iterations: 5, bf16 },
        inputs: { x: [0.5, 0.25] },
      },
      {
        name: `16 tasks${bf16 ? ", bf16" : ""}`,
        params: { tasks: 16, iterations: 500, bf16 },
        inputs: { x: [0.5, 0.25] },
        large: true,
      },
    ]),
  flops: ({ tasks, iterations }) => 2 * tasks * PROBE_SUMS * PROBE_DEPTH * iterations,
});
