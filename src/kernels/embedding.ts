// Token embedding: a row of the table per token, and the gradient that adds rows back.
// Shapes: T tokens, D width, V vocabulary.

import { defineDifferentiable, defineKernel } from "./kernel.ts";

const samples = () => [
  {
    name: "repeated tokens",
    params: { tokens: 7, width: 5, vocab: 4 },
    inputs: { ids: [0, 3, 3, 1, 0, 3, 2] },
  },
  {
    name: "40 tokens, width 33",
    params: { tokens: 40, width: 33, vocab: 50 },
    inputs: { ids: Array.from({ length: 40 }, (_, t) => (t * t) % 50) },
  },
  {
    name: "4096 tokens, width 256",
    params: { tokens: 4096, width: 256, vocab: 256 },
    inputs: { ids: Array.from({ length: 4096 }, (_, t) => (t * 7919) % 256) },
    large: true,
  },
];

export const embedding = defineDifferentiable({
  name: "embedding",
  summary: "y[t] = table[ids[t]]",
  buffers: { ids: "in u32", table: "in f32", y: "out f32" },
  params: { tokens: "int", width: "int", vocab: "int" },
  sizes: ({ tokens, width, vocab }) => ({ ids: tokens, table: vocab * width, y: tokens * width }),
  reference({ ids, table, y }, { tokens, width }) {
    for (let t = 0; t < tokens; t++) {
      for (let d = 0; d < width; d++) y[t * width + d] = table[ids[t] * width + d];
    }
  },
  samples,
  gradient: {
    of: ["y"],
    wrt: ["table"],
    rule(g) {
      g.run(
        embeddingGrad,
        { ids: g.value("ids"), dy: g.grad("y"), dtable: g.target("table") },
        { ...g.params, accumulate: g.accumulate("table") },
      );
    },
  },
});

export const embeddingGrad = defineKernel({
  name: "embeddingGrad",
  summary: "dtable[ids[t]] += dy[t], in the order of the tokens",
  buffers: { ids: "in u32", dy: "in f32", dtable: "inout f32" },
  params: { tokens: "int", width: "int", vocab: "int", accumulate: "int" },
  sizes: ({ tokens, width, vocab }) => ({ ids: tokens, dy: tokens * width, dtable: vocab * width }),
  reference({ ids, dy, dtable }, { tokens, width, vocab, accumulate }) {
    if (!accumulate) dtable.fill(0, 0, vocab * width);
    for (let t = 0; t < tokens; t++) {
      for (let d = 0; d < width; d++) dtable[ids[t] * width + d] += dy[t * width + d];
    }
  },
  // The sample added here has several blocks of columns.
  samples: () =>
    [
      ...samples(),
      {
        name: "400 tokens, width 130",
        params: { tokens: 400, width: 130, vocab: 60 },
        inputs: { ids: Array.from({ length: 400 }, (_, t) => (t * t) % 60) },
      },
    ].flatMap((sample) =>
      [0, 1].map((accumulate) => ({
        ...sample,
        name: `${sample.name}${accumulate ? " add" : ""}`,
        params: { ...sample.params, accumulate },
      })),
    ),
});
