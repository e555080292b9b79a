// From logits to the next token: temperature, then top-k, top-p and min-p, then one draw. Pure functions.

import { damagedWeights, UsageError } from "../errors.ts";

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

/**
 * Complete options.
 * @param model what the model asks for where the options are silent. @throws UsageError naming what is out of bounds.
 */
export function checkSampling(
  options: SamplingOptions,
  model: SamplingOptions = {},
): Required<SamplingOptions> {
  const all = { ...samplingDefaults, ...withoutUndefined(model), ...withoutUndefined(options) };
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

/** Logits that are not numbers would make any token as good as another. @throws RunError */
export function refuseNaN(logits: ArrayLike<number>): void {
  for (let v = 0; v < logits.length; v++) {
    if (Number.isNaN(logits[v])) {
      throw damagedWeights("logits are not numbers");
    }
  }
}

/**
 * The next token.
 * @param uniform a number in [0, 1); the same number gives the same token. @throws RunError for logits that are NaN.
 */
export function sampleToken(
  logits: ArrayLike<number>,
  options: Required<SamplingOptions>,
  uniform: number,
): number {
  refuseNaN(logits);
  let best = 0;
  for (let v = 1; v < logits.length; v++) if (logits[v] > logits[best]) best = v;
  if (options.temperature === 0) return best;

  const weightOf = (v: number) => Math.exp((logits[v] - logits[best]) / options.temperature);
  // The order of a draw is the most likely token first, so that the same number gives the same token however many are
  // kept. Few are looked at as a rule, so they are put into order one by one.
  const order = new MostLikelyFirst(logits);
  const limit = options.topK > 0 ? Math.min(options.topK, logits.length) : logits.length;
  let total = 0;
  if (limit < logits.length) for (let i = 0; i < limit; i++) total += weightOf(order.at(i));
  else for (let v = 0; v < logits.length; v++) total += weightOf(v);

  let kept = limit;
  let mass = total;
  if (options.topP < 1 || options.minP > 0) {
    kept = 0;
    mass = 0;
    while (kept < limit && (kept === 0 || mass < options.topP * total)) {
      const weight = weightOf(order.at(kept));
      if (weight < options.minP) break;
      mass += weight;
      kept++;
    }
  }
  let rest = uniform * mass;
  for (let i = 0; i < kept; i++) {
    rest -= weightOf(order.at(i));
    if (rest < 0) return order.at(i);
  }
  return order.at(kept - 1);
}

/** Tokens in order of their logits, ties by id: a heap, of which the front is sorted as far as it was asked for. */
class MostLikelyFirst {
  readonly #logits: ArrayLike<number>;
  /** The heap in front, what was taken off it behind, the last taken first. */
  readonly #ids: Int32Array;
  #size: number;

  constructor(logits: ArrayLike<number>) {
    this.#logits = logits;
    this.#size = logits.length;
    this.#ids = new Int32Array(logits.length);
    for (let v = 0; v < logits.length; v++) this.#ids[v] = v;
    for (let i = (this.#size >> 1) - 1; i >= 0; i--) this.#sink(i);
  }

  /** The i-th most likely token, from 0. */
  at(i: number): number {
    const ids = this.#ids;
    const last = ids.length - 1;
    while (this.#size > last - i) {
      const top = ids[0];
      this.#size--;
      ids[0] = ids[this.#size];
      ids[this.#size] = top;
      this.#sink(0);
    }
    return ids[last - i];
  }

  #sink(start: number): void {
    const ids = this.#ids;
    const before = (a: number, b: number) =>
      this.#logits[a] > this.#logits[b] || (this.#logits[a] === this.#logits[b] && a < b);
    const id = ids[start];
    let at = start;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= this.#size) break;
      if (child + 1 < this.#size && before(ids[child + 1], ids[child])) child++;
      if (!before(ids[child], id)) break;
      ids[at] = ids[child];
      at = child;
    }
    ids[at] = id;
  }
}
