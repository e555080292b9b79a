// From logits to the next token: temperature, then top-k, top-p and min-p, then one draw. Pure functions.

import { UsageError } from "../errors.ts";

export interface SamplingOptions {
  /** 0: always the most likely token. */
  readonly temperature?: number;
  /** Only the k most likely tokens; 0: all. */
  readonly topK?: number;
  /** Only the most likely tokens that together have at least this probability (nucleus sampling). */
  readonly topP?: number;
  /** Only tokens with at least this share of the best one's probability. */
  readonly minP?: number;
}

export const samplingDefaults: Required<SamplingOptions> = { temperature: 1, topK: 0, topP: 1, minP: 0 };

/** @throws UsageError naming the option that is out of bounds. */
export function checkSampling(options: SamplingOptions): Required<SamplingOptions> {
  const all = { ...samplingDefaults, ...withoutUndefined(options) };
  const fail = (name: string, must: string, value: number) => {
    throw new UsageError(`${name} must be ${must}, not ${value}.`);
  };
  if (!(all.temperature >= 0 && all.temperature <= 100))
    fail("temperature", "from 0 to 100", all.temperature);
  if (!Number.isInteger(all.topK) || all.topK < 0) fail("top-k", "an integer of at least 0", all.topK);
  if (!(all.topP > 0 && all.topP <= 1)) fail("top-p", "above 0 and at most 1", all.topP);
  if (!(all.minP >= 0 && all.minP <= 1)) fail("min-p", "from 0 to 1", all.minP);
  return all;
}

function withoutUndefined<T extends object>(options: T): Partial<T> {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as Partial<T>;
}

/**
 * The next token.
 * @param uniform a number in [0, 1); the same number gives the same token.
 */
export function sampleToken(
  logits: ArrayLike<number>,
  options: Required<SamplingOptions>,
  uniform: number,
): number {
  let best = 0;
  for (let v = 1; v < logits.length; v++) if (logits[v] > logits[best]) best = v;
  if (options.temperature === 0) return best;

  // Most likely first; ties by id, so that the result does not depend on how sorting treats equals.
  let order = Array.from({ length: logits.length }, (_, v) => v);
  order.sort((a, b) => logits[b] - logits[a] || a - b);
  if (options.topK > 0) order = order.slice(0, options.topK);
  const weights = order.map((v) => Math.exp((logits[v] - logits[best]) / options.temperature));
  const total = weights.reduce((sum, weight) => sum + weight, 0);

  let kept = 0;
  let mass = 0;
  while (
    kept < order.length &&
    weights[kept] >= options.minP &&
    (kept === 0 || mass < options.topP * total)
  ) {
    mass += weights[kept++];
  }
  let rest = uniform * mass;
  for (let i = 0; i < kept; i++) {
    rest -= weights[i];
    if (rest < 0) return order[i];
  }
  return order[kept - 1];
}
