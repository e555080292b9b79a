// Results as the files of EleutherAI's lm-evaluation-harness have them, so that its readers read ours: `results`,
// `groups`, `configs`, `versions`, `n-shot`... and, a line per question, samples. Not here: how people see results.

import { createHash } from "node:crypto";
import type { Sample, TaskResult } from "./evaluate.ts";
import { higherIsBetter, mean, meanStandardError } from "./metrics.ts";
import type { Perplexity } from "./perplexity.ts";
import type { MetricName, TaskSpec } from "./task.ts";

/** A number of a result: a metric and its standard error; "N/A" where there is none, "Infinity" where JSON has no number. */
type Numbers = Record<string, number | string>;

/** The object of a result file; keys and nesting are the harness's. */
export interface HarnessResults {
  results: Record<string, Numbers>;
  groups?: Record<string, Numbers>;
  group_subtasks: Record<string, string[]>;
  configs: Record<string, Record<string, unknown>>;
  versions: Record<string, number | string>;
  "n-shot": Record<string, number>;
  higher_is_better: Record<string, Record<string, boolean>>;
  "n-samples": Record<string, { original: number; effective: number }>;
  config: Record<string, unknown>;
  /** Seconds since 1970. */
  date: number;
  [more: string]: unknown;
}

/** The perplexity of a text, under the name it shall have among the tasks. */
export interface NamedPerplexity {
  readonly name: string;
  readonly perplexity: Perplexity;
  readonly settings: Readonly<Record<string, unknown>>;
}

export interface ResultsInput {
  readonly tasks?: readonly TaskResult[];
  readonly perplexities?: readonly NamedPerplexity[];
  /** What was run, and how: the `config` of the file. */
  readonly config: Readonly<Record<string, unknown>>;
  /** Top-level keys besides. */
  readonly more?: Readonly<Record<string, unknown>>;
}

/** The content of a result file. */
export function harnessResults({
  tasks = [],
  perplexities = [],
  config,
  more = {},
}: ResultsInput): HarnessResults {
  const file: HarnessResults = {
    results: {},
    group_subtasks: {},
    configs: {},
    versions: {},
    "n-shot": {},
    higher_is_better: {},
    "n-samples": {},
    config,
    date: Date.now() / 1000,
    ...more,
  };
  for (const { name, perplexity, settings } of perplexities) addPerplexity(file, name, perplexity, settings);
  for (const task of tasks) {
    const { group } = task;
    if (group !== undefined && !(group in file.results)) {
      const parts = tasks.filter((other) => other.group === group);
      addGroup(file, group, parts);
    }
    addTask(file, task);
  }
  return file;
}

function addTask(
  file: HarnessResults,
  { name, spec, group, numFewshot, questions, metrics, samples }: TaskResult,
) {
  const numbers: Numbers = { alias: group === undefined ? name : ` - ${name}` };
  for (const metric of spec.metrics) {
    const { value, standardError } = metrics[metric] ?? { value: Number.NaN, standardError: undefined };
    numbers[`${metric},none`] = asJson(value);
    numbers[`${metric}_stderr,none`] = standardError === undefined ? "N/A" : asJson(standardError);
  }
  file.results[name] = numbers;
  if (group === undefined) file.group_subtasks[name] = [];
  file.configs[name] = taskConfig(name, spec, numFewshot);
  file.versions[name] = spec.version;
  file["n-shot"][name] = numFewshot;
  file.higher_is_better[name] = directions(spec.metrics);
  file["n-samples"][name] = { original: questions, effective: samples.length };
}

/** A group's accuracy is the mean of its parts', each with the same weight. */
function addGroup(file: HarnessResults, group: string, parts: readonly TaskResult[]) {
  const [{ spec, numFewshot }] = parts;
  const numbers: Numbers = { alias: group };
  for (const metric of spec.metrics) {
    const found = parts.map(
      ({ metrics }) => metrics[metric] ?? { value: Number.NaN, standardError: undefined },
    );
    const errors = found.map(({ standardError }) => standardError);
    const known = errors.filter((error) => error !== undefined);
    numbers[`${metric},none`] = asJson(mean(found.map(({ value }) => value)));
    numbers[`${metric}_stderr,none`] =
      known.length === errors.length ? asJson(meanStandardError(known)) : "N/A";
  }
  file.results[group] = numbers;
  file.groups = { ...file.groups, [group]: numbers };
  file.group_subtasks[group] = parts.map(({ name }) => name);
  file.versions[group] = spec.groupVersion ?? spec.version;
  file["n-shot"][group] = numFewshot;
  file.higher_is_better[group] = directions(spec.metrics);
}

function addPerplexity(
  file: HarnessResults,
  name: string,
  found: Perplexity,
  settings: Readonly<Record<string, unknown>>,
) {
  const metrics = {
    word_perplexity: found.wordPerplexity,
    byte_perplexity: found.bytePerplexity,
    bits_per_byte: found.bitsPerByte,
    token_perplexity: found.tokenPerplexity,
  };
  const numbers: Numbers = { alias: name };
  for (const [metric, value] of Object.entries(metrics)) {
    numbers[`${metric},none`] = asJson(value);
    numbers[`${metric}_stderr,none`] = "N/A";
  }
  file.results[name] = numbers;
  file.group_subtasks[name] = [];
  file.configs[name] = { task: name, output_type: "loglikelihood_rolling", ...settings };
  file.versions[name] = "N/A";
  file["n-shot"][name] = 0;
  file.higher_is_better[name] = Object.fromEntries(Object.keys(metrics).map((metric) => [metric, false]));
  file["n-samples"][name] = { original: found.documents, effective: found.documents };
}

function taskConfig(name: string, spec: TaskSpec, numFewshot: number): Record<string, unknown> {
  return {
    task: name,
    ...(spec.dataset && { dataset_path: spec.dataset.path, dataset_name: spec.dataset.name ?? null }),
    output_type: spec.output === "completion" ? "loglikelihood" : "multiple_choice",
    target_delimiter: spec.delimiter ?? " ",
    fewshot_delimiter: "\n\n",
    num_fewshot: numFewshot,
    metric_list: spec.metrics.map((metric) => ({
      metric,
      aggregation: metric === "perplexity" ? "perplexity" : "mean",
      higher_is_better: higherIsBetter[metric],
    })),
    metadata: { version: spec.version },
  };
}

/** JSON would make null of what is not finite. */
function asJson(value: number): number | string {
  return Number.isFinite(value) ? value : String(value);
}

function directions(metrics: readonly MetricName[]): Record<string, boolean> {
  return Object.fromEntries(metrics.map((metric) => [metric, higherIsBetter[metric]]));
}

/** The lines of a task's sample file: JSON objects with the harness's keys, numbers of answers as its texts. */
export function sampleLines({ spec, samples }: TaskResult): string {
  return samples.map((sample, id) => `${JSON.stringify(sampleObject(spec, sample, id))}\n`).join("");
}

function sampleObject(spec: TaskSpec, { item, answers, values }: Sample, id: number): object {
  const answerTexts = answers.map(({ logLikelihood, greedy }) => [
    String(logLikelihood),
    greedy ? "True" : "False",
  ]);
  const target = spec.output === "choices" ? String(item.gold) : item.target;
  return {
    doc_id: id,
    doc: item.row,
    target,
    arguments: Object.fromEntries(
      item.requests.map(({ context, continuation }, n) => [
        `gen_args_${n}`,
        { arg_0: context, arg_1: continuation },
      ]),
    ),
    resps: answerTexts.map((answer) => [answer]),
    filtered_resps: answerTexts,
    filter: "none",
    metrics: spec.metrics,
    doc_hash: sha256(JSON.stringify(item.row, null, 2)),
    prompt_hash: sha256(item.requests[0].context),
    target_hash: sha256(target),
    ...values,
  };
}

function sha256(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}
