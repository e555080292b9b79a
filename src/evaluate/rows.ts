// The rows of a task's data set from local files: JSON lines or a JSON list, plain or gzip, and HellaSwag as lines of
// text. Not here: downloads (whoever has a path gives it), and what the fields mean (task.ts).

import { existsSync } from "node:fs";
import { readFile, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { promisify } from "node:util";
import { gunzip } from "node:zlib";
import { RunError, UsageError } from "../errors.ts";
import type { Row, TaskSpec } from "./task.ts";

/** Local files of a task. */
export interface TaskFiles {
  /** The rows to evaluate. */
  readonly rows: string;
  /** Rows that examples before a question are taken from; default: the same. */
  readonly examples?: string;
}

/** Where a task's files are; a source of downloads is a function like this. */
export type FindTaskFiles = (spec: TaskSpec) => Promise<TaskFiles>;

const ENDINGS = [".jsonl", ".jsonl.gz", ".json", ".json.gz", ".txt", ".txt.gz"];

/**
 * Finds files by their names in a folder: `piqa.jsonl.gz` for the task piqa, or another name of its data set; examples
 * come from `piqa.train.jsonl.gz`, if it is there.
 * @throws UsageError if there is no file for a task.
 */
export function localTaskFiles(folder: string): FindTaskFiles {
  return async ({ task, files = [] }) => {
    const names = [task, ...files];
    const find = (suffix: string) =>
      names
        .flatMap((name) => ENDINGS.map((ending) => join(folder, `${name}${suffix}${ending}`)))
        .find((path) => existsSync(path));
    const rows = find("");
    if (rows === undefined) {
      throw new UsageError(
        `${folder} has no file for the task ${task}: put ${task}.jsonl or ${task}.jsonl.gz there`,
      );
    }
    return { rows, examples: find(".train") };
  };
}

/** All rows of a file. @throws UsageError for a missing file or a bad line; RunError for damaged gzip. */
export async function readRows(path: string): Promise<Row[]> {
  const text = await readText(path);
  const name = basename(path);
  if (/\.txt(\.gz)?$/i.test(path)) return hellaswagRows(text, name);
  if (/\.json(\.gz)?$/i.test(path)) {
    const list = parseJson(text, name);
    if (!Array.isArray(list)) throw new UsageError(`${name} is no list of rows`);
    return list.map((row, index) => checkRow(row, `${name}[${index}]`));
  }
  return text.split("\n").flatMap((line, index) => {
    const where = `${name}:${index + 1}`;
    return line.trim() === "" ? [] : [checkRow(parseJson(line, where), where)];
  });
}

async function readText(path: string): Promise<string> {
  const found = await stat(path).catch(() => undefined);
  if (!found?.isFile()) throw new UsageError(`there is no file ${path}`);
  const bytes = await readFile(path);
  if (!/\.gz$/i.test(path)) return bytes.toString("utf8");
  try {
    return (await promisify(gunzip)(bytes)).toString("utf8");
  } catch (error) {
    throw new RunError(`${path} is no gzip file or is cut off: get it again`, { cause: error });
  }
}

function parseJson(text: string, where: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new UsageError(`${where} is not JSON`);
  }
}

function checkRow(value: unknown, where: string): Row {
  if (typeof value !== "object" || value === null || Array.isArray(value))
    throw new UsageError(`${where} is no JSON object`);
  return value as Row;
}

/** Six lines an item: context, index of the right ending, four endings. */
function hellaswagRows(text: string, name: string): Row[] {
  const lines = text.replace(/\n$/, "").split(/\r?\n/);
  if (lines.length % 6 !== 0) throw new UsageError(`${name} does not have six lines an item`);
  return Array.from({ length: lines.length / 6 }, (_, item) => {
    const [query, gold, ...choices] = lines.slice(6 * item, 6 * item + 6);
    return { query, gold, choices };
  });
}
