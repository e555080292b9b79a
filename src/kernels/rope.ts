// Rotary position embedding, half-split form: with x = [a ; b] per head, y = [a cos - b sin ; b cos + a sin].
// Shapes: T tokens, H heads, C = head_dim. `table` holds a row [cos (C/2) ; sin (C/2)] for each position, made by
// the model once (so that scaling rules such as yarn live there); positions are data.

import { defineDifferentiable } from "./kernel.ts";

function anglesTable(positions: number, headDim: number): number[] {
  const table: number[] = [];
  for (let p = 0; p < positions; p++) {
    const angles = Array.from({ length: headDim / 2 }, (_, i) => p * 100 ** ((-2 * i) / headDim));
    table.push(...angles.map(Math.cos), ...angles.map(Math.sin));
  }
  return table;
}

function sample(
  tokens: number,
  heads: number,
  headDim: number,
  maxPositions: number,
  inverse: number,
  accumulate = 0,
) {
  return {
    name: `${tokens} tokens, ${heads} heads of ${headDim}${inverse ? " inverse" : ""}${accumulate ? " add" : ""}`,
    params: { tokens, heads, headDim, maxPositions, inverse, accumulate },
    inputs: {
      table: anglesTable(maxPositions, headDim),
      positions: Array.from({ length: tokens }, (_, t) => (3 * t) % maxPositions),
    },
  };
}

export const rope = defineDifferentiable({
  name: "rope",
  summary: "rotates the two halves of each head by the angle of its position; inverse rotates back",
  buffers: { x: "in f32", table: "in f32", positions: "in u32", y: "inout f32" },
  params: {
    tokens: "int",
    heads: "int",
    headDim: "int",
    maxPositions: "int",
    inverse: "int",
    accumulate: "int",
  },
  sizes: ({ tokens, heads, headDim, maxPositions }) => ({
    x: tokens * heads * headDim,
    table: maxPositions * headDim,
    positions: tokens,
    y: tokens * heads * headDim,
  }),
  reference({ x, table, positions, y }, { tokens, heads, headDim, inverse, accumulate }) {
    const half = headDim / 2;
    for (let t = 0; t < tokens; t++) {
      for (let h = 0; h < heads; h++) {
        const at = (t * heads + h) * headDim;
        for (let i = 0; i < half; i++) {
          const cos = table[positions[t] * headDim + i];
          const sin = table[positions[t] * headDim + half + i] * (inverse ? -1 : 1);
          const a = x[at + i];
          const b = x[at + half + i];
          y[at + i] = (accumulate ? y[at + i] : 0) + a * cos - b * sin;
          y[at + half + i] = (accumulate ? y[at + half + i] : 0) + b * cos + a * sin;
        }
      }
    }
  },
  samples: () => [
    sample(5, 2, 6, 9, 0),
    sample(9, 3, 32, 20, 0),
    sample(9, 3, 24, 20, 1),
    sample(9, 3, 32, 20, 1, 1),
    { ...sample(4096, 8, 32, 256, 0), large: true },
  ],
  gradient: {
    of: ["y"],
    wrt: ["x"],
    rule(g) {
      // The rotation is orthogonal: its gradient is the rotation back.
      g.run(
        rope,
        { x: g.grad("y"), table: g.value("table"), positions: g.value("positions"), y: g.target("x") },
        { ...g.params, inverse: 1 - g.params.inverse, accumulate: g.accumulate("x") },
      );
    },
  },
});
