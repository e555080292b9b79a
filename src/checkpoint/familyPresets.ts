// Configurations of published models, and tiny ones of the same families, for random checkpoints (`mone init`): the content
// of their config.json. Sizes as published with the models; what a family's class has as default is left out.

import { nearest, UsageError } from "../errors.ts";
import type { Stored } from "./ropeConfig.ts";

const tiny: Stored = {
  vocab_size: 320,
  hidden_size: 64,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  max_position_embeddings: 256,
  initializer_range: 0.1,
};
const experts = (family: Stored): Stored => ({ num_experts: 8, num_experts_per_tok: 2, ...family });

export const familyPresets: Readonly<Record<string, Stored>> = {
  "olmoe-tiny": experts({ model_type: "olmoe", ...tiny, intermediate_size: 32 }),
  "mixtral-tiny": {
    model_type: "mixtral",
    ...tiny,
    intermediate_size: 32,
    num_local_experts: 8,
    num_experts_per_tok: 2,
  },
  "qwen2_moe-tiny": experts({
    model_type: "qwen2_moe",
    ...tiny,
    intermediate_size: 96,
    moe_intermediate_size: 32,
    shared_expert_intermediate_size: 64,
  }),
  "qwen3_moe-tiny": experts({
    model_type: "qwen3_moe",
    ...tiny,
    head_dim: 16,
    intermediate_size: 96,
    moe_intermediate_size: 32,
    norm_topk_prob: true,
  }),
  "deepseek_v2-tiny": {
    model_type: "deepseek_v2",
    ...tiny,
    num_key_value_heads: 4,
    intermediate_size: 96,
    moe_intermediate_size: 32,
    n_routed_experts: 8,
    n_shared_experts: 1,
    num_experts_per_tok: 2,
    first_k_dense_replace: 1,
    q_lora_rank: null,
    kv_lora_rank: 32,
    qk_nope_head_dim: 16,
    qk_rope_head_dim: 8,
    v_head_dim: 16,
  },
  "llama-tiny": { model_type: "llama", ...tiny, intermediate_size: 96 },
  "qwen3-tiny": { model_type: "qwen3", ...tiny, head_dim: 16, intermediate_size: 96 },

  "olmoe-1b-7b": {
    model_type: "olmoe",
    vocab_size: 50304,
    hidden_size: 2048,
    intermediate_size: 1024,
    num_hidden_layers: 16,
    num_attention_heads: 16,
    num_key_value_heads: 16,
    max_position_embeddings: 4096,
    rope_theta: 10000,
    num_experts: 64,
    num_experts_per_tok: 8,
    norm_topk_prob: false,
  },
  "qwen1.5-moe-a2.7b": {
    model_type: "qwen2_moe",
    rope_theta: 1e6,
    max_window_layers: 21,
    norm_topk_prob: false,
  },
  "qwen3-30b-a3b": {
    model_type: "qwen3_moe",
    num_hidden_layers: 48,
    head_dim: 128,
    max_position_embeddings: 40960,
    rope_theta: 1e6,
    norm_topk_prob: true,
  },
  "deepseek-v2-lite": {
    model_type: "deepseek_v2",
    hidden_size: 2048,
    num_hidden_layers: 27,
    num_attention_heads: 16,
    num_key_value_heads: 16,
    intermediate_size: 10944,
    moe_intermediate_size: 1408,
    n_routed_experts: 64,
    n_shared_experts: 2,
    num_experts_per_tok: 6,
    first_k_dense_replace: 1,
    q_lora_rank: null,
    kv_lora_rank: 512,
    max_position_embeddings: 163840,
    rope_theta: 10000,
    rope_scaling: {
      type: "yarn",
      factor: 40,
      beta_fast: 32,
      beta_slow: 1,
      mscale: Math.SQRT1_2,
      mscale_all_dim: Math.SQRT1_2,
      original_max_position_embeddings: 4096,
    },
  },
};

/**
 * A preset's config.json with some keys changed.
 * @throws UsageError for a key that the preset does not have, with the nearest one.
 */
export function familyConfig(preset: string, changes: Stored): Stored {
  const stored = familyPresets[preset];
  // Keys that any of these models may have, whatever this one leaves to its class.
  const known = [
    ...new Set(Object.values(familyPresets).flatMap(Object.keys)),
    "tie_word_embeddings",
    "num_neurons_per_tok",
  ];
  for (const key of Object.keys(changes)) {
    if (known.includes(key) && key !== "model_type") continue;
    const suggestion = nearest(key, known);
    throw new UsageError(
      `${preset} has no key ${key}${suggestion ? `; did you mean "${suggestion}"?` : `; there are ${known.join(", ")}`}`,
    );
  }
  return { ...stored, ...changes };
}
