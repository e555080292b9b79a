// Runs an experiment: a queue of training runs in a shared store, a report whenever all arms of one more seed are finished.
//
//     ROOT/data/<hash>/         tokens, shared
//     ROOT/runs/<hash>/         an ordinary run folder for each resolved configuration; measures/NAME.json in it;
//                               <hash>.lock beside it while a process works on it
//     ROOT/<name>[-<size>]/     config.json (what was asked), plan.json (arm and seed -> run), report/, and taken.json
//                               (records of finished runs from reports that were given)
//
// A kill at any moment loses at most the steps since a checkpoint, and several processes may run the same experiment: each
// writes below a lock, held for just that long. Not here: the queue (queue.ts), the arithmetic (train/, statistics/).

import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { removeLeftovers, writeFileAtomic } from "../checkpoint/atomic.ts";
import { lockFile, whenFree } from "../checkpoint/lock.ts";
import { UsageError } from "../errors.ts";
import type { OnProgress } from "../text/progress.ts";
import type { MetricsRecord } from "../train/loop.ts";
import { type PlannedRun, planRuns } from "./arms.ts";
import { experimentData } from "./data.ts";
import { checkExperiment, readExperiment, sizedExperiment } from "./file.ts";
import { quantitiesOf, withLoss } from "./measures/catalogue.ts";
import { type QueueEvent, workOff } from "./queue.ts";
import { recordOf } from "./report/record.ts";
import { buildReport, type ExperimentReport } from "./report/report.ts";
import { writeReport } from "./report/writeReport.ts";
import { keepTaken, readReport, readTaken, reuseInWords, takenFor } from "./reuse.ts";
import type { Experiment, ExperimentSize } from "./spec.ts";
import {
  defaultRoot,
  failureOf,
  isFinished,
  type QueuedRun,
  readFinished,
  readJson,
  sweepLocks,
} from "./store.ts";

export interface ExperimentOptions extends ExperimentSize {
  /** Where runs, data and experiments are kept; default `runs/experiments`. */
  readonly root?: string;
  readonly size?: string;
  /**
   * Go on with an experiment that was begun, alone or beside other processes that work on it; options that are not given
   * are those it began with.
   */
  readonly resume?: boolean;
  /**
   * Paths of report.json: runs of the same hash that stand there with all that this experiment measures are taken from
   * them instead of computed, unless they are finished below `root`. A resumed experiment remembers them.
   */
  readonly reuse?: readonly string[];
  readonly threads?: number;
  readonly signal?: AbortSignal;
  /** Text and plan are there: from now on other processes can `resume` the experiment, and share the `open` runs. */
  readonly onPlanned?: (folder: string, open: number) => void;
  readonly onRun?: (event: QueueEvent) => void;
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
  const reused = reports.flatMap(readReport);
  const spec =
    typeof source === "string" ? await readExperiment(source) : checkExperiment(source, "experiment");
  const given = Object.fromEntries(
    sizeKeys.map((key) => [key, options[key]]).filter(([, value]) => value !== undefined),
  ) as ExperimentSize;
  const { size } = sizedExperiment(spec, options.size);
  const folder = join(root, size === "" ? spec.name : `${spec.name}-${size}`);
  readBegun(folder, resume); // refuses before anything is written
  mkdirSync(folder, { recursive: true });
  /** One process at a time writes to the experiment's folder. */
  const alone = async <T>(work: () => Promise<T>): Promise<T> => {
    const unlock = await whenFree(() => lockFile(join(folder, "lock"), { what: folder }), {
      signal,
      onWait: (holder) => announce(`waiting for ${holder}, which writes to ${folder}`),
    });
    try {
      return await work();
    } finally {
      unlock();
    }
  };
  const { whole, taken, config } = await alone(async () => {
    removeLeftovers(folder);
    sweepLocks(root);
    const begun = readBegun(folder, resume);
    const whole = sizedExperiment(spec, options.size, { ...begun?.given, ...given });
    // Kept before config.json, which is what makes it begun, so that no kill can make a resumed one forget them.
    const earlier = begun ? readTaken(folder).filter(({ from }) => !reports.includes(from)) : [];
    const taken = [...reused, ...earlier];
    await keepTaken(folder, taken);
    const record: Begun = { given: { ...begun?.given, ...given }, experiment: whole };
    const config = `${JSON.stringify(record, null, 2)}\n`;
    await writeFileAtomic(join(folder, "config.json"), config);
    return { whole, taken, config };
  });

  const prepared = await experimentData(root, whole, { signal, onProgress: options.onProgress, announce });
  const plan = planRuns(whole, prepared.tokenizer.vocabSize, prepared.dataset.hash);
  const quantities = quantitiesOf(whole.measure).map(({ key }) => key);
  const measures = withLoss(whole.measure);
  const own = (run: PlannedRun) => readFinished(root, run, measures);
  const takenOf = (run: PlannedRun) => takenFor(taken, run, quantities);
  const queue = plan.map((run): QueuedRun => ({ ...run, ...(takenOf(run) && { taken: true }) }));
  await alone(() => writeFileAtomic(join(folder, "plan.json"), `${JSON.stringify(queue, null, 2)}\n`));
  const isDone = (run: PlannedRun) =>
    !!takenOf(run) || isFinished(root, run, measures) || failureOf(root, run) !== undefined;
  const computed = plan.filter((run) => !isDone(run));
  for (const line of reuseInWords(reports, taken, { plan, computed, quantities })) announce(line);
  options.onPlanned?.(folder, computed.length);

  const about = {
    corpus: prepared.dataset.name,
    trainTokens: prepared.dataset.train.length,
    heldOutTokens: prepared.dataset.valid.length,
    vocabSize: prepared.tokenizer.vocabSize,
  };
  const recordFor = (run: PlannedRun) => {
    const finished = own(run);
    return finished ? recordOf(run, finished) : takenOf(run)?.record;
  };
  const build = () => buildReport(whole, plan, recordFor, (run) => failureOf(root, run), about);
  const finishedSeeds = () =>
    whole.seeds.filter((seed) => plan.every((run) => run.seed !== seed || isDone(run))).length;
  let reported = 0;
  await workOff(plan, { ...options, root, prepared, measures, takenOf, announce }, async () => {
    const finished = finishedSeeds();
    if (finished <= reported) return;
    reported = finished;
    await alone(async () => {
      if (readFileSync(join(folder, "config.json"), "utf8") !== config) {
        announce(`${folder} goes on with other options elsewhere: the report there is left to that process`);
        return;
      }
      await writeReport(build(), join(folder, "report"));
    });
  });
  return { report: build(), folder, reportPath: join(folder, "report", "index.html") };
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
