// From answers to numbers: what a single question counts, their aggregate, and its standard error, as
// lm-evaluation-harness computes them (lm_eval/api/metrics.py, lm_eval/api/task.py). Not here: the layout of results.

import { setImmediate } from "node:timers/promises";
import { throwIfAborted } from "../errors.ts";
import type { LogLikelihood } from "./logLikelihood.ts";
import { PythonRandom } from "./pythonRandom.ts";
import type { Item, MetricName, TaskSpec } from "./task.ts";
import { countBytes, countCharacters } from "./tokens.ts";

export const higherIsBetter: Readonly<Record<MetricName, boolean>> = {
  acc: true,
  acc_norm: true,
  acc_bytes: true,
  perplexity: false,
};

/** What a question counts in each metric of its task: 0 or 1, or a log-likelihood in nats for `perplexity`. */
export function scoreItem(
  spec: TaskSpec,
  item: Item,
  answers: readonly LogLikelihood[],
): Partial<Record<MetricName, number>> {
  const sums = answers.map(({ logLikelihood }) => logLikelihood);
  const right = (scores: number[]) => (firstLargest(scores) === item.gold ? 1 : 0);
  const perLength = (length: (text: string) => number) =>
    right(sums.map((sum, n) => sum / length(item.choices[n])));
  const values: Record<MetricName, () => number> = {
    acc: () => (spec.output === "completion" ? Number(answers[0].greedy) : right(sums)),
    acc_norm: () => perLength(countCharacters),
    acc_bytes: () => perLength(countBytes),
    perplexity: () => sums[0],
  };
  return Object.fromEntries(spec.metrics.map((metric) => [metric, values[metric]()]));
}

function firstLargest(values: readonly number[]): number {
  return values.reduce((best, value, n) => (value > values[best] ? n : best), 0);
}

export function mean(values: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i];
  return sum / values.length;
}

/** Of a sample: divided by n - 1. */
function standardDeviation(values: ArrayLike<number>): number {
  const middle = mean(values);
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += (values[i] - middle) ** 2;
  return Math.sqrt(sum / (values.length - 1));
}

/** The value of a metric over all questions. */
export function aggregate(metric: MetricName, values: readonly number[]): number {
  return metric === "perplexity" ? Math.exp(-mean(values)) : mean(values);
}

/**
 * Its standard error; undefined for less than two questions. Of a mean: sample deviation by the root of n. Of a
 * perplexity: the deviation over `resamples` draws with replacement, in blocks of 1000 seeded 0, 1, 2..., from Python's
 * random numbers; that takes its time, so `signal` is looked at after each block.
 */
export async function standardError(
  metric: MetricName,
  values: readonly number[],
  resamples: number,
  signal?: AbortSignal,
): Promise<number | undefined> {
  if (values.length < 2) return undefined;
  if (metric !== "perplexity") return standardDeviation(values) / Math.sqrt(values.length);
  if (resamples < 2) return undefined;
  const block = Math.min(1000, resamples);
  const results: number[] = [];
  for (let seed = 0; seed < Math.floor(resamples / block); seed++) {
    await setImmediate();
    throwIfAborted(signal);
    const random = new PythonRandom(seed);
    for (let n = 0; n < block; n++) {
      let sum = 0;
      for (let i = 0; i < values.length; i++) sum += values[Math.floor(random.random() * values.length)];
      results.push(Math.exp(-sum / values.length));
    }
  }
  return standardDeviation(results);
}

/** The standard error of a mean of parts, each with the same weight, from those of the parts. */
export function meanStandardError(errors: readonly number[]): number {
  return Math.hypot(...errors) / errors.length;
}
