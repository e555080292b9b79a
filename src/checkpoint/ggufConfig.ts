// The config.json of the model in a GGUF file, from the keys that llama.cpp's architectures have: the reverse of ggufKeys.ts.
// Architectures are those that are written, too; what their keys may also say and is not done here is refused.

import { quote, UsageError } from "../errors.ts";
import { damagedGguf, type GgufFile } from "./ggufReader.ts";

/** What a file's architecture is for transformers. */
interface Architecture {
  readonly family: string;
  readonly className: string;
  /** Keys of config.json that the architecture itself says. */
  readonly fixed: Readonly<Record<string, unknown>>;
}

const architectures: Readonly<Record<string, Architecture>> = {
  qwen3moe: {
    family: "qwen3_moe",
    className: "Qwen3MoeForCausalLM",
    fixed: { norm_topk_prob: true, decoder_sparse_step: 1, mlp_only_layers: [] },
  },
  qwen3: { family: "qwen3", className: "Qwen3ForCausalLM", fixed: {} },
  olmoe: { family: "olmoe", className: "OlmoeForCausalLM", fixed: { norm_topk_prob: false, clip_qkv: null } },
  llama: { family: "llama", className: "LlamaForCausalLM", fixed: { mlp_bias: false } },
};
const mixtral: Architecture = { family: "mixtral", className: "MixtralForCausalLM", fixed: {} };

/** Like llama.cpp, which has room for some hundreds. */
const MOST_EXPERTS = 4096;

/** @throws RunError if the file does not say. */
export function architectureOf(file: GgufFile): string {
  const name = file.text("general.architecture");
  if (name === undefined) throw damagedGguf(file.path, 'there is no key "general.architecture"');
  return name;
}

/**
 * The content of config.json, but for the type of its numbers.
 * @throws UsageError for an architecture or a setting that is not known here; RunError for keys that are missing or wrong.
 */
export function configOfGguf(file: GgufFile): Record<string, unknown> {
  const { path } = file;
  const name = architectureOf(file);
  const at = (key: string) => `${name}.${key}`;
  const refuse = (what: string): never => {
    throw new UsageError(`${path}: ${what} is not supported; use another file or the original checkpoint`);
  };
  const optional = (key: string): number | undefined => {
    if (typeof file.entries.get(at(key)) === "object") refuse(`${at(key)} by layer`);
    return file.number(at(key));
  };
  const required = (key: string): number => {
    const value = optional(key);
    if (value === undefined) throw damagedGguf(path, `there is no key ${quote(at(key))}`);
    return value;
  };
  const known = Object.hasOwn(architectures, name) ? architectures[name] : undefined;
  if (!known) {
    return refuse(`the architecture ${quote(name)} (known are ${Object.keys(architectures).join(", ")})`);
  }
  const experts = optional("expert_count") ?? 0;
  if (experts > MOST_EXPERTS) throw damagedGguf(path, `${experts} experts are more than any model has`);
  const { family, className, fixed } = name === "llama" && experts > 0 ? mixtral : known;
  const scaling = file.text(at("rope.scaling.type")) ?? "none";
  if (scaling !== "none") refuse(`rotary scaling ${quote(scaling)}`);
  if (optional("attention.sliding_window")) refuse("a sliding window");
  if (optional("expert_shared_count") || optional("expert_shared_feed_forward_length"))
    refuse("a shared expert");
  if ((optional("expert_gating_func") ?? 1) > 1) refuse("a router without softmax");
  if (optional("attention.clamp_kqv")) refuse("attention.clamp_kqv");
  const [width, heads] = [required("embedding_length"), required("attention.head_count")];
  const headWidth = optional("attention.key_length") ?? width / heads;
  for (const key of ["attention.value_length", "rope.dimension_count"]) {
    const other = optional(key) ?? headWidth;
    if (other !== headWidth) refuse(`${at(key)} ${other} beside heads of ${headWidth}`);
  }
  const embedding = file.tensors.get("token_embd.weight");
  if (!embedding) throw damagedGguf(path, 'there is no tensor "token_embd.weight"');
  const common = required("feed_forward_length");
  // In some families this key is the width of an expert, in others that of the dense layers that they do not have.
  const expert = optional("expert_feed_forward_length") ?? common;
  const ends = {
    bos_token_id: file.number("tokenizer.ggml.bos_token_id") ?? null,
    eos_token_id: file.number("tokenizer.ggml.eos_token_id") ?? null,
  };
  return {
    architectures: [className],
    model_type: family,
    vocab_size: embedding.shape[0],
    hidden_size: width,
    num_hidden_layers: required("block_count"),
    num_attention_heads: heads,
    num_key_value_heads: optional("attention.head_count_kv") ?? heads,
    head_dim: headWidth,
    intermediate_size: family === "olmoe" || family === "mixtral" ? expert : common,
    max_position_embeddings: required("context_length"),
    hidden_act: "silu",
    rms_norm_eps: decimal(required("attention.layer_norm_rms_epsilon")),
    rope_theta: decimal(optional("rope.freq_base") ?? 10000),
    rope_scaling: null,
    attention_bias: false,
    tie_word_embeddings: !file.tensors.has("output.weight"),
    ...(experts > 0 && {
      [family === "mixtral" ? "num_local_experts" : "num_experts"]: experts,
      num_experts_per_tok: required("expert_used_count"),
    }),
    ...(family === "qwen3_moe" && { moe_intermediate_size: expert }),
    ...(family.startsWith("qwen3") && { use_sliding_window: false, sliding_window: null }),
    ...fixed,
    ...ends,
  };
}

/** The shortest decimal number that is this f32: 1e-6, which no f32 is, comes back as it was written. */
function decimal(value: number): number {
  for (let digits = 1; digits < 9; digits++) {
    const short = Number(value.toPrecision(digits));
    if (Math.fround(short) === Math.fround(value)) return short;
  }
  return value;
}
