// How evenly something is used: three numbers of a list of counts.

import { relativeEntropy } from "../train/usage.ts";

export interface Evenness {
  /** `relativeEntropy` of the counts. */
  readonly entropy: number;
  /** Gini coefficient: 0 when all are used alike, near 1 when one alone is. */
  readonly gini: number;
  readonly maxOverMean: number;
}

export function evenness(counts: ArrayLike<number>): Evenness {
  const sorted = Float64Array.from(counts).sort();
  const n = sorted.length;
  const total = sorted.reduce((a, b) => a + b, 0);
  const entropy = relativeEntropy(sorted);
  if (total === 0) return { entropy, gini: 0, maxOverMean: 1 };
  let weighted = 0;
  sorted.forEach((count, i) => {
    weighted += (2 * (i + 1) - n - 1) * count;
  });
  return {
    entropy,
    gini: weighted / (n * total),
    maxOverMean: (sorted[n - 1] * n) / total,
  };
}
