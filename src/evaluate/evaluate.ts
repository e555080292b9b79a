// Tasks from their names to their numbers: rows, prompts, the model's answers, metrics. Not here: perplexity of texts
// (perplexity.ts), and the layout of result files (results.ts).

import { UsageError } from "../errors.ts";
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

/**
 * Evaluates tasks, given by name or as YAML files, with the semantics of EleutherAI's lm-evaluation-harness: the same
 * prompts, tokens, metrics and standard errors on the same rows.
 * @throws UsageError for an unknown task, missing files or rows that are not the task's.
 */
export async function evaluateTasks(
  model: LanguageModel,
  tasks: readonly string[],
  options: EvaluateOptions,
): Promise<TaskResult[]> {
  const chosen = tasks.map(findTask);
  const find = typeof options.files === "string" ? localTaskFiles(options.files) : options.files;
  // Missing files are found before the first task takes its hours.
  const files = await Promise.all(chosen.map(({ spec }) => find(spec)));
  const results: TaskResult[] = [];
  for (const [n, task] of chosen.entries()) {
    const { rows, examples = rows } = files[n];
    const questionRows = await readRows(rows);
    const exampleRows = examples === rows ? questionRows : await readRows(examples);
    const parts = partsOf(task, questionRows, rows);
    results.push(...(await evaluateParts(model, task.spec, parts, exampleRows, rows, options)));
  }
  return results;
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
async function evaluateParts(
  model: LanguageModel,
  spec: TaskSpec,
  parts: readonly Part[],
  exampleRows: readonly Row[],
  path: string,
  options: EvaluateOptions,
): Promise<TaskResult[]> {
  const numFewshot = spec.fewshot === false ? 0 : (options.numFewshot ?? 0);
  const items = parts.map(({ name, rows }) => {
    const read = (list: readonly Row[]) =>
      list.map((row, n) => itemOf(spec, row, `${path}, ${name}, row ${n + 1}`));
    const questions = read(rows.slice(0, options.limit));
    const examples = numFewshot > 0 ? read(exampleRows) : [];
    const contexts = fewshotContexts(spec, questions, examples, numFewshot, options.sampler);
    return questions.map((item, n) => withExamples(item, contexts[n]));
  });
  const groups: TokenRequest[][] = items
    .flat()
    .map(({ requests }) =>
      requests.map(({ context, continuation }) => encodePair(model.tokenizer, context, continuation)),
    );
  let done = 0;
  const answers = await askLogged(model, groups, {
    ...options,
    onGroup: () => options.onProgress?.(spec.task, ++done, groups.length),
  });
  const results: TaskResult[] = [];
  let next = 0;
  for (const [n, { name, group, rows }] of parts.entries()) {
    const samples = items[n].map((item): Sample => {
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
      questions: rows.length,
      metrics,
      samples,
    });
  }
  return results;
}
