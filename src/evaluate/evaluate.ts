// Tasks from their names to their numbers: rows, prompts, the model's answers, metrics. Not here: perplexity of texts
// (perplexity.ts), and the layout of result files (results.ts).

import { quote, UsageError } from "../errors.ts";
import type { LanguageModel } from "../infer/languageModel.ts";
import { type FewshotSampler, fewshotContexts } from "./fewshot.ts";
import type { LogLikelihood, LogLikelihoodOptions } from "./logLikelihood.ts";
import { aggregate, scoreItem, standardError } from "./metrics.ts";
import { askLogged, type RequestLog } from "./requestLog.ts";
import { type FindTaskFiles, localTaskFiles, readRows } from "./rows.ts";
import { type Item, itemOf, type MetricName, type Row, type TaskSpec, withExamples } from "./task.ts";
import { type ChosenTask, findTask } from "./tasks/catalogue.ts";
import { encodePair, type TokenRequest } from "./tokens.ts";

/** A question with the model's answers and what they count. */
export interface Sample {
  readonly item: Item;
  readonly answers: readonly LogLikelihood[];
  readonly values: Partial<Record<MetricName, number>>;
}

export interface MetricResult {
  readonly value: number;
  /** Undefined for less than two questions. */
  readonly standardError: number | undefined;
}

export interface TaskResult {
  readonly name: string;
  readonly spec: TaskSpec;
  /** Name of the task that this one is a part of. */
  readonly group?: string;
  readonly numFewshot: number;
  /** Questions in the data set, of which `samples.length` were asked. */
  readonly questions: number;
  readonly metrics: Partial<Record<MetricName, MetricResult>>;
  readonly samples: readonly Sample[];
}

export interface EvaluateOptions extends Pick<LogLikelihoodOptions, "batch" | "maxLength" | "signal"> {
  /** Where data sets are: a folder of local files, or a function that gives their paths. */
  readonly files: string | FindTaskFiles;
  /** Ask only the first so many questions of each task (and of each part of a group). */
  readonly limit?: number;
  /** Examples before each question. Default 0. */
  readonly numFewshot?: number;
  /** `default`: drawn as lm-evaluation-harness does; `first_n`: the first ones of the file. */
  readonly sampler?: FewshotSampler;
  /** Resamples for the standard error of a perplexity; below 2: none. Default 100000, the harness's number. */
  readonly resamples?: number;
  /** Answers on disk, to go on from. */
  readonly log?: RequestLog;
  /** Told how many questions of a task are answered. */
  readonly onProgress?: (task: string, done: number, total: number) => void;
}

/** Questions of tasks, read and put into words, before a model is asked. */
export interface TaskQuestions {
  readonly spec: TaskSpec;
  readonly numFewshot: number;
  /** The task, or the tasks that its group consists of. */
  readonly parts: readonly PartQuestions[];
}

interface PartQuestions {
  readonly name: string;
  readonly group?: string;
  /** Questions in the data set. */
  readonly questions: number;
  /** Those that are asked. */
  readonly items: readonly Item[];
}

/**
 * Evaluates tasks, given by name or as YAML files, with the semantics of EleutherAI's lm-evaluation-harness: the same
 * prompts, tokens, metrics and standard errors on the same rows.
 * @throws UsageError for an unknown task, missing files or rows that are not the task's; RunError as `logLikelihoods`.
 */
export async function evaluateTasks(
  model: LanguageModel,
  tasks: readonly string[],
  options: EvaluateOptions,
): Promise<TaskResult[]> {
  return evaluateQuestions(model, await readTasks(tasks, options), options);
}

/** The first half of `evaluateTasks`, which finds what is wrong with tasks and files. */
export async function readTasks(
  tasks: readonly string[],
  options: Pick<EvaluateOptions, "files" | "limit" | "numFewshot" | "sampler">,
): Promise<TaskQuestions[]> {
  const chosen = tasks.map(findTask);
  const find = typeof options.files === "string" ? localTaskFiles(options.files) : options.files;
  const files = await Promise.all(chosen.map(({ spec }) => find(spec)));
  const all: TaskQuestions[] = [];
  for (const [n, task] of chosen.entries()) {
    const { rows: path, examples = path } = files[n];
    const rows = await readRows(path);
    const exampleRows = examples === path ? rows : await readRows(examples);
    const { spec } = task;
    const numFewshot = spec.fewshot === false ? 0 : (options.numFewshot ?? 0);
    const parts = partsOf(task, rows, path).map(({ name, group, rows: own }): PartQuestions => {
      const read = (some: readonly Row[]) =>
        some.map((row, n) => itemOf(spec, row, `${path}, ${name}, row ${n + 1}`));
      const questions = read(own.slice(0, options.limit));
      const shown = numFewshot > 0 ? read(exampleRows) : [];
      const contexts = fewshotContexts(spec, questions, shown, numFewshot, options.sampler);
      const items = questions.map((item, n) => withExamples(item, contexts[n]));
      return { name, ...(group && { group }), questions: own.length, items };
    });
    all.push({ spec, numFewshot, parts });
  }
  return all;
}

/** The second half of `evaluateTasks`: asks the model. */
export async function evaluateQuestions(
  model: LanguageModel,
  tasks: readonly TaskQuestions[],
  options: Omit<EvaluateOptions, "files" | "limit" | "numFewshot" | "sampler">,
): Promise<TaskResult[]> {
  // What has no tokens is found before the first task takes its hours.
  const requests = tasks.map(({ parts }) => parts.flatMap((part) => requestsOf(model, part)));
  const results: TaskResult[] = [];
  for (const [n, task] of tasks.entries()) {
    results.push(...(await ask(model, task, requests[n], options)));
  }
  return results;
}

function requestsOf(
  { tokenizer, startIds }: LanguageModel,
  { name, items }: PartQuestions,
): TokenRequest[][] {
  return items.map(({ requests }, n) =>
    requests.map(({ context, continuation }) => {
      const request = encodePair(tokenizer, context, continuation, startIds);
      if (request.context.length > 0 && request.continuation.length > 0) return request;
      throw new UsageError(
        `${name}, question ${n + 1}: ${quote(context.slice(-40))} or the answer ${quote(continuation)} after it has no token of its own`,
      );
    }),
  );
}

interface Part {
  readonly name: string;
  readonly group?: string;
  readonly rows: readonly Row[];
}

/** The task, or the tasks that its group consists of, in the order of their names. */
function partsOf({ spec, part }: ChosenTask, rows: readonly Row[], path: string): Part[] {
  const { task, groupBy } = spec;
  if (rows.length === 0) throw new UsageError(`${path} has no rows`);
  if (groupBy === undefined) return [{ name: task, rows }];
  const parts = new Map<string, Row[]>();
  for (const row of rows) {
    const value = String(row[groupBy]);
    const list = parts.get(value);
    if (list) list.push(row);
    else parts.set(value, [row]);
  }
  const names = [...parts.keys()].sort();
  if (part === undefined)
    return names.map((name) => ({ name: `${task}_${name}`, group: task, rows: parts.get(name) ?? [] }));
  const found = parts.get(part);
  if (!found)
    throw new UsageError(`${path} has no rows with ${groupBy} ${part}: there are ${names.join(", ")}`);
  return [{ name: `${task}_${part}`, rows: found }];
}

/** All parts at once, so that questions of similar length share batches. */
async function ask(
  model: LanguageModel,
  { spec, numFewshot, parts }: TaskQuestions,
  groups: readonly (readonly TokenRequest[])[],
  options: Parameters<typeof evaluateQuestions>[2],
): Promise<TaskResult[]> {
  let done = 0;
  const answers = await askLogged(model, groups, {
    ...options,
    onGroup: () => options.onProgress?.(spec.task, ++done, groups.length),
  });
  const results: TaskResult[] = [];
  let next = 0;
  for (const { name, group, questions, items } of parts) {
    const samples = items.map((item): Sample => {
      const given = answers[next++];
      return { item, answers: given, values: scoreItem(spec, item, given) };
    });
    const metrics: TaskResult["metrics"] = {};
    for (const metric of spec.metrics) {
      const values = samples.map((sample) => sample.values[metric] as number);
      const error = await standardError(metric, values, options.resamples ?? 100_000, options.signal);
      metrics[metric] = { value: aggregate(metric, values), standardError: error };
    }
    results.push({
      name,
      spec,
      ...(group && { group }),
      numFewshot,
      questions,
      metrics,
      samples,
    });
  }
  return results;
}
