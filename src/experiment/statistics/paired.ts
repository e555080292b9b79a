// What a few seeds can say: intervals, paired differences, Holm's correction, the verdict in words, and how many seeds a
// difference needs. Pure functions of numbers. Not here: where the numbers come from (report/), the spread of several arms
// (spread.ts). Source: Holm 1979.

import { UsageError } from "../../errors.ts";
import { logGamma, normalBelow, tQuantile, tTwoSided } from "./distributions.ts";
import type { Spread } from "./spread.ts";

export interface Estimate {
  readonly count: number;
  readonly mean: number;
  /** Sample standard deviation (n - 1); absent for a single value. */
  readonly deviation?: number;
  /** Half the width of the interval of the mean; absent for a single value. */
  readonly halfWidth?: number;
}

/** Mean with its t interval. @param values at least one. */
export function estimate(values: readonly number[], confidence = 0.95): Estimate {
  const count = values.length;
  if (count === 0) throw new RangeError("There is no mean of no values.");
  const mean = values.reduce((sum, value) => sum + value, 0) / count;
  if (count === 1) return { count, mean };
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  const deviation = Math.sqrt(squares / (count - 1));
  return {
    count,
    mean,
    deviation,
    halfWidth: (tQuantile(count - 1, confidence) * deviation) / Math.sqrt(count),
  };
}

export type Verdict =
  | "better"
  | "worse"
  | "no difference seen"
  | "too few seeds to say"
  | "one seed says nothing";

/** `deviation` is that of these pairs; interval and p go by it too, unless there is an `alone`. */
export interface PairedDifference extends Estimate {
  /** Two-sided, of the t test that belongs to the interval; absent for a single pair. */
  readonly p?: number;
  /** By these pairs alone, where `halfWidth` and `p` go by the spread of several arms. */
  readonly alone?: { readonly halfWidth: number; readonly p: number };
  readonly verdict: Verdict;
  /** The largest difference that counts as none, in the units of the values. */
  readonly margin: number;
}

export interface PairedOptions {
  readonly better: "lower" | "higher";
  /** The largest difference that counts as none, as a share of the reference's mean. */
  readonly margin: number;
  readonly confidence?: number;
  /** Spread of single runs that the interval goes by; without it, by that of these pairs. */
  readonly spread?: Spread;
}

/**
 * `values` against `reference`, pair by pair (same seed, same data order).
 *
 * The verdict: an interval that excludes 0 says better or worse; else one that lies within +- margin says "no difference
 * seen"; else the seeds are too few. Of one pair nothing is said.
 */
export function pairedDifference(
  values: readonly number[],
  reference: readonly number[],
  { better, margin: share, confidence = 0.95, spread }: PairedOptions,
): PairedDifference {
  if (values.length !== reference.length) throw new RangeError("Pairs need two lists of one length.");
  const margin = Math.abs(estimate(reference).mean) * share;
  const pairs = estimate(
    values.map((value, i) => value - reference[i]),
    confidence,
  );
  const { mean, deviation, count } = pairs;
  if (deviation === undefined || pairs.halfWidth === undefined) {
    return { ...pairs, margin, verdict: "one seed says nothing" };
  }
  const alone = {
    halfWidth: pairs.halfWidth,
    p: pOf(mean, deviation / Math.sqrt(count), count - 1),
  };
  const together = spread && intervalBy(spread, mean, count, confidence);
  const { halfWidth, p } = together ?? alone;
  const isLower = mean + halfWidth < 0;
  const isHigher = mean - halfWidth > 0;
  const verdict: Verdict =
    isLower || isHigher
      ? isLower === (better === "lower")
        ? "better"
        : "worse"
      : Math.abs(mean) + halfWidth <= margin
        ? "no difference seen"
        : "too few seeds to say";
  return { ...pairs, halfWidth, p, ...(together && { alone }), margin, verdict };
}

/** Interval and p of a mean difference of two arms over `count` seeds, each run with the spread of single runs. */
function intervalBy({ deviation, degrees }: Spread, mean: number, count: number, confidence: number) {
  const error = deviation * Math.sqrt(2 / count);
  return { halfWidth: tQuantile(degrees, confidence) * error, p: pOf(mean, error, degrees) };
}

/** @param error standard error of the mean; with none at all the difference is exact, as far as these seeds go. */
function pOf(mean: number, error: number, degrees: number): number {
  if (error === 0) return mean === 0 ? 1 : 0;
  return tTwoSided(mean / error, degrees);
}

/** Holm's step-down correction: with these p values, a false alarm anywhere in the family is as rare as promised. */
export function holm(pValues: readonly number[]): number[] {
  const order = pValues.map((_, i) => i).sort((a, b) => pValues[a] - pValues[b]);
  const corrected = new Array<number>(pValues.length);
  let largest = 0;
  order.forEach((at, rank) => {
    largest = Math.max(largest, Math.min(1, (pValues.length - rank) * pValues[at]));
    corrected[at] = largest;
  });
  return corrected;
}

/**
 * Probability that a t test over `seeds` pairs sees a true difference.
 * @param effect the difference divided by the standard deviation of paired differences.
 * @param arms whose spread the test goes by; 2 is the paired t test.
 */
export function pairedPower(seeds: number, effect: number, { confidence = 0.95, arms = 2 } = {}): number {
  const degrees = (arms - 1) * (seeds - 1);
  const critical = tQuantile(degrees, confidence);
  const shift = Math.abs(effect) * Math.sqrt(seeds);
  // The noncentral t, integrated over the sample deviation s (sigma = 1), whose s^2 * degrees is chi squared.
  const logScale = Math.LN2 + (degrees / 2) * Math.log(degrees / 2) - logGamma(degrees / 2);
  const density = (s: number) =>
    s <= 0
      ? degrees === 1
        ? Math.exp(logScale)
        : 0
      : Math.exp(logScale + (degrees - 1) * Math.log(s) - (degrees * s * s) / 2);
  const highest = 1 + 9 / Math.sqrt(2 * degrees);
  const pieces = 400;
  const width = highest / pieces;
  let sum = 0;
  for (let i = 0; i <= pieces; i++) {
    const s = i * width;
    const seen = 1 - normalBelow(critical * s - shift) + normalBelow(-critical * s - shift);
    sum += density(s) * seen * (i === 0 || i === pieces ? 1 : i % 2 === 1 ? 4 : 2);
  }
  return (sum * width) / 3;
}

/**
 * The least number of seeds with which a t test sees `difference` with probability `power`.
 * @param deviation of paired differences, as pilot runs have it; same units. @param arms whose spread the test goes by.
 * @returns undefined above `most`.
 * @throws UsageError for a difference of 0: no number of seeds sees that.
 */
export function seedsNeeded(
  difference: number,
  deviation: number,
  { power = 0.8, confidence = 0.95, arms = 2, most = 1000 } = {},
): number | undefined {
  if (!(Math.abs(difference) > 0)) {
    throw new UsageError("No number of seeds sees a difference of 0: name one that would matter.");
  }
  if (deviation === 0) return 2;
  const effect = difference / deviation;
  const isEnough = (seeds: number) => pairedPower(seeds, effect, { confidence, arms }) >= power;
  if (!isEnough(most)) return undefined;
  let [low, high] = [1, most];
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2);
    if (isEnough(middle)) high = middle;
    else low = middle;
  }
  return high;
}
