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

/** Attention of one layer, after its norm. */
function attentionSpecs(config: ModelConfig, at: string, residual: number): ParameterSpec[] {
  const { hidden_size: D, head_dim: C, initializer_range: std, variant } = config;
  const heads = config.num_attention_heads;
  const [queries, keys] = [heads * C, config.num_key_value_heads * C];
  const matrix = (name: string, rows: number, width: number, init = std): ParameterSpec => ({
    name: `${at}.${name}.weight`,
    shape: [rows, width],
    init,
  });
  const norm = (name: string, width: number): ParameterSpec => ({
    name: `${at}.${name}.weight`,
    shape: [width],
    init: "ones",
  });
  const bias = (name: string, width: number): ParameterSpec => ({
    name: `${at}.${name}.bias`,
    shape: [width],
    init: 0,
  });
  const outputBias = variant?.outputBias ? [bias("o_proj", D)] : [];
  if (variant?.latent) {
    const { queryRank, rank, plain, value } = variant.latent;
    const compressed = rank + C - plain;
    return [
      ...(queryRank === null
        ? [matrix("q_proj", queries, D)]
        : [
            matrix("q_a_proj", queryRank, D),
            ...(variant.qkvBias ? [bias("q_a_proj", queryRank)] : []),
            norm("q_a_layernorm", queryRank),
            matrix("q_b_proj", queries, queryRank),
          ]),
      matrix("kv_a_proj_with_mqa", compressed, D),
      ...(variant.qkvBias ? [bias("kv_a_proj_with_mqa", compressed)] : []),
      norm("kv_a_layernorm", rank),
      matrix("kv_b_proj", heads * (plain + value), rank),
      matrix("o_proj", D, heads * value, residual),
      ...outputBias,
    ];
  }
  const biases = [bias("q_proj", queries), bias("k_proj", keys), bias("v_proj", keys)];
  const whole = variant?.wholeQkNorm;
  return [
    matrix("q_proj", queries, D),
    matrix("k_proj", keys, D),
    matrix("v_proj", keys, D),
    matrix("o_proj", D, queries, residual),
    ...(variant?.qkvBias ? biases : []),
    ...outputBias,
    ...(config.qk_norm ? [norm("q_norm", whole ? queries : C), norm("k_norm", whole ? keys : C)] : []),
  ];
}

/** The matrices of one layer's attention: [outputs, inputs] each. */
export function attentionMatrices(config: ModelConfig): (readonly [rows: number, width: number])[] {
  return attentionSpecs(config, "", 0).flatMap(({ shape }) =>
    shape.length === 2 ? [[shape[0], shape[1]] as const] : [],
  );
}

/** All parameters in a fixed order. */
export function parameterSpecs(config: ModelConfig): ParameterSpec[] {
  const { hidden_size: D, vocab_size: V, initializer_range: std } = config;
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
      ...attentionSpecs(config, `${at}.self_attn`, residual),
      { name: `${at}.post_attention_layernorm.weight`, shape: [D], init: "ones" },
    );
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
        if (config.variant?.sharedGate) {
          specs.push({ name: `${at}.mlp.shared_expert_gate.weight`, shape: [1, D], init: std });
        }
      }
    } else {
      mlp(`${at}.mlp`, config.intermediate_size);
      if (config.variant?.mlpBias) {
        specs.push(
          { name: `${at}.mlp.gate_proj.bias`, shape: [config.intermediate_size], init: 0 },
          { name: `${at}.mlp.up_proj.bias`, shape: [config.intermediate_size], init: 0 },
          { name: `${at}.mlp.down_proj.bias`, shape: [D], init: 0 },
        );
      }
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
