// What a task is: a small declaration of where prompts, choices and answers stand in the rows of a data set, with the
// semantics of EleutherAI's lm-evaluation-harness. The built-in ones are in tasks/; a user's is the same in YAML or
// JSON. Not here: reading rows (rows.ts), and what is computed from the answers (metrics.ts).

import { UsageError } from "../errors.ts";
import { type Preparation, preparations } from "./prepare.ts";

/** A row of a data set. */
export type Row = Readonly<Record<string, unknown>>;

export const metricNames = ["acc", "acc_norm", "acc_bytes", "perplexity"] as const;
export type MetricName = (typeof metricNames)[number];

/**
 * One form in which rows of a task come. Texts are templates: `{{field}}` or `{{field.inner}}` is replaced by what the
 * row has there.
 */
export interface Layout {
  /** The fields by which it is known; the first layout whose fields a row has is taken. */
  readonly has: readonly string[];
  /** A named function that adds fields first (prepare.ts), where templates do not suffice. */
  readonly prepare?: Preparation;
  /** `choices` and `completion`: what comes before the answer. */
  readonly context?: string;
  /** `choices`: the answers; `contexts`: the beginnings. Templates, or the name of a field that has the list. */
  readonly choices?: string | readonly string[];
  /** `contexts` and `completion`: what is scored after the context. */
  readonly target?: string;
  /** `choices` and `contexts`: index of the right one: a number, or a template. */
  readonly gold?: string | number;
}

export interface TaskSpec {
  readonly task: string;
  /** Version of the harness's task that it follows. */
  readonly version: number;
  /**
   * `choices`: one context, several continuations, of which one is right. `contexts`: one continuation after several
   * contexts. `completion`: one continuation that should be the most likely one.
   */
  readonly output: "choices" | "contexts" | "completion";
  readonly metrics: readonly MetricName[];
  readonly layouts: readonly Layout[];
  /** Names of local files besides the task's own, without their endings. */
  readonly files?: readonly string[];
  /** Where the data set is on the hub, and its parts: the one to evaluate, and the one that examples are taken from. */
  readonly dataset?: {
    readonly path: string;
    readonly name?: string;
    readonly split: string;
    readonly fewshotSplit?: string;
  };
  /** Between context and continuation. Default: a space. */
  readonly delimiter?: string;
  /** A field whose values are tasks of their own, of which this one is the group: `blimp` has `blimp_VALUE`. */
  readonly groupBy?: string;
  /** The group's own version, if it is another than that of its tasks. */
  readonly groupVersion?: number;
  /** False where examples before the question make no sense: their number is 0, whatever was asked for. */
  readonly fewshot?: boolean;
}

/** A question: what the model is asked, and what tells a right answer. */
export interface Item {
  readonly row: Row;
  readonly requests: readonly { readonly context: string; readonly continuation: string }[];
  /** The texts whose lengths `acc_norm` divides by. */
  readonly choices: readonly string[];
  readonly gold: number;
  /** Context and right answer, as an example before other questions. */
  readonly example: string;
  /** The right answer, for people. */
  readonly target: string;
}

/**
 * The question in a row.
 * @param where for messages, e.g. `piqa.jsonl:3`. @throws UsageError if the row has none of the task's layouts.
 */
export function itemOf(spec: TaskSpec, row: Row, where: string): Item {
  const layout = spec.layouts.find(({ has }) => has.every((field) => lookUp(row, field) !== undefined));
  if (!layout) {
    const forms = spec.layouts.map(({ has }) => has.join(", ")).join("; or ");
    throw new UsageError(`${where} is no row of the task ${spec.task}: it needs the fields ${forms}`);
  }
  const fields = layout.prepare ? preparations[layout.prepare](row) : row;
  const fill = (template: string) => fillTemplate(template, fields, where);
  const delimiter = spec.delimiter ?? " ";
  if (spec.output === "completion") {
    const context = fill(layout.context ?? "");
    const target = fill(layout.target ?? "");
    const example = `${context}${delimiter}${target}`;
    return {
      row,
      requests: [{ context, continuation: target }],
      choices: [target],
      gold: 0,
      example,
      target,
    };
  }
  const choices = choicesOf(layout, fields, where);
  const gold = typeof layout.gold === "number" ? layout.gold : Number(fill(layout.gold ?? ""));
  if (!Number.isInteger(gold) || gold < 0 || gold >= choices.length) {
    throw new UsageError(
      `${where}: the right answer is ${gold}, but there are ${choices.length} choices, from 0`,
    );
  }
  if (spec.output === "contexts") {
    const target = fill(layout.target ?? "");
    const requests = choices.map((context) => ({ context, continuation: `${delimiter}${target}` }));
    return { row, requests, choices, gold, example: `${choices[gold]}${delimiter}${target}`, target };
  }
  const context = fill(layout.context ?? "");
  const requests = choices.map((choice) => ({ context, continuation: `${delimiter}${choice}` }));
  return {
    row,
    requests,
    choices,
    gold,
    example: `${context}${delimiter}${choices[gold]}`,
    target: choices[gold],
  };
}

/** The same question after examples. */
export function withExamples(item: Item, examples: string): Item {
  if (examples === "") return item;
  const requests = item.requests.map(({ context, continuation }) => ({
    context: examples + context,
    continuation,
  }));
  return { ...item, requests };
}

function choicesOf({ choices = [] }: Layout, row: Row, where: string): string[] {
  if (typeof choices !== "string") return choices.map((template) => fillTemplate(template, row, where));
  const list = lookUp(row, choices);
  if (!Array.isArray(list) || list.length === 0 || !list.every((text) => typeof text === "string")) {
    throw new UsageError(`${where}: the field ${choices} is no list of texts`);
  }
  return list as string[];
}

function fillTemplate(template: string, row: Row, where: string): string {
  return template.replace(/\{\{([\w.]+)\}\}/g, (_, path: string) => {
    const value = lookUp(row, path);
    if (typeof value !== "string" && typeof value !== "number" && typeof value !== "boolean") {
      throw new UsageError(`${where}: the field ${path} is no text and no number`);
    }
    // Answers may be written as false and true.
    return typeof value === "boolean" ? String(Number(value)) : String(value);
  });
}

function lookUp(row: Row, path: string): unknown {
  let value: unknown = row;
  for (const key of path.split(".")) {
    if (typeof value !== "object" || value === null) return undefined;
    value = (value as Record<string, unknown>)[key];
  }
  return value;
}

/** A user's declaration, checked. @throws UsageError naming what is wrong in `where`. */
export function checkTaskSpec(value: unknown, where: string): TaskSpec {
  const fail = (problem: string): never => {
    throw new UsageError(`${where} declares no task: ${problem}`);
  };
  if (typeof value !== "object" || value === null) fail("it is no object");
  const spec = { version: 0, ...(value as object) } as TaskSpec;
  if (typeof spec.task !== "string" || !/^[\w.-]+$/.test(spec.task)) fail("it has no name as `task`");
  if (!["choices", "contexts", "completion"].includes(spec.output))
    fail("`output` must be choices, contexts or completion");
  const metrics: unknown = spec.metrics;
  if (!Array.isArray(metrics) || metrics.length === 0 || !metrics.every((m) => metricNames.includes(m)))
    fail(`\`metrics\` must be a list of ${metricNames.join(", ")}`);
  if (!Array.isArray(spec.layouts) || spec.layouts.length === 0) fail("`layouts` must be a list");
  for (const layout of spec.layouts) {
    if (!Array.isArray(layout.has)) fail("a layout needs the list of fields `has`");
    if (layout.prepare !== undefined && !Object.hasOwn(preparations, layout.prepare))
      fail(`\`prepare\` must be one of ${Object.keys(preparations).join(", ")}`);
    const needs = {
      choices: ["choices", "gold"],
      contexts: ["choices", "target", "gold"],
      completion: ["target"],
    };
    for (const key of needs[spec.output]) if (!(key in layout)) fail(`a layout needs \`${key}\``);
  }
  return spec;
}
