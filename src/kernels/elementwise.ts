// Element by element: the residual sum, and setting memory.

import { defineDifferentiable, defineKernel } from "./kernel.ts";

const lengths = [
  { name: "37 elements", params: { n: 37 } },
  { name: "1 element", params: { n: 1 } },
  { name: "1 M elements", params: { n: 1 << 20 }, large: true },
];

export const add = defineDifferentiable({
  name: "add",
  summary: "y = a + b",
  buffers: { a: "in f32", b: "in f32", y: "out f32" },
  params: { n: "int" },
  sizes: ({ n }) => ({ a: n, b: n, y: n }),
  reference({ a, b, y }, { n }) {
    for (let i = 0; i < n; i++) y[i] = a[i] + b[i];
  },
  samples: () => lengths,
  gradient: {
    of: ["y"],
    wrt: ["a", "b"],
    rule(g) {
      const { n } = g.params;
      g.run(copy, { x: g.grad("y"), y: g.target("a") }, { n, accumulate: g.accumulate("a") });
      g.passOn("y", "b");
    },
  },
});

export const copy = defineKernel({
  name: "copy",
  summary: "y (+)= x",
  buffers: { x: "in f32", y: "inout f32" },
  params: { n: "int", accumulate: "int" },
  sizes: ({ n }) => ({ x: n, y: n }),
  reference({ x, y }, { n, accumulate }) {
    for (let i = 0; i < n; i++) y[i] = (accumulate ? y[i] : 0) + x[i];
  },
  samples: () =>
    lengths.flatMap((sample) =>
      [0, 1].map((accumulate) => ({
        ...sample,
        name: `${sample.name}${accumulate ? " add" : ""}`,
        params: { ...sample.params, accumulate },
      })),
    ),
});

export const fill = defineKernel({
  name: "fill",
  summary: "y = value",
  buffers: { y: "out f32" },
  params: { n: "int", value: "float" },
  sizes: ({ n }) => ({ y: n }),
  reference({ y }, { n, value }) {
    y.fill(value, 0, n);
  },
  samples: () => lengths.map((sample) => ({ ...sample, params: { ...sample.params, value: 0.75 } })),
});
