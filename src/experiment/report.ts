// The report of an experiment as data: each arm's means, intervals, paired differences, curves and cost, from the records
// of runs. A pure function of these, so a record that has been through a report.json gives the same report as its run
// folder; of the records, only `cost` and `finishedAt` depend on the clock.
// Not here: its looks (tables.ts, page.ts, writeReport.ts).

import { countParameters, type ParameterCounts } from "../model/parameters.ts";
import { resolveTrainConfig } from "../train/config.ts";
import type { PlannedRun } from "./arms.ts";
import type { Quantity, Sweep } from "./measure.ts";
import { measureNamed, quantitiesOf, type UseDetail, withLoss } from "./measures.ts";
import type { CurveStep, RunCost, RunRecord } from "./record.ts";
import type { Experiment } from "./spec.ts";
import { type ArmsSpread, leastAlike, type Spread, spreadOf } from "./spread.ts";
import {
  type Estimate,
  estimate,
  holm,
  type PairedDifference,
  pairedDifference,
  seedsNeeded,
} from "./statistics.ts";

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

export interface ArmReport {
  readonly name: string;
  readonly description: string;
  readonly parameters: ParameterCounts;
  readonly runs: readonly RunRecord[];
  /** By key of the quantity. */
  readonly estimates: Readonly<Record<string, Estimate>>;
  readonly differences: Readonly<Record<string, Difference>>;
  /** Over the seeds that have one: records of old reports do not. */
  readonly curves: {
    /** Lowest to highest of the seeds. */
    readonly training: readonly CurvePoint[];
    readonly validation: readonly CurvePoint[];
    /** Validation loss minus that of the arm it is compared with; 95 % interval as that of the last. */
    readonly difference: readonly CurvePoint[];
  };
  /** Neuron use, all layers and seeds together. */
  readonly histogram?: UseDetail["histogram"];
  /** Means over the runs that have a cost; of `peakBytes` the least: a run may inherit memory from one before. */
  readonly cost?: RunCost & { readonly runs: number };
}

export interface ExperimentReport {
  readonly name: string;
  readonly size: string;
  readonly title: string;
  readonly question: string;
  readonly seeds: readonly number[];
  readonly tokens: number;
  readonly baseline: string;
  readonly margin: number;
  readonly finished: number;
  readonly planned: number;
  readonly about: { corpus: string; trainTokens: number; heldOutTokens: number; vocabSize: number };
  readonly quantities: readonly Quantity[];
  /** Of single runs, by key of the quantity, where several arms tell it; intervals go by it if `used`. */
  readonly spreads: Readonly<Record<string, ArmsSpread & { readonly used: boolean }>>;
  /** What quantities with `at` belong to. */
  readonly sweeps: readonly Sweep[];
  readonly arms: readonly ArmReport[];
  /** More than one: runs of different backends agree only to rounding. */
  readonly backends: readonly string[];
  readonly finishedAt: string;
}

/** @param recordFor gives the record of a finished run; runs without one are left out. */
export function buildReport(
  experiment: Experiment,
  plan: readonly PlannedRun[],
  recordFor: (run: PlannedRun) => RunRecord | undefined,
  about: ExperimentReport["about"],
): ExperimentReport {
  const names = withLoss(experiment.measure);
  const quantities = quantitiesOf(names);
  const sweeps = names.flatMap((name) => measureNamed(name).sweep ?? []);
  const runs = plan.flatMap((planned) => {
    const record = recordFor(planned);
    return record ? [{ arm: planned.arm, record: measuredOnly(record, names) }] : [];
  });
  const ofArm = (name: string) => runs.filter(({ arm }) => arm === name).map(({ record }) => record);
  const pairsOf = (name: string, against: string): [RunRecord, RunRecord][] =>
    ofArm(name).flatMap((run): [RunRecord, RunRecord][] => {
      const other = ofArm(against).find(({ seed }) => seed === run.seed);
      return other ? [[run, other]] : [];
    });

  const independent = independentArms(plan);
  const spreads: Record<string, ArmsSpread & { used: boolean }> = {};
  for (const { key, better } of quantities) {
    if (better === undefined) continue;
    const spread = spreadOf(independent.map((name) => bySeed(ofArm(name), (run) => run.values[key])));
    if (spread) spreads[key] = { ...spread, used: spread.pAlike >= leastAlike };
  }
  /** Of validation losses on the way, where the last ones are put together. */
  const spreadAt = (step: number) =>
    spreadOf(independent.map((name) => bySeed(ofArm(name), ({ validation }) => lossAt(step, validation))));

  const arms = experiment.arms.map((arm): ArmReport => {
    const own = ofArm(arm.name);
    const against = arm.against ?? (arm.name === experiment.baseline ? undefined : experiment.baseline);
    const pairs =
      against === undefined || isReference(experiment, arm.name) ? [] : pairsOf(arm.name, against);
    const ofAll = [arm.name, against].every((name) => independent.includes(name as string));
    const estimates: Record<string, Estimate> = {};
    const differences: Record<string, Difference> = {};
    for (const { key, better } of quantities) {
      const values = own.map((run) => run.values[key]).filter((value) => value !== undefined);
      if (values.length > 0) estimates[key] = estimate(values);
      const both = pairs.filter(([a, b]) => a.values[key] !== undefined && b.values[key] !== undefined);
      if (better === undefined || both.length === 0) continue;
      const spread = ofAll && spreads[key]?.used ? spreads[key] : undefined;
      const difference = pairedDifference(
        both.map(([a]) => a.values[key]),
        both.map(([, b]) => b.values[key]),
        { better, margin: experiment.margin, spread },
      );
      const { margin } = difference;
      const deviation = spread ? spread.deviation * Math.SQRT2 : difference.deviation;
      differences[key] = {
        ...difference,
        against: against as string,
        seeds: both.map(([a]) => a.seed),
        ...(deviation !== undefined &&
          margin > 0 && {
            seedsForMargin: seedsNeeded(margin, deviation, { arms: spread?.arms }) ?? null,
          }),
      };
    }
    const planned = plan.find(({ arm: name }) => name === arm.name) as PlannedRun;
    const { prunedTo } = planned;
    const { model } = resolveTrainConfig(planned.input, about.vocabSize);
    const histogram = histogramOf(own);
    const cost = costOf(own);
    return {
      name: arm.name,
      description: arm.description ?? "",
      parameters: countParameters(
        prunedTo === undefined ? model : { ...model, num_neurons_per_tok: prunedTo },
      ),
      runs: own,
      estimates,
      differences,
      curves: {
        training: curveOf(own.flatMap(({ training }) => (training ? [training] : []))),
        validation: curveOf(own.flatMap(({ validation }) => (validation ? [validation] : []))),
        difference: differenceCurve(pairs, ofAll && spreads.loss?.used ? spreadAt : () => undefined),
      },
      ...(histogram && { histogram }),
      ...(cost && { cost }),
    };
  });
  return {
    name: experiment.name,
    size: experiment.size,
    title: experiment.title,
    question: experiment.question,
    seeds: experiment.seeds,
    tokens: experiment.tokens,
    baseline: experiment.baseline,
    margin: experiment.margin,
    finished: runs.length,
    planned: plan.length,
    about,
    quantities,
    spreads,
    sweeps,
    arms: corrected(arms, quantities),
    backends: [...new Set(runs.flatMap(({ record }) => record.backend ?? []))],
    finishedAt: runs.map(({ record }) => record.finishedAt ?? "").reduce((a, b) => (a > b ? a : b), ""),
  };
}

/** Arms none of whose runs, or phases of them, is another's too: only their noise is their own. */
function independentArms(plan: readonly PlannedRun[]): string[] {
  const armsOf = new Map<string, Set<string>>();
  for (const { arm, hash, before = [] } of plan) {
    for (const one of [hash, ...before.map((phase) => phase.hash)]) {
      armsOf.set(one, (armsOf.get(one) ?? new Set()).add(arm));
    }
  }
  const sharing = new Set([...armsOf.values()].filter(({ size }) => size > 1).flatMap((arms) => [...arms]));
  return [...new Set(plan.map(({ arm }) => arm))].filter((arm) => !sharing.has(arm));
}

function bySeed(
  runs: readonly RunRecord[],
  pick: (run: RunRecord) => number | undefined,
): Map<number, number> {
  const entries = runs.map((run) => [run.seed, pick(run)] as const);
  return new Map(entries.filter((entry): entry is [number, number] => entry[1] !== undefined));
}

const lossAt = (step: number, curve: readonly CurveStep[] = []) => curve.find(([at]) => at === step)?.[1];

/** An arm that others are compared with by name, and that is compared with none itself. */
function isReference({ arms }: Experiment, name: string): boolean {
  const arm = arms.find((one) => one.name === name);
  return arm?.against === undefined && arms.some(({ against }) => against === name);
}

/** Without what another experiment has measured of the same run. */
function measuredOnly({ values, histogram, ...rest }: RunRecord, names: readonly string[]): RunRecord {
  const own = quantitiesOf(names).filter(({ key }) => values[key] !== undefined);
  return {
    ...rest,
    values: Object.fromEntries(own.map(({ key }) => [key, values[key]])),
    ...(histogram && names.includes("use") && { histogram }),
  };
}

/** Fills in Holm's correction, over all arms and settings of a quantity or sweep. */
function corrected(arms: readonly ArmReport[], quantities: readonly Quantity[]): ArmReport[] {
  const familyOf = ({ key, at }: Quantity) => at?.sweep ?? key;
  const result = arms.map((arm) => ({ ...arm, differences: { ...arm.differences } }));
  for (const family of new Set(quantities.map(familyOf))) {
    const keys = quantities.filter((one) => familyOf(one) === family).map(({ key }) => key);
    const tested = result.flatMap((arm) =>
      keys.filter((key) => arm.differences[key]?.p !== undefined).map((key) => ({ arm, key })),
    );
    const pValues = holm(tested.map(({ arm, key }) => arm.differences[key].p as number));
    tested.forEach(({ arm, key }, i) => {
      arm.differences[key] = { ...arm.differences[key], holm: pValues[i] };
    });
  }
  return result;
}

/**
 * Steps that all runs have, with the mean and the range of their values. Of training curves these are ranges of means of a
 * few steps, for the runs were thinned: less wide than those of single steps.
 */
function curveOf(runs: readonly (readonly CurveStep[])[]): CurvePoint[] {
  return lossesByStep(runs).map(([step, values]) => [
    step,
    estimate(values).mean,
    Math.min(...values),
    Math.max(...values),
  ]);
}

function lossesByStep(runs: readonly (readonly CurveStep[])[]): [number, number[]][] {
  const bySteps = new Map<number, number[]>();
  for (const [step, loss] of runs.flat()) bySteps.set(step, [...(bySteps.get(step) ?? []), loss]);
  return [...bySteps].filter(([, values]) => values.length === runs.length).sort(([a], [b]) => a - b);
}

/** Of the pairs of which both have a curve. @param spreadAt that its intervals go by; theirs alone where there is none. */
function differenceCurve(
  pairs: readonly (readonly [RunRecord, RunRecord])[],
  spreadAt: (step: number) => Spread | undefined,
): CurvePoint[] {
  const both = pairs.flatMap(([{ validation: a }, { validation: b }]) => (a && b ? [{ a, b }] : []));
  const reference = new Map(lossesByStep(both.map(({ b }) => b)));
  return lossesByStep(both.map(({ a }) => a)).flatMap(([step, values]): CurvePoint[] => {
    const others = reference.get(step);
    if (!others) return [];
    const how = { better: "lower", margin: 0, spread: spreadAt(step) } as const;
    const { mean, halfWidth = 0 } = pairedDifference(values, others, how);
    return [[step, mean, mean - halfWidth, mean + halfWidth]];
  });
}

function histogramOf(runs: readonly RunRecord[]): UseDetail["histogram"] | undefined {
  const all = runs.flatMap(({ histogram }) => histogram ?? []);
  if (all.length === 0) return undefined;
  return {
    edges: all[0].edges,
    counts: all[0].counts.map((_, i) => all.reduce((sum, { counts }) => sum + counts[i], 0)),
  };
}

function costOf(runs: readonly RunRecord[]): ArmReport["cost"] {
  const costs = runs.flatMap(({ cost }) => cost ?? []);
  if (costs.length === 0) return undefined;
  const mean = (pick: (cost: RunCost) => number) =>
    costs.reduce((sum, cost) => sum + pick(cost), 0) / costs.length;
  const peaks = costs.flatMap(({ peakBytes }) => peakBytes ?? []);
  return {
    tokensPerSecond: mean(({ tokensPerSecond }) => tokensPerSecond),
    seconds: mean(({ seconds }) => seconds),
    ...(peaks.length > 0 && { peakBytes: Math.min(...peaks) }),
    runs: costs.length,
  };
}
