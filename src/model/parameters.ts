// Which parameters a configuration has: names, shapes, initial distribution; and how many a token multiplies with.
// Names are those of a qwen3_moe checkpoint, except that the experts of a layer are one tensor [E, ...] each here
// ("model.layers.0.mlp.experts.gate_proj"); src/checkpoint splits them.

import { expertWidth, isSparseLayer, keptNeurons, type ModelConfig } from "./config.ts";

export interface ParameterSpec {
  readonly name: string;
  readonly shape: readonly number[];
  /** Standard deviation of the normal initial value; `ones` for norm weights. */
  readonly init: number | "ones";
}

/** All parameters in a fixed order. */
export function parameterSpecs(config: ModelConfig): ParameterSpec[] {
  const { hidden_size: D, head_dim: C, vocab_size: V, initializer_range: std } = config;
  const queries = config.num_attention_heads * C;
  const keys = config.num_key_value_heads * C;
  // Projections back into the residual stream start smaller, so that its variance does not grow with depth (GPT-2).
  const residual = std / Math.sqrt(2 * config.num_hidden_layers);
  const specs: ParameterSpec[] = [{ name: "model.embed_tokens.weight", shape: [V, D], init: std }];
  const mlp = (prefix: string, width: number) => {
    specs.push(
      { name: `${prefix}.gate_proj.weight`, shape: [width, D], init: std },
      { name: `${prefix}.up_proj.weight`, shape: [width, D], init: std },
      { name: `${prefix}.down_proj.weight`, shape: [D, width], init: residual },
    );
  };
  for (let layer = 0; layer < config.num_hidden_layers; layer++) {
    const at = `model.layers.${layer}`;
    specs.push(
      { name: `${at}.input_layernorm.weight`, shape: [D], init: "ones" },
      { name: `${at}.self_attn.q_proj.weight`, shape: [queries, D], init: std },
      { name: `${at}.self_attn.k_proj.weight`, shape: [keys, D], init: std },
      { name: `${at}.self_attn.v_proj.weight`, shape: [keys, D], init: std },
      { name: `${at}.self_attn.o_proj.weight`, shape: [D, queries], init: residual },
    );
    if (config.qk_norm) {
      specs.push(
        { name: `${at}.self_attn.q_norm.weight`, shape: [C], init: "ones" },
        { name: `${at}.self_attn.k_norm.weight`, shape: [C], init: "ones" },
      );
    }
    specs.push({ name: `${at}.post_attention_layernorm.weight`, shape: [D], init: "ones" });
    if (isSparseLayer(config, layer)) {
      const { num_experts: E, moe_intermediate_size: F } = config;
      specs.push(
        { name: `${at}.mlp.gate.weight`, shape: [E, D], init: std },
        { name: `${at}.mlp.experts.gate_proj`, shape: [E, F, D], init: std },
        { name: `${at}.mlp.experts.up_proj`, shape: [E, F, D], init: std },
        { name: `${at}.mlp.experts.down_proj`, shape: [E, D, F], init: residual },
      );
      if (config.shared_expert_intermediate_size > 0) {
        mlp(`${at}.mlp.shared_expert`, config.shared_expert_intermediate_size);
      }
    } else {
      mlp(`${at}.mlp`, config.intermediate_size);
    }
  }
  specs.push({ name: "model.norm.weight", shape: [D], init: "ones" });
  if (!config.tie_word_embeddings) specs.push({ name: "lm_head.weight", shape: [V, D], init: std });
  return specs;
}

export interface ParameterCounts {
  total: number;
  /** All routed experts (in models without experts: all dense layers). */
  experts: number;
  /** Weights one token multiplies with, the gate projection counted in full: share 1/3 + 2/3 K/F of an expert. */
  activatedWithGate: number;
  /** The same if only the kept neurons count: share K/F of an expert. */
  activatedWithoutGate: number;
  /** The experts' part of the two numbers above. */
  activatedExpertsWithGate: number;
  activatedExpertsWithoutGate: number;
}

/**
 * Counts of a configuration. The look-up of an embedding multiplies nothing and is not activated; the head is,
 * tied or not.
 */
export function countParameters(config: ModelConfig): ParameterCounts {
  const size = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);
  const selected = config.num_experts > 0 ? ".mlp.experts." : ".mlp.";
  let total = 0;
  let experts = 0;
  let embedding = 0;
  for (const { name, shape } of parameterSpecs(config)) {
    total += size(shape);
    if (name.includes(selected)) experts += size(shape);
    if (name === "model.embed_tokens.weight" && !config.tie_word_embeddings) embedding = size(shape);
  }
  const visited = config.num_experts > 0 ? config.num_experts_per_tok / config.num_experts : 1;
  const share = keptNeurons(config) / expertWidth(config);
  const activatedExpertsWithGate = Math.round(experts * visited * (1 / 3 + (2 / 3) * share));
  const activatedExpertsWithoutGate = Math.round(experts * visited * share);
  const others = total - experts - embedding;
  return {
    total,
    experts,
    activatedWithGate: others + activatedExpertsWithGate,
    activatedWithoutGate: others + activatedExpertsWithoutGate,
    activatedExpertsWithGate,
    activatedExpertsWithoutGate,
  };
}
