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
  return base * cosine(progress, minRatio);
}

/**
 * The form of transformers (`get_cosine_with_min_lr_schedule_with_warmup`, and with minRatio 0
 * `get_cosine_schedule_with_warmup`): the first update has rate 0, and past `total` the rate rises again.
 */
export function transformersCosineRate(
  step: number,
  { base, warmup, total, minRatio }: CosineSchedule,
): number {
  if (step < warmup) return (base * step) / warmup;
  return base * cosine((step - warmup) / Math.max(1, total - warmup), minRatio);
}

function cosine(progress: number, minRatio: number): number {
  return minRatio + (1 - minRatio) * 0.5 * (1 + Math.cos(Math.PI * progress));
}
