// What scoring needs of logits: the logarithm of each row's sum of exponentials, its largest logit, and the logits of
// chosen targets. log P(target) is a picked logit minus the row's logarithm. No gradients: training has
// crossEntropy.ts, which never keeps logits. Shapes: M rows, V vocabulary, N targets; target n is of row rowOf_N[n].

import { defineKernel } from "./kernel.ts";

function sample(rows: number, vocab: number, targets: number, large = false) {
  const each = (of: (n: number) => number) => Array.from({ length: targets }, (_, n) => of(n));
  return {
    name: `${targets} targets of ${rows} rows, vocabulary ${vocab}`,
    params: { rows, vocab, targets },
    inputs: { rowOf: each((n) => (n * 3) % rows), ids: each((n) => (n * 7) % vocab) },
    ...(large && { large }),
  };
}

export const tokenScores = defineKernel({
  name: "tokenScores",
  summary: "per row log of the sum of e^logit and index of the largest logit; per target its logit",
  buffers: {
    logits: "in f32",
    rowOf: "in u32",
    ids: "in u32",
    lse: "out f32",
    best: "out u32",
    picked: "out f32",
  },
  params: { rows: "int", vocab: "int", targets: "int" },
  sizes: ({ rows, vocab, targets }) => ({
    logits: rows * vocab,
    rowOf: targets,
    ids: targets,
    lse: rows,
    best: rows,
    picked: targets,
  }),
  reference({ logits, rowOf, ids, lse, best, picked }, { rows, vocab, targets }) {
    for (let m = 0; m < rows; m++) {
      const row = logits.subarray(m * vocab, (m + 1) * vocab);
      let largest = 0;
      for (let v = 1; v < vocab; v++) if (row[v] > row[largest]) largest = v; // the first of equals
      let sum = 0;
      for (let v = 0; v < vocab; v++) sum += Math.exp(row[v] - row[largest]);
      lse[m] = row[largest] + Math.log(sum);
      best[m] = largest;
    }
    for (let n = 0; n < targets; n++) picked[n] = logits[rowOf[n] * vocab + ids[n]];
  },
  samples: () => [sample(1, 1, 1), sample(3, 37, 5), sample(40, 130, 64), sample(64, 50304, 96, true)],
});
