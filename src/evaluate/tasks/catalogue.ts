// The list of built-in tasks, and how a name or a file becomes tasks. Not here: what a task is (task.ts).

import { readFileSync } from "node:fs";
import { parse } from "yaml";
import { nearest, UsageError } from "../../errors.ts";
import { checkTaskSpec, type TaskSpec } from "../task.ts";
import { arcChallenge, arcEasy, blimp, boolq, copa, hellaswag, openbookqa, piqa } from "./choices.ts";
import { lambadaOpenai, winogrande, wsc273 } from "./partial.ts";

export const builtInTasks: readonly TaskSpec[] = [
  arcEasy,
  arcChallenge,
  piqa,
  hellaswag,
  winogrande,
  openbookqa,
  boolq,
  copa,
  wsc273,
  lambadaOpenai,
  blimp,
];

/** A task, or one part of a group such as blimp. */
export interface ChosenTask {
  readonly spec: TaskSpec;
  /** The value of `groupBy`; undefined for all. */
  readonly part?: string;
}

/**
 * Finds a task by name (`piqa`, `blimp`, `blimp_causative`), or reads a declaration from a YAML or JSON file.
 * @throws UsageError listing the known names.
 */
export function findTask(name: string): ChosenTask {
  if (/\.(ya?ml|json)$/i.test(name)) return { spec: checkTaskSpec(readDeclaration(name), name) };
  for (const spec of builtInTasks) {
    if (spec.task === name) return { spec };
    if (spec.groupBy !== undefined && name.startsWith(`${spec.task}_`))
      return { spec, part: name.slice(spec.task.length + 1) };
  }
  const known = builtInTasks.map(({ task }) => task);
  const suggestion = nearest(name, known);
  throw new UsageError(
    `there is no task ${name}${suggestion ? `; did you mean ${suggestion}?` : `: known are ${known.join(", ")}, or a task's own YAML file`}`,
  );
}

function readDeclaration(path: string): unknown {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch {
    throw new UsageError(`${path} cannot be read: give the file of a task's declaration`);
  }
  try {
    return parse(text);
  } catch (error) {
    throw new UsageError(`${path} is no YAML: ${(error as Error).message.split("\n")[0]}`);
  }
}
