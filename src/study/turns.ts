// Timing by turns: contenders decode one after the other, again and again, so that what disturbs the machine disturbs all of
// them. How many tokens and turns there is time for is seen in a first turn, which counts for nothing else: a model that
// decodes a thousand tokens a second is timed as finely as makes sense, one that decodes a single one within minutes too.

import { throwIfAborted } from "../errors.ts";

/** Something that decodes one sequence. */
export interface Runner {
  /** The next token is the first one of another sequence, the same for every runner in the same turn. */
  restart(turn: number): void;
  /** Decodes one token. */
  step(): Promise<void>;
}

export interface TurnOptions {
  /** Time for all contenders together. Exceeded where the fewest turns of the fewest tokens take longer. Default 60. */
  readonly seconds?: number;
  /** Longest turn, in tokens that are timed; one more is decoded before them. Default 112. */
  readonly mostTokens?: number;
  /** Milliseconds of a clock. */
  readonly now?: () => number;
  readonly signal?: AbortSignal;
}

export interface TurnSpeeds {
  readonly turns: number;
  /** In a turn. */
  readonly tokens: number;
  /** Tokens per second by runner and turn. */
  readonly speeds: readonly (readonly number[])[];
}

const MOST_TURNS = 7;
/** With fewer, a least and a most beside the median would be the same. */
const FEWEST_TURNS = 2;
const FEWEST_TOKENS = 2;
/** Turns become fewer before they become shorter than this: of a few tokens, one that was disturbed is a large part. */
const SHORT_TURN = 8;

/** Times runners by turns within a budget of time. */
export async function timeByTurns(
  runners: readonly Runner[],
  { seconds = 60, mostTokens = 112, now = () => performance.now(), signal }: TurnOptions = {},
): Promise<TurnSpeeds> {
  const start = now();
  const budget = 1000 * seconds;
  const spent = () => now() - start;
  /** Milliseconds of so many tokens, or of those that are decoded when the time is over: at least one. */
  const decode = async (runner: Runner, turn: number, most: number, time = Number.POSITIVE_INFINITY) => {
    throwIfAborted(signal);
    runner.restart(turn);
    await runner.step(); // finds caches full of what the runner before it read
    const begin = now();
    let tokens = 0;
    do {
      await runner.step();
      tokens++;
    } while (tokens < most && now() - begin < time);
    return { tokens, milliseconds: now() - begin };
  };
  const firstTurn = budget / (MOST_TURNS + 1) / runners.length;
  let milliseconds = 0; // of one token of every runner
  for (const runner of runners) {
    const first = await decode(runner, 0, mostTokens, firstTurn);
    milliseconds += first.milliseconds / first.tokens;
  }
  const { turns, tokens } = planTurns(milliseconds, budget - spent(), mostTokens);
  const speeds = runners.map((): number[] => []);
  for (let turn = 1; turn <= turns; turn++) {
    // The machine may have become slower since the plan was made.
    if (turn > FEWEST_TURNS && spent() > budget) break;
    for (const [i, runner] of runners.entries()) {
      const timed = await decode(runner, turn, tokens);
      speeds[i].push((1000 * tokens) / timed.milliseconds);
    }
  }
  return { turns: speeds[0].length, tokens, speeds };
}

/** @param milliseconds of one token of every runner. @param left of the budget. */
function planTurns(
  milliseconds: number,
  left: number,
  mostTokens: number,
): { turns: number; tokens: number } {
  /** Tokens of every runner, one of each turn untimed. */
  const affordable = left / milliseconds;
  const turns = clamp(Math.floor(affordable / (SHORT_TURN + 1)), FEWEST_TURNS, MOST_TURNS);
  const tokens = clamp(Math.floor(affordable / turns) - 1, FEWEST_TOKENS, mostTokens);
  return { turns, tokens };
}

function clamp(value: number, least: number, most: number): number {
  return Math.min(most, Math.max(least, value));
}
