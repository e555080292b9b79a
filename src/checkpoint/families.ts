// The families of models that can be opened, as transformers 5.18 understands their config.json: defaults of the class,
// what its keys mean here, and how its tensors are named on disk. One entry a family; the mathematics is
// src/model/transformer.ts for all of them.

import { quote, UsageError } from "../errors.ts";
import type { ModelVariant } from "../model/variant.ts";
import { checkConfigTypes } from "./configTypes.ts";
import { checkQuantization } from "./quantization.ts";
import { ropeOf, type Stored } from "./ropeConfig.ts";

export type { Stored } from "./ropeConfig.ts";

/** Keys of ModelConfig, and what differs from models of our own; `family` is added by the caller. */
interface Translation {
  readonly config: Record<string, unknown>;
  readonly variant?: Omit<ModelVariant, "family">;
}

interface Family {
  /** Of the class in transformers, where a config.json leaves a key out. */
  readonly defaults: Stored;
  /** Parts of our names of tensors and what the family calls them; applied one after the other. */
  readonly names?: readonly (readonly [ours: RegExp, theirs: string])[];
  translate(stored: Stored, refuse: (what: string) => never): Translation;
}

const number = (value: unknown, fallback = 0) => (typeof value === "number" ? value : fallback);

/** Layers without experts by the rule of the Qwen families. */
function denseLayers(stored: Stored): number[] {
  const listed = new Set((stored.mlp_only_layers ?? []) as number[]);
  const step = number(stored.decoder_sparse_step, 1);
  const layers = Array.from({ length: number(stored.num_hidden_layers) }, (_, layer) => layer);
  return layers.filter((layer) => listed.has(layer) || (layer + 1) % step !== 0);
}

/**
 * The window, and the layers that have it if not all do.
 * @param slides the class's rule for files that do not list `layer_types`.
 */
function slidingWindow(stored: Stored, slides: (layer: number) => boolean) {
  const off = { sliding_window: null, windowLayers: undefined };
  if (stored.use_sliding_window !== true || !stored.sliding_window) return off;
  const count = number(stored.num_hidden_layers);
  const types = stored.layer_types as readonly string[] | null | undefined;
  const windowLayers = Array.from({ length: count }, (_, layer) => layer).filter((layer) =>
    types ? types[layer] === "sliding_attention" : slides(layer),
  );
  if (windowLayers.length === 0) return off;
  return {
    sliding_window: stored.sliding_window,
    windowLayers: windowLayers.length === count ? undefined : windowLayers,
  };
}

const bothBiases = (stored: Stored) =>
  stored.attention_bias === true ? { qkvBias: true, outputBias: true } : {};

const qwen3Defaults: Stored = {
  vocab_size: 151936,
  max_position_embeddings: 32768,
  rms_norm_eps: 1e-6,
  sliding_window: 4096,
  max_window_layers: 28,
};

const qwen3Moe: Family = {
  defaults: {
    ...qwen3Defaults,
    hidden_size: 2048,
    intermediate_size: 6144,
    num_hidden_layers: 24,
    num_attention_heads: 32,
    num_key_value_heads: 4,
    moe_intermediate_size: 768,
    num_experts: 128,
    num_experts_per_tok: 8,
    router_aux_loss_coef: 0.001,
  },
  translate(stored) {
    const { sliding_window } = slidingWindow({ ...stored, layer_types: null }, () => true);
    return {
      config: {
        sliding_window,
        mlp_only_layers: denseLayers(stored),
        shared_expert_intermediate_size: 0,
        qk_norm: true,
      },
      variant: bothBiases(stored),
    };
  },
};

export const families: Readonly<Record<string, Family>> = {
  olmoe: {
    defaults: {
      vocab_size: 50304,
      hidden_size: 2048,
      intermediate_size: 2048,
      num_hidden_layers: 16,
      num_attention_heads: 16,
      max_position_embeddings: 4096,
      rms_norm_eps: 1e-5,
      num_experts: 64,
      num_experts_per_tok: 8,
      router_aux_loss_coef: 0.01,
    },
    translate(stored) {
      return {
        config: {
          moe_intermediate_size: stored.intermediate_size,
          qk_norm: true,
          sliding_window: null,
          mlp_only_layers: [],
        },
        variant: {
          wholeQkNorm: true,
          ...bothBiases(stored),
          ...(typeof stored.clip_qkv === "number" && { clipQkv: stored.clip_qkv }),
        },
      };
    },
  },

  mixtral: {
    defaults: {
      vocab_size: 32000,
      hidden_size: 4096,
      intermediate_size: 14336,
      num_hidden_layers: 32,
      num_attention_heads: 32,
      num_key_value_heads: 8,
      max_position_embeddings: 131072,
      rope_theta: 1e6,
      rms_norm_eps: 1e-5,
      num_experts: 8,
      num_experts_per_tok: 2,
      router_aux_loss_coef: 0.001,
    },
    names: [
      [/\.mlp\.(experts\.\d+|gate)\./, ".block_sparse_moe.$1."],
      [/(experts\.\d+)\.gate_proj\./, "$1.w1."],
      [/(experts\.\d+)\.up_proj\./, "$1.w3."],
      [/(experts\.\d+)\.down_proj\./, "$1.w2."],
    ],
    translate(stored) {
      return {
        config: {
          moe_intermediate_size: stored.intermediate_size,
          norm_topk_prob: true,
          qk_norm: false,
          sliding_window: stored.sliding_window || null,
          mlp_only_layers: [],
        },
      };
    },
  },

  qwen2_moe: {
    defaults: {
      ...qwen3Defaults,
      hidden_size: 2048,
      intermediate_size: 5632,
      num_hidden_layers: 24,
      num_attention_heads: 16,
      num_key_value_heads: 16,
      moe_intermediate_size: 1408,
      shared_expert_intermediate_size: 5632,
      num_experts: 60,
      num_experts_per_tok: 4,
      router_aux_loss_coef: 0.001,
      qkv_bias: true,
    },
    translate(stored) {
      const { sliding_window, windowLayers } = slidingWindow(
        stored,
        (layer) => layer % 2 === 0 && layer < number(stored.max_window_layers),
      );
      return {
        config: { sliding_window, mlp_only_layers: denseLayers(stored), qk_norm: false },
        variant: {
          sharedGate: true,
          ...(stored.qkv_bias === true && { qkvBias: true }),
          ...(windowLayers && { windowLayers }),
        },
      };
    },
  },

  qwen3_moe: qwen3Moe,

  deepseek_v2: {
    defaults: {
      vocab_size: 102400,
      hidden_size: 4096,
      intermediate_size: 11008,
      num_hidden_layers: 32,
      num_attention_heads: 32,
      max_position_embeddings: 2048,
      rms_norm_eps: 1e-6,
      first_k_dense_replace: 0,
      kv_lora_rank: 512,
      q_lora_rank: 1536,
      topk_method: "greedy",
      num_experts: 64,
      n_shared_experts: 2,
      qk_nope_head_dim: 128,
      qk_rope_head_dim: 64,
      v_head_dim: 128,
      routed_scaling_factor: 1,
      moe_intermediate_size: 1407,
    },
    names: [[/\.mlp\.shared_expert\./, ".mlp.shared_experts."]],
    translate(stored, refuse) {
      const [plain, rotated, value] = ["qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"].map((key) =>
        number(stored[key]),
      );
      if (value > plain + rotated) refuse("v_head_dim above qk_nope_head_dim + qk_rope_head_dim");
      const method = stored.topk_method;
      if (method !== "greedy" && method !== "group_limited_greedy") {
        refuse(`topk_method ${quote(method)}`);
      }
      const limited = method === "group_limited_greedy";
      const [count, kept] = limited ? [number(stored.n_group, 1), number(stored.topk_group, 1)] : [1, 1];
      const experts = number(stored.num_experts);
      if (
        experts % count !== 0 ||
        kept > count ||
        number(stored.num_experts_per_tok) > (experts / count) * kept
      ) {
        refuse("n_group and topk_group that leave too few experts");
      }
      return {
        config: {
          head_dim: plain + rotated,
          num_key_value_heads: stored.num_attention_heads,
          shared_expert_intermediate_size:
            number(stored.moe_intermediate_size) * number(stored.n_shared_experts),
          mlp_only_layers: Array.from(
            { length: Math.min(number(stored.first_k_dense_replace), number(stored.num_hidden_layers)) },
            (_, layer) => layer,
          ),
          norm_topk_prob: false,
          qk_norm: false,
          sliding_window: null,
          // transformers has no auxiliary loss for this family.
          router_aux_loss_coef: 0,
        },
        variant: {
          ...bothBiases(stored),
          latent: {
            queryRank: (stored.q_lora_rank as number | null) ?? null,
            rank: number(stored.kv_lora_rank),
            plain,
            value,
          },
          groupedRouter: { count, kept, scale: number(stored.routed_scaling_factor, 1) },
        },
      };
    },
  },

  llama: {
    defaults: {
      vocab_size: 32000,
      hidden_size: 4096,
      intermediate_size: 11008,
      num_hidden_layers: 32,
      num_attention_heads: 32,
      max_position_embeddings: 2048,
      rms_norm_eps: 1e-6,
      num_experts: 0,
    },
    translate(stored) {
      return {
        config: { num_experts: 0, qk_norm: false, sliding_window: null, mlp_only_layers: [] },
        variant: { ...bothBiases(stored), ...(stored.mlp_bias === true && { mlpBias: true }) },
      };
    },
  },

  qwen3: {
    defaults: {
      ...qwen3Defaults,
      hidden_size: 4096,
      intermediate_size: 22016,
      num_hidden_layers: 32,
      num_attention_heads: 32,
      num_key_value_heads: 32,
      head_dim: 128,
      num_experts: 0,
    },
    translate(stored) {
      const { sliding_window, windowLayers } = slidingWindow(
        stored,
        (layer) => layer >= number(stored.max_window_layers),
      );
      return {
        config: { num_experts: 0, sliding_window, qk_norm: true },
        variant: { ...bothBiases(stored), ...(windowLayers && { windowLayers }) },
      };
    },
  },

  // Models of our own that no other family can express: qwen3_moe with or without q/k norm and a plain shared expert.
  mone: {
    defaults: qwen3Moe.defaults,
    translate(stored, refuse) {
      const { config, variant } = qwen3Moe.translate(stored, refuse);
      const { shared_expert_intermediate_size = 0, qk_norm = true } = stored;
      return { config: { ...config, shared_expert_intermediate_size, qk_norm }, variant };
    },
  },
};

/** A family by its name. @throws UsageError naming the known ones. */
export function familyOf(name: unknown, where: string): Family {
  const family = typeof name === "string" && Object.hasOwn(families, name) ? families[name] : undefined;
  if (family) return family;
  throw new UsageError(
    `${where}: model_type ${quote(name)} is not supported; supported are ${Object.keys(families).join(", ")}`,
  );
}

/**
 * Keys of ModelConfig and the variant, if any, of a config.json.
 * @throws UsageError for what it asks for and is not done here.
 */
export function translateConfig(
  given: Stored,
  where: string,
): { config: Record<string, unknown>; variant?: ModelVariant } {
  const refuse = (what: string): never => {
    throw new UsageError(`${where}: ${what} is not supported; use a checkpoint without it`);
  };
  const name = given.model_type as string;
  const family = familyOf(name, where);
  checkConfigTypes(given, where);
  checkQuantization(given, refuse);
  // A key that is null says nothing, but for these, where it is a value.
  const nullable = ["sliding_window", "num_neurons_per_tok", "q_lora_rank"];
  const said = Object.entries(given).filter(([key, value]) => value !== null || nullable.includes(key));
  const stored: Stored = { ...family.defaults, ...Object.fromEntries(said) };
  const experts = given.num_experts ?? given.n_routed_experts ?? given.num_local_experts;
  if (experts !== undefined && experts !== null) stored.num_experts = experts;
  const { config, variant } = family.translate(stored, refuse);
  const latent = variant?.latent !== undefined;
  const rope = ropeOf(given, { stored, latent, width: Number(config.head_dim ?? 0), refuse });
  const common = {
    ...stored,
    tie_word_embeddings: stored.tie_word_embeddings ?? false,
    norm_topk_prob: stored.norm_topk_prob ?? false,
    rope_theta: rope.theta,
  };
  const full = {
    ...variant,
    ...(rope.scaling && { ropeScaling: rope.scaling }),
    ...(rope.attentionScale && { attentionScale: rope.attentionScale }),
  };
  return {
    config: { ...common, ...config },
    ...(Object.keys(full).length > 0 || family.names ? { variant: { family: name, ...full } } : {}),
  };
}
