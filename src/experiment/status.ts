// How far the experiments below a root are, from their files alone: nothing is loaded that trains or measures.

import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { type PlannedPhase, phasesOf } from "./arms.ts";
import { overheadCases, overheadTitle } from "./overhead/report.ts";
import { defaultRoot, failureOf, isTrained, type QueuedRun, readJson, runPath, stepsDone } from "./store.ts";

/** How far an experiment is. */
export interface ExperimentStatus {
  readonly folder: string;
  readonly title: string;
  readonly runs: readonly {
    arm: string;
    seed: number;
    steps: number;
    of: number;
    state: RunState;
    /** The run folder; there is none of a run that was taken over from a report. */
    path: string;
  }[];
}

export type RunState = "finished" | "diverged" | "begun" | "waiting";

/** How far an `overhead` is. */
export interface OverheadStatus {
  readonly folder: string;
  readonly title: string;
  /** Benchmarks that are done. */
  readonly measured: number;
  readonly of: number;
}

/** All experiments that were begun below `root`, by name. */
export function experimentStatus(root: string = defaultRoot): ExperimentStatus[] {
  return foldersOf(root)
    .filter((folder) => existsSync(join(folder, "plan.json")))
    .map((folder) => ({
      folder,
      title: readJson<{ experiment: { title: string } }>(join(folder, "config.json")).experiment.title,
      runs: readJson<QueuedRun[]>(join(folder, "plan.json")).map((run) => statusOf(root, run)),
    }));
}

function statusOf(root: string, run: QueuedRun): ExperimentStatus["runs"][number] {
  const { arm, seed, taken } = run;
  const phases = phasesOf(run);
  const path = runPath(root, run.hash);
  const sum = (of: (phase: PlannedPhase) => number) => phases.reduce((total, phase) => total + of(phase), 0);
  const state =
    taken || isTrained(root, run.hash)
      ? "finished"
      : failureOf(root, run) !== undefined
        ? "diverged"
        : phases.some(({ hash }) => existsSync(runPath(root, hash)))
          ? "begun"
          : "waiting";
  const of = sum(({ input }) => input.steps as number);
  return { arm, seed, steps: taken ? of : sum(({ hash }) => stepsDone(root, hash)), of, state, path };
}

/** All measurements of `overhead` that were begun below `root`, by size. */
export function overheadStatus(root: string = defaultRoot): OverheadStatus[] {
  return foldersOf(root).flatMap((folder) => {
    const configPath = join(folder, "config.json");
    if (existsSync(join(folder, "plan.json")) || !existsSync(configPath)) return [];
    const { widths } = readJson<{ widths?: readonly number[] }>(configPath);
    if (!widths) return []; // an experiment that was stopped before it had a plan
    const cases = widths.flatMap((width) => Object.values(overheadCases(folder, width)));
    const measured = cases.filter((path) => existsSync(path)).length;
    return [{ folder, title: overheadTitle, measured, of: cases.length }];
  });
}

function foldersOf(root: string): string[] {
  if (!existsSync(root)) return [];
  return readdirSync(root)
    .sort()
    .map((name) => join(root, name));
}
