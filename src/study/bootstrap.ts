// Confidence intervals by the bootstrap over units (documents, or windows): whole units are drawn again with
// repetition, since tokens of one text are not independent (percentile method, Efron and Tibshirani 1993, chapter 13).
// Draws depend on seed and resample only, so that settings are compared on the same resamples.

import { RandomStream } from "../random.ts";

export interface Interval {
  readonly low: number;
  readonly high: number;
}

/**
 * The interval of `statistic` over resamples of `count` units.
 * @param statistic of how often each unit was drawn. @param level share of resamples inside, e.g. 0.95.
 */
export function bootstrap(
  count: number,
  statistic: (weights: Uint32Array) => number,
  { seed = 1, resamples = 1000, level = 0.95 } = {},
): Interval {
  const stream = new RandomStream(seed, "study/bootstrap");
  const values = new Float64Array(resamples);
  const weights = new Uint32Array(count);
  for (let i = 0; i < resamples; i++) {
    weights.fill(0);
    // Four draws of 32 bits from each call.
    for (let n = 0; n < count; n += 4) {
      const words = stream.words(i * Math.ceil(count / 4) + n / 4);
      for (let k = 0; k < Math.min(4, count - n); k++) weights[Math.floor((words[k] / 2 ** 32) * count)]++;
    }
    values[i] = statistic(weights);
  }
  values.sort();
  const tail = (1 - level) / 2;
  const at = (share: number) =>
    values[Math.min(resamples - 1, Math.max(0, Math.round(share * (resamples - 1))))];
  return { low: at(tail), high: at(1 - tail) };
}
