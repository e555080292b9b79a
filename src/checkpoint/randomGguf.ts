// A model of random weights as a GGUF file (architecture qwen3moe), so that llama.cpp can be timed on the same shape as
// this project. Its tokenizer is bytes with filler merges: valid, not useful.

import { throwIfAborted, UsageError } from "../errors.ts";
import type { ModelConfig } from "../model/config.ts";
import { NormalRow } from "../random.ts";
import { BYTE_CHARACTERS } from "../text/byteLevel.ts";
import { encodeGguf, type GgufTensor, type GgufType, type GgufValue, ggufTypes, writeGguf } from "./gguf.ts";
import { ggufFileTypes, ggufModelKeys } from "./ggufKeys.ts";

/** Bytes, at least one merge, and the end of text. */
const SMALLEST_VOCABULARY = 320;

export interface RandomGgufOptions {
  /** Form of the matrices; norms and the router are f32. */
  readonly type: GgufType;
  readonly seed?: number;
  readonly signal?: AbortSignal;
}

/**
 * Writes such a file for a model in which every layer has experts.
 * @throws UsageError for a model that qwen3moe cannot express; RunError for a full disk.
 */
export async function writeRandomGguf(
  path: string,
  config: ModelConfig,
  { type, seed = 1, signal }: RandomGgufOptions,
): Promise<void> {
  if (config.num_experts === 0 || config.mlp_only_layers.length > 0) {
    throw new UsageError("llama.cpp's qwen3moe needs experts in every layer.");
  }
  if (config.vocab_size < SMALLEST_VOCABULARY) {
    throw new UsageError(
      `vocab_size must be at least ${SMALLEST_VOCABULARY} for the tokenizer of a GGUF file, not ${config.vocab_size}.`,
    );
  }
  await writeGguf(path, metadataOf(config, type), tensorsOf(config, type, seed, signal));
}

function metadataOf(config: ModelConfig, type: GgufType): Record<string, GgufValue> {
  const u32 = (value: number) => ({ u32: value });
  const { tokens, merges } = fillerVocabulary(config.vocab_size);
  const last = tokens.length - 1;
  const [normal, control] = [1, 3];
  return {
    "general.architecture": "qwen3moe",
    "general.name": "random weights",
    "general.file_type": u32(ggufFileTypes[type]),
    "general.quantization_version": u32(2),
    ...ggufModelKeys("qwen3moe", config),
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": { strings: tokens },
    "tokenizer.ggml.token_type": { i32s: tokens.map((_, i) => (i === last ? control : normal)) },
    "tokenizer.ggml.merges": { strings: merges },
    "tokenizer.ggml.bos_token_id": u32(last),
    "tokenizer.ggml.eos_token_id": u32(last),
    "tokenizer.ggml.add_bos_token": false,
  };
}

/** The 256 bytes as GPT-2 writes them, pairs of them, and an end token. */
function fillerVocabulary(size: number): { tokens: string[]; merges: string[] } {
  const pairs = BYTE_CHARACTERS.slice(97, 123)
    .flatMap((first) => BYTE_CHARACTERS.map((second) => [first, second]))
    .slice(0, size - 257);
  if (pairs.length < size - 257)
    throw new UsageError(`A vocabulary of ${size} is too large for filler merges.`);
  return {
    tokens: [...BYTE_CHARACTERS, ...pairs.map((pair) => pair.join("")), "<|endoftext|>"],
    merges: pairs.map((pair) => pair.join(" ")),
  };
}

function tensorsOf(config: ModelConfig, type: GgufType, seed: number, signal?: AbortSignal): GgufTensor[] {
  const { hidden_size: D, num_experts: E, moe_intermediate_size: F, head_dim: C, vocab_size: V } = config;
  const [queries, keys] = [config.num_attention_heads * C, config.num_key_value_heads * C];
  const random = new RandomRows(
    Math.max(V * D, F * D, E * D, queries * D),
    config.initializer_range,
    seed,
    signal,
  );
  const matrix = (name: string, shape: number[], as: GgufType = type): GgufTensor => ({
    name: `${name}.weight`,
    shape,
    type: as,
    data: () => random.pieces(shape, as),
  });
  const ones = (name: string, size: number): GgufTensor => ({
    name: `${name}.weight`,
    shape: [size],
    type: "F32",
    data: () => [encodeGguf(new Float32Array(size).fill(1), "F32")],
  });
  const layers = Array.from({ length: config.num_hidden_layers }, (_, layer) => {
    const at = `blk.${layer}`;
    return [
      ones(`${at}.attn_norm`, D),
      matrix(`${at}.attn_q`, [queries, D]),
      matrix(`${at}.attn_k`, [keys, D]),
      matrix(`${at}.attn_v`, [keys, D]),
      matrix(`${at}.attn_output`, [D, queries]),
      ones(`${at}.attn_q_norm`, C),
      ones(`${at}.attn_k_norm`, C),
      ones(`${at}.ffn_norm`, D),
      matrix(`${at}.ffn_gate_inp`, [E, D], "F32"),
      matrix(`${at}.ffn_gate_exps`, [E, F, D]),
      matrix(`${at}.ffn_up_exps`, [E, F, D]),
      matrix(`${at}.ffn_down_exps`, [E, D, F]),
    ];
  });
  return [
    matrix("token_embd", [V, D]),
    ones("output_norm", D),
    ...(config.tie_word_embeddings ? [] : [matrix("output", [V, D])]),
    ...layers.flat(),
  ];
}

/** Pieces of one long row of normal numbers, encoded once for each type. They begin with a block of any type. */
class RandomRows {
  readonly #row: NormalRow;
  readonly #encoded = new Map<GgufType, Uint8Array>();
  readonly #signal?: AbortSignal;
  #taken = 0;

  constructor(longest: number, deviation: number, seed: number, signal?: AbortSignal) {
    this.#row = new NormalRow(seed, "random gguf", longest, { deviation, spread: 1 << 16, step: 32 });
    this.#signal = signal;
  }

  /** A matrix, or several: [E, rows, width]. */
  *pieces(shape: readonly number[], type: GgufType): Generator<Uint8Array> {
    const encoded = this.#encoded.get(type) ?? encodeGguf(this.#row.values, type);
    this.#encoded.set(type, encoded);
    const { block, bytes } = ggufTypes[type];
    const [rows, width] = shape.slice(-2);
    const length = ((rows * width) / block) * bytes;
    for (let i = 0; i < (shape.length === 3 ? shape[0] : 1); i++) {
      throwIfAborted(this.#signal);
      const place = (this.#row.place(this.#taken++) / block) * bytes;
      yield encoded.subarray(place, place + length);
    }
  }
}
