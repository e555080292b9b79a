// How evenly experts and neurons are used: entropy relative to uniform, dead share, histogram of keep rates. Pure
// functions of counts.

export interface Use {
  /** `relativeEntropy` of the counts. */
  entropy: number;
  /** Share with a count of 0. */
  dead: number;
}

export interface LayerUse extends Use {
  /** Neurons by their use relative to uniform (1 = uniform): bin i is edges[i] to edges[i + 1]. */
  histogram: { edges: number[]; counts: number[] };
}

/**
 * Entropy of counts relative to that of uniform counts, 0 to 1: 1 when all are alike (one alone as well), 0 when only one
 * of several counts, and 0 if nothing was counted.
 */
export function relativeEntropy(counts: ArrayLike<number>): number {
  let total = 0;
  for (let i = 0; i < counts.length; i++) total += counts[i];
  if (total === 0) return 0;
  if (counts.length === 1) return 1;
  let entropy = 0;
  for (let i = 0; i < counts.length; i++) {
    if (counts[i] > 0) entropy -= (counts[i] / total) * Math.log(counts[i] / total);
  }
  return entropy / Math.log(counts.length);
}

export function useOf(counts: ArrayLike<number>): Use {
  let dead = 0;
  for (let i = 0; i < counts.length; i++) if (counts[i] === 0) dead++;
  return { entropy: relativeEntropy(counts), dead: dead / counts.length };
}

/** Right edges of the last bins are open: everything above 4 times uniform falls into the last. */
const HISTOGRAM_EDGES = Array.from({ length: 41 }, (_, i) => i / 10);

/**
 * Use of the neurons inside the experts of one layer: entropy and dead share of each expert with rows, averaged over
 * those; an expert's neuron is expected to be kept in K / F of the expert's rows.
 * @param usage_EF rows that keep each neuron. @param rows_E rows of each expert.
 */
export function neuronUseOf(usage_EF: ArrayLike<number>, rows_E: ArrayLike<number>, kept: number): LayerUse {
  const width = usage_EF.length / rows_E.length;
  const counts = new Array<number>(HISTOGRAM_EDGES.length - 1).fill(0);
  const uses: Use[] = [];
  for (let e = 0; e < rows_E.length; e++) {
    if (rows_E[e] === 0) continue;
    const expert = Array.from({ length: width }, (_, j) => usage_EF[e * width + j]);
    uses.push(useOf(expert));
    for (const count of expert) {
      const ratio = count / ((rows_E[e] * kept) / width);
      counts[Math.min(counts.length - 1, Math.floor(ratio * 10 + 1e-9))]++;
    }
  }
  return { ...meanUse(uses), histogram: { edges: HISTOGRAM_EDGES, counts } };
}

export function meanUse(uses: readonly Use[]): Use {
  const mean = (key: keyof Use) => uses.reduce((sum, use) => sum + use[key], 0) / Math.max(1, uses.length);
  return { entropy: mean("entropy"), dead: mean("dead") };
}
