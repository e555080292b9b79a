// What a model costs by count: operations of its matrix products, bytes of weights that a token reads. Pure functions
// of a configuration; measured times are divided by them. Letters as in DESIGN: D hidden size, H C query width, G C key
// width, E experts, A of them per token, F neurons, K kept, V vocabulary, S sequence length.

import { isSparseLayer, keptNeurons, type ModelConfig } from "../model/config.ts";

/** Multiplications (each with its addition) of one token's forward pass in training, by part of the model. */
export interface Multiplications {
  readonly dense: number;
  readonly attention: number;
  readonly experts: number;
  readonly head: number;
}

/**
 * Per token, at sequence length S: projections D (2 H C + 2 G C), causal attention H C (S + 1), router D E, experts
 * 3 A F D (training multiplies all neurons; the selection takes values out, not work), head V D.
 */
export function trainingMultiplications(config: ModelConfig, seqLen: number): Multiplications {
  const { hidden_size: D, head_dim: C, num_hidden_layers: layers } = config;
  const queries = config.num_attention_heads * C;
  const keys = config.num_key_value_heads * C;
  let experts = 0;
  let dense = layers * D * (2 * queries + 2 * keys);
  for (let layer = 0; layer < layers; layer++) {
    if (isSparseLayer(config, layer)) {
      dense += D * config.num_experts + 3 * D * config.shared_expert_intermediate_size;
      experts += 3 * config.num_experts_per_tok * config.moe_intermediate_size * D;
    } else {
      dense += 3 * config.intermediate_size * D;
    }
  }
  const attention = layers * queries * (seqLen + 1);
  return { dense, attention, experts, head: config.vocab_size * D };
}

/** Operations of one token's training step: two a multiplication, forward once and backward twice. */
export function trainingFlops(config: ModelConfig, seqLen: number): number {
  const { dense, attention, experts, head } = trainingMultiplications(config, seqLen);
  return 2 * 3 * (dense + attention + experts + head);
}

const BYTES = { f32: 4, bf16: 2, int8: 1 } as const;

/**
 * Bytes of weights that a single token reads: projections, in each visited expert the whole gate and of up and down the
 * rows of the kept neurons, router (f32), head; for int8 with a scale of 4 bytes per row that is read. Norms, the
 * token's own row of the embedding and the cache are left out: they are thousandths.
 */
export function decodeBytes(config: ModelConfig, dtype: keyof typeof BYTES): number {
  const { hidden_size: D, head_dim: C, num_hidden_layers: layers } = config;
  const size = BYTES[dtype];
  const scale = dtype === "int8" ? 4 : 0;
  /** A matrix of so many rows. */
  const matrix = (rows: number, width: number) => rows * (width * size + scale);
  const queries = config.num_attention_heads * C;
  const keys = config.num_key_value_heads * C;
  const network = (neurons: number, kept: number) => matrix(neurons, D) + 2 * matrix(kept, D);
  let bytes = layers * (matrix(queries + 2 * keys, D) + matrix(D, queries)) + matrix(config.vocab_size, D);
  for (let layer = 0; layer < layers; layer++) {
    if (isSparseLayer(config, layer)) {
      bytes += 4 * config.num_experts * D;
      bytes += config.num_experts_per_tok * network(config.moe_intermediate_size, keptNeurons(config));
      const shared = config.shared_expert_intermediate_size;
      if (shared > 0) bytes += network(shared, shared);
    } else {
      const width = config.intermediate_size;
      bytes += network(width, config.num_experts > 0 ? width : keptNeurons(config));
    }
  }
  return bytes;
}
