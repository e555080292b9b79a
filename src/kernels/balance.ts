// Balance losses over experts and over the neurons inside each expert. The usage and the scores of neurons that the
// latter is made of come from neuronTopK.ts.
// Shapes: T tokens, E experts, A experts per token, R = T A rows grouped by expert (offsets), F expert width,
// K neurons kept. Every loss is one number; the shares f are constants for the gradient.
// Source: Switch Transformer (Fedus 2021) for the experts; for the neurons the analogous form, our reading of
// arXiv 2510.05781 (NG-LBL), with the two switches of its open questions: normalise and masked.

import { offsetsOf } from "./dispatch.ts";
import { defineDifferentiable, defineKernel } from "./kernel.ts";

const expertSamples = () => [
  {
    name: "6 tokens, 2 of 4",
    params: { tokens: 6, experts: 4, active: 2 },
    inputs: { offsets: [0, 5, 5, 9, 12] },
  },
  {
    name: "33 tokens, 1 of 3",
    params: { tokens: 33, experts: 3, active: 1 },
    inputs: { offsets: [0, 1, 20, 33] },
  },
  {
    name: "4096 tokens, 4 of 16",
    params: { tokens: 4096, experts: 16, active: 4 },
    inputs: { offsets: offsetsOf(Array.from({ length: 16 }, () => 1024)) },
    large: true,
  },
];

export const expertBalance = defineDifferentiable({
  name: "expertBalance",
  summary: "E sum_e f_e P_e: f the share of slots, P the mean router probability; 1 when balanced",
  buffers: { probs: "in f32", offsets: "in u32", loss: "out f32" },
  params: { tokens: "int", experts: "int", active: "int" },
  sizes: ({ tokens, experts }) => ({ probs: tokens * experts, offsets: experts + 1, loss: 1 }),
  reference({ probs, offsets, loss }, { tokens, experts, active }) {
    let total = 0;
    for (let e = 0; e < experts; e++) {
      const share = (offsets[e + 1] - offsets[e]) / (tokens * active);
      let mean = 0;
      for (let t = 0; t < tokens; t++) mean += probs[t * experts + e] / tokens;
      total += share * mean;
    }
    loss[0] = experts * total;
  },
  samples: expertSamples,
  gradient: {
    of: ["loss"],
    wrt: ["probs"],
    rule(g) {
      g.run(
        expertBalanceGrad,
        { offsets: g.value("offsets"), dloss: g.grad("loss"), dprobs: g.target("probs") },
        { ...g.params, accumulate: g.accumulate("probs") },
      );
    },
  },
});

export const expertBalanceGrad = defineKernel({
  name: "expertBalanceGrad",
  summary: "gradient of expertBalance with respect to the probabilities",
  buffers: { offsets: "in u32", dloss: "in f32", dprobs: "inout f32" },
  params: { tokens: "int", experts: "int", active: "int", accumulate: "int" },
  sizes: ({ tokens, experts }) => ({ offsets: experts + 1, dloss: 1, dprobs: tokens * experts }),
  reference({ offsets, dloss, dprobs }, { tokens, experts, active, accumulate }) {
    for (let t = 0; t < tokens; t++) {
      for (let e = 0; e < experts; e++) {
        const share = (offsets[e + 1] - offsets[e]) / (tokens * active);
        const at = t * experts + e;
        dprobs[at] = (accumulate ? dprobs[at] : 0) + (dloss[0] * experts * share) / tokens;
      }
    }
  },
  samples: () =>
    expertSamples().flatMap((sample) =>
      [0, 1].map((accumulate) => ({
        ...sample,
        name: `${sample.name}${accumulate ? " add" : ""}`,
        params: { ...sample.params, accumulate },
      })),
    ),
});

/** Experts with rows, which the layer's loss averages over. */
function expertsInUse(offsets: Uint32Array, groups: number): number {
  let count = 0;
  for (let e = 0; e < groups; e++) count += offsets[e + 1] > offsets[e] ? 1 : 0;
  return count;
}

const neuronSamples = () =>
  [
    { name: "4 experts, one empty", counts: [3, 0, 5, 1], width: 10, kept: 3 },
    { name: "2 experts, 40 neurons", counts: [9, 2], width: 40, kept: 10 },
    { name: "no rows at all", counts: [0, 0], width: 5, kept: 2 },
    {
      name: "32 experts, 512 neurons",
      counts: new Array<number>(32).fill(512),
      width: 512,
      kept: 128,
      large: true,
    },
  ].map(({ name, counts, width, kept, ...rest }) => ({
    name,
    params: { groups: counts.length, width, kept },
    inputs: {
      offsets: offsetsOf(counts),
      usage: counts.flatMap((count) =>
        Array.from({ length: width }, (_, j) => (count + j * 5) % (count + 1)),
      ),
    },
    ...rest,
  }));

export const neuronBalance = defineDifferentiable({
  name: "neuronBalance",
  summary:
    "mean over experts with rows of sum_j f_j P_j: f = F/(K T_e) count(kept), P = mean score of the neuron",
  buffers: { scores: "in f32", usage: "in u32", offsets: "in u32", loss: "out f32" },
  params: { groups: "int", width: "int", kept: "int" },
  sizes: ({ groups, width }) => ({
    scores: groups * width,
    usage: groups * width,
    offsets: groups + 1,
    loss: 1,
  }),
  reference({ scores, usage, offsets, loss }, { groups, width, kept }) {
    let total = 0;
    for (let e = 0; e < groups; e++) {
      const tokens = offsets[e + 1] - offsets[e];
      for (let j = 0; tokens > 0 && j < width; j++) {
        const f = (width * usage[e * width + j]) / (kept * tokens);
        const P = scores[e * width + j] / tokens;
        total += f * P;
      }
    }
    loss[0] = total / Math.max(1, expertsInUse(offsets, groups));
  },
  samples: neuronSamples,
  gradient: {
    of: ["loss"],
    wrt: ["scores"],
    rule(g) {
      g.run(
        neuronBalanceGrad,
        {
          usage: g.value("usage"),
          offsets: g.value("offsets"),
          dloss: g.grad("loss"),
          dscores: g.target("scores"),
        },
        { ...g.params, accumulate: g.accumulate("scores") },
      );
    },
  },
});

export const neuronBalanceGrad = defineKernel({
  name: "neuronBalanceGrad",
  summary: "gradient of neuronBalance with respect to the scores; zero for an expert without rows",
  buffers: { usage: "in u32", offsets: "in u32", dloss: "in f32", dscores: "inout f32" },
  params: { groups: "int", width: "int", kept: "int", accumulate: "int" },
  sizes: ({ groups, width }) => ({
    usage: groups * width,
    offsets: groups + 1,
    dloss: 1,
    dscores: groups * width,
  }),
  reference({ usage, offsets, dloss, dscores }, { groups, width, kept, accumulate }) {
    const experts = Math.max(1, expertsInUse(offsets, groups));
    for (let e = 0; e < groups; e++) {
      const tokens = offsets[e + 1] - offsets[e];
      for (let j = 0; j < width; j++) {
        const i = e * width + j;
        const f = tokens > 0 ? (width * usage[i]) / (kept * tokens) : 0;
        dscores[i] = (accumulate ? dscores[i] : 0) + (tokens > 0 ? (dloss[0] * f) / (experts * tokens) : 0);
      }
    }
  },
  samples: () =>
    neuronSamples().flatMap((sample) =>
      [0, 1].map((accumulate) => ({
        ...sample,
        name: `${sample.name}${accumulate ? " add" : ""}`,
        params: { ...sample.params, accumulate },
      })),
    ),
});
