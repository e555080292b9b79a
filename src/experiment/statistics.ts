// What a few seeds can say: Student's t, intervals, paired differences, Holm's correction, the verdict in words, and how
// many seeds a difference needs. Pure functions of numbers. Not here: where the numbers come from (report.ts).
// Sources: Student 1908; Holm 1979; the incomplete beta function by Lentz's continued fraction (Numerical Recipes 6.4).

import { UsageError } from "../errors.ts";

/** Logarithm of the gamma function (Lanczos, g = 7), error below 1e-13 for x > 0. */
function logGamma(x: number): number {
  const coefficients = [
    676.5203681218851, -1259.1392167224028, 771.32342877765313, -176.61502916214059, 12.507343278686905,
    -0.13857109526572012, 9.9843695780195716e-6, 1.5056327351493116e-7,
  ];
  const y = x - 1;
  const sum = coefficients.reduce((total, c, i) => total + c / (y + i + 1), 0.99999999999980993);
  const t = y + 7.5;
  return 0.5 * Math.log(2 * Math.PI) + (y + 0.5) * Math.log(t) - t + Math.log(sum);
}

/** Regularised incomplete beta function I_x(a, b). */
function incompleteBeta(x: number, a: number, b: number): number {
  if (x <= 0) return 0;
  if (x >= 1) return 1;
  if (x > (a + 1) / (a + b + 2)) return 1 - incompleteBeta(1 - x, b, a);
  const front = Math.exp(
    logGamma(a + b) - logGamma(a) - logGamma(b) + a * Math.log(x) + b * Math.log1p(-x) - Math.log(a),
  );
  const least = 1e-300;
  const away = (value: number) => (Math.abs(value) < least ? least : value);
  let c = 1;
  let d = 1 / away(1 - ((a + b) * x) / (a + 1));
  let fraction = d;
  for (let m = 1; m < 500; m++) {
    const even = (m * (b - m) * x) / ((a + 2 * m - 1) * (a + 2 * m));
    d = 1 / away(1 + even * d);
    c = away(1 + even / c);
    fraction *= d * c;
    const odd = (-(a + m) * (a + b + m) * x) / ((a + 2 * m) * (a + 2 * m + 1));
    d = 1 / away(1 + odd * d);
    c = away(1 + odd / c);
    const step = d * c;
    fraction *= step;
    if (Math.abs(step - 1) < 1e-15) break;
  }
  return front * fraction;
}

/** P(|T| > |t|) of Student's t with `degrees` of freedom. */
export function tTwoSided(t: number, degrees: number): number {
  if (Number.isNaN(t)) return Number.NaN;
  return incompleteBeta(degrees / (degrees + t * t), degrees / 2, 0.5);
}

/** The t that |T| exceeds with probability `1 - confidence`, e.g. 4.303 for 2 degrees and 0.95. */
export function tQuantile(degrees: number, confidence = 0.95): number {
  const key = `${degrees} ${confidence}`;
  const known = quantiles.get(key) ?? findQuantile(degrees, confidence);
  quantiles.set(key, known);
  return known;
}

const quantiles = new Map<string, number>();

function findQuantile(degrees: number, confidence: number): number {
  let [low, high] = [0, 1];
  while (tTwoSided(high, degrees) > 1 - confidence) high *= 2;
  for (let i = 0; i < 200 && high - low > 1e-13 * high; i++) {
    const middle = (low + high) / 2;
    if (tTwoSided(middle, degrees) > 1 - confidence) low = middle;
    else high = middle;
  }
  return (low + high) / 2;
}

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

export interface PairedDifference extends Estimate {
  /** Two-sided, of the paired t test; absent for a single pair. */
  readonly p?: number;
  readonly verdict: Verdict;
  /** The largest difference that counts as none, in the units of the values. */
  readonly margin: number;
}

export interface PairedOptions {
  readonly better: "lower" | "higher";
  /** The largest difference that counts as none, as a share of the reference's mean. */
  readonly margin: number;
  readonly confidence?: number;
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
  { better, margin: share, confidence = 0.95 }: PairedOptions,
): PairedDifference {
  if (values.length !== reference.length) throw new RangeError("Pairs need two lists of one length.");
  const margin = Math.abs(estimate(reference).mean) * share;
  const difference = estimate(
    values.map((value, i) => value - reference[i]),
    confidence,
  );
  const { mean, deviation, halfWidth, count } = difference;
  if (deviation === undefined || halfWidth === undefined) {
    return { ...difference, margin, verdict: "one seed says nothing" };
  }
  // No spread at all: the difference is exact, as far as these seeds go.
  const p =
    deviation === 0 ? (mean === 0 ? 1 : 0) : tTwoSided((mean / deviation) * Math.sqrt(count), count - 1);
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
  return { ...difference, p, margin, verdict };
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

/** Standard normal distribution function, error below 1e-12 (Simpson's rule within 9 deviations). */
function normalBelow(x: number): number {
  if (x < -9) return 0;
  if (x > 9) return 1;
  const pieces = 200;
  const width = x / pieces;
  const density = (at: number) => Math.exp(-0.5 * at * at) / Math.sqrt(2 * Math.PI);
  let sum = density(0) + density(x);
  for (let i = 1; i < pieces; i++) sum += density(i * width) * (i % 2 === 1 ? 4 : 2);
  return 0.5 + (sum * width) / 3;
}

/**
 * Probability that a paired t test over `seeds` pairs sees a true difference.
 * @param effect the difference divided by the standard deviation of paired differences.
 */
export function pairedPower(seeds: number, effect: number, confidence = 0.95): number {
  const degrees = seeds - 1;
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
 * The least number of seeds with which a paired t test sees `difference` with probability `power`.
 * @param deviation of paired differences, as pilot runs have it; same units. @returns undefined above `most`.
 * @throws UsageError for a difference of 0: no number of seeds sees that.
 */
export function seedsNeeded(
  difference: number,
  deviation: number,
  { power = 0.8, confidence = 0.95, most = 1000 } = {},
): number | undefined {
  if (!(Math.abs(difference) > 0)) {
    throw new UsageError("No number of seeds sees a difference of 0: name one that would matter.");
  }
  if (deviation === 0) return 2;
  const effect = difference / deviation;
  const isEnough = (seeds: number) => pairedPower(seeds, effect, confidence) >= power;
  if (!isEnough(most)) return undefined;
  let [low, high] = [1, most];
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2);
    if (isEnough(middle)) high = middle;
    else low = middle;
  }
  return high;
}
