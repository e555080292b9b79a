// How evenly something is used: three numbers of a list of counts.

export interface Evenness {
  /** Entropy relative to a uniform distribution: 1 when all are used alike, 0 when one alone is. */
  readonly entropy: number;
  /** Gini coefficient: 0 when all are used alike, near 1 when one alone is. */
  readonly gini: number;
  readonly maxOverMean: number;
}

export function evenness(counts: ArrayLike<number>): Evenness {
  const sorted = Float64Array.from(counts).sort();
  const n = sorted.length;
  const total = sorted.reduce((a, b) => a + b, 0);
  if (total === 0 || n < 2) return { entropy: 1, gini: 0, maxOverMean: 1 };
  let [entropy, weighted] = [0, 0];
  sorted.forEach((count, i) => {
    if (count > 0) entropy -= (count / total) * Math.log(count / total);
    weighted += (2 * (i + 1) - n - 1) * count;
  });
  return {
    entropy: entropy / Math.log(n),
    gini: weighted / (n * total),
    maxOverMean: (sorted[n - 1] * n) / total,
  };
}
