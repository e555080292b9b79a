// The report of an experiment as data: each arm's means, intervals, paired differences, curves and cost, from the records
// of runs. A pure function of these, so a record that has been through a report.json gives the same report as its run
// folder; of the records, only `cost` and `finishedAt` depend on the clock.
// Not here: its looks (tables.ts, page.ts, writeReport.ts).

import { median } from "../../bench/measure.ts";
import { countParameters, type ParameterCounts } from "../../model/parameters.ts";
import { resolveTrainConfig } from "../../train/config.ts";
import type { PlannedRun } from "../arms.ts";
import { measureNamed, quantitiesOf, type UseDetail, withLoss } from "../measures/catalogue.ts";
import type { Quantity, Sweep } from "../measures/measure.ts";
import type { Experiment } from "../spec.ts";
import { type Estimate, estimate, holm } from "../statistics/paired.ts";
import {
  ArmComparison,
  type CurvePoint,
  type Difference,
  type JudgedSpread,
  lossesByStep,
} from "./compareArms.ts";
import type { CurveStep, RunCost, RunRecord } from "./record.ts";

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
  /** Medians over the runs that have a cost; of `peakBytes` the least: a run may inherit memory from one before. */
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
  /** Runs that cannot be finished, and why; differences are of the other seeds. */
  readonly diverged: readonly { readonly arm: string; readonly seed: number; readonly reason: string }[];
  readonly about: { corpus: string; trainTokens: number; heldOutTokens: number; vocabSize: number };
  /** Of the baseline: how it is trained, and the model's configuration. Other arms differ as their descriptions say. */
  readonly settings: {
    readonly training: Readonly<Record<string, unknown>>;
    readonly model: Readonly<Record<string, unknown>>;
  };
  readonly quantities: readonly Quantity[];
  /** Of single runs, by key of the quantity, where several arms tell it; intervals go by it if `used`. */
  readonly spreads: Readonly<Record<string, JudgedSpread>>;
  /** What quantities with `at` belong to. */
  readonly sweeps: readonly Sweep[];
  readonly arms: readonly ArmReport[];
  /** Losses of every two arms, each arm against those before it, corrected over all of them; none of more than 8 arms. */
  readonly pairs: readonly (Difference & { readonly arm: string })[];
  /** With their threads. Runs of different ones agree only to rounding; numbers of threads change times alone. */
  readonly backends: readonly string[];
  readonly finishedAt: string;
}

/** @param recordFor gives the record of a finished run; runs without one are left out. @param failureOf why a run diverged. */
export function buildReport(
  experiment: Experiment,
  plan: readonly PlannedRun[],
  recordFor: (run: PlannedRun) => RunRecord | undefined,
  failureOf: (run: PlannedRun) => string | undefined,
  about: ExperimentReport["about"],
): ExperimentReport {
  const names = withLoss(experiment.measure);
  const quantities = quantitiesOf(names);
  const sweeps = names.flatMap((name) => measureNamed(name).sweep ?? []);
  const found = plan.map((planned) => ({ planned, record: recordFor(planned) }));
  const runs = found.flatMap(({ planned: { arm }, record }) =>
    record ? [{ arm, record: measuredOnly(record, names) }] : [],
  );
  const ofArm = (name: string) => runs.filter(({ arm }) => arm === name).map(({ record }) => record);
  const comparison = new ArmComparison(plan, ofArm, quantities, experiment.margin);
  const arms = experiment.arms.map((arm): ArmReport => {
    const own = ofArm(arm.name);
    const against = arm.against ?? (arm.name === experiment.baseline ? undefined : experiment.baseline);
    const reference = isReference(experiment, arm.name) ? undefined : against;
    const estimates: Record<string, Estimate> = {};
    const differences: Record<string, Difference> = {};
    for (const quantity of quantities) {
      const { key } = quantity;
      const values = own.map((run) => run.values[key]).filter((value) => value !== undefined);
      if (values.length > 0) estimates[key] = estimate(values);
      const difference =
        reference === undefined ? undefined : comparison.difference(arm.name, reference, quantity);
      if (difference) differences[key] = difference;
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
        difference: reference === undefined ? [] : comparison.differenceCurve(arm.name, reference),
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
    diverged: found.flatMap(({ planned, record }) => {
      const reason = record ? undefined : failureOf(planned);
      return reason === undefined ? [] : [{ arm: planned.arm, seed: planned.seed, reason }];
    }),
    about,
    settings: settingsOf(experiment, plan, about.vocabSize),
    quantities,
    spreads: comparison.spreads,
    sweeps,
    arms: corrected(arms, quantities),
    pairs: everyPair(experiment, comparison, quantities),
    backends: [...new Set(runs.flatMap(({ record }) => record.backend ?? []))],
    finishedAt: runs.map(({ record }) => record.finishedAt ?? "").reduce((a, b) => (a > b ? a : b), ""),
  };
}

/** What decides how a model learns; not where things are, nor how often one looks at them. */
const TRAINING = [
  "seqLen",
  "batch",
  "accumulation",
  "steps",
  "learningRate",
  "minLearningRate",
  "warmup",
  "weightDecay",
  "beta1",
  "beta2",
  "epsilon",
  "clip",
  "dtype",
] as const;

function settingsOf(
  { baseline }: Experiment,
  plan: readonly PlannedRun[],
  vocabSize: number,
): ExperimentReport["settings"] {
  const planned = plan.find(({ arm }) => arm === baseline) as PlannedRun;
  const config = resolveTrainConfig(planned.input, vocabSize);
  return {
    training: Object.fromEntries(TRAINING.map((key) => [key, config[key]])),
    model: { ...config.model },
  };
}

/** Of more arms there are too many pairs to be read, or to be tested. */
const PAIRED_ARMS = 8;

function everyPair(
  { arms }: Experiment,
  comparison: ArmComparison,
  quantities: readonly Quantity[],
): ExperimentReport["pairs"] {
  const loss = quantities.find(({ key }) => key === "loss");
  if (!loss || arms.length < 3 || arms.length > PAIRED_ARMS) return [];
  const pairs = arms.flatMap(({ name: arm }, i) =>
    arms.slice(0, i).flatMap(({ name: against }) => {
      const difference = comparison.difference(arm, against, loss);
      return difference ? [{ arm, ...difference }] : [];
    }),
  );
  const tested = pairs.filter(({ p }) => p !== undefined);
  const pValues = holm(tested.map(({ p }) => p as number));
  const holmOf = new Map(tested.map((pair, i) => [pair, pValues[i]]));
  return pairs.map((pair) => ({ ...pair, ...(holmOf.has(pair) && { holm: holmOf.get(pair) }) }));
}

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
  const middle = (pick: (cost: RunCost) => number) => median(costs.map(pick));
  const peaks = costs.flatMap(({ peakBytes }) => peakBytes ?? []);
  return {
    tokensPerSecond: middle(({ tokensPerSecond }) => tokensPerSecond),
    seconds: middle(({ seconds }) => seconds),
    ...(peaks.length > 0 && { peakBytes: Math.min(...peaks) }),
    runs: costs.length,
  };
}
