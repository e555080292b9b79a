// What an experiment is, and reading one: a YAML or JSON file, a JavaScript or TypeScript module, or the name of a shipped
// one. Unknown keys and impossible values give one sentence that names where. Not here: what an arm resolves to (arms.ts).

import { existsSync, readFileSync } from "node:fs";
import { basename, extname, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { parse } from "yaml";
import { errorCode } from "../checkpoint/atomic.ts";
import { nearest, UsageError } from "../errors.ts";
import { measureNames } from "./measures/catalogue.ts";
import { shippedExperiments } from "./shipped/index.ts";
import type { ArmSpec, Experiment, ExperimentSize, ExperimentSpec, PhaseSpec } from "./spec.ts";

type Check = readonly [is: (value: unknown) => boolean, must: string];

const isText = (value: unknown) => typeof value === "string" && value !== "";
const isMapping = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);
const isCount = (value: unknown) => Number.isInteger(value) && (value as number) >= 1;
const isShare = (value: unknown) => typeof value === "number" && value > 0 && value < 1;
const text: Check = [isText, "must be a text"];
const textOrNull: Check = [(value) => value === null || isText(value), "must be a text or null"];
const mapping: Check = [isMapping, "must be a mapping of keys"];
const share: Check = [isShare, "must be a number between 0 and 1"];
const count: Check = [isCount, "must be an integer of at least 1"];
const listOf = (is: (value: unknown) => boolean) => (value: unknown) =>
  Array.isArray(value) && value.length > 0 && value.every(is) && new Set(value).size === value.length;

const sizeKeys: Record<keyof ExperimentSize, Check> = {
  data: textOrNull,
  validData: textOrNull,
  validShare: share,
  heldOutTokens: count,
  tokenizer: text,
  base: mapping,
  tokens: count,
  seeds: [
    listOf((value) => Number.isInteger(value) && (value as number) >= 0),
    "must be a list of different integers of at least 0",
  ],
};

const specKeys: Record<keyof ExperimentSpec, Check> = {
  ...sizeKeys,
  name: [
    (value) => typeof value === "string" && /^[\w.-]+$/.test(value),
    "must be a name of letters, digits, - and _",
  ],
  title: text,
  question: text,
  arms: [listOf(isMapping), "must be a list of at least one arm"],
  baseline: text,
  margin: share,
  measure: [
    (value) => Array.isArray(value) && value.every((name) => measureNames().includes(name)),
    `must be a list of measures (${measureNames().join(", ")})`,
  ],
  sizes: mapping,
};

const neurons: Check = [
  (value) => typeof value === "number" && value > 0,
  "must be a share above 0 and up to 1, or a count",
];

const armKeys: Record<keyof ArmSpec, Check> = {
  name: text,
  description: text,
  change: mapping,
  times: [
    (value) =>
      isMapping(value) &&
      Object.keys(value).every((key) => key === "model") &&
      isMapping(value.model ?? {}) &&
      Object.values(value.model ?? {}).every((factor) => typeof factor === "number" && factor > 0),
    "must have factors above 0 under model",
  ],
  neurons,
  phases: [listOf(isMapping), "must be a list of phases"],
  prunedTo: neurons,
  against: text,
};

const phaseKeys: Record<keyof PhaseSpec, Check> = {
  share: [(value) => isShare(value) || value === 1, "must be a number above 0 and up to 1"],
  neurons,
  change: mapping,
};

function checkPhases(phases: readonly PhaseSpec[], where: string): void {
  phases.forEach((phase, index) => {
    const at = `${where}, phase ${index + 1}`;
    checkKeys(phase, phaseKeys, at);
    if (phase.share === undefined) throw new UsageError(`${at}: share is missing.`);
  });
  const sum = phases.reduce((total, { share }) => total + share, 0);
  if (Math.abs(sum - 1) > 1e-9)
    throw new UsageError(`${where}: the shares of its phases add up to ${sum}, not 1.`);
}

function checkKeys(given: unknown, keys: Record<string, Check>, where: string): Record<string, unknown> {
  if (!isMapping(given))
    throw new UsageError(`${where} must be a mapping of keys, not ${JSON.stringify(given)}.`);
  for (const [key, value] of Object.entries(given)) {
    if (!Object.hasOwn(keys, key)) {
      const guess = nearest(key, Object.keys(keys));
      const hint = guess ? `did you mean "${guess}"?` : `there are ${Object.keys(keys).join(", ")}.`;
      throw new UsageError(`${where}: unknown key "${key}"; ${hint}`);
    }
    const [is, must] = keys[key];
    if (!is(value)) throw new UsageError(`${where}: ${key} ${must}, not ${JSON.stringify(value)}.`);
  }
  return given;
}

/** Checks everything that can be without a model. @throws UsageError naming the place. */
export function checkExperiment(given: unknown, where: string): ExperimentSpec {
  const spec = checkKeys(given, specKeys, where) as unknown as ExperimentSpec;
  for (const key of ["name", "arms"] as const) {
    if (spec[key] === undefined) throw new UsageError(`${where}: ${key} is missing.`);
  }
  spec.arms.forEach((arm, index) => {
    const at = `${where}, arm ${index + 1}`;
    checkKeys(arm, armKeys, at);
    if (arm.name === undefined) throw new UsageError(`${at}: name is missing.`);
    if (arm.phases) checkPhases(arm.phases, at);
    if (spec.arms.findIndex(({ name }) => name === arm.name) < index) {
      throw new UsageError(`${at}: there is an arm "${arm.name}" already; name it otherwise.`);
    }
  });
  const names = spec.arms.map(({ name }) => name);
  const refersTo = (name: string | undefined, at: string) => {
    if (name !== undefined && !names.includes(name)) {
      throw new UsageError(`${at}: there is no arm "${name}"; there are ${names.join(", ")}.`);
    }
  };
  refersTo(spec.baseline, `${where}, baseline`);
  for (const arm of spec.arms) refersTo(arm.against, `${where}, arm ${arm.name}, against`);
  for (const [name, size] of Object.entries(spec.sizes ?? {}))
    checkKeys(size, sizeKeys, `${where}, size ${name}`);
  return spec;
}

/**
 * The experiment in a size, changed by what the user gave.
 * @param size default: "small" where there is one, else the file itself. @throws UsageError for an unknown size.
 */
export function sizedExperiment(spec: ExperimentSpec, size?: string, given: ExperimentSize = {}): Experiment {
  const { sizes = {}, ...rest } = spec;
  const names = Object.keys(sizes);
  const chosen = size ?? (names.includes("small") ? "small" : "");
  if (chosen !== "" && !names.includes(chosen)) {
    const there = names.length > 0 ? `there are ${names.join(", ")}` : "it has no sizes";
    throw new UsageError(`Experiment ${spec.name} has no size "${chosen}"; ${there}.`);
  }
  const { base: sizeBase, ...sized } = sizes[chosen] ?? {};
  const overrides = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
  checkKeys(overrides, sizeKeys, "options");
  return {
    title: spec.name,
    question: "",
    data: null,
    validData: null,
    validShare: 0.1,
    heldOutTokens: 262_144,
    tokenizer: "byte",
    tokens: 1_000_000,
    seeds: [1, 2, 3],
    baseline: spec.arms[0].name,
    margin: 0.005,
    measure: ["use"],
    ...rest,
    ...sized,
    ...overrides,
    base: { ...rest.base, ...sizeBase, model: { ...rest.base?.model, ...sizeBase?.model } },
    size: chosen,
  };
}

/** Reads a file, or a shipped experiment by name. @throws UsageError if there is none, or for what it says. */
export async function readExperiment(fileOrName: string): Promise<ExperimentSpec> {
  const shipped = shippedExperiments.find(({ name }) => name === fileOrName);
  if (shipped) return checkExperiment(shipped, `experiment ${fileOrName}`);
  if (!existsSync(fileOrName)) {
    const names = shippedExperiments.map(({ name }) => name);
    const guess = nearest(fileOrName, names);
    throw new UsageError(
      `There is no file ${fileOrName}, and no shipped experiment of that name (${guess ? `did you mean ${guess}?` : names.join(", ")}).`,
    );
  }
  const isModule = [".ts", ".mts", ".js", ".mjs"].includes(extname(fileOrName));
  const content = isModule ? await importModule(fileOrName) : readYaml(fileOrName);
  return checkExperiment(content, basename(fileOrName));
}

function readYaml(path: string): unknown {
  try {
    return parse(readFileSync(path, "utf8"));
  } catch (error) {
    const reason = (error as Error).message.split("\n")[0];
    throw new UsageError(`The experiment in ${path} cannot be read (${reason}).`, { cause: error });
  }
}

/** The default export of a module; a function is called. */
async function importModule(path: string): Promise<unknown> {
  let module: { default?: unknown };
  try {
    module = await import(pathToFileURL(resolve(path)).href);
  } catch (error) {
    if (errorCode(error) === "ERR_UNKNOWN_FILE_EXTENSION") {
      throw new UsageError(
        `Node ${process.version} does not read TypeScript: use Node 22.18 or later, or save ${path} as .mjs or YAML.`,
        { cause: error },
      );
    }
    throw new UsageError(`${path} cannot be loaded (${(error as Error).message.split("\n")[0]}).`, {
      cause: error,
    });
  }
  if (module.default === undefined)
    throw new UsageError(`${path} has no default export: export the experiment.`);
  return typeof module.default === "function" ? await module.default() : module.default;
}
