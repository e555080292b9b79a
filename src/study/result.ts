// What a study leaves behind: `study.json`, versioned (checkpoint/studyFile.ts has the version and reads the part that other
// commands need), and the numbers that follow from the sums of windows.

import { expertWidth, isSparseLayer, type ModelConfig } from "../model/config.ts";
import type { Kept } from "../model/neurons.ts";
import { countParameters } from "../model/parameters.ts";
import type { LayerStatistics } from "./activation.ts";
import { bootstrap, type Interval } from "./bootstrap.ts";
import type { Evaluation, WindowSums } from "./evaluate.ts";
import type { Criterion, Setting } from "./settings.ts";

export interface SettingResult {
  readonly name: string;
  readonly kind: Setting["kind"];
  readonly criterion: Criterion;
  readonly kept: Kept;
  readonly active?: number;
  /** Neurons dropped, of all neurons of the visited experts; measured on the first tokens where it varies. */
  readonly prunedShare: number;
  /** Weights that a token multiplies with, on average. */
  readonly activatedParameters: number;
  /** Nats per token. */
  readonly loss: number;
  readonly perplexity: number;
  readonly bitsPerByte: number;
  /** Perplexity divided by the reference's. */
  readonly ratio: number;
  readonly ratioInterval: Interval;
  /** KL(reference || setting), nats per token. */
  readonly divergence: number;
  readonly divergenceInterval: Interval;
  /** Share of tokens with the reference's most likely next token. */
  readonly agreement: number;
  readonly agreementInterval: Interval;
  /** By layer in which neurons are selected: relative error of the output for the same input. */
  readonly layerErrors: readonly number[];
}

export interface SpeedResult {
  readonly name: string;
  /** Setting that it belongs to, if it was measured. */
  readonly setting?: string;
  readonly kind: "neurons" | "experts" | "static";
  readonly prunedShare: number;
  readonly activatedParameters: number;
  /** Median over turns, and the slowest and fastest of them. */
  readonly tokensPerSecond: number;
  readonly least: number;
  readonly most: number;
  /** Of medians, against the model as it is. */
  readonly speedup: number;
}

/** How long speeds were measured; slow models get fewer turns, and shorter ones. */
export interface Timing {
  readonly turns: number;
  /** In a turn. */
  readonly tokens: number;
}

export interface Verdict {
  /** In words, for people. */
  readonly text: string;
  /** Largest share found whose perplexity is within the tolerance. */
  readonly prunedShare: number;
  readonly ratio: number;
  readonly ratioInterval: Interval;
  /** By bytes of weights that a decoding step reads. */
  readonly expectedSpeedup: number;
  readonly measuredSpeedup: number;
}

export interface StudyResult {
  readonly format: string;
  readonly version: number;
  /** What `--neurons study.json` applies: K, or K of each layer. */
  readonly kept: Kept;
  readonly verdict: Verdict;
  /** The path is how it was named, if it was. */
  readonly model: { readonly path?: string; readonly config: ModelConfig; readonly dtype: string };
  readonly text: {
    readonly name: string;
    readonly tokens: number;
    readonly bytes: number;
    readonly windows: number;
    readonly documents: number;
    readonly calibrationTokens: number;
    /** Length of windows. */
    readonly window: number;
  };
  readonly options: {
    readonly seed: number;
    /** Rise of perplexity that the verdict allows, e.g. 0.01. */
    readonly tolerance: number;
    readonly shares: readonly number[];
  };
  /** What the bootstrap draws again: documents, or windows where there are few documents. */
  readonly unit: { readonly kind: "document" | "window"; readonly count: number };
  readonly settings: readonly SettingResult[];
  /** On the measured text; use and overlap for `kept` neurons. */
  readonly activation: { readonly kept: number; readonly layers: readonly LayerStatistics[] };
  /** Divergence on calibration text when one layer alone keeps so many neurons, by layer and count. */
  readonly allocation?: {
    readonly counts: readonly number[];
    readonly costs: readonly (readonly number[])[];
  };
  readonly speeds: readonly SpeedResult[];
  readonly timing: Timing;
  /** Where speeds were measured. */
  readonly machine: string;
  readonly packageVersion: string;
  readonly createdAt: string;
}

/** Fewer documents than this say little about others; windows are drawn instead. */
const LEAST_DOCUMENTS = 20;

/** Which unit each window belongs to. */
export function unitsOf(
  documents: readonly number[],
): StudyResult["unit"] & { readonly of: readonly number[] } {
  const numbers = [...new Set(documents)];
  return numbers.length >= LEAST_DOCUMENTS
    ? { kind: "document", count: numbers.length, of: documents.map((one) => numbers.indexOf(one)) }
    : { kind: "window", count: documents.length, of: documents.map((_, i) => i) };
}

/** Means and intervals of a setting. */
export function settingResult(
  config: ModelConfig,
  setting: Setting,
  evaluation: Evaluation,
  reference: readonly WindowSums[],
  units: readonly number[],
  seed: number,
): SettingResult {
  const { windows, keptShares, layerErrors } = evaluation;
  const count = Math.max(...units) + 1;
  const byUnit = (of: (sums: WindowSums, i: number) => number) => {
    const sums = new Float64Array(count);
    for (const [i, window] of windows.entries()) sums[units[i]] += of(window, i);
    return sums;
  };
  const tokens = byUnit((sums) => sums.tokens);
  const loss = byUnit((sums) => sums.loss);
  const more = byUnit((sums, i) => sums.loss - reference[i].loss);
  const divergence = byUnit((sums) => sums.divergence);
  const agrees = byUnit((sums) => sums.agrees);
  const once = new Uint32Array(count).fill(1);
  const perToken = (of: Float64Array, weights: Uint32Array) => {
    let [sum, n] = [0, 0];
    for (let u = 0; u < count; u++) {
      sum += weights[u] * of[u];
      n += weights[u] * tokens[u];
    }
    return sum / n;
  };
  const interval = (of: (weights: Uint32Array) => number) => bootstrap(count, of, { seed });
  const bytes = windows.reduce((sum, one) => sum + one.bytes, 0);
  const total = tokens.reduce((a, b) => a + b, 0);
  const mean = perToken(loss, once);
  const { name, kind, criterion, kept, active } = setting;
  const keptShare =
    criterion === "threshold" && keptShares.length > 0
      ? keptShares.reduce((a, b) => a + b, 0) / keptShares.length
      : meanKept(config, kept) / expertWidth(config);
  return {
    name,
    kind,
    criterion,
    kept,
    ...(active !== undefined && { active }),
    prunedShare: 1 - keptShare,
    activatedParameters: activatedParameters(config, criterion, keptShare, active),
    loss: mean,
    perplexity: Math.exp(mean),
    bitsPerByte: ((mean / Math.LN2) * total) / bytes,
    ratio: Math.exp(perToken(more, once)),
    ratioInterval: interval((weights) => Math.exp(perToken(more, weights))),
    divergence: perToken(divergence, once),
    divergenceInterval: interval((weights) => perToken(divergence, weights)),
    agreement: perToken(agrees, once),
    agreementInterval: interval((weights) => perToken(agrees, weights)),
    layerErrors,
  };
}

/** Mean K over the layers in which neurons are selected. */
export function meanKept(config: ModelConfig, kept: Kept): number {
  if (typeof kept === "number") return kept;
  const counts = kept.filter((_, layer) => config.num_experts === 0 || isSparseLayer(config, layer));
  return counts.reduce((a, b) => a + b, 0) / counts.length;
}

/**
 * Weights that a token multiplies with. By the gate (`gate`, `threshold`): gate whole, of up and down what is kept; by
 * |h| (`oracle`): gate and up whole; known beforehand (`random`, `static`): what is kept only.
 */
export function activatedParameters(
  config: ModelConfig,
  criterion: Criterion,
  keptShare: number,
  active = config.num_experts_per_tok,
): number {
  const changed = { ...config, num_experts_per_tok: active, num_neurons_per_tok: null };
  const { activatedWithGate, activatedExpertsWithGate: experts } = countParameters(changed);
  const whole = { gate: 1, threshold: 1, oracle: 2, "oracle-norm": 2, random: 0, static: 0 }[criterion];
  return Math.round(activatedWithGate - experts + experts * (whole / 3 + (1 - whole / 3) * keptShare));
}
