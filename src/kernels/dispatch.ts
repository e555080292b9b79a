// Moving tokens to the rows of their experts and back: dispatch copies, combine adds up. Each is the gradient of the
// other. Not here: the router's weights, which are multiplied into the hidden values (neuronTopK.ts).
// Shapes: T tokens, A experts per token, R = T A rows, D width; slots and rows as in routing.ts.

import { defineDifferentiable } from "./kernel.ts";

/** Where each expert's rows begin and the last one's end, for samples with so many rows each. */
export function offsetsOf(counts: readonly number[]): number[] {
  const offsets = [0];
  for (const count of counts) offsets.push(offsets[offsets.length - 1] + count);
  return offsets;
}

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

const samples = () =>
  cases.flatMap((sample) =>
    [0, 1].map((accumulate) => ({
      ...sample,
      name: `${sample.name}${accumulate ? " add" : ""}`,
      params: { ...sample.params, accumulate },
      inputs: permutation(sample.params.tokens * sample.params.active),
    })),
  );

const params = { tokens: "int", active: "int", width: "int", accumulate: "int" } as const;

export const dispatch = defineDifferentiable({
  name: "dispatch",
  summary: "copies each token to the rows of its experts",
  buffers: { x: "in f32", slotOfRow: "in u32", rowOfSlot: "in u32", y: "inout f32" },
  params,
  sizes: ({ tokens, active, width }) => ({
    x: tokens * width,
    slotOfRow: tokens * active,
    rowOfSlot: tokens * active,
    y: tokens * active * width,
  }),
  reference({ x, slotOfRow, y }, { tokens, active, width, accumulate }) {
    for (let r = 0; r < tokens * active; r++) {
      const token = Math.floor(slotOfRow[r] / active);
      for (let d = 0; d < width; d++) {
        y[r * width + d] = (accumulate ? y[r * width + d] : 0) + x[token * width + d];
      }
    }
  },
  samples,
  gradient: {
    of: ["y"],
    wrt: ["x"],
    rule(g) {
      const { slotOfRow, rowOfSlot } = { slotOfRow: g.value("slotOfRow"), rowOfSlot: g.value("rowOfSlot") };
      g.run(
        combine,
        { x: g.grad("y"), rowOfSlot, slotOfRow, y: g.target("x") },
        { ...g.params, accumulate: g.accumulate("x") },
      );
    },
  },
});

export const combine = defineDifferentiable({
  name: "combine",
  summary: "adds up the rows of a token's experts",
  buffers: { x: "in f32", rowOfSlot: "in u32", slotOfRow: "in u32", y: "inout f32" },
  params,
  sizes: ({ tokens, active, width }) => ({
    x: tokens * active * width,
    rowOfSlot: tokens * active,
    slotOfRow: tokens * active,
    y: tokens * width,
  }),
  reference({ x, rowOfSlot, y }, { tokens, active, width, accumulate }) {
    for (let t = 0; t < tokens; t++) {
      for (let d = 0; d < width; d++) {
        let total = accumulate ? y[t * width + d] : 0;
        for (let s = t * active; s < (t + 1) * active; s++) total += x[rowOfSlot[s] * width + d];
        y[t * width + d] = total;
      }
    }
  },
  samples,
  gradient: {
    of: ["y"],
    wrt: ["x"],
    rule(g) {
      const { slotOfRow, rowOfSlot } = { slotOfRow: g.value("slotOfRow"), rowOfSlot: g.value("rowOfSlot") };
      g.run(
        dispatch,
        { x: g.grad("y"), slotOfRow, rowOfSlot, y: g.target("x") },
        { ...g.params, accumulate: g.accumulate("x") },
      );
    },
  },
});
