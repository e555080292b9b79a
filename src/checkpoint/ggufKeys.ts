// Keys of a GGUF file that say what model it holds, as llama.cpp's architectures name them. Not here: tensors, tokenizer.

import { expertWidth, type ModelConfig } from "../model/config.ts";
import type { GgufType, GgufValue } from "./gguf.ts";

/** Of llama.cpp's list of file types. */
export const ggufFileTypes: Record<GgufType, number> = { F32: 0, Q8_0: 7, BF16: 32 };

/** Shape of the model, under the architecture's name. */
export function ggufModelKeys(architecture: string, config: ModelConfig): Record<string, GgufValue> {
  const u32 = (value: number) => ({ u32: value });
  const width = expertWidth(config);
  const own: Record<string, GgufValue> = {
    context_length: u32(config.max_position_embeddings),
    embedding_length: u32(config.hidden_size),
    block_count: u32(config.num_hidden_layers),
    feed_forward_length: u32(width),
    "attention.head_count": u32(config.num_attention_heads),
    "attention.head_count_kv": u32(config.num_key_value_heads),
    "attention.key_length": u32(config.head_dim),
    "attention.value_length": u32(config.head_dim),
    "attention.layer_norm_rms_epsilon": { f32: config.rms_norm_eps },
    "rope.freq_base": { f32: config.rope_theta },
    "rope.dimension_count": u32(config.head_dim),
    ...(config.num_experts > 0 && {
      expert_feed_forward_length: u32(width),
      expert_count: u32(config.num_experts),
      expert_used_count: u32(config.num_experts_per_tok),
    }),
    vocab_size: u32(config.vocab_size),
  };
  return Object.fromEntries(Object.entries(own).map(([key, value]) => [`${architecture}.${key}`, value]));
}
