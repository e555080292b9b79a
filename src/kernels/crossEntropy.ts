// The output head and its loss in one: logits = h W^T, cross entropy against the next token, in chunks of rows, so
// that no T x V matrix is kept. The gradient recomputes the logits of a chunk.
// Shapes: T tokens, D width, V vocabulary. A target >= V (IGNORE) counts nowhere.

import { defineDifferentiable, defineKernel, type FloatArray, roundToBf16 } from "./kernel.ts";

/** The target of a position that has none. */
export const IGNORE = 0xffffffff;

function sample(tokens: number, width: number, vocab: number, bf16: number, large = false) {
  return {
    name: `${tokens} tokens, width ${width}, vocabulary ${vocab}${bf16 ? " bf16" : ""}`,
    params: { tokens, width, vocab, bf16 },
    inputs: { targets: Array.from({ length: tokens }, (_, t) => (t % 4 === 2 ? IGNORE : (t * 5) % vocab)) },
    ...(large && { large }),
  };
}

const samples = () => [
  sample(3, 4, 5, 0),
  sample(37, 9, 33, 0),
  sample(37, 10, 33, 1),
  sample(150, 32, 70, 0),
  sample(4096, 256, 256, 0, true),
  sample(4096, 256, 4096, 1, true),
];

function countTargets(targets: Uint32Array, tokens: number, vocab: number): number {
  let count = 0;
  for (let t = 0; t < tokens; t++) count += targets[t] < vocab ? 1 : 0;
  return count;
}

function logitsOf(
  hidden: FloatArray,
  weight: FloatArray,
  t: number,
  width: number,
  vocab: number,
  bf16: number,
) {
  const read = bf16 ? roundToBf16 : (value: number) => value;
  return Array.from({ length: vocab }, (_, v) => {
    let dot = 0;
    for (let d = 0; d < width; d++) dot += read(hidden[t * width + d]) * read(weight[v * width + d]);
    return dot;
  });
}

export const headCrossEntropy = defineDifferentiable({
  name: "headCrossEntropy",
  summary: "cross entropy of softmax(h W^T) in nats: per token, and the mean over tokens that have a target",
  buffers: {
    hidden: "in f32",
    weight: "in f32",
    targets: "in u32",
    loss: "out f32",
    losses: "out f32",
    lse: "out f32",
  },
  params: { tokens: "int", width: "int", vocab: "int", bf16: "int" },
  sizes: ({ tokens, width, vocab }) => ({
    hidden: tokens * width,
    weight: vocab * width,
    targets: tokens,
    loss: 1,
    losses: tokens,
    lse: tokens,
  }),
  reference({ hidden, weight, targets, loss, losses, lse }, { tokens, width, vocab, bf16 }) {
    let total = 0;
    for (let t = 0; t < tokens; t++) {
      const logits = logitsOf(hidden, weight, t, width, vocab, bf16);
      const largest = logits.reduce((a, b) => Math.max(a, b));
      lse[t] = largest + Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit - largest), 0));
      losses[t] = targets[t] < vocab ? lse[t] - logits[targets[t]] : 0;
      total += losses[t];
    }
    loss[0] = total / Math.max(1, countTargets(targets, tokens, vocab));
  },
  samples,
  flops: ({ tokens, width, vocab }) => 2 * tokens * width * vocab,
  gradient: {
    of: ["loss"],
    wrt: ["hidden", "weight"],
    rule(g) {
      g.run(
        headCrossEntropyGrad,
        {
          hidden: g.value("hidden"),
          weight: g.value("weight"),
          targets: g.value("targets"),
          lse: g.value("lse"),
          dloss: g.grad("loss"),
          dhidden: g.target("hidden"),
          dweight: g.target("weight"),
        },
        { ...g.params, accumulateHidden: g.accumulate("hidden"), accumulateWeight: g.accumulate("weight") },
      );
    },
  },
});

export const headCrossEntropyGrad = defineKernel({
  name: "headCrossEntropyGrad",
  summary: "gradients of the mean loss of headCrossEntropy; logits are recomputed",
  buffers: {
    hidden: "in f32",
    weight: "in f32",
    targets: "in u32",
    lse: "in f32",
    dloss: "in f32",
    dhidden: "inout f32",
    dweight: "inout f32",
  },
  params: {
    tokens: "int",
    width: "int",
    vocab: "int",
    bf16: "int",
    accumulateHidden: "int",
    accumulateWeight: "int",
  },
  sizes: ({ tokens, width, vocab }) => ({
    hidden: tokens * width,
    weight: vocab * width,
    targets: tokens,
    lse: tokens,
    dloss: 1,
    dhidden: tokens * width,
    dweight: vocab * width,
  }),
  reference({ hidden, weight, targets, lse, dloss, dhidden, dweight }, params) {
    const { tokens, width, vocab, bf16, accumulateHidden, accumulateWeight } = params;
    const read = bf16 ? roundToBf16 : (value: number) => value;
    const scale = dloss[0] / Math.max(1, countTargets(targets, tokens, vocab));
    const weightGrad = new Float64Array(vocab * width);
    for (let t = 0; t < tokens; t++) {
      const row = new Float64Array(width);
      if (targets[t] < vocab) {
        const logits = logitsOf(hidden, weight, t, width, vocab, bf16);
        for (let v = 0; v < vocab; v++) {
          const dlogit = read(scale * (Math.exp(logits[v] - lse[t]) - (v === targets[t] ? 1 : 0)));
          for (let d = 0; d < width; d++) {
            row[d] += dlogit * read(weight[v * width + d]);
            weightGrad[v * width + d] += dlogit * read(hidden[t * width + d]);
          }
        }
      }
      for (let d = 0; d < width; d++) {
        const at = t * width + d;
        dhidden[at] = (accumulateHidden ? dhidden[at] : 0) + row[d];
      }
    }
    for (let i = 0; i < weightGrad.length; i++)
      dweight[i] = (accumulateWeight ? dweight[i] : 0) + weightGrad[i];
  },
  // In bf16 the logit gradients are rounded before they are multiplied: an error of 1e-7 in them may round to a
  // neighbour, so parity in bf16 is tested on the products (linear.ts), not here.
  // The sample added here is cut into two chunks of rows.
  samples: () =>
    [...samples(), sample(300, 3, 4099, 0)]
      .filter((s) => !s.params.bf16 || s.large)
      .flatMap((s) =>
        [0, 1].map((flag) => ({
          ...s,
          name: `${s.name}${flag ? " add" : ""}`,
          params: { ...s.params, accumulateHidden: flag, accumulateWeight: 1 - flag },
          inputs: {
            ...s.inputs,
            lse: Array.from({ length: s.params.tokens }, (_, t) => 9 + (t % 3)),
            dloss: [1.5],
          },
        })),
      ),
  flops: ({ tokens, width, vocab }) => 6 * tokens * width * vocab,
});
