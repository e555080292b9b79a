// The run folders that experiments share: where they are, what they hold when a run is finished, and what is thrown away.
// Not here: what is in a run folder besides (train/runFolder.ts).

import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { removeLeftovers } from "../checkpoint/atomic.ts";
import { lockFile, removeDeadLock } from "../checkpoint/lock.ts";
import type { MetricsRecord, TrainResult } from "../train/loop.ts";
import { RunFolder } from "../train/runFolder.ts";
import { hashesOf, type PlannedRun } from "./arms.ts";
import type { Measured } from "./measures/measure.ts";

/** Where runs, data and experiments are kept if nobody says. */
export const defaultRoot = join("runs", "experiments");

/** A line of an experiment's plan.json. */
export interface QueuedRun extends PlannedRun {
  /** A report that was given (reuse.ts) has all that is measured of it. */
  readonly taken?: true;
}

export function runPath(root: string, hash: string): string {
  return join(root, "runs", hash);
}

/**
 * Makes this process the only one that trains or measures a run. Beside its folder, which may not be there yet.
 * @returns the function that gives it free. @throws InUse if another process works on it.
 */
export function lockRun(root: string, hash: string): () => void {
  mkdirSync(join(root, "runs"), { recursive: true });
  const path = runPath(root, hash);
  return lockFile(`${path}.lock`, { what: `run ${path}` });
}

/** Deletes the locks, and locks half made, that dead processes left beside the runs. */
export function sweepLocks(root: string): void {
  const runs = join(root, "runs");
  if (!existsSync(runs)) return;
  removeLeftovers(runs);
  for (const name of readdirSync(runs)) {
    if (name.endsWith(".lock")) removeDeadLock(join(runs, name));
  }
}

/** @param prunedTo K when measured, if it is not the run's. */
export function measurePath(path: string, name: string, prunedTo?: number): string {
  const folder = prunedTo === undefined ? "measures" : join("measures", `pruned-${prunedTo}`);
  return join(path, folder, `${name}.json`);
}

export function isTrained(root: string, hash: string): boolean {
  return existsSync(join(runPath(root, hash), "result.json"));
}

/** Of these measures, those that were not made of the run yet. */
export function missingMeasures(
  root: string,
  { hash, prunedTo }: Pick<PlannedRun, "hash" | "prunedTo">,
  measures: readonly string[],
): string[] {
  return measures.filter((name) => !existsSync(measurePath(runPath(root, hash), name, prunedTo)));
}

/** Whether `readFinished` has something to read. */
export function isFinished(
  root: string,
  run: Pick<PlannedRun, "hash" | "before" | "prunedTo">,
  measures: readonly string[],
): boolean {
  return (
    hashesOf(run).every((hash) => isTrained(root, hash)) && missingMeasures(root, run, measures).length === 0
  );
}

/** Of a run that diverged: its configuration does so every time, so nobody tries again while this file is there. */
export const divergedFile = "diverged.json";

/** Why a run cannot be finished ("loss NaN at step 12"), if it or a phase before it diverged. */
export function failureOf(root: string, run: Pick<PlannedRun, "hash" | "before">): string | undefined {
  const path = hashesOf(run)
    .map((one) => join(runPath(root, one), divergedFile))
    .find((one) => existsSync(one));
  return path && readJson<{ reason: string }>(path).reason;
}

/** What training took; depends on the clock, unlike everything else. */
export interface StoredCost {
  /** Largest resident memory of the process while it trained, in bytes. */
  readonly peakBytes: number;
  readonly finishedAt: string;
}

export interface FinishedRun {
  readonly result: TrainResult;
  readonly metrics: readonly MetricsRecord[];
  readonly measured: Readonly<Record<string, Measured>>;
  /** Absent if a kill fell between the end of training and this. */
  readonly cost?: StoredCost;
}

/** A run with all these measures, its phases as one; undefined while something is missing. */
export function readFinished(
  root: string,
  run: Pick<PlannedRun, "hash" | "before" | "prunedTo">,
  measures: readonly string[],
): FinishedRun | undefined {
  if (!isFinished(root, run, measures)) return undefined;
  const { hash, prunedTo } = run;
  const measured = Object.fromEntries(
    measures.map((name) => [name, readJson<Measured>(measurePath(runPath(root, hash), name, prunedTo))]),
  );
  const phases = hashesOf(run).map((one) => readPhase(runPath(root, one)));
  return { ...phases.reduce(joined), measured };
}

type Phase = Omit<FinishedRun, "measured">;

function readPhase(path: string): Phase {
  const costPath = join(path, "cost.json");
  return {
    result: readJson<TrainResult>(join(path, "result.json")),
    metrics: RunFolder.open(path).readMetrics() as unknown as MetricsRecord[],
    ...(existsSync(costPath) && { cost: readJson<StoredCost>(costPath) }),
  };
}

/** Two phases as one run: what comes out is the second's, what it took is both's. */
function joined(first: Phase, second: Phase): Phase {
  const seconds = first.result.seconds + second.result.seconds;
  const tokens = first.result.tokens + second.result.tokens;
  const steps = first.result.steps + second.result.steps;
  const [a, b] = [first.cost, second.cost];
  return {
    result: { ...second.result, steps, tokens, seconds, tokensPerSecond: tokens / seconds },
    metrics: [
      ...first.metrics,
      ...second.metrics.map((record) => ({
        ...record,
        step: record.step + first.result.steps,
        tokens: record.tokens + first.result.tokens,
        seconds: record.seconds + first.result.seconds,
      })),
    ],
    ...(a &&
      b && {
        cost: {
          peakBytes: Math.max(a.peakBytes, b.peakBytes),
          finishedAt: a.finishedAt > b.finishedAt ? a.finishedAt : b.finishedAt,
        },
      }),
  };
}

/** Steps that a run has done: all of a finished one, 0 of one that was not begun. */
export function stepsDone(root: string, hash: string): number {
  const path = runPath(root, hash);
  if (!isReadable(path)) return 0;
  return (RunFolder.open(path).readMetrics().at(-1)?.step as number | undefined) ?? 0;
}

/** Deletes a run folder whose configuration a kill left half written: nothing was computed in it yet. */
export function removeTorn(path: string): void {
  if (existsSync(join(path, "config.json")) && !isReadable(path)) rmSync(path, { recursive: true });
}

/** Whether there is a configuration, and a whole one. @throws what reading throws: a file that cannot be read is not torn. */
function isReadable(path: string): boolean {
  const config = join(path, "config.json");
  if (!existsSync(config)) return false;
  const text = readFileSync(config, "utf8");
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

/**
 * Throws away what a finished run does not need: its optimiser's state, two thirds of its size, and what a kill left: files
 * half written, the lock of who trained it. The models stay.
 */
export function tidy(path: string): void {
  for (const checkpoint of RunFolder.open(path).checkpoints()) {
    rmSync(join(checkpoint.path, "optimizer.safetensors"), { force: true });
  }
  const measures = join(path, "measures");
  const folders = [path, measures].filter((folder) => existsSync(folder));
  for (const entry of existsSync(measures) ? readdirSync(measures, { withFileTypes: true }) : []) {
    if (entry.isDirectory()) folders.push(join(measures, entry.name));
  }
  for (const folder of folders) removeLeftovers(folder);
  removeDeadLock(join(path, "lock"));
}

export function readJson<T>(path: string): T {
  return JSON.parse(readFileSync(path, "utf8")) as T;
}
