// One reading of how many neurons to keep, for every command and for the library.

import { UsageError } from "../errors.ts";
import { expertWidth, type ModelConfig } from "./config.ts";

/**
 * Neurons kept per token in each expert: a share ("25%", "0.25", "1.0"; as a number: below 1), a count ("64"; as a number:
 * from 1 up), "all", or a list with a count for each layer.
 */
export type NeuronsOption = number | string | readonly number[];

/** K, or K of each layer. */
export type Kept = number | readonly number[];

/**
 * Resolves an option for a configuration. Text with a percent sign or a decimal point is a share, whole numbers are counts:
 * "1" is one neuron, "1.0" and "100%" are all.
 * @throws UsageError for what is neither, or out of bounds.
 */
export function resolveNeurons(neurons: NeuronsOption, config: ModelConfig): Kept {
  const width = expertWidth(config);
  if (typeof neurons === "object") {
    const layers = config.num_hidden_layers;
    if (neurons.length !== layers) {
      throw new UsageError(`neurons are given for ${neurons.length} layers, but the model has ${layers}`);
    }
    return neurons.map((count) => checkCount(count, width, String(count)));
  }
  return countOfNeurons(neurons, width);
}

/** K of experts of a width from a share or a count, by the rules of `resolveNeurons`. @throws UsageError likewise. */
export function countOfNeurons(neurons: number | string, width: number): number {
  const text = String(neurons).trim();
  if (text === "all") return width;
  const share = shareOf(neurons, text);
  if (share === undefined) return checkCount(numberOf(text), width, text);
  // Rounded up, but not for the last digit of a product that should be whole.
  const kept = Math.ceil(share * width - 1e-6);
  if (!(share > 0 && share <= 1 && kept >= 1)) throw wrong(text, width);
  return kept;
}

/**
 * K of experts of a width when a share of their neurons is pruned: the nearest count, at least one. Such a share is a point
 * of a curve, and the nearest count lies nearest to it; `resolveNeurons` rounds up instead, because who asks to keep a share
 * gets no less than that. Of 256 neurons, 80 % pruned leaves 51, and `--neurons 20%` keeps 52.
 */
export function countOfPruned(share: number, width: number): number {
  return Math.max(1, Math.round((1 - share) * width));
}

/** Undefined for a count. */
function shareOf(neurons: number | string, text: string): number | undefined {
  if (text.endsWith("%")) return numberOf(text.slice(0, -1)) / 100;
  if (typeof neurons === "number") return neurons < 1 ? neurons : undefined;
  return /[.eE]/.test(text) ? numberOf(text) : undefined;
}

function numberOf(text: string): number {
  return text.trim() === "" ? Number.NaN : Number(text);
}

function checkCount(count: number, width: number, text: string): number {
  if (!Number.isInteger(count) || count < 1 || count > width) throw wrong(text, width);
  return count;
}

function wrong(text: string, width: number): UsageError {
  return new UsageError(
    `neurons must be a share above 0 and at most 1 (25%, 0.25), or a count from 1 to the expert width ${width}, not ${text}`,
  );
}
