// The configuration of a model: the keys of a qwen3_moe `config.json`, with the extra ones of this project. One
// table says everything about a key: its default, its type, its meaning. Parsing, checking, help and docs read it.

import { nearest, quote, UsageError } from "../errors.ts";
import { type Activation, activations } from "../kernels/activation.ts";
import type { ModelVariant } from "./variant.ts";

/** Keys as on disk, hence snake_case. Counts unless said otherwise. */
export interface ModelConfig {
  /** V */
  vocab_size: number;
  /** D */
  hidden_size: number;
  num_hidden_layers: number;
  /** H */
  num_attention_heads: number;
  num_key_value_heads: number;
  head_dim: number;
  /** RMSNorm of queries and keys per head. */
  qk_norm: boolean;
  /** Tokens a query sees, itself included; null: all earlier ones. */
  sliding_window: number | null;
  max_position_embeddings: number;
  rope_theta: number;
  rms_norm_eps: number;
  tie_word_embeddings: boolean;
  hidden_act: Activation;
  /** E; 0: every layer is dense. */
  num_experts: number;
  /** A */
  num_experts_per_tok: number;
  /** F of routed experts. */
  moe_intermediate_size: number;
  /** F of dense layers. */
  intermediate_size: number;
  /** Layers (from 0) that are dense although there are experts. */
  mlp_only_layers: readonly number[];
  /** F of an expert that every token visits besides the routed ones; 0: none. */
  shared_expert_intermediate_size: number;
  norm_topk_prob: boolean;
  /** K: neurons kept per token in each routed expert (in dense layers where there are no experts); null: all. */
  num_neurons_per_tok: number | null;
  router_aux_loss_coef: number;
  neuron_aux_loss_coef: number;
  neuron_aux_loss: { normalise: "l1" | "none"; masked: "all" | "topk" };
  /** Standard deviation of initial weights. */
  initializer_range: number;
  /** What a family does differently from models of our own; no key on disk. Such models run, but do not train. */
  readonly variant?: ModelVariant;
}

/** The numbers that are left open are derived from others by `resolveModelConfig`. */
export const modelDefaults: Omit<ModelConfig, "variant"> = {
  vocab_size: 256,
  hidden_size: 256,
  num_hidden_layers: 6,
  num_attention_heads: 8,
  num_key_value_heads: 8,
  head_dim: 32,
  qk_norm: true,
  sliding_window: null,
  max_position_embeddings: 256,
  rope_theta: 10000,
  rms_norm_eps: 1e-6,
  tie_word_embeddings: true,
  hidden_act: "silu",
  num_experts: 16,
  num_experts_per_tok: 4,
  moe_intermediate_size: 256,
  intermediate_size: 1024,
  mlp_only_layers: [],
  shared_expert_intermediate_size: 0,
  norm_topk_prob: true,
  num_neurons_per_tok: null,
  router_aux_loss_coef: 0.01,
  neuron_aux_loss_coef: 0.01,
  neuron_aux_loss: { normalise: "l1", masked: "all" },
  initializer_range: 0.02,
};

export const modelKeys = Object.keys(modelDefaults) as (keyof typeof modelDefaults)[];

/**
 * A complete, checked configuration from a partial one. `num_key_value_heads` defaults to the query heads and
 * `head_dim` to hidden_size / heads.
 * @param where named in error messages, e.g. the file the configuration came from.
 * @param variant what the model's family does differently.
 * @throws UsageError for an unknown key (with the nearest known one) or values that cannot work together.
 */
export function resolveModelConfig(
  partial: Readonly<Record<string, unknown>>,
  where = "model",
  variant?: ModelVariant,
): ModelConfig {
  for (const key of Object.keys(partial)) {
    if (!(modelKeys as string[]).includes(key)) {
      const suggestion = nearest(key, modelKeys);
      throw new UsageError(
        `${where}: unknown key "${key}"${suggestion ? `; did you mean "${suggestion}"?` : "; see mone train --help"}`,
      );
    }
  }
  const given = partial as Partial<ModelConfig>;
  const config: ModelConfig = {
    ...modelDefaults,
    ...given,
    neuron_aux_loss: { ...modelDefaults.neuron_aux_loss, ...given.neuron_aux_loss },
    ...(variant && { variant }),
  };
  if (given.num_key_value_heads === undefined) config.num_key_value_heads = config.num_attention_heads;
  if (given.head_dim === undefined) config.head_dim = config.hidden_size / config.num_attention_heads;
  checkModelConfig(config, where);
  return config;
}

/** A configuration with other values for some keys. @throws UsageError as `resolveModelConfig`. */
export function withOverrides(
  { variant, ...config }: ModelConfig,
  overrides: Partial<Omit<ModelConfig, "variant">>,
  where: string,
): ModelConfig {
  return resolveModelConfig({ ...config, ...overrides }, where, variant);
}

/** Of counts: what kernels take as an integer. */
const MOST = 2 ** 31;

/** @throws UsageError naming the first value that cannot work. */
export function checkModelConfig(config: ModelConfig, where: string): void {
  const fail = (message: string): never => {
    throw new UsageError(`${where}: ${message}`);
  };
  const integer = (key: keyof ModelConfig, low: number, high = MOST) => {
    const value = config[key];
    if (typeof value !== "number" || !Number.isInteger(value) || value < low || value > high) {
      // A bound that no real model is near is told only to who is beyond it.
      const both = high < MOST || (typeof value === "number" && value > high);
      fail(
        `${key} must be an integer ${both ? `from ${low} to ${high}` : `of at least ${low}`}, not ${quote(value)}`,
      );
    }
  };
  const nonNegative = (key: keyof ModelConfig) => {
    const value = config[key];
    if (typeof value !== "number" || !(value >= 0) || !Number.isFinite(value)) {
      fail(`${key} must be a number of at least 0, not ${quote(value)}`);
    }
  };
  const boolean = (key: keyof ModelConfig) => {
    if (typeof config[key] !== "boolean") fail(`${key} must be true or false, not ${quote(config[key])}`);
  };
  for (const key of [
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "intermediate_size",
  ] as const) {
    integer(key, 1);
  }
  if (!Number.isInteger(config.head_dim)) {
    fail(
      `hidden_size ${config.hidden_size} does not divide into ${config.num_attention_heads} heads: ` +
        "change num_attention_heads or give head_dim",
    );
  }
  integer("head_dim", 2, 256);
  if (config.head_dim % 2 !== 0) fail(`head_dim must be even for rotary embeddings, not ${config.head_dim}`);
  if (config.num_attention_heads % config.num_key_value_heads !== 0) {
    fail(
      `num_attention_heads ${config.num_attention_heads} is not a multiple of ` +
        `num_key_value_heads ${config.num_key_value_heads}`,
    );
  }
  if (config.sliding_window !== null) integer("sliding_window", 1);
  for (const key of ["qk_norm", "tie_word_embeddings", "norm_topk_prob"] as const) boolean(key);
  if (typeof config.hidden_act !== "string" || !Object.hasOwn(activations, config.hidden_act)) {
    fail(`hidden_act must be one of ${Object.keys(activations).join(", ")}, not ${quote(config.hidden_act)}`);
  }
  integer("num_experts", 0);
  integer("shared_expert_intermediate_size", 0);
  if (config.num_experts > 0) {
    integer("num_experts_per_tok", 1);
    integer("moe_intermediate_size", 1);
    if (config.num_experts_per_tok > config.num_experts) {
      fail(
        `num_experts_per_tok ${config.num_experts_per_tok} is more than num_experts ${config.num_experts}`,
      );
    }
  }
  const width = expertWidth(config);
  const kept = config.num_neurons_per_tok;
  if (kept !== null && (!Number.isInteger(kept) || kept < 1 || kept > width)) {
    fail(`num_neurons_per_tok must be an integer from 1 to the expert width ${width}, not ${quote(kept)}`);
  }
  if (!Array.isArray(config.mlp_only_layers)) fail("mlp_only_layers must be a list of layer numbers");
  for (const layer of config.mlp_only_layers) {
    if (!Number.isInteger(layer) || layer < 0 || layer >= config.num_hidden_layers) {
      fail(
        `mlp_only_layers names layer ${quote(layer)}, but layers go from 0 to ${config.num_hidden_layers - 1}`,
      );
    }
  }
  // Angles are negative powers of it: of 0 infinite ones, without a cosine.
  if (!(config.rope_theta > 0 && Number.isFinite(config.rope_theta))) {
    fail(`rope_theta must be a number above 0, not ${quote(config.rope_theta)}`);
  }
  for (const key of [
    "rms_norm_eps",
    "router_aux_loss_coef",
    "neuron_aux_loss_coef",
    "initializer_range",
  ] as const) {
    nonNegative(key);
  }
  const { normalise, masked, ...others } = config.neuron_aux_loss ?? {};
  if (!["l1", "none"].includes(normalise)) fail("neuron_aux_loss.normalise must be l1 or none");
  if (!["all", "topk"].includes(masked)) fail("neuron_aux_loss.masked must be all or topk");
  if (Object.keys(others).length > 0)
    fail(`neuron_aux_loss has an unknown key ${quote(Object.keys(others)[0])}`);
}

/** F of the layers in which neurons are selected. */
export function expertWidth(config: ModelConfig): number {
  return config.num_experts > 0 ? config.moe_intermediate_size : config.intermediate_size;
}

/** K of the layers in which neurons are selected. */
export function keptNeurons(config: ModelConfig): number {
  return config.num_neurons_per_tok ?? expertWidth(config);
}

/** Whether layer `index` routes to experts. */
export function isSparseLayer(config: ModelConfig, index: number): boolean {
  return config.num_experts > 0 && !config.mlp_only_layers.includes(index);
}
