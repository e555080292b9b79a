// Moving tokens to the rows of their experts and back: dispatch copies, combine is the weighted sum.
// Shapes: T tokens, A experts per token, R = T A rows, D width; slots and rows as in routing.ts.

import { defineDifferentiable, defineKernel } from "./kernel.ts";

/** A permutation of the slots, and its inverse. */
function permutation(slots: number) {
  const stride = [7, 5, 3, 11, 13].find((p) => slots % p !== 0) ?? 1;
  const rowOfSlot = Array.from({ length: slots }, (_, s) => (s * stride + 2) % slots);
  const slotOfRow = new Array<number>(slots);
  rowOfSlot.forEach((row, slot) => {
    slotOfRow[row] = slot;
  });
  return { rowOfSlot, slotOfRow };
}

const cases = [
  { name: "5 tokens x 2", params: { tokens: 5, active: 2, width: 3 } },
  { name: "9 tokens x 1", params: { tokens: 9, active: 1, width: 17 } },
  { name: "33 tokens x 4", params: { tokens: 33, active: 4, width: 40 } },
  { name: "4096 tokens x 4, width 256", params: { tokens: 4096, active: 4, width: 256 }, large: true },
];

const samples = cases.map((sample) => ({
  ...sample,
  inputs: permutation(sample.params.tokens * sample.params.active),
}));
const flagged = samples.flatMap((sample) =>
  [0, 1].map((accumulate) => ({
    ...sample,
    name: `${sample.name}${accumulate ? " add" : ""}`,
    params: { ...sample.params, accumulate },
  })),
);

export const dispatch = defineDifferentiable({
  name: "dispatch",
  summary: "copies each token to the rows of its experts",
  buffers: { x: "in f32", slotOfRow: "in u32", rowOfSlot: "in u32", y: "out f32" },
  params: { tokens: "int", active: "int", width: "int" },
  sizes: ({ tokens, active, width }) => ({
    x: tokens * width,
    slotOfRow: tokens * active,
    rowOfSlot: tokens * active,
    y: tokens * active * width,
  }),
  reference({ x, slotOfRow, y }, { tokens, active, width }) {
    for (let r = 0; r < tokens * active; r++) {
      const token = Math.floor(slotOfRow[r] / active);
      for (let d = 0; d < width; d++) y[r * width + d] = x[token * width + d];
    }
  },
  samples,
  gradient: {
    of: ["y"],
    wrt: ["x"],
    rule(g) {
      g.run(
        dispatchGrad,
        { dy: g.grad("y"), rowOfSlot: g.value("rowOfSlot"), dx: g.target("x") },
        { ...g.params, accumulate: g.accumulate("x") },
      );
    },
  },
});

export const dispatchGrad = defineKernel({
  name: "dispatchGrad",
  summary: "adds up the gradients of a token's rows",
  buffers: { dy: "in f32", rowOfSlot: "in u32", dx: "inout f32" },
  params: { tokens: "int", active: "int", width: "int", accumulate: "int" },
  sizes: ({ tokens, active, width }) => ({
    dy: tokens * active * width,
    rowOfSlot: tokens * active,
    dx: tokens * width,
  }),
  reference({ dy, rowOfSlot, dx }, { tokens, active, width, accumulate }) {
    for (let t = 0; t < tokens; t++) {
      for (let d = 0; d < width; d++) {
        let total = accumulate ? dx[t * width + d] : 0;
        for (let a = 0; a < active; a++) total += dy[rowOfSlot[t * active + a] * width + d];
        dx[t * width + d] = total;
      }
    }
  },
  samples: flagged.map(({ inputs: { rowOfSlot }, ...sample }) => ({ ...sample, inputs: { rowOfSlot } })),
});

export const combine = defineDifferentiable({
  name: "combine",
  summary: "sum over a token's experts of weight times the expert's row",
  buffers: { x: "in f32", weights: "in f32", rowOfSlot: "in u32", slotOfRow: "in u32", y: "out f32" },
  params: { tokens: "int", active: "int", width: "int" },
  sizes: ({ tokens, active, width }) => ({
    x: tokens * active * width,
    weights: tokens * active,
    rowOfSlot: tokens * active,
    slotOfRow: tokens * active,
    y: tokens * width,
  }),
  reference({ x, weights, rowOfSlot, y }, { tokens, active, width }) {
    for (let t = 0; t < tokens; t++) {
      for (let d = 0; d < width; d++) {
        let total = 0;
        for (let s = t * active; s < (t + 1) * active; s++) total += weights[s] * x[rowOfSlot[s] * width + d];
        y[t * width + d] = total;
      }
    }
  },
  samples,
  gradient: {
    of: ["y"],
    wrt: ["x", "weights"],
    rule(g) {
      g.run(
        combineGrad,
        {
          x: g.value("x"),
          weights: g.value("weights"),
          slotOfRow: g.value("slotOfRow"),
          dy: g.grad("y"),
          dx: g.target("x"),
          dweights: g.target("weights"),
        },
        { ...g.params, accumulateX: g.accumulate("x"), accumulateWeights: g.accumulate("weights") },
      );
    },
  },
});

export const combineGrad = defineKernel({
  name: "combineGrad",
  summary: "gradients of combine with respect to rows and weights",
  buffers: {
    x: "in f32",
    weights: "in f32",
    slotOfRow: "in u32",
    dy: "in f32",
    dx: "inout f32",
    dweights: "inout f32",
  },
  params: { tokens: "int", active: "int", width: "int", accumulateX: "int", accumulateWeights: "int" },
  sizes: ({ tokens, active, width }) => ({
    x: tokens * active * width,
    weights: tokens * active,
    slotOfRow: tokens * active,
    dy: tokens * width,
    dx: tokens * active * width,
    dweights: tokens * active,
  }),
  reference({ x, weights, slotOfRow, dy, dx, dweights }, params) {
    const { tokens, active, width, accumulateX, accumulateWeights } = params;
    for (let r = 0; r < tokens * active; r++) {
      const slot = slotOfRow[r];
      const token = Math.floor(slot / active);
      let dot = 0;
      for (let d = 0; d < width; d++) {
        const upstream = dy[token * width + d];
        dot += upstream * x[r * width + d];
        dx[r * width + d] = (accumulateX ? dx[r * width + d] : 0) + weights[slot] * upstream;
      }
      dweights[slot] = (accumulateWeights ? dweights[slot] : 0) + dot;
    }
  },
  samples: flagged.map(({ inputs: { slotOfRow }, params: { accumulate, ...params }, ...sample }) => ({
    ...sample,
    params: { ...params, accumulateX: accumulate, accumulateWeights: 1 - accumulate },
    inputs: { slotOfRow },
  })),
});
