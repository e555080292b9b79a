// What a report keeps of one finished run: everything that a report is made of, so that the next one needs the record
// only, not the run folder with its gigabytes. Not here: reading records back from a report (reuse.ts).

import type { MetricsRecord } from "../../train/loop.ts";
import type { PlannedRun } from "../arms.ts";
import type { UseDetail } from "../measures/catalogue.ts";
import type { FinishedRun } from "../store.ts";

/** A point of one run's curve. */
export type CurveStep = readonly [step: number, loss: number];

/** What training took; depends on the clock. */
export interface RunCost {
  readonly tokensPerSecond: number;
  /** Of all steps. */
  readonly seconds: number;
  /** Largest resident memory of the process while it trained; absent if a kill fell between the end of training and this. */
  readonly peakBytes?: number;
}

export interface RunRecord {
  readonly seed: number;
  readonly hash: string;
  /** K when measured, where the run was pruned after training. */
  readonly prunedTo?: number;
  /** By key of the quantity; one that does not apply to this model is absent. */
  readonly values: Readonly<Record<string, number>>;
  /**
   * At most about 200 points, each the mean of the steps before it; absent in records of old reports, and of runs that
   * were pruned afterwards, whose curves are those of another arm.
   */
  readonly training?: readonly CurveStep[];
  readonly validation?: readonly CurveStep[];
  /** Neuron use, all layers together. */
  readonly histogram?: UseDetail["histogram"];
  /** Absent in records of old reports. */
  readonly cost?: RunCost;
  readonly backend?: string;
  /** Of a record from an old report: when its last run was. */
  readonly finishedAt?: string;
}

/** The most points of a training curve; a single step is noisy anyway. */
const POINTS = 200;

/** The record of a run in the store. */
export function recordOf(
  { seed, hash, prunedTo }: PlannedRun,
  { result, metrics, measured, cost }: FinishedRun,
): RunRecord {
  const curve = (pick: (record: MetricsRecord) => number | undefined) =>
    metrics.flatMap((record): CurveStep[] => {
      const loss = pick(record);
      return loss === undefined ? [] : [[record.step, loss]];
    });
  const histogram = (measured.use?.detail as UseDetail | undefined)?.histogram;
  const { tokensPerSecond, seconds, backend } = result;
  return {
    seed,
    hash,
    ...(prunedTo !== undefined && { prunedTo }),
    values: Object.assign({}, ...Object.values(measured).map(({ values }) => values)),
    ...(prunedTo === undefined && {
      training: thinned(curve(({ loss }) => loss)),
      validation: curve(({ validLoss }) => validLoss).map(([step, loss]) => [step, rounded(loss)] as const),
    }),
    ...(histogram && { histogram }),
    cost: { tokensPerSecond, seconds, ...(cost && { peakBytes: cost.peakBytes }) },
    backend,
    ...(cost && { finishedAt: cost.finishedAt }),
  };
}

function thinned(points: readonly CurveStep[]): CurveStep[] {
  const group = Math.max(1, Math.ceil(points.length / POINTS));
  return Array.from({ length: Math.ceil(points.length / group) }, (_, i) => {
    const part = points.slice(i * group, (i + 1) * group);
    return [part[part.length - 1][0], rounded(part.reduce((sum, [, loss]) => sum + loss, 0) / part.length)];
  });
}

/** Six digits: more are noise, and the report's file is for people's repositories. */
function rounded(value: number): number {
  return Number(value.toPrecision(6));
}
