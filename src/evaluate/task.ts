// What a task is: a small declaration of where prompts, choices and answers stand in the rows of a data set, with the
// semantics of EleutherAI's lm-evaluation-harness. The built-in ones are in tasks/; a user's is the same in YAML or
// JSON. Not here: reading rows (rows.ts), and what is computed from the answers (metrics.ts).

import { isObject } from "../checkpoint/strictJson.ts";
import { nearest, quote, UsageError } from "../errors.ts";
import { isTexts, type Preparation, preparations } from "./prepare.ts";

/** A row of a data set. */
export type Row = Readonly<Record<string, unknown>>;

export const metricNames = ["acc", "acc_norm", "acc_bytes", "perplexity"] as const;
export type MetricName = (typeof metricNames)[number];

/**
 * One form in which rows of a task come. Texts are templates: `{{field}}` or `{{field.inner}}` is replaced by what the
 * row has there. The harness's templates are programs (Jinja); of these only such fields are understood, the rest refused.
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
  const named = typeof layout.gold === "number" ? String(layout.gold) : fill(layout.gold ?? "");
  // Parts of data sets that nobody has answered have "" there.
  const isNumber = /^\d+$/.test(named);
  const gold = Number(named);
  if (!isNumber || gold >= choices.length) {
    throw new UsageError(
      `${where}: the right answer is ${isNumber ? gold : quote(named)}, but there are ${choices.length} choices, from 0`,
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
  if (!isTexts(list) || list.length === 0) {
    throw new UsageError(`${where}: the field ${choices} is no list of texts`);
  }
  return list;
}

const TEMPLATE_FIELD = /\{\{\s*([\w.]+)\s*\}\}/g;

function fillTemplate(template: string, row: Row, where: string): string {
  return template.replace(TEMPLATE_FIELD, (_, path: string) => {
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

/** What can be computed of a task's answers: the harness has no lengths to divide by where there are no choices. */
const metricsOf: Readonly<Record<TaskSpec["output"], readonly MetricName[]>> = {
  choices: ["acc", "acc_norm", "acc_bytes"],
  contexts: ["acc", "acc_norm", "acc_bytes"],
  completion: ["acc", "perplexity"],
};

/** A user's declaration, checked. @throws UsageError naming what is wrong in `where`. */
export function checkTaskSpec(value: unknown, where: string): TaskSpec {
  const fail: (problem: string) => never = (problem) => {
    throw new UsageError(`${where} declares no task: ${problem}`);
  };
  if (!isObject(value)) fail("it is no object");
  const known = nearestUnknown(value, keys);
  if (known) fail(known);
  const spec = { version: 0, ...value } as unknown as TaskSpec;
  if (typeof spec.task !== "string" || !/^[\w.-]+$/.test(spec.task)) fail("it has no name as `task`");
  if (!Object.hasOwn(needs, spec.output)) fail("`output` must be choices, contexts or completion");
  const metrics: unknown = spec.metrics;
  const possible: readonly string[] = metricsOf[spec.output];
  if (!Array.isArray(metrics) || metrics.length === 0 || !metrics.every((m) => possible.includes(m)))
    fail(`\`metrics\` of ${spec.output} must be a list of ${possible.join(", ")}`);
  if (spec.files !== undefined && !isTexts(spec.files)) fail("`files` must be a list of names");
  for (const key of ["delimiter", "groupBy"] as const) {
    if (spec[key] !== undefined && typeof spec[key] !== "string") fail(`\`${key}\` must be text`);
  }
  if (!Array.isArray(spec.layouts) || spec.layouts.length === 0) fail("`layouts` must be a list");
  for (const layout of spec.layouts as readonly unknown[]) checkLayout(layout, spec.output, fail);
  return spec;
}

const keys = [
  ...["task", "version", "output", "metrics", "layouts", "files", "dataset", "delimiter"],
  ...["groupBy", "groupVersion", "fewshot"],
];
const layoutKeys = ["has", "prepare", "context", "choices", "target", "gold"];
/** What a layout must have, by the task's output. */
const needs: Readonly<Record<TaskSpec["output"], readonly string[]>> = {
  choices: ["choices", "gold"],
  contexts: ["choices", "target", "gold"],
  completion: ["target"],
};

function checkLayout(layout: unknown, output: TaskSpec["output"], fail: (problem: string) => never): void {
  if (!isObject(layout) || !isTexts(layout.has)) fail("a layout needs the list of fields `has`");
  const unknown = nearestUnknown(layout, layoutKeys);
  if (unknown) fail(`in a layout ${unknown}`);
  const { prepare, choices, gold } = layout;
  if (prepare !== undefined && !(typeof prepare === "string" && Object.hasOwn(preparations, prepare)))
    fail(`\`prepare\` must be one of ${Object.keys(preparations).join(", ")}`);
  for (const key of needs[output]) if (!(key in layout)) fail(`a layout needs \`${key}\``);
  if (choices !== undefined && typeof choices !== "string" && !isTexts(choices))
    fail("`choices` must be the name of a field, or a list of texts");
  for (const key of ["context", "target"]) {
    if (layout[key] !== undefined && typeof layout[key] !== "string") fail(`\`${key}\` must be text`);
  }
  if (gold !== undefined && typeof gold !== "string" && !(Number.isInteger(gold) && (gold as number) >= 0))
    fail("`gold` must be a number from 0, or a text that becomes one");
  const templates = [layout.context, layout.target, gold, ...(Array.isArray(choices) ? choices : [])];
  for (const template of templates) {
    if (typeof template !== "string" || !/\{[{%]/.test(template.replace(TEMPLATE_FIELD, ""))) continue;
    fail(
      `${quote(template)} is more than texts and {{field}} or {{field.inner}}: put fields that are ready in the rows`,
    );
  }
}

function nearestUnknown(value: object, known: readonly string[]): string | undefined {
  const key = Object.keys(value).find((one) => !known.includes(one));
  if (key === undefined) return undefined;
  const suggestion = nearest(key, known);
  return `the key ${quote(key)} means nothing${suggestion ? `; is it ${suggestion}?` : `: there are ${known.join(", ")}`}`;
}
