// The configuration of a run: every setting with default, meaning and bounds in one table, from which parsing,
// checking, help and the saved config.json follow. The model's part is src/model/config.ts.

import { nearest, UsageError } from "../errors.ts";
import { type ModelConfig, resolveModelConfig } from "../model/config.ts";
import { presetConfig } from "../model/presets.ts";

interface Setting<T> {
  readonly default: T;
  readonly help: string;
  /** The error's second half if the value is wrong, e.g. "must be an integer of at least 1". */
  readonly must: string;
  readonly check: (value: unknown) => boolean;
}

const isInteger = (low: number) => (value: unknown) => Number.isInteger(value) && (value as number) >= low;
const isNumber = (low: number, high: number) => (value: unknown) =>
  typeof value === "number" && value >= low && value <= high;

function integer(fallback: number, low: number, help: string): Setting<number> {
  return { default: fallback, help, must: `must be an integer of at least ${low}`, check: isInteger(low) };
}
function number(fallback: number, low: number, high: number, help: string): Setting<number> {
  const must =
    high === Number.POSITIVE_INFINITY
      ? `must be a number of at least ${low}`
      : `must be a number from ${low} to ${high}`;
  return { default: fallback, help, must, check: isNumber(low, high) };
}
/** A number within bounds of which one is left out. */
function numberWithin(fallback: number, bounds: string, check: (value: number) => boolean, help: string) {
  const setting: Setting<number> = {
    default: fallback,
    help,
    must: `must be a number ${bounds}`,
    check: (value) => typeof value === "number" && check(value),
  };
  return setting;
}
const decay = (fallback: number, help: string) =>
  numberWithin(fallback, "from 0 to below 1", (value) => value >= 0 && value < 1, help);
function flag(fallback: boolean, help: string): Setting<boolean> {
  return {
    default: fallback,
    help,
    must: "must be true or false",
    check: (value) => typeof value === "boolean",
  };
}
function text<T extends string | null>(fallback: T, help: string): Setting<string | T> {
  const check = (value: unknown) => typeof value === "string" || (fallback === null && value === null);
  return { default: fallback, help, must: "must be a string", check };
}

export const settings = {
  preset: text(
    "mone-small",
    "model preset, e.g. moe-tiny, mone-small, moe-medium; the keys under model change it",
  ),
  data: text(
    null,
    "file, folder, URL or name of a text; default: the type declarations of installed packages",
  ),
  tokenizer: text(
    "byte",
    "byte, bpe:N (trains a vocabulary of N on the text), or the path of a tokenizer.json",
  ),
  validShare: number(0.1, 0.001, 0.9, "share of the text that is held out"),
  seqLen: integer(256, 1, "tokens per sequence"),
  batch: integer(16, 1, "sequences per micro-batch"),
  accumulation: integer(1, 1, "micro-batches per step"),
  steps: integer(1000, 1, "updates"),
  learningRate: number(1e-3, 0, Number.POSITIVE_INFINITY, "peak learning rate"),
  minLearningRate: number(0.1, 0, 1, "last learning rate as a share of the peak"),
  warmup: integer(20, 0, "steps of linear warm-up, before the cosine"),
  weightDecay: number(0.1, 0, Number.POSITIVE_INFINITY, "decoupled weight decay of matrices"),
  // A decay of 1 or an epsilon of 0 divides nothing by nothing at once.
  beta1: decay(0.9, "AdamW: decay of the first moment"),
  beta2: decay(0.95, "AdamW: decay of the second moment"),
  epsilon: numberWithin(
    1e-8,
    "above 0 and at most 1",
    (value) => Math.fround(value) > 0 && value <= 1, // kernels take it as f32
    "AdamW: epsilon",
  ),
  clip: number(1, 0, Number.POSITIVE_INFINITY, "largest global gradient norm; 0: no clipping"),
  seed: integer(1, 0, "seed of weights and data order"),
  startFrom: text(
    null,
    "model or run folder whose weights the run starts from (same shapes and tokenizer; K may differ), with a new optimizer",
  ),
  startSequence: integer(0, 0, "sequences of the data order to skip, because an earlier run has seen them"),
  dtype: {
    default: "auto",
    help: "operands of large matrix products: f32, bf16, or auto (bf16 where the hardware multiplies it)",
    must: "must be auto, f32 or bf16",
    check: (value) => ["auto", "f32", "bf16"].includes(value as string),
  } as Setting<string>,
  recompute: flag(
    false,
    "forget each layer's intermediates and compute them again backwards: less memory, same results, a third to two fifths slower",
  ),
  validEvery: integer(250, 1, "steps between validations"),
  validTokens: integer(
    65536,
    1,
    "most tokens of a validation during training; the last one uses the whole part",
  ),
  checkpointEvery: integer(500, 1, "steps between checkpoints"),
  keepCheckpoints: integer(2, 1, "newest checkpoints on schedule to keep, besides the best"),
} as const;

type Settings = { [K in keyof typeof settings]: (typeof settings)[K] extends Setting<infer T> ? T : never };

/** Everything that decides what a run computes. */
export interface TrainConfig extends Settings {
  model: ModelConfig;
}

/** What a user may give: any setting, and any key of the model. */
export type TrainConfigInput = Partial<Settings> & { readonly model?: Partial<ModelConfig> };

/** Whether large products round their operands to bf16 on this backend. */
export function usesBf16(
  { dtype }: Pick<TrainConfig, "dtype">,
  { nativeBf16 }: { nativeBf16: boolean },
): boolean {
  return dtype === "bf16" || (dtype === "auto" && nativeBf16);
}

export const settingNames = Object.keys(settings) as (keyof typeof settings)[];

/**
 * A complete, checked configuration. The model is the preset's, changed by `model`, with `max_position_embeddings`
 * raised to the sequence length, and `vocab_size` that of the tokenizer.
 * @throws UsageError for an unknown key (with the nearest known one) or a value out of bounds.
 */
export function resolveTrainConfig(
  input: TrainConfigInput,
  vocabSize: number,
  where = "configuration",
): TrainConfig {
  const given = input as Readonly<Record<string, unknown>>;
  checkSettings(given, where);
  const resolved = Object.fromEntries(
    settingNames.map((name) => [name, given[name] ?? settings[name].default]),
  ) as Settings;
  const preset = presetConfig(resolved.preset);
  const model: Record<string, unknown> = { ...preset, ...input.model };
  if (model.vocab_size === undefined) model.vocab_size = vocabSize;
  if ((model.vocab_size as number) < vocabSize) {
    throw new UsageError(
      `${where}: vocab_size ${model.vocab_size} is smaller than the tokenizer's ${vocabSize}`,
    );
  }
  if (input.model?.max_position_embeddings === undefined) {
    model.max_position_embeddings = Math.max(resolved.seqLen, preset.max_position_embeddings ?? 0);
  }
  const config = resolveModelConfig(model, `${where}, model`);
  if (resolved.seqLen > config.max_position_embeddings) {
    throw new UsageError(
      `${where}: seqLen ${resolved.seqLen} is more than max_position_embeddings ${config.max_position_embeddings}`,
    );
  }
  return { ...resolved, model: config };
}

/** Checks keys and bounds of settings, before any data is touched. */
export function checkSettings(given: Readonly<Record<string, unknown>>, where = "configuration"): void {
  for (const [name, value] of Object.entries(given)) {
    if (name === "model") continue;
    if (!(name in settings)) {
      const suggestion = nearest(name, [...settingNames, "model"]);
      throw new UsageError(
        `${where}: unknown key "${name}"${suggestion ? `; did you mean "${suggestion}"?` : ""}`,
      );
    }
    const { check, must } = settings[name as keyof typeof settings];
    if (value !== undefined && !check(value))
      throw new UsageError(`${where}: ${name} ${must}, not ${JSON.stringify(value)}`);
  }
}

/**
 * The settings among the options of a function that takes both settings and ways to run.
 * @param others names of options that are no settings. @throws UsageError for an option that is neither.
 */
export function settingsAmong(options: object, others: readonly string[]): TrainConfigInput {
  const entries = Object.entries(options).filter(
    ([name, value]) => !others.includes(name) && value !== undefined,
  );
  const given = Object.fromEntries(entries);
  checkSettings(given, "options");
  return given;
}
