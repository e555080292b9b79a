// How far a model's predictions are from another's, token by token: cross entropy at the target, Kullback-Leibler
// divergence KL(p || q) = sum_v p_v (log p_v - log q_v) of q = softmax(logits) from p = softmax(expected), in nats, and
// whether both find the same token most likely (the lower index on ties). Equal logits give exactly 0.
// Shapes: T tokens, V vocabulary. A target >= V counts nowhere: its loss is 0.

import { defineKernel, type FloatArray } from "./kernel.ts";

function logSumExp(row: FloatArray): number {
  let largest = Number.NEGATIVE_INFINITY;
  for (const value of row) largest = Math.max(largest, value);
  let sum = 0;
  for (const value of row) sum += Math.exp(value - largest);
  return largest + Math.log(sum);
}

function firstLargest(row: FloatArray): number {
  let best = 0;
  for (let v = 1; v < row.length; v++) if (row[v] > row[best]) best = v;
  return best;
}

const sample = (tokens: number, vocab: number) => ({
  name: `${tokens} tokens, vocabulary ${vocab}`,
  params: { tokens, vocab },
  inputs: {
    targets: Array.from({ length: tokens }, (_, t) => (t % 4 === 3 ? 0xffffffff : (t * 5) % vocab)),
  },
});

export const logitDivergence = defineKernel({
  name: "logitDivergence",
  summary:
    "cross entropy, KL divergence from other logits, and agreement on the most likely token, per token",
  buffers: {
    logits: "in f32",
    expected: "in f32",
    targets: "in u32",
    losses: "out f32",
    divergence: "out f32",
    agrees: "out u32",
  },
  params: { tokens: "int", vocab: "int" },
  sizes: ({ tokens, vocab }) => ({
    logits: tokens * vocab,
    expected: tokens * vocab,
    targets: tokens,
    losses: tokens,
    divergence: tokens,
    agrees: tokens,
  }),
  reference({ logits, expected, targets, losses, divergence, agrees }, { tokens, vocab }) {
    for (let t = 0; t < tokens; t++) {
      const q = logits.subarray(t * vocab, (t + 1) * vocab);
      const p = expected.subarray(t * vocab, (t + 1) * vocab);
      const [lseQ, lseP] = [logSumExp(q), logSumExp(p)];
      let sum = 0;
      for (let v = 0; v < vocab; v++) sum += Math.exp(p[v] - lseP) * (p[v] - lseP - (q[v] - lseQ));
      divergence[t] = sum;
      losses[t] = targets[t] < vocab ? lseQ - q[targets[t]] : 0;
      agrees[t] = firstLargest(q) === firstLargest(p) ? 1 : 0;
    }
  },
  samples: () => [sample(1, 3), sample(5, 33), sample(37, 70), { ...sample(4096, 256), large: true }],
});
