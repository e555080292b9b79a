// What kinds of values the keys of a config.json may have. The file comes from strangers: whoever translates it
// (families.ts, ropeConfig.ts) can rely on these kinds. Not here: whether the values make a model (model/config.ts).

import { quote, UsageError } from "../errors.ts";
import { isObject } from "./strictJson.ts";

/** No dimension, count or position is above it; sums and products of a few stay exact. */
const MOST = 2 ** 31 - 1;
const MOST_LAYERS = 10_000;

interface Kind {
  readonly words: string;
  fits(value: unknown): boolean;
}

const count = (most: number, least = 0): Kind => ({
  words: `a whole number from ${least} to ${most}`,
  fits: (value) => Number.isInteger(value) && (value as number) >= least && (value as number) <= most,
});
const listOf = (kind: Kind, of: string): Kind => ({
  words: `a list of ${of}`,
  fits: (value) => Array.isArray(value) && value.length <= MOST_LAYERS && value.every(kind.fits),
});
const finite: Kind = { words: "a number", fits: Number.isFinite };
const flag: Kind = { words: "true or false", fits: (value) => typeof value === "boolean" };
const text: Kind = { words: "a text", fits: (value) => typeof value === "string" };
const plain: Kind = {
  words: "an object of numbers, texts and lists of numbers",
  fits: (value) =>
    isObject(value) &&
    Object.values(value).every(
      (entry) =>
        entry === null ||
        [finite, flag, text].some(({ fits }) => fits(entry)) ||
        (Array.isArray(entry) && entry.every(Number.isFinite)),
    ),
};

const size = count(MOST);
const kinds: readonly (readonly [Kind, string])[] = [
  [
    size,
    "hidden_size intermediate_size moe_intermediate_size shared_expert_intermediate_size vocab_size head_dim " +
      "num_attention_heads num_key_value_heads max_position_embeddings num_experts n_routed_experts " +
      "num_local_experts num_experts_per_tok n_shared_experts kv_lora_rank q_lora_rank qk_nope_head_dim " +
      "qk_rope_head_dim v_head_dim n_group topk_group max_window_layers sliding_window num_neurons_per_tok",
  ],
  [count(MOST_LAYERS), "num_hidden_layers first_k_dense_replace"],
  [count(MOST, 1), "decoder_sparse_step"],
  [finite, "rms_norm_eps rope_theta routed_scaling_factor clip_qkv"],
  [flag, "tie_word_embeddings norm_topk_prob attention_bias qkv_bias mlp_bias use_sliding_window qk_norm"],
  [text, "topk_method"],
  [listOf(size, "layers"), "mlp_only_layers"],
  [listOf(text, "texts"), "layer_types"],
  [plain, "rope_scaling rope_parameters"],
];

/** Checks the kinds of the keys that it knows; null says nothing and fits. @throws UsageError naming the first that does not. */
export function checkConfigTypes(stored: Readonly<Record<string, unknown>>, where: string): void {
  for (const [kind, names] of kinds) {
    for (const name of names.split(" ")) {
      const value = Object.hasOwn(stored, name) ? stored[name] : null;
      if (value !== null && !kind.fits(value)) {
        throw new UsageError(`${where}: ${name} must be ${kind.words}, not ${quote(value)}`);
      }
    }
  }
}
