// Finished runs taken over from reports: the records that a report.json holds, checked, kept in the experiment's folder,
// and found by a run's hash. Not here: what a record is (report/record.ts), when one is used (run.ts).
//
// Reports from before records have a run's seed, hash and values only: these are taken, without curves and cost.

import { existsSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { errorCode, writeFileAtomic } from "../checkpoint/atomic.ts";
import { UsageError } from "../errors.ts";
import type { PlannedRun } from "./arms.ts";
import type { CurveStep, RunCost, RunRecord } from "./report/record.ts";
import { readJson } from "./store.ts";

/** A record and where it is from. */
export interface TakenRun {
  /** The report's path as it was given. */
  readonly from: string;
  /** Keys of all quantities that were measured; those without a value in the record do not apply to the model. */
  readonly measured: readonly string[];
  readonly record: RunRecord;
}

type Mapping = Readonly<Record<string, unknown>>;

const isMapping = (value: unknown): value is Mapping =>
  typeof value === "object" && value !== null && !Array.isArray(value);
const isNumber = (value: unknown): value is number => Number.isFinite(value);
const isListOf = <T>(value: unknown, is: (item: unknown) => item is T): value is readonly T[] =>
  Array.isArray(value) && value.every(is);
const isText = (value: unknown): value is string => typeof value === "string";
const isPoint = (value: unknown): value is CurveStep => isListOf(value, isNumber) && value.length === 2;
const isQuantity = (value: unknown): value is { key: string } => isMapping(value) && isText(value.key);
const isValues = (value: unknown): value is Record<string, number> =>
  isMapping(value) && Object.values(value).every(isNumber);
const isHistogram = (value: unknown): value is NonNullable<RunRecord["histogram"]> =>
  isMapping(value) &&
  isListOf(value.edges, isNumber) &&
  isListOf(value.counts, isNumber) &&
  value.edges.length === value.counts.length + 1;
const isCost = (value: unknown): value is RunCost =>
  isMapping(value) &&
  isNumber(value.tokensPerSecond) &&
  isNumber(value.seconds) &&
  (value.peakBytes === undefined || isNumber(value.peakBytes));

/** The runs of a report.json. @throws UsageError if there is no such file, or it is no report, or has no runs. */
export function readReport(path: string): TakenRun[] {
  const wrong = (what: string, cause?: unknown) =>
    new UsageError(
      `${path} is not the report of an experiment (${what}): give a report.json that mone experiment has written.`,
      { cause },
    );
  let content: unknown;
  try {
    content = JSON.parse(readFileSync(path, "utf8"));
  } catch (error) {
    if (errorCode(error) === "ENOENT")
      throw new UsageError(`There is no file ${path} to reuse runs from: give a report.json.`);
    throw wrong((error as Error).message.split("\n")[0], error);
  }
  if (!isMapping(content)) throw wrong("it is no mapping");
  const { quantities, arms, backends } = content;
  if (!isListOf(quantities, isQuantity)) throw wrong("it has no quantities");
  if (!isListOf(arms, isMapping)) throw wrong("it has no arms");
  const old: Pick<RunRecord, "backend" | "finishedAt"> = {
    ...(isListOf(backends, isText) && backends.length > 0 && { backend: backends.join(" or ") }),
    ...(isText(content.finishedAt) && { finishedAt: content.finishedAt }),
  };
  const measured = quantities.map(({ key }) => key);
  const taken = arms.flatMap(({ name, runs, curves }, index) => {
    const arm = isText(name) ? `arm ${name}` : `arm ${index + 1}`;
    if (!isListOf(runs, isMapping)) throw wrong(`${arm} has no list of runs`);
    const hasCurve = isMapping(curves) && Array.isArray(curves.training) && curves.training.length > 0;
    return runs.flatMap((run, at): TakenRun[] => {
      const found = toRecord(run);
      if (isText(found)) throw wrong(`${arm}, run ${at + 1}: ${found}`);
      if (found.backend !== undefined) return [{ from: path, measured, record: found }];
      // An old report draws no curve of an arm that was pruned after training, and does not say to how many neurons.
      return hasCurve ? [{ from: path, measured, record: { ...found, ...old } }] : [];
    });
  });
  if (taken.length === 0) throw wrong("it has no finished runs that could be taken over");
  return taken;
}

/** A run of a report, or what is wrong with it. Keys that are not known are left out. */
function toRecord(run: Mapping): RunRecord | string {
  const { seed, hash, prunedTo, values, training, validation, histogram, cost, backend, finishedAt } = run;
  if (!isNumber(seed)) return "it has no seed";
  if (!isText(hash)) return "it has no hash";
  if (!isValues(values)) return "its values are not numbers";
  if (prunedTo !== undefined && !isNumber(prunedTo)) return "prunedTo is no number";
  if (training !== undefined && !isListOf(training, isPoint))
    return "training is no list of steps and losses";
  if (validation !== undefined && !isListOf(validation, isPoint))
    return "validation is no list of steps and losses";
  if (histogram !== undefined && !isHistogram(histogram)) return "histogram has no edges and counts";
  if (cost !== undefined && !isCost(cost)) return "cost is no speed and time";
  if (backend !== undefined && !isText(backend)) return "backend is no text";
  if (finishedAt !== undefined && !isText(finishedAt)) return "finishedAt is no text";
  return {
    seed,
    hash,
    ...(prunedTo !== undefined && { prunedTo }),
    values,
    ...(training && { training }),
    ...(validation && { validation }),
    ...(histogram && { histogram }),
    ...(cost && { cost }),
    ...(backend !== undefined && { backend }),
    ...(finishedAt !== undefined && { finishedAt }),
  };
}

const keptPath = (folder: string) => join(folder, "taken.json");

/** The records that an experiment began with: its report stays the same when the reports they are from are gone. */
export function readTaken(folder: string): TakenRun[] {
  return existsSync(keptPath(folder)) ? readJson<TakenRun[]>(keptPath(folder)) : [];
}

export async function keepTaken(folder: string, taken: readonly TakenRun[]): Promise<void> {
  if (taken.length > 0) await writeFileAtomic(keptPath(folder), `${JSON.stringify(taken)}\n`);
  else rmSync(keptPath(folder), { force: true });
}

type RunName = Pick<PlannedRun, "seed" | "hash" | "prunedTo">;

const isOf =
  ({ seed, hash, prunedTo }: RunName) =>
  ({ record }: TakenRun) =>
    record.seed === seed && record.hash === hash && record.prunedTo === prunedTo;

/** The record of a run in which all these quantities were measured; of several, one with curves and cost. */
export function takenFor(
  taken: readonly TakenRun[],
  run: RunName,
  quantities: readonly string[],
): TakenRun | undefined {
  const enough = taken
    .filter(isOf(run))
    .filter(({ measured }) => quantities.every((key) => measured.includes(key)));
  return enough.find(({ record }) => record.cost !== undefined) ?? enough[0];
}

/**
 * What the user should know of the reports that were given: one that has nothing to do with this experiment, or not all
 * that it measures.
 * @param computed runs of the experiment that are neither in the store nor taken over.
 */
export function reuseInWords(
  paths: readonly string[],
  taken: readonly TakenRun[],
  {
    plan,
    computed,
    quantities,
  }: Record<"plan" | "computed", readonly RunName[]> & { quantities: readonly string[] },
): string[] {
  return paths.flatMap((path) => {
    const own = taken.filter(({ from }) => from === path);
    if (!plan.some((run) => own.some(isOf(run)))) {
      return [
        `${path} has none of this experiment's runs: their text, tokenizer, tokens, seeds or settings are others.`,
      ];
    }
    const without = computed.filter((run) => own.some(isOf(run)));
    if (without.length === 0) return [];
    const lacking = quantities.filter((key) => !own[0].measured.includes(key));
    const runs = without.length === 1 ? "1 run that it has is" : `${without.length} runs that it has are`;
    return [`${path} lacks ${shortList(lacking)}: ${runs} computed.`];
  });
}

function shortList(names: readonly string[]): string {
  const MOST = 4;
  const rest = names.length - MOST;
  return rest > 0 ? `${names.slice(0, MOST).join(", ")} and ${rest} more` : names.join(", ");
}
