// How things are compared: by turns. What is compared runs once each, in order, then all again; so a disturbance of the
// machine meets all of them. Reported are medians over the rounds with the least and the most, and ratios of the same round.

import { throwIfAborted } from "../errors.ts";

/** A figure over several rounds. */
export interface Spread {
  readonly median: number;
  readonly min: number;
  readonly max: number;
}

/** @throws Error without values. */
export function spreadOf(values: readonly number[]): Spread {
  if (values.length === 0) throw new Error("a spread needs values");
  const sorted = [...values].sort((a, b) => a - b);
  return { median: median(sorted), min: sorted[0], max: sorted[sorted.length - 1] };
}

/** The middle value, or the mean of the two. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** The spread of value / reference, round by round. */
export function ratioOf(values: readonly number[], references: readonly number[]): Spread {
  return spreadOf(values.map((value, round) => value / references[round]));
}

/** Something that takes turns with others. */
export interface Contender<T> {
  readonly name: string;
  /** One turn. */
  run(): Promise<T>;
}

export interface TurnOptions {
  readonly rounds: number;
  readonly signal?: AbortSignal;
  /** Before each turn. */
  readonly onTurn?: (turn: { name: string; round: number; rounds: number }) => void;
}

/**
 * Lets all take turns. @returns for each contender what its turns gave, in the order of the rounds.
 */
export async function takeTurns<T>(
  contenders: readonly Contender<T>[],
  { rounds, signal, onTurn }: TurnOptions,
): Promise<T[][]> {
  const results: T[][] = contenders.map(() => []);
  for (let round = 1; round <= rounds; round++) {
    for (const [index, contender] of contenders.entries()) {
      throwIfAborted(signal);
      onTurn?.({ name: contender.name, round, rounds });
      results[index].push(await contender.run());
    }
  }
  return results;
}

/**
 * Seconds a call of `work`, over as many calls as fill `seconds`, after one that is not counted.
 * @param finish waits for what was enqueued.
 */
export async function secondsPerCall(
  work: () => void,
  finish: () => Promise<unknown>,
  seconds: number,
): Promise<number> {
  const measure = async (calls: number) => {
    const start = performance.now();
    for (let i = 0; i < calls; i++) work();
    await finish();
    return (performance.now() - start) / 1000 / calls;
  };
  const first = await measure(1);
  return measure(Math.max(1, Math.min(1_000_000, Math.round(seconds / Math.max(first, 1e-7)))));
}
