// Runs an experiment: a queue of training runs in a shared store, measures after each, a report after each round of seeds.
//
//     ROOT/data/<hash>/         tokens, shared
//     ROOT/runs/<hash>/         an ordinary run folder for each resolved configuration; measures/NAME.json in it
//     ROOT/<name>[-<size>]/     config.json (what was asked), plan.json (arm and seed -> run), report/, and taken.json
//                               (records of finished runs from reports that were given)
//
// A kill at any moment loses at most the steps since a checkpoint. Not here: the arithmetic (train/, statistics.ts).

import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import type { Backend } from "../backends/backend.ts";
import { openBackend } from "../backends/cpu.ts";
import { removeLeftovers, writeFileAtomic } from "../checkpoint/atomic.ts";
import { throwIfAborted, UsageError } from "../errors.ts";
import type { OnProgress } from "../text/progress.ts";
import { resolveTrainConfig, type TrainConfigInput } from "../train/config.ts";
import type { PreparedData } from "../train/data.ts";
import { type MetricsRecord, type TrainResult, train } from "../train/loop.ts";
import { RunFolder } from "../train/runFolder.ts";
import { type PlannedPhase, type PlannedRun, planRuns } from "./arms.ts";
import { experimentData } from "./data.ts";
import { checkExperiment, readExperiment, sizedExperiment } from "./file.ts";
import type { MeasureContext, Measured } from "./measure.ts";
import { measureNamed, quantitiesOf, withLoss } from "./measures.ts";
import { recordOf } from "./record.ts";
import { buildReport, type ExperimentReport } from "./report.ts";
import { keepTaken, readReport, readTaken, reuseInWords, type TakenRun, takenFor } from "./reuse.ts";
import type { Experiment, ExperimentSize } from "./spec.ts";
import {
  defaultRoot,
  measurePath,
  type QueuedRun,
  readFinished,
  readJson,
  removeTorn,
  runPath,
  tidy,
} from "./store.ts";
import { withTrainedModel } from "./trainedModel.ts";
import { writeReport } from "./writeReport.ts";

export interface ExperimentOptions extends ExperimentSize {
  /** Where runs, data and experiments are kept; default `runs/experiments`. */
  readonly root?: string;
  readonly size?: string;
  /** Go on with an experiment that was begun; options that are not given are those it began with. */
  readonly resume?: boolean;
  /**
   * Paths of report.json: runs of the same hash that stand there with all that this experiment measures are taken from
   * them instead of computed, unless they are finished below `root`. A resumed experiment remembers them.
   */
  readonly reuse?: readonly string[];
  readonly threads?: number;
  readonly signal?: AbortSignal;
  readonly onRun?: (run: {
    arm: string;
    seed: number;
    index: number;
    count: number;
    /** It was finished before, here or in a report. */
    reused: boolean;
    /** The report that it is taken from, if it is. */
    from?: string;
  }) => void;
  readonly onStep?: (record: MetricsRecord, steps: number) => void;
  readonly onProgress?: OnProgress;
  readonly announce?: (line: string) => void;
}

/** The keys of an experiment that options may change. */
const sizeKeys = [
  "data",
  "validData",
  "validShare",
  "heldOutTokens",
  "tokenizer",
  "tokens",
  "seeds",
] as const;

/** What config.json of an experiment's folder holds. */
interface Begun {
  readonly given: ExperimentSize;
  readonly experiment: Experiment;
}

/**
 * Runs what is not finished yet, and writes the report.
 * @param source a file, the name of a shipped experiment, or the experiment itself.
 * @throws what `train` throws; UsageError for a file that cannot be, or an experiment that was begun without `resume`.
 */
export async function experiment(
  source: string | object,
  options: ExperimentOptions = {},
): Promise<{ report: ExperimentReport; folder: string; reportPath: string }> {
  const { root = defaultRoot, resume, signal, announce = console.error } = options;
  const reports = [...new Set(options.reuse)];
  const spec =
    typeof source === "string" ? await readExperiment(source) : checkExperiment(source, "experiment");
  const given = Object.fromEntries(
    sizeKeys.map((key) => [key, options[key]]).filter(([, value]) => value !== undefined),
  ) as ExperimentSize;
  const { size } = sizedExperiment(spec, options.size);
  const folder = join(root, size === "" ? spec.name : `${spec.name}-${size}`);
  const begun = readBegun(folder, resume);
  const whole = sizedExperiment(spec, options.size, { ...begun?.given, ...given });
  const record: Begun = { given: { ...begun?.given, ...given }, experiment: whole };
  // Read before anything is written, so that a file that is no report does not leave an experiment begun; kept before
  // config.json, which is what makes it begun, so that no kill can make a resumed one forget them.
  const earlier = begun ? readTaken(folder).filter(({ from }) => !reports.includes(from)) : [];
  const taken = [...reports.flatMap(readReport), ...earlier];
  await keepTaken(folder, taken);
  await writeFileAtomic(join(folder, "config.json"), `${JSON.stringify(record, null, 2)}\n`);
  const unlock = RunFolder.open(folder).lock();
  try {
    const prepared = await experimentData(root, whole, { signal, onProgress: options.onProgress, announce });
    const plan = planRuns(whole, prepared.tokenizer.vocabSize, prepared.dataset.hash);
    const quantities = quantitiesOf(whole.measure).map(({ key }) => key);
    const own = (run: PlannedRun) => readFinished(root, run, withLoss(whole.measure));
    const takenOf = (run: PlannedRun) => takenFor(taken, run, quantities);
    const queue = plan.map((run): QueuedRun => ({ ...run, ...(takenOf(run) && { taken: true }) }));
    await writeFileAtomic(join(folder, "plan.json"), `${JSON.stringify(queue, null, 2)}\n`);
    const computed = plan.filter((run) => !takenOf(run) && !own(run));
    for (const line of reuseInWords(reports, taken, { plan, computed, quantities })) announce(line);
    const about = {
      corpus: prepared.dataset.name,
      trainTokens: prepared.dataset.train.length,
      heldOutTokens: prepared.dataset.valid.length,
      vocabSize: prepared.tokenizer.vocabSize,
    };
    const build = () =>
      buildReport(
        whole,
        plan,
        (run) => {
          const finished = own(run);
          return finished ? recordOf(run, finished) : takenOf(run)?.record;
        },
        about,
      );
    let report = build();
    for (const [index, run] of plan.entries()) {
      const place = { index, count: plan.length, prepared, measures: withLoss(whole.measure) };
      await finish(run, { ...options, ...place, root, announce, taken: takenOf(run) });
      if (plan[index + 1]?.seed !== run.seed) {
        report = build();
        await writeReport(report, join(folder, "report"));
        removeLeftovers(join(folder, "report"));
      }
    }
    return { report, folder, reportPath: join(folder, "report", "index.html") };
  } finally {
    unlock();
  }
}

function readBegun(folder: string, resume: boolean | undefined): Begun | undefined {
  const path = join(folder, "config.json");
  if (!existsSync(path)) {
    if (resume) throw new UsageError(`There is no experiment to resume in ${folder}: leave out --resume.`);
    return undefined;
  }
  if (!resume) {
    throw new UsageError(
      `${folder} holds this experiment already: add --resume to go on with it, or choose another --root.`,
    );
  }
  return readJson<Begun>(path);
}

interface FinishOptions extends ExperimentOptions {
  readonly root: string;
  readonly index: number;
  readonly count: number;
  readonly prepared: PreparedData;
  readonly measures: readonly string[];
  /** Stands in for the run unless that is finished here. */
  readonly taken?: TakenRun;
}

/** Trains and measures one run, or what is missing of it; nothing of one that is taken from a report. */
async function finish(run: PlannedRun, options: FinishOptions): Promise<void> {
  const {
    root,
    index,
    count,
    prepared,
    measures,
    taken,
    signal,
    announce = console.error,
    threads,
  } = options;
  const { arm, seed, before = [], hash, prunedTo } = run;
  throwIfAborted(signal);
  const path = runPath(root, hash);
  const missing = () => measures.filter((name) => !existsSync(measurePath(path, name, prunedTo)));
  const phases = [...before, run];
  const isTrained = (phase: PlannedPhase) => existsSync(join(runPath(root, phase.hash), "result.json"));
  const isFinished = phases.every(isTrained) && missing().length === 0;
  const from = isFinished ? undefined : taken?.from;
  const reused = from !== undefined || phases.every(isTrained);
  options.onRun?.({ arm, seed, index, count, reused, ...(from !== undefined && { from }) });
  if (from !== undefined) return;
  if (isFinished) {
    for (const phase of phases) tidy(runPath(root, phase.hash)); // a kill may have come before that
    return;
  }
  // A backend for each run: the memory of one arm does not stay with the next.
  const backend = openBackend({ threads }, announce);
  try {
    for (const [i, phase] of phases.entries()) {
      if (isTrained(phase)) continue;
      const startFrom = i > 0 ? modelOf(runPath(root, phases[i - 1].hash)) : undefined;
      await trainRun(
        runPath(root, phase.hash),
        { ...phase.input, ...(startFrom && { startFrom }) },
        backend,
        options,
      );
    }
    const result = readJson<TrainResult>(join(path, "result.json"));
    const config = resolveTrainConfig(run.input, prepared.tokenizer.vocabSize);
    const trained = { result, config, checkpoint: modelOf(path), prepared, backend, signal };
    const context =
      prunedTo === undefined ? trained : { ...trained, result: await prunedResult(trained, prunedTo) };
    for (const name of missing()) {
      const measured: Measured = await measureNamed(name).run(context);
      await writeFileAtomic(measurePath(path, name, prunedTo), `${JSON.stringify(measured)}\n`);
    }
    for (const phase of phases) tidy(runPath(root, phase.hash));
  } finally {
    backend.close();
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
  { prepared, signal, onStep, announce }: FinishOptions,
): Promise<void> {
  removeTorn(path);
  let peakBytes = process.memoryUsage.rss();
  const resume = existsSync(join(path, "config.json"));
  if (resume && input.startFrom) await pointTo(path, input.startFrom);
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
