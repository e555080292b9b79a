// The queue of an experiment's runs: each trained, phase by phase, and measured, or found finished, or taken from a report.
// Several processes may work off one queue, or queues that share runs: whoever works on a run holds a lock beside its
// folder, the others go on with the next one and come back. Not here: the plan (arms.ts), the report (run.ts).

import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { setTimeout as wait } from "node:timers/promises";
import type { Backend } from "../backends/backend.ts";
import { openBackend } from "../backends/cpu.ts";
import { writeFileAtomic } from "../checkpoint/atomic.ts";
import { InUse, lookAgainMs } from "../checkpoint/lock.ts";
import { throwIfAborted } from "../errors.ts";
import { resolveTrainConfig, type TrainConfigInput } from "../train/config.ts";
import type { PreparedData } from "../train/data.ts";
import { Diverged, type MetricsRecord, type TrainResult, train } from "../train/loop.ts";
import { RunFolder } from "../train/runFolder.ts";
import { type PlannedPhase, type PlannedRun, phasesOf } from "./arms.ts";
import { measureNamed } from "./measures/catalogue.ts";
import type { MeasureContext, Measured } from "./measures/measure.ts";
import { withTrainedModel } from "./measures/trainedModel.ts";
import type { TakenRun } from "./reuse.ts";
import {
  divergedFile,
  failureOf,
  isFinished,
  isTrained,
  lockRun,
  measurePath,
  missingMeasures,
  readJson,
  removeTorn,
  runPath,
  tidy,
} from "./store.ts";

/** A run of the queue, as whoever waits for it is told. */
export interface QueueEvent {
  readonly arm: string;
  readonly seed: number;
  readonly index: number;
  readonly count: number;
  /** It is finished already, here or in a report; else work on it begins. */
  readonly reused: boolean;
  /** The report that it is taken from, if it is. */
  readonly from?: string;
  /** Training steps of the runs that come after it, those of other processes among them. */
  readonly ahead: number;
}

export interface QueueOptions {
  readonly root: string;
  readonly prepared: PreparedData;
  /** Names of all measures of a run. */
  readonly measures: readonly string[];
  /** What stands in for a run unless it is finished below `root`. */
  readonly takenOf: (run: PlannedRun) => TakenRun | undefined;
  readonly announce: (line: string) => void;
  readonly threads?: number;
  readonly signal?: AbortSignal;
  readonly onRun?: (event: QueueEvent) => void;
  readonly onStep?: (record: MetricsRecord, steps: number) => void;
}

/**
 * Finishes all runs, in the order of the plan but for those that other processes work on; waits for these last.
 * @param afterRun follows each finished run.
 * @throws what `train` throws, and the signal's reason; a run that another process gave up is taken up here. One that diverges
 * is announced, marked (diverged.json) and left out: an arm that cannot be trained is a result, and the others go on.
 */
export async function workOff(
  plan: readonly PlannedRun[],
  options: QueueOptions,
  afterRun: () => Promise<void>,
): Promise<void> {
  let open = plan.map((run, index) => ({ run, place: { index, count: plan.length } }));
  let told = "";
  while (open.length > 0) {
    const left: typeof open = [];
    let wanted = "";
    for (const [at, item] of open.entries()) {
      try {
        const later = [...left, ...open.slice(at + 1)].map(({ run }) => run);
        const ahead = stepsAfter(item.run, later, options);
        await finish(item.run, { ...item.place, ahead }, options);
      } catch (error) {
        const name = `${item.run.arm}, seed ${item.run.seed}`;
        if (error instanceof InUse) {
          left.push(item);
          wanted ||= `waiting for ${error.holder}, which works on ${name}`;
          continue;
        }
        if (!(error instanceof Diverged)) throw error;
        options.announce(`${name} diverged (${error.reason}) and is left out`);
      }
      await afterRun();
    }
    if (left.length === open.length) {
      if (wanted !== told) options.announce(wanted);
      told = wanted;
      await wait(lookAgainMs);
    }
    open = left;
  }
}

/**
 * Trains and measures one run, or what is missing of it; nothing of one that is taken from a report.
 * @throws InUse if another process works on it, or on a phase that it needs; Diverged if its loss is not finite, now or before.
 */
async function finish(
  run: PlannedRun,
  place: Pick<QueueEvent, "index" | "count" | "ahead">,
  options: QueueOptions,
): Promise<void> {
  const { root, prepared, measures, signal, announce, threads } = options;
  const { arm, seed, hash, prunedTo } = run;
  throwIfAborted(signal);
  const path = runPath(root, hash);
  const missing = () => missingMeasures(root, run, measures);
  const phases = phasesOf(run);
  const before = phases.slice(0, -1);
  const areTrained = () => phases.every((phase) => isTrained(root, phase.hash));
  const tell = (how: { reused: boolean; from?: string }) => options.onRun?.({ arm, seed, ...place, ...how });

  const from = isFinished(root, run, measures) ? undefined : options.takenOf(run)?.from;
  if (from !== undefined) return tell({ reused: true, from });
  let backend: Backend | undefined;
  /** Of this run alone, so that the memory of one arm does not stay with the next; opened once there is work. */
  const begin = (): Backend => {
    if (!backend) tell({ reused: areTrained() });
    backend ??= openBackend({ threads }, announce);
    return backend;
  };
  try {
    const trainPhase = async (phase: PlannedPhase, i: number) => {
      if (isTrained(root, phase.hash)) return;
      const failure = failureOf(root, phase);
      if (failure !== undefined) throw new Diverged(`${runPath(root, phase.hash)}: ${failure}`, failure);
      const startFrom = i > 0 ? modelOf(runPath(root, phases[i - 1].hash)) : undefined;
      const input = { ...phase.input, ...(startFrom && { startFrom }) };
      await trainRun(runPath(root, phase.hash), input, begin(), options);
    };
    for (const [i, phase] of before.entries()) {
      if (!isTrained(root, phase.hash)) await locked(root, phase.hash, () => trainPhase(phase, i));
    }
    if (!isFinished(root, run, measures)) {
      await locked(root, hash, async () => {
        await trainPhase(phases[before.length], before.length);
        if (missing().length === 0) return;
        const result = readJson<TrainResult>(join(path, "result.json"));
        const config = resolveTrainConfig(run.input, prepared.tokenizer.vocabSize);
        const trained = { result, config, checkpoint: modelOf(path), prepared, backend: begin(), signal };
        const context =
          prunedTo === undefined ? trained : { ...trained, result: await prunedResult(trained, prunedTo) };
        for (const name of missing()) {
          const measured: Measured = await measureNamed(name).run(context);
          await writeFileAtomic(measurePath(path, name, prunedTo), `${JSON.stringify(measured)}\n`);
        }
      });
    }
    if (!backend) tell({ reused: true });
    // Of a run that was finished before, too: a kill may have come between its end and this.
    for (const phase of phases) tidy(runPath(root, phase.hash));
  } finally {
    backend?.close();
  }
}

/** Steps that training `later` takes after `run`; what they share counts once, what is trained, in a report or diverged not at all. */
function stepsAfter(run: PlannedRun, later: readonly PlannedRun[], { root, takenOf }: QueueOptions): number {
  const isOpen = (one: PlannedRun) => !takenOf(one) && failureOf(root, one) === undefined;
  const phases = later.flatMap((one) => (isOpen(one) ? phasesOf(one) : []));
  const steps = new Map(phases.map(({ hash, input }) => [hash, input.steps as number]));
  for (const phase of phases) if (isTrained(root, phase.hash)) steps.delete(phase.hash);
  for (const { hash } of phasesOf(run)) steps.delete(hash);
  return [...steps.values()].reduce((sum, one) => sum + one, 0);
}

/** @throws InUse if another process works on the run. */
async function locked(root: string, hash: string, work: () => Promise<void>): Promise<void> {
  const unlock = lockRun(root, hash);
  try {
    await work();
  } finally {
    unlock();
  }
}

/** The model after a finished run's last step; absolute, for a run that starts from it is resumed from anywhere. */
function modelOf(path: string): string {
  return resolve(RunFolder.open(path).checkpoints().at(-1)?.path ?? path);
}

/** Trains into a run folder, or goes on there. */
async function trainRun(
  path: string,
  input: TrainConfigInput,
  backend: Backend,
  { prepared, signal, onStep, announce }: QueueOptions,
): Promise<void> {
  removeTorn(path);
  let peakBytes = process.memoryUsage.rss();
  const resume = existsSync(join(path, "config.json"));
  if (resume && input.startFrom) await pointTo(path, input.startFrom);
  try {
    await train({
      ...(resume ? {} : input),
      out: path,
      resume,
      backend,
      prepared,
      signal,
      announce,
      onStep(record, steps) {
        peakBytes = Math.max(peakBytes, process.memoryUsage.rss());
        onStep?.(record, steps);
      },
    });
  } catch (error) {
    if (error instanceof Diverged) {
      const { message, reason } = error;
      await writeFileAtomic(join(path, divergedFile), `${JSON.stringify({ reason, message })}\n`);
    }
    throw error;
  }
  const cost = { peakBytes, finishedAt: new Date().toISOString() };
  await writeFileAtomic(join(path, "cost.json"), `${JSON.stringify(cost)}\n`);
}

/**
 * Tells a run that was begun where the weights that it starts from are now: until its first checkpoint it reads them when
 * it is resumed, and the root may have been moved since.
 */
async function pointTo(path: string, startFrom: string): Promise<void> {
  const config = RunFolder.open(path).config as TrainConfigInput;
  if (config.startFrom === startFrom) return;
  await writeFileAtomic(join(path, "config.json"), `${JSON.stringify({ ...config, startFrom }, null, 2)}\n`);
}

/** A run's result as if its model had always kept so few neurons. */
async function prunedResult(context: MeasureContext, kept: number): Promise<TrainResult> {
  const validation = await withTrainedModel(context, (_model, validateWith) => validateWith(kept));
  return { ...context.result, validation };
}
