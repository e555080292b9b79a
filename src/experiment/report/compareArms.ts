// What arms differ by: pair by pair of runs of one seed, with intervals by the spread of all arms where that is sound, of
// values after the run and of curves on the way. Not here: the arithmetic (statistics/).

import { hashesOf, type PlannedRun } from "../arms.ts";
import type { Quantity } from "../measures/measure.ts";
import { type PairedDifference, pairedDifference, seedsNeeded } from "../statistics/paired.ts";
import { type ArmsSpread, leastAlike, type Spread, spreadOf } from "../statistics/spread.ts";
import type { CurveStep, RunRecord } from "./record.ts";

export interface Difference extends PairedDifference {
  readonly against: string;
  readonly seeds: readonly number[];
  /** Holm's correction over the arms of this quantity; of a sweep, over all its settings too. */
  readonly holm?: number;
  /** Seeds that see a difference as large as the margin with probability 0.8, if the spread at hand is the true one; null: over 1000. */
  readonly seedsForMargin?: number | null;
}

/** Mean over seeds with a range: [step, mean, low, high]. */
export type CurvePoint = readonly [step: number, mean: number, low: number, high: number];

/** Spread of single runs over several arms, and whether intervals go by it. */
export type JudgedSpread = ArmsSpread & { readonly used: boolean };

export class ArmComparison {
  /** By key of the quantity, where several arms tell it. */
  readonly spreads: Readonly<Record<string, JudgedSpread>>;
  readonly #margin: number;
  readonly #runsOf: (arm: string) => readonly RunRecord[];
  readonly #independent: readonly string[];

  /** @param margin the largest difference that counts as none, as a share of the reference. */
  constructor(
    plan: readonly PlannedRun[],
    runsOf: (arm: string) => readonly RunRecord[],
    quantities: readonly Quantity[],
    margin: number,
  ) {
    this.#margin = margin;
    this.#runsOf = runsOf;
    this.#independent = independentArms(plan);
    const spreads: Record<string, JudgedSpread> = {};
    for (const { key, better } of quantities) {
      const spread = better && this.#spreadOf((run) => run.values[key]);
      if (spread) spreads[key] = { ...spread, used: spread.pAlike >= leastAlike };
    }
    // A sweep goes by one rule from end to end.
    for (const { key, at } of quantities) {
      if (!at || !spreads[key]) continue;
      const settings = quantities.filter((one) => one.at?.sweep === at.sweep);
      const used = settings.every((one) => (spreads[one.key]?.pAlike ?? 0) >= leastAlike);
      spreads[key] = { ...spreads[key], used };
    }
    this.spreads = spreads;
  }

  /** Of a quantity; undefined where it has no direction, or no seed has both. */
  difference(arm: string, against: string, { key, better }: Quantity): Difference | undefined {
    const both = this.#pairs(arm, against).filter(
      ([a, b]) => a.values[key] !== undefined && b.values[key] !== undefined,
    );
    if (better === undefined || both.length === 0) return undefined;
    const { [key]: judged } = this.spreads;
    const spread = judged?.used && this.#areIndependent(arm, against) ? judged : undefined;
    const difference = pairedDifference(
      both.map(([a]) => a.values[key]),
      both.map(([, b]) => b.values[key]),
      { better, margin: this.#margin, spread },
    );
    const { margin } = difference;
    const deviation = spread ? spread.deviation * Math.SQRT2 : difference.deviation;
    return {
      ...difference,
      against,
      seeds: both.map(([a]) => a.seed),
      ...(deviation !== undefined &&
        margin > 0 && { seedsForMargin: seedsNeeded(margin, deviation, { arms: spread?.arms }) ?? null }),
    };
  }

  /** Of the validation losses on the way, over the pairs of which both have them; intervals as that of the last. */
  differenceCurve(arm: string, against: string): CurvePoint[] {
    const both = this.#pairs(arm, against).flatMap(([{ validation: a }, { validation: b }]) =>
      a && b ? [{ a, b }] : [],
    );
    const together = this.spreads.loss?.used && this.#areIndependent(arm, against);
    const spreadAt = (step: number): Spread | undefined =>
      together ? this.#spreadOf(({ validation }) => lossAt(step, validation)) : undefined;
    const reference = new Map(lossesByStep(both.map(({ b }) => b)));
    return lossesByStep(both.map(({ a }) => a)).flatMap(([step, values]): CurvePoint[] => {
      const others = reference.get(step);
      if (!others) return [];
      const how = { better: "lower", margin: 0, spread: spreadAt(step) } as const;
      const { mean, halfWidth = 0 } = pairedDifference(values, others, how);
      return [[step, mean, mean - halfWidth, mean + halfWidth]];
    });
  }

  #pairs(arm: string, against: string): [RunRecord, RunRecord][] {
    return this.#runsOf(arm).flatMap((run): [RunRecord, RunRecord][] => {
      const other = this.#runsOf(against).find(({ seed }) => seed === run.seed);
      return other ? [[run, other]] : [];
    });
  }

  #areIndependent(...arms: readonly string[]): boolean {
    return arms.every((arm) => this.#independent.includes(arm));
  }

  #spreadOf(pick: (run: RunRecord) => number | undefined): ArmsSpread | undefined {
    return spreadOf(this.#independent.map((arm) => bySeed(this.#runsOf(arm), pick)));
  }
}

/** Arms whose noise is their own: of several that measure one run the unpruned one; none that shares a phase with another. */
function independentArms(plan: readonly PlannedRun[]): string[] {
  const owners = new Map<string, Set<string>>();
  const mark = (hash: string, arm: string) => owners.set(hash, (owners.get(hash) ?? new Set()).add(arm));
  const measured = plan.filter(({ prunedTo }) => prunedTo !== undefined);
  const trained = plan.filter(({ prunedTo }) => prunedTo === undefined);
  for (const run of trained) for (const hash of hashesOf(run)) mark(hash, run.arm);
  for (const { arm, hash } of measured) if (!owners.has(hash)) mark(hash, arm);
  const own = (arm: string) =>
    plan
      .filter((run) => run.arm === arm)
      .flatMap(hashesOf)
      .every((hash) => {
        const arms = owners.get(hash);
        return arms?.size === 1 && arms.has(arm);
      });
  return [...new Set(plan.map(({ arm }) => arm))].filter(own);
}

function bySeed(
  runs: readonly RunRecord[],
  pick: (run: RunRecord) => number | undefined,
): Map<number, number> {
  const entries = runs.map((run) => [run.seed, pick(run)] as const);
  return new Map(entries.filter((entry): entry is [number, number] => entry[1] !== undefined));
}

const lossAt = (step: number, curve: readonly CurveStep[] = []) => curve.find(([at]) => at === step)?.[1];

/** Steps that all runs have, with their losses. */
export function lossesByStep(runs: readonly (readonly CurveStep[])[]): [number, number[]][] {
  const bySteps = new Map<number, number[]>();
  for (const [step, loss] of runs.flat()) bySteps.set(step, [...(bySteps.get(step) ?? []), loss]);
  return [...bySteps].filter(([, values]) => values.length === runs.length).sort(([a], [b]) => a - b);
}
