// The sizes of model that benchmarks take: names of presets, widths, or all of a series; and K as a number or a share.

import { nearest, UsageError } from "../errors.ts";
import { type ModelConfig, resolveModelConfig } from "../model/config.ts";
import { type SizeName, sizedConfig, sizes } from "../model/presets.ts";

export interface BenchSize {
  /** "small", or "D 192" where a width has no name. */
  readonly name: string;
  readonly width: number;
}

/** The series over which overhead and gain are shown, as widths. */
export const seriesWidths = [64, 128, 192, 256, 384, 512] as const;

/**
 * Sizes by name, by width, or "all" for the series.
 * @throws UsageError for anything else, or a width that is no multiple of 32.
 */
export function parseSizes(words: readonly string[]): BenchSize[] {
  return words.flatMap((word) => {
    if (word === "all") return seriesWidths.map(sizeOfWidth);
    if (word in sizes) return [{ name: word, width: sizes[word as SizeName] }];
    const width = Number(word);
    if (Number.isInteger(width) && width >= 32 && width % 32 === 0) return [sizeOfWidth(width)];
    const suggestion = nearest(word, [...Object.keys(sizes), "all"]);
    throw new UsageError(
      `There is no size "${word}"${suggestion ? `; did you mean "${suggestion}"?` : ""}: give ${Object.keys(sizes).join(", ")}, all, or a width that is a multiple of 32.`,
    );
  });
}

function sizeOfWidth(width: number): BenchSize {
  const name = Object.entries(sizes).find(([, size]) => size === width)?.[0];
  return { name: name ?? `D ${width}`, width };
}

/** A complete configuration of a size. `kept`: K, or null for all neurons. */
export function configOf(
  { width }: BenchSize,
  kept: number | null,
  more: Partial<ModelConfig> = {},
): ModelConfig {
  return resolveModelConfig({ ...sizedConfig(width), num_neurons_per_tok: kept, ...more }, `width ${width}`);
}
