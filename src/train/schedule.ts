// Learning rate over the steps of a run: linear warm-up, then a cosine down to a floor.

export interface CosineSchedule {
  /** Peak rate. */
  readonly base: number;
  readonly warmup: number;
  readonly total: number;
  /** The floor as a share of the peak. */
  readonly minRatio: number;
}

/**
 * Rate of the update with zero-based index `step`. The first update has rate base / warmup, the one after the warm-up
 * the full rate; at and after `total` the rate stays at the floor.
 */
export function cosineRate(step: number, { base, warmup, total, minRatio }: CosineSchedule): number {
  if (step < warmup) return (base * (step + 1)) / warmup;
  const progress = Math.min(1, (step - warmup) / Math.max(1, total - warmup));
  return base * (minRatio + (1 - minRatio) * 0.5 * (1 + Math.cos(Math.PI * progress)));
}
