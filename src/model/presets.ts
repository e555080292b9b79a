// Model sizes from one dial, the width D: layers 4 + D / 128, heads of 16 to 64, experts as wide as the model.
// 256 and 512 are "small" and "medium" of the benchmarks, 1024 "large".

import { nearest, UsageError } from "../errors.ts";
import { type ModelConfig, resolveModelConfig } from "./config.ts";

/** Width of each named size. */
export const sizes = { tiny: 64, quick: 128, small: 256, medium: 512, large: 1024 } as const;

export type SizeName = keyof typeof sizes;
export type PresetName = `${"moe" | "mone"}-${SizeName}`;

export const presetNames = (Object.keys(sizes) as SizeName[]).flatMap((size) => [
  `moe-${size}` as PresetName,
  `mone-${size}` as PresetName,
]);

/** A MoE of width D (a multiple of 32), 4 experts per token; byte vocabulary, tied head. */
export function sizedConfig(width: number): Partial<ModelConfig> {
  const heads = width >= 256 ? Math.max(8, width / 64) : width / 16;
  return {
    hidden_size: width,
    num_hidden_layers: Math.max(2, Math.round(4 + width / 128)),
    num_attention_heads: heads,
    num_experts: width >= 512 ? 32 : 16,
    num_experts_per_tok: 4,
    moe_intermediate_size: width,
    max_position_embeddings: width >= 512 ? 512 : 256,
  };
}

/**
 * A named preset, e.g. `mone-small`: the size's MoE, and for `mone` K = F / 4, half of its activated expert
 * parameters.
 * @throws UsageError for an unknown name, with the nearest one.
 */
export function presetConfig(name: string): Partial<ModelConfig> {
  const [kind, size] = name.split("-");
  if (!(presetNames as string[]).includes(name)) {
    const suggestion = nearest(name, presetNames);
    throw new UsageError(
      `Unknown preset "${name}"${suggestion ? `; did you mean "${suggestion}"?` : "."} There are: ${presetNames.join(", ")}.`,
    );
  }
  const config = sizedConfig(sizes[size as SizeName]);
  if (kind === "mone") config.num_neurons_per_tok = (config.moe_intermediate_size as number) / 4;
  resolveModelConfig(config, name);
  return config;
}
