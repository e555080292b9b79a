// The router's decision and its bookkeeping.
// Shapes: T tokens, E experts, A experts per token, R = T A routed rows, grouped by expert, inside an expert by token.
// Slot t A + a is the a-th best expert of token t. Not here: the router's matrix product (linear.ts).

import { defineDifferentiable, defineKernel } from "./kernel.ts";

function routerSample(tokens: number, experts: number, active: number, normalise: number) {
  return {
    name: `${tokens} tokens, ${active} of ${experts}${normalise ? ", renormalised" : ""}`,
    params: { tokens, experts, active, normalise },
    // Spread, so that a finite difference does not change the choice; far from one-hot.
    inputs: {
      logits: Array.from({ length: tokens * experts }, (_, i) => {
        const rank = ((i % experts) * 5 + Math.floor(i / experts) * 3) % experts;
        return (rank / experts) * 3 - 1 + 0.01 * Math.sin(i);
      }),
    },
  };
}

const routerSamples = () => [
  routerSample(3, 4, 2, 1),
  routerSample(5, 8, 3, 0),
  routerSample(5, 9, 1, 1),
  routerSample(33, 64, 8, 1),
  { ...routerSample(4096, 16, 4, 1), large: true },
];

export const routerTopK = defineDifferentiable({
  name: "routerTopK",
  summary: "softmax over the experts, the best A of them (lower index on ties) and their weights",
  buffers: { logits: "in f32", probs: "out f32", ids: "out u32", weights: "out f32" },
  params: { tokens: "int", experts: "int", active: "int", normalise: "int" },
  sizes: ({ tokens, experts, active }) => ({
    logits: tokens * experts,
    probs: tokens * experts,
    ids: tokens * active,
    weights: tokens * active,
  }),
  reference({ logits, probs, ids, weights }, { tokens, experts, active, normalise }) {
    for (let t = 0; t < tokens; t++) {
      const row = Array.from({ length: experts }, (_, e) => logits[t * experts + e]);
      const largest = Math.max(...row);
      const exps = row.map((logit) => Math.exp(logit - largest));
      const total = exps.reduce((sum, value) => sum + value, 0);
      const best = row
        .map((_, e) => e)
        .sort((a, b) => row[b] - row[a] || a - b)
        .slice(0, active);
      const mass = normalise ? best.reduce((sum, e) => sum + exps[e], 0) : total;
      for (let e = 0; e < experts; e++) probs[t * experts + e] = exps[e] / total;
      best.forEach((e, a) => {
        ids[t * active + a] = e;
        weights[t * active + a] = exps[e] / mass;
      });
    }
  },
  samples: routerSamples,
  gradient: {
    of: ["probs", "weights"],
    wrt: ["logits"],
    rule(g) {
      g.run(
        routerTopKGrad,
        {
          probs: g.value("probs"),
          ids: g.value("ids"),
          weights: g.value("weights"),
          dprobs: g.grad("probs"),
          dweights: g.grad("weights"),
          dlogits: g.target("logits"),
        },
        { ...g.params, accumulate: g.accumulate("logits") },
      );
    },
  },
});

export const routerTopKGrad = defineKernel({
  name: "routerTopKGrad",
  summary: "gradient of routerTopK through all probabilities and the chosen weights",
  buffers: {
    probs: "in f32",
    ids: "in u32",
    weights: "in f32",
    dprobs: "in f32",
    dweights: "in f32",
    dlogits: "inout f32",
  },
  params: { tokens: "int", experts: "int", active: "int", normalise: "int", accumulate: "int" },
  sizes: ({ tokens, experts, active }) => ({
    probs: tokens * experts,
    ids: tokens * active,
    weights: tokens * active,
    dprobs: tokens * experts,
    dweights: tokens * active,
    dlogits: tokens * experts,
  }),
  reference({ probs, ids, weights, dprobs, dweights, dlogits }, params) {
    const { tokens, experts, active, normalise, accumulate } = params;
    for (let t = 0; t < tokens; t++) {
      const p = probs.subarray(t * experts, (t + 1) * experts);
      const total = new Float64Array(experts); // gradient with respect to the probabilities
      for (let e = 0; e < experts; e++) total[e] = dprobs[t * experts + e];
      let mass = 0;
      let dot = 0;
      for (let s = t * active; s < (t + 1) * active; s++) {
        mass += p[ids[s]];
        dot += dweights[s] * weights[s];
      }
      for (let s = t * active; s < (t + 1) * active; s++) {
        total[ids[s]] += normalise ? (dweights[s] - dot) / mass : dweights[s];
      }
      let mean = 0;
      for (let e = 0; e < experts; e++) mean += p[e] * total[e];
      for (let e = 0; e < experts; e++) {
        const at = t * experts + e;
        dlogits[at] = (accumulate ? dlogits[at] : 0) + p[e] * (total[e] - mean);
      }
    }
  },
  samples: () =>
    routerSamples().flatMap((sample) => {
      const { tokens, experts, active, normalise } = sample.params;
      const probs = Array.from({ length: tokens * experts }, (_, i) => (1 + (i % 5)) / (3 * experts));
      const ids = Array.from({ length: tokens * active }, (_, s) => (s + Math.floor(s / active)) % experts);
      const weights = ids.map((_, s) => (1 + (s % 3)) / (2 * active));
      return [0, 1].map((accumulate) => ({
        name: `${sample.name}${accumulate ? " add" : ""}`,
        params: { tokens, experts, active, normalise, accumulate },
        inputs: { probs, ids, weights },
        ...("large" in sample && { large: true }),
      }));
    }),
});

function idSample(
  name: string,
  tokens: number,
  experts: number,
  active: number,
  id: (slot: number) => number,
) {
  const ids = Array.from({ length: tokens * active }, (_, slot) => id(slot));
  return { name, params: { tokens, experts, active }, inputs: { ids } };
}

export const groupByExpert = defineKernel({
  name: "groupByExpert",
  summary: "sorts slots by expert: where each expert's rows begin, the row of a slot, the slot of a row",
  buffers: { ids: "in u32", offsets: "out u32", rowOfSlot: "out u32", slotOfRow: "out u32" },
  params: { tokens: "int", experts: "int", active: "int" },
  sizes: ({ tokens, experts, active }) => ({
    ids: tokens * active,
    offsets: experts + 1,
    rowOfSlot: tokens * active,
    slotOfRow: tokens * active,
  }),
  reference({ ids, offsets, rowOfSlot, slotOfRow }, { tokens, experts, active }) {
    const slots = tokens * active;
    offsets.fill(0, 0, experts + 1);
    for (let s = 0; s < slots; s++) offsets[ids[s] + 1]++;
    for (let e = 0; e < experts; e++) offsets[e + 1] += offsets[e];
    const next = offsets.slice(0, experts);
    for (let s = 0; s < slots; s++) {
      const row = next[ids[s]]++;
      rowOfSlot[s] = row;
      slotOfRow[row] = s;
    }
  },
  samples: () => [
    idSample("an expert without rows", 5, 4, 2, (s) => [0, 1, 3][s % 3]),
    idSample("one expert", 4, 1, 1, () => 0),
    idSample("64 experts", 100, 64, 8, (s) => (s * 37 + (s >> 3)) % 64),
    { ...idSample("4096 tokens", 4096, 16, 4, (s) => (s * 7 + (s >> 5)) % 16), large: true },
  ],
});
