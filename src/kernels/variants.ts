// Small steps that some families of models add, for inference: biases, clipping, a gated sum, a router that chooses
// groups of experts first. Shapes: N rows, W width, T tokens, E experts, A experts per token.

import { defineKernel } from "./kernel.ts";

const matrices = [
  { name: "3 rows of 5", params: { rows: 3, width: 5 } },
  { name: "1 row of 33", params: { rows: 1, width: 33 } },
  { name: "512 rows of 2048", params: { rows: 512, width: 2048 }, large: true },
];

export const addBias = defineKernel({
  name: "addBias",
  summary: "y = x + bias, row by row",
  buffers: { x: "in f32", bias: "in f32", y: "out f32" },
  params: { rows: "int", width: "int" },
  sizes: ({ rows, width }) => ({ x: rows * width, bias: width, y: rows * width }),
  reference({ x, bias, y }, { rows, width }) {
    for (let n = 0; n < rows; n++) {
      for (let i = 0; i < width; i++) y[n * width + i] = x[n * width + i] + bias[i];
    }
  },
  samples: () => matrices,
});

export const clip = defineKernel({
  name: "clip",
  summary: "y = x within -bound and bound",
  buffers: { x: "in f32", y: "out f32" },
  params: { n: "int", bound: "float" },
  sizes: ({ n }) => ({ x: n, y: n }),
  reference({ x, y }, { n, bound }) {
    for (let i = 0; i < n; i++) y[i] = Math.min(bound, Math.max(-bound, x[i]));
  },
  samples: () => [
    { name: "37 elements", params: { n: 37, bound: 0.5 } },
    { name: "1 M elements", params: { n: 1 << 20, bound: 0.25 }, large: true },
  ],
});

export const addGated = defineKernel({
  name: "addGated",
  summary: "y = a + sigmoid(gate) b, one gate for each row",
  buffers: { a: "in f32", b: "in f32", gate: "in f32", y: "out f32" },
  params: { rows: "int", width: "int" },
  sizes: ({ rows, width }) => ({ a: rows * width, b: rows * width, gate: rows, y: rows * width }),
  reference({ a, b, gate, y }, { rows, width }) {
    for (let n = 0; n < rows; n++) {
      const share = 1 / (1 + Math.exp(-gate[n]));
      for (let i = n * width; i < (n + 1) * width; i++) y[i] = a[i] + share * b[i];
    }
  },
  samples: () => matrices,
});

function groupSample(tokens: number, experts: number, active: number, groups: number, keptGroups: number) {
  return {
    name: `${tokens} tokens, ${active} of ${experts} in ${keptGroups} of ${groups} groups`,
    params: { tokens, experts, active, groups, keptGroups, scale: 1.5 },
    inputs: {
      logits: Array.from({ length: tokens * experts }, (_, i) => {
        const rank = ((i % experts) * 5 + Math.floor(i / experts) * 3) % experts;
        return (rank / experts) * 3 - 1 + 0.01 * Math.sin(i);
      }),
    },
  };
}

export const routerGroups = defineKernel({
  name: "routerGroups",
  summary:
    "softmax over the experts; the groups with the best expert; in them the best A (lower index on ties); weights scale p",
  buffers: { logits: "in f32", probs: "out f32", ids: "out u32", weights: "out f32" },
  params: {
    tokens: "int",
    experts: "int",
    active: "int",
    groups: "int",
    keptGroups: "int",
    scale: "float",
  },
  sizes: ({ tokens, experts, active }) => ({
    logits: tokens * experts,
    probs: tokens * experts,
    ids: tokens * active,
    weights: tokens * active,
  }),
  reference({ logits, probs, ids, weights }, { tokens, experts, active, groups, keptGroups, scale }) {
    const size = experts / groups;
    for (let t = 0; t < tokens; t++) {
      const row = Array.from({ length: experts }, (_, e) => logits[t * experts + e]);
      const largest = Math.max(...row);
      const total = row.reduce((sum, logit) => sum + Math.exp(logit - largest), 0);
      const byValue = (values: readonly number[]) => (a: number, b: number) => values[b] - values[a] || a - b;
      const best = Array.from({ length: groups }, (_, g) => Math.max(...row.slice(g * size, (g + 1) * size)));
      const kept = new Set([...best.keys()].sort(byValue(best)).slice(0, keptGroups));
      const chosen = [...row.keys()].filter((e) => kept.has(Math.floor(e / size))).sort(byValue(row));
      for (let e = 0; e < experts; e++) probs[t * experts + e] = Math.exp(row[e] - largest) / total;
      for (let a = 0; a < active; a++) {
        ids[t * active + a] = chosen[a];
        weights[t * active + a] = scale * (Math.exp(row[chosen[a]] - largest) / total);
      }
    }
  },
  samples: () => [
    groupSample(3, 4, 2, 1, 1),
    groupSample(5, 8, 3, 4, 2),
    groupSample(9, 9, 1, 3, 1),
    { ...groupSample(512, 64, 6, 8, 3), large: true },
  ],
});
