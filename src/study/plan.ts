// What a study is asked for, and what follows from it before any weight is read: text, settings.

import { createHash } from "node:crypto";
import type { Backend } from "../backends/backend.ts";
import { UsageError } from "../errors.ts";
import type { WeightFormat } from "../infer/storedWeights.ts";
import type { ModelConfig } from "../model/config.ts";
import { openCorpus } from "../text/corpus.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import {
  criteria as allCriteria,
  type Criterion,
  defaultShares,
  givenSetting,
  planSettings,
  type Setting,
} from "./settings.ts";
import { readStudyText, type StudyText } from "./text.ts";

export interface StudyOptions {
  /** A file, folder, address or known text, as for training. */
  readonly data?: string;
  /** Folder of the results; a study that was interrupted there goes on. Default: nothing is written. */
  readonly out?: string;
  /** Default: all. */
  readonly criteria?: readonly Criterion[];
  /** Shares of neurons to prune. Default: 0, 10, ... 90, 95, 98 %. */
  readonly shares?: readonly number[];
  /** Lists of K by layer to measure as well, such as another study recommends. */
  readonly keptByLayer?: readonly (readonly number[])[];
  /** Numbers of experts per token to compare with. Default: all smaller than the model's, but for the largest models. */
  readonly experts?: readonly number[];
  /** Tokens to measure on. Default 16384. */
  readonly tokens?: number;
  /** Tokens to calibrate on. Default: a quarter of `tokens`. */
  readonly calibrationTokens?: number;
  /** Rise of perplexity that the verdict allows. Default 0.01. */
  readonly tolerance?: number;
  readonly seed?: number;
  /** How a model given by its path is opened, as for `loadModel`; a loaded one is as it was loaded. */
  readonly dtype?: "auto" | WeightFormat;
  readonly threads?: number;
  readonly backend?: Backend;
  /** Leave out K per layer, which costs a pass over the calibration text for each layer and some shares. */
  readonly perLayer?: boolean;
  readonly signal?: AbortSignal;
  /** Told what is being done, and how much of it is, from 0 to 1. */
  readonly onProgress?: (task: string, share: number) => void;
  readonly announce?: (line: string) => void;
}

/** A study's text and settings, and what results depend on beside the model. */
export interface StudyPlan {
  readonly text: StudyText;
  /** The model as it is, then all that is measured whatever comes out. */
  readonly settings: readonly Setting[];
  readonly seed: number;
  readonly tolerance: number;
  readonly inputs: {
    readonly text: string;
    /** Length of windows. */
    readonly window: number;
    readonly wanted: readonly Criterion[];
    readonly shares: readonly number[];
    readonly keptByLayer: readonly (readonly number[])[];
  };
}

/** @throws UsageError for a text or an option that cannot be used. */
export async function planStudy(
  config: ModelConfig,
  tokenizer: Tokenizer,
  options: StudyOptions,
): Promise<StudyPlan> {
  const { seed = 1, tolerance = 0.01, tokens = 16384, keptByLayer = [], signal } = options;
  const wanted = options.criteria ?? allCriteria;
  const shares = options.shares ?? defaultShares;
  if (!(tolerance > 0)) throw new UsageError(`the tolerance must be above 0, not ${tolerance}`);
  const experts = options.experts ?? fewerExperts(config.num_experts > 0 ? config.num_experts_per_tok : 0);
  if (experts.some((n) => !Number.isInteger(n) || n < 1 || n > config.num_experts)) {
    throw new UsageError(
      `experts per token are numbers from 1 to ${config.num_experts}, not ${experts.join(", ")}`,
    );
  }
  const settings = [
    ...planSettings(config, wanted, shares, experts),
    ...keptByLayer.map((list, i) => givenSetting(config, list, i + 1)),
  ];
  const calibrationTokens = options.calibrationTokens ?? Math.ceil(tokens / 4);
  // No longer than what calibrates: the first window of a short text would take most of what is to be measured.
  const window = Math.min(config.max_position_embeddings, tokens, calibrationTokens);
  const corpus = await openCorpus(options.data, { signal });
  for (const note of corpus.notes) options.announce?.(note);
  options.onProgress?.("reading text", 0);
  const text = await readStudyText(corpus, tokenizer, {
    window,
    tokens,
    calibrationTokens,
  });
  const inputs = { text: hashOf(text), window, wanted, shares, keptByLayer };
  return { text, settings, seed, tolerance, inputs };
}

/** Every smaller number, or about six of them. */
function fewerExperts(active: number): number[] {
  const step = Math.max(1, Math.ceil((active - 1) / 6));
  const numbers: number[] = [];
  for (let n = active - 1; n >= 1; n -= step) numbers.push(n);
  return numbers;
}

function hashOf({ calibration, measured }: StudyText): string {
  const hash = createHash("sha256");
  for (const windows of [calibration, measured]) {
    for (const { document, inputs, targets } of windows) {
      hash.update(`${document},${inputs.length};`);
      hash.update(inputs);
      hash.update(targets);
    }
    hash.update("|");
  }
  return hash.digest("hex");
}
