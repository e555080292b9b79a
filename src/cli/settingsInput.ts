// The settings of a training run as a user gives them: a file, --set key=value, and the list of all keys for the help.
// Not here: their meaning and bounds (train/config.ts, model/config.ts).

import { readFileSync } from "node:fs";
import { parse } from "yaml";
import { UsageError } from "../errors.ts";
import { modelDefaults, modelKeys, resolveModelConfig } from "../model/config.ts";
import { checkSettings, settingNames, settings, type TrainConfigInput } from "../train/config.ts";
import { readValue } from "./options.ts";

type Mapping = Record<string, unknown>;

/**
 * Settings from a YAML or JSON file. The config.json of a run folder is such a file.
 * @throws UsageError if it cannot be read, or has an unknown key.
 */
export function readSettingsFile(path: string): TrainConfigInput {
  let content: unknown;
  try {
    content = parse(readFileSync(path, "utf8"));
  } catch (error) {
    const reason = (error as Error).message.split("\n")[0];
    throw new UsageError(`The settings in ${path} cannot be read (${reason}).`, { cause: error });
  }
  if (!isMapping(content)) throw new UsageError(`${path} has no settings: write "key: value" lines.`);
  const { versions: _record, ...given } = content; // written by a run, read by people
  return checked(given, path);
}

/**
 * Settings from `key=value` pairs; a dot leads into a mapping, as in `model.num_experts=8`.
 * @throws UsageError for a pair that is none, or an unknown key.
 */
export function readPairs(pairs: readonly string[]): TrainConfigInput {
  const all = pairs.map((pair) => {
    const [, path, value] = pair.match(/^([^=]+)=(.*)$/s) ?? [];
    if (path === undefined) throw new UsageError(`--set ${pair}: write it as key=value.`);
    return path
      .split(".")
      .reduceRight<unknown>((inner, key) => ({ [key]: inner }), readValue(value)) as Mapping;
  });
  return checked(all.reduce(merge, {}), "--set");
}

/** Several inputs in one; later ones win, key by key. */
export function mergeInputs(...inputs: readonly TrainConfigInput[]): TrainConfigInput {
  const merged = (inputs as readonly Mapping[]).reduce(merge, {}) as TrainConfigInput;
  const loss = merged.model?.neuron_aux_loss;
  if (!loss) return merged;
  // One of its two keys may have been given alone.
  return {
    ...merged,
    model: { ...merged.model, neuron_aux_loss: { ...modelDefaults.neuron_aux_loss, ...loss } },
  };
}

/** All settings and model keys with their defaults, as lines for the help. */
export function settingsHelp(): string {
  const lines = settingNames.map((name) => {
    const { default: fallback, help } = settings[name];
    return `  ${`${name} = ${fallback}`.padEnd(24)} ${help}`;
  });
  const keys = modelKeys.map((key) => `${key}=${JSON.stringify(modelDefaults[key])}`);
  return [
    "Settings, for --config (one mapping in YAML or JSON) and --set, with their defaults:",
    ...lines,
    "",
    "Keys under model, with their values where the preset has no other:",
    ...wrapped(keys, 100),
  ].join("\n");
}

/** Keys are checked here, where their source is known; values where they are used, when all are known. */
function checked(given: Mapping, where: string): TrainConfigInput {
  checkSettings(given, where);
  const { model = {} } = given;
  if (!isMapping(model)) {
    throw new UsageError(`${where}: model must be a mapping of keys, not ${JSON.stringify(model)}`);
  }
  const unknown = Object.entries(model).filter(([key]) => !(key in modelDefaults));
  resolveModelConfig(Object.fromEntries(unknown), `${where}, model`);
  return given as TrainConfigInput;
}

function merge(into: Mapping, from: Mapping): Mapping {
  const merged = { ...into };
  for (const [key, value] of Object.entries(from)) {
    const earlier = merged[key];
    merged[key] = isMapping(earlier) && isMapping(value) ? merge(earlier, value) : value;
  }
  return merged;
}

function isMapping(value: unknown): value is Mapping {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Words with commas between them, in lines of at most `width` characters. */
function wrapped(words: readonly string[], width: number): string[] {
  const lines: string[] = [];
  let line = "";
  for (const word of words) {
    if (line !== "" && line.length + 2 + word.length > width) {
      lines.push(`${line},`);
      line = "";
    }
    line = line === "" ? `  ${word}` : `${line}, ${word}`;
  }
  return [...lines, line];
}
