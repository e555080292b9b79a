// How much single runs scatter, from all arms of an experiment together: a value is the sum of what the arm does, what the
// seed does and noise (randomised blocks, Fisher 1935), and the noise of m arms over n seeds is known with (m - 1)(n - 1)
// degrees of freedom where one pair of arms has n - 1. Sound where the arms scatter alike, hence the test. Pure functions.

import { RandomStream } from "../random.ts";

/** Spread of single runs. */
export interface Spread {
  /** Standard deviation. */
  readonly deviation: number;
  /** Degrees of freedom that it is known with. */
  readonly degrees: number;
}

export interface ArmsSpread extends Spread {
  readonly arms: number;
  /** Chance that arms which scatter alike look as unlike as these (Cochran's C); small: do not put them together. */
  readonly pAlike: number;
}

/** By arm, then by seed; seeds may be missing. */
export type ArmValues = readonly ReadonlyMap<number, number>[];

/** A spread of arms that look less alike than this chance has it is no spread of all. */
export const leastAlike = 0.05;

/** @returns undefined where the arms have nothing to say beyond pairs: fewer than three, or no two seeds in common. */
export function spreadOf(values: ArmValues): ArmsSpread | undefined {
  // A seed of a single arm, or an arm of a single seed, fits exactly and says nothing.
  const shared = values
    .map(
      (seeds) => new Map([...seeds].filter(([seed]) => values.filter((other) => other.has(seed)).length > 1)),
    )
    .filter((seeds) => seeds.size > 1);
  if (shared.length < 3) return undefined;
  const { squares, degrees } = residuals(shared);
  if (degrees < 1) return undefined;
  const sum = squares.reduce((total, one) => total + one, 0);
  return {
    deviation: Math.sqrt(sum / degrees),
    degrees,
    arms: shared.length,
    pAlike: sum === 0 ? 1 : chanceOf(Math.max(...squares) / sum, shared),
  };
}

/** Sums of squares by arm that are left of `values` after the best fitting sums of arm and seed. */
function residuals(values: ArmValues): { squares: number[]; degrees: number } {
  const left = values.map((seeds) => new Map(seeds));
  const seeds = [...new Set(values.flatMap((of) => [...of.keys()]))];
  const lines = [
    ...left.map((of) => [...of.keys()].map((seed) => [of, seed] as const)),
    ...seeds.map((seed) => left.filter((of) => of.has(seed)).map((of) => [of, seed] as const)),
  ];
  // Means of rows and columns taken out by turns: done after one turn where no value is missing.
  const count = values.reduce((sum, of) => sum + of.size, 0);
  const largest = Math.max(...values.flatMap((of) => [...of.values()].map(Math.abs)));
  for (let turn = 0; turn < 1000; turn++) {
    let moved = 0;
    for (const line of lines) {
      const mean = line.reduce((sum, [of, seed]) => sum + (of.get(seed) as number), 0) / line.length;
      for (const [of, seed] of line) of.set(seed, (of.get(seed) as number) - mean);
      if (turn > 0) moved = Math.max(moved, Math.abs(mean));
    }
    if (turn > 0 && moved <= 1e-13 * largest) break;
  }
  return {
    squares: left.map((of) => [...of.values()].reduce((sum, value) => sum + value * value, 0)),
    degrees: count - values.length - seeds.length + pieces(values),
  };
}

/** Groups of arms that are tied by seeds in common. */
function pieces(values: ArmValues): number {
  const open = new Set(values);
  let count = 0;
  while (open.size > 0) {
    count++;
    const next = [...open].slice(0, 1);
    for (let one = next.pop(); one; one = next.pop()) {
      open.delete(one);
      for (const other of open) if ([...one.keys()].some((seed) => other.has(seed))) next.push(other);
    }
  }
  return count;
}

const TRIALS = 4000;
/** Of equal arms with these seeds, the shares that the noisiest has, in order. */
const simulated = new Map<string, Float64Array>();

/** Chance that the noisiest of arms which scatter alike has at least this share of the squares. */
function chanceOf(share: number, values: ArmValues): number {
  const layout = values.map((seeds) => [...seeds.keys()].join(",")).join(";");
  const shares = simulated.get(layout) ?? simulate(values, layout);
  simulated.set(layout, shares);
  // Room for rounding.
  const below = shares.findIndex((one) => one >= share * (1 - 1e-9));
  return below < 0 ? 0 : (TRIALS - below) / TRIALS;
}

function simulate(values: ArmValues, layout: string): Float64Array {
  const count = values.reduce((sum, of) => sum + of.size, 0);
  const noise = new Float64Array(TRIALS * count);
  new RandomStream(1, `spread/${layout}`).fillNormal(noise);
  let at = 0;
  return Float64Array.from({ length: TRIALS }, () => {
    const arms = values.map((seeds) => new Map([...seeds.keys()].map((seed) => [seed, noise[at++]])));
    const { squares } = residuals(arms);
    return Math.max(...squares) / squares.reduce((sum, one) => sum + one, 0);
  }).sort();
}
