// The report of an experiment as data: each arm's means, intervals, paired differences, curves and cost, from the run
// folders. A pure function of what is finished; only `cost` and `finishedAt` depend on the clock.
// Not here: its looks (tables.ts, page.ts, writeReport.ts).

import { countParameters, type ParameterCounts } from "../model/parameters.ts";
import { resolveTrainConfig } from "../train/config.ts";
import type { MetricsRecord } from "../train/loop.ts";
import type { PlannedRun } from "./arms.ts";
import type { Quantity, Sweep } from "./measure.ts";
import { measureNamed, type UseDetail } from "./measures.ts";
import type { Experiment } from "./spec.ts";
import {
  type Estimate,
  estimate,
  holm,
  type PairedDifference,
  pairedDifference,
  seedsNeeded,
} from "./statistics.ts";
import { type FinishedRun, readFinished } from "./store.ts";

export interface Difference extends PairedDifference {
  readonly against: string;
  readonly seeds: readonly number[];
  /** Holm's correction over the arms of this quantity; of a sweep, over all its settings too. */
  readonly holm?: number;
  /** Seeds that see a difference as large as the margin with probability 0.8, going by these pairs; null: over 1000. */
  readonly seedsForMargin?: number | null;
}

/** Mean over seeds with a range: [step, mean, low, high]. */
export type CurvePoint = readonly [step: number, mean: number, low: number, high: number];

export interface ArmReport {
  readonly name: string;
  readonly description: string;
  readonly parameters: ParameterCounts;
  readonly runs: readonly { seed: number; hash: string; values: Readonly<Record<string, number>> }[];
  /** By key of the quantity. */
  readonly estimates: Readonly<Record<string, Estimate>>;
  readonly differences: Readonly<Record<string, Difference>>;
  readonly curves: {
    /** Lowest to highest of the seeds. */
    readonly training: readonly CurvePoint[];
    readonly validation: readonly CurvePoint[];
    /** Validation loss minus that of the arm it is compared with; 95 % t interval. */
    readonly difference: readonly CurvePoint[];
  };
  /** Neuron use, all layers and seeds together. */
  readonly histogram?: UseDetail["histogram"];
  readonly cost?: {
    readonly tokensPerSecond: number;
    /** Of one run, mean. */
    readonly seconds: number;
    /** Least over seeds of the largest resident memory: a run may inherit memory from one before. */
    readonly peakBytes?: number;
  };
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
  /** What quantities with `at` belong to. */
  readonly sweeps: readonly Sweep[];
  readonly arms: readonly ArmReport[];
  /** More than one: runs of different backends agree only to rounding. */
  readonly backends: readonly string[];
  readonly finishedAt: string;
}

/** @param plan of the experiment; runs that are not finished are left out. */
export function buildReport(
  experiment: Experiment,
  plan: readonly PlannedRun[],
  root: string,
  about: ExperimentReport["about"],
): ExperimentReport {
  const names = [...new Set(["loss", ...experiment.measure])];
  const quantities = names.flatMap((name) => measureNamed(name).quantities);
  const sweeps = names.flatMap((name) => measureNamed(name).sweep ?? []);
  const runs = plan.flatMap((planned) => {
    const run = readFinished(root, planned, names);
    return run ? [{ planned, run, values: valuesOf(run) }] : [];
  });
  type Run = (typeof runs)[number];
  const ofArm = (name: string) => runs.filter(({ planned }) => planned.arm === name);
  const pairsOf = (name: string, against: string): [Run, Run][] =>
    ofArm(name).flatMap((run): [Run, Run][] => {
      const other = ofArm(against).find(({ planned }) => planned.seed === run.planned.seed);
      return other ? [[run, other]] : [];
    });

  const arms = experiment.arms.map((arm): ArmReport => {
    const own = ofArm(arm.name);
    const against = arm.against ?? (arm.name === experiment.baseline ? undefined : experiment.baseline);
    const pairs =
      against === undefined || isReference(experiment, arm.name) ? [] : pairsOf(arm.name, against);
    const estimates: Record<string, Estimate> = {};
    const differences: Record<string, Difference> = {};
    for (const { key, better } of quantities) {
      const values = own.map((run) => run.values[key]).filter((value) => value !== undefined);
      if (values.length > 0) estimates[key] = estimate(values);
      const both = pairs.filter(([a, b]) => a.values[key] !== undefined && b.values[key] !== undefined);
      if (better === undefined || both.length === 0) continue;
      const difference = pairedDifference(
        both.map(([a]) => a.values[key]),
        both.map(([, b]) => b.values[key]),
        { better, margin: experiment.margin },
      );
      const { deviation, margin } = difference;
      differences[key] = {
        ...difference,
        against: against as string,
        seeds: both.map(([a]) => a.planned.seed),
        ...(deviation !== undefined &&
          margin > 0 && { seedsForMargin: seedsNeeded(margin, deviation) ?? null }),
      };
    }
    const planned = plan.find(({ arm: name }) => name === arm.name) as PlannedRun;
    const { prunedTo } = planned;
    const { model } = resolveTrainConfig(planned.input, about.vocabSize);
    // The curves of a run that is pruned afterwards are those of another arm.
    const curve = (pick: (record: MetricsRecord) => number | undefined) =>
      prunedTo === undefined
        ? curveOf(
            own.map(({ run }) => run.metrics),
            pick,
          )
        : [];
    const histogram = histogramOf(own.map(({ run }) => run));
    return {
      name: arm.name,
      description: arm.description ?? "",
      parameters: countParameters(
        prunedTo === undefined ? model : { ...model, num_neurons_per_tok: prunedTo },
      ),
      runs: own.map(({ planned: { seed, hash }, values }) => ({ seed, hash, values })),
      estimates,
      differences,
      curves: {
        training: thinned(curve(({ loss }) => loss)),
        validation: curve(({ validLoss }) => validLoss),
        difference:
          prunedTo === undefined && plan.find(({ arm: name }) => name === against)?.prunedTo === undefined
            ? differenceCurve(pairs.map(([a, b]) => [a.run.metrics, b.run.metrics]))
            : [],
      },
      ...(histogram && { histogram }),
      ...(own.length > 0 && { cost: costOf(own.map(({ run }) => run)) }),
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
    sweeps,
    arms: corrected(arms, quantities),
    backends: [...new Set(runs.map(({ run }) => run.result.backend))],
    finishedAt: runs.map(({ run }) => run.cost?.finishedAt ?? "").reduce((a, b) => (a > b ? a : b), ""),
  };
}

/** An arm that others are compared with by name, and that is compared with none itself. */
function isReference({ arms }: Experiment, name: string): boolean {
  const arm = arms.find((one) => one.name === name);
  return arm?.against === undefined && arms.some(({ against }) => against === name);
}

function valuesOf({ measured }: FinishedRun): Record<string, number> {
  return Object.assign({}, ...Object.values(measured).map(({ values }) => values));
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

/** Steps that all runs have, with the mean and the range of their values. */
function curveOf(
  runs: readonly (readonly MetricsRecord[])[],
  pick: (record: MetricsRecord) => number | undefined,
): CurvePoint[] {
  return valuesByStep(runs, pick).map(([step, values]) => [
    step,
    estimate(values).mean,
    Math.min(...values),
    Math.max(...values),
  ]);
}

function valuesByStep(
  runs: readonly (readonly MetricsRecord[])[],
  pick: (record: MetricsRecord) => number | undefined,
): [number, number[]][] {
  const bySteps = new Map<number, number[]>();
  for (const record of runs.flat()) {
    const value = pick(record);
    if (value !== undefined) bySteps.set(record.step, [...(bySteps.get(record.step) ?? []), value]);
  }
  return [...bySteps].filter(([, values]) => values.length === runs.length).sort(([a], [b]) => a - b);
}

function differenceCurve(
  pairs: readonly (readonly [readonly MetricsRecord[], readonly MetricsRecord[]])[],
): CurvePoint[] {
  const loss = ({ validLoss }: MetricsRecord) => validLoss;
  const reference = new Map(
    valuesByStep(
      pairs.map(([, b]) => b),
      loss,
    ),
  );
  const own = valuesByStep(
    pairs.map(([a]) => a),
    loss,
  );
  return own.flatMap(([step, values]): CurvePoint[] => {
    const others = reference.get(step);
    if (!others) return [];
    const { mean, halfWidth = 0 } = estimate(values.map((value, i) => value - others[i]));
    return [[step, mean, mean - halfWidth, mean + halfWidth]];
  });
}

/** At most about 200 points, each the mean of the steps before it: a single step is noisy. */
function thinned(points: readonly CurvePoint[]): CurvePoint[] {
  const group = Math.ceil(points.length / 200);
  return Array.from({ length: Math.ceil(points.length / group) }, (_, i) => {
    const part = points.slice(i * group, (i + 1) * group);
    const mean = (at: 1 | 2 | 3) => part.reduce((sum, point) => sum + point[at], 0) / part.length;
    return [part[part.length - 1][0], mean(1), mean(2), mean(3)];
  });
}

function histogramOf(runs: readonly FinishedRun[]): UseDetail["histogram"] | undefined {
  const all = runs.flatMap(
    ({ measured }) => (measured.use?.detail as UseDetail | undefined)?.histogram ?? [],
  );
  if (all.length === 0) return undefined;
  return {
    edges: all[0].edges,
    counts: all[0].counts.map((_, i) => all.reduce((sum, { counts }) => sum + counts[i], 0)),
  };
}

function costOf(runs: readonly FinishedRun[]): NonNullable<ArmReport["cost"]> {
  const mean = (pick: (run: FinishedRun) => number) =>
    runs.reduce((sum, run) => sum + pick(run), 0) / runs.length;
  const peaks = runs.flatMap(({ cost }) => cost?.peakBytes ?? []);
  return {
    tokensPerSecond: mean(({ result }) => result.tokensPerSecond),
    seconds: mean(({ result }) => result.seconds),
    ...(peaks.length > 0 && { peakBytes: Math.min(...peaks) }),
  };
}
