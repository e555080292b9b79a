// How much single runs scatter, from all arms of an experiment together: a value is the sum of what the arm does, what the
// seed does and noise (randomised blocks, Fisher 1935), and the noise of m arms over n seeds is known with (m - 1)(n - 1)
// degrees of freedom where one pair of arms has n - 1. Sound where all pairs of arms scatter alike, hence the tests. Pure
// functions.

import { RandomStream } from "../../random.ts";

/** Spread of single runs. */
export interface Spread {
  /** Standard deviation. */
  readonly deviation: number;
  /** Degrees of freedom that it is known with. */
  readonly degrees: number;
}

export interface ArmsSpread extends Spread {
  readonly arms: number;
  /** Chance that arms which scatter alike look as unlike as these; small: do not put them together. */
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
  const { left, degrees } = residuals(shared);
  if (degrees < 1) return undefined;
  const sum = squaresOf(left).reduce((total, one) => total + one, 0);
  return {
    deviation: Math.sqrt(sum / degrees),
    degrees,
    arms: shared.length,
    pAlike: sum === 0 ? 1 : chanceAlike(left, shared),
  };
}

/** What is left of `values` after the best fitting sums of arm and seed. */
function residuals(values: ArmValues): { left: ArmValues; degrees: number } {
  const left = values.map((seeds) => new Map(seeds));
  const seeds = [...new Set(values.flatMap((of) => [...of.keys()]))];
  const lines = [
    ...left.map((of) => [...of.keys()].map((seed) => [of, seed] as const)),
    ...seeds.map((seed) => left.filter((of) => of.has(seed)).map((of) => [of, seed] as const)),
  ];
  // Means of rows and columns taken out by turns: done after one turn where no value is missing.
  const count = values.reduce((sum, of) => sum + of.size, 0);
  const largest = Math.max(...values.flatMap((of) => [...of.values()].map(Math.abs)));
  for (let turn = 0; turn < 200; turn++) {
    let moved = 0;
    for (const line of lines) {
      const mean = line.reduce((sum, [of, seed]) => sum + (of.get(seed) as number), 0) / line.length;
      for (const [of, seed] of line) of.set(seed, (of.get(seed) as number) - mean);
      if (turn > 0) moved = Math.max(moved, Math.abs(mean));
    }
    if (turn > 0 && moved <= 1e-13 * largest) break;
  }
  return {
    left,
    degrees: count - values.length - seeds.length + pieces(values),
  };
}

/** By arm. */
function squaresOf(left: ArmValues): number[] {
  return left.map((of) => [...of.values()].reduce((sum, value) => sum + value * value, 0));
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

/**
 * Two shares of the squares that are large where arms do not scatter alike: that of the noisiest arm (Cochran's C), and that
 * of the largest eigenvalue over seeds, which one noisy arm raises and also families of arms that follow the seeds each in
 * their own way.
 */
function unlikeness(left: ArmValues): [noisiest: number, largest: number] {
  const squares = squaresOf(left);
  const sum = squares.reduce((total, one) => total + one, 0);
  const seeds = [...new Set(left.flatMap((of) => [...of.keys()]))];
  const at = (of: ReadonlyMap<number, number>, seed: number) => of.get(seed) ?? 0;
  const products = seeds.map((a) =>
    seeds.map((b) => left.reduce((total, of) => total + at(of, a) * at(of, b), 0)),
  );
  let vector = seeds.map((_, i) => Math.sin(i + 1)); // along no axis that the data may have
  let eigenvalue = 0;
  for (let turn = 0; turn < 60; turn++) {
    const next = products.map((row) => row.reduce((total, product, i) => total + product * vector[i], 0));
    eigenvalue = Math.hypot(...next);
    vector = next.map((value) => value / eigenvalue);
  }
  return [Math.max(...squares) / sum, eigenvalue / sum];
}

const TRIALS = 4000;
/** `unlikeness` of arms that scatter alike and have these seeds: both shares, in order. */
const simulated = new Map<string, readonly [Float64Array, Float64Array]>();

/** Chance that arms which scatter alike have one share or the other as large, corrected for there being two. */
function chanceAlike(left: ArmValues, values: ArmValues): number {
  const layout = values.map((seeds) => [...seeds.keys()].join(",")).join(";");
  const shares = simulated.get(layout) ?? simulate(values, layout);
  simulated.set(layout, shares);
  const chances = unlikeness(left).map((share, i) => {
    const below = shares[i].findIndex((one) => one >= share * (1 - 1e-9)); // room for rounding
    return below < 0 ? 0 : (TRIALS - below) / TRIALS;
  });
  return Math.min(1, 2 * Math.min(...chances));
}

function simulate(values: ArmValues, layout: string): readonly [Float64Array, Float64Array] {
  const count = values.reduce((sum, of) => sum + of.size, 0);
  const noise = new Float64Array(TRIALS * count);
  new RandomStream(1, `spread/${layout}`).fillNormal(noise);
  const shares = [new Float64Array(TRIALS), new Float64Array(TRIALS)] as const;
  let at = 0;
  for (let trial = 0; trial < TRIALS; trial++) {
    const arms = values.map((seeds) => new Map([...seeds.keys()].map((seed) => [seed, noise[at++]])));
    const [noisiest, largest] = unlikeness(residuals(arms).left);
    shares[0][trial] = noisiest;
    shares[1][trial] = largest;
  }
  for (const one of shares) one.sort();
  return shares;
}
