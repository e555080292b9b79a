// A checkpoint as a GGUF file for llama.cpp and its relatives: architectures qwen3moe, qwen3, olmoe and llama (llama and
// mixtral), as llama.cpp's loader names keys and tensors. One tensor is in memory at a time.
// Letters: D width, E experts, F neurons, C width of a head.

import { existsSync, readFileSync } from "node:fs";
import { basename, join, resolve, sep } from "node:path";
import { throwIfAborted, UsageError } from "../errors.ts";
import { expertWidth, keptNeurons, type ModelConfig } from "../model/config.ts";
import { parameterSpecs } from "../model/parameters.ts";
import { sizeOf } from "../tensor/tensor.ts";
import type { TokenizerJson } from "../text/tokenizerJson.ts";
import { readGenerationDefaults } from "./generation.ts";
import { encodeGguf, type GgufTensor, type GgufType, type GgufValue, ggufTypes, writeGguf } from "./gguf.ts";
import { ggufFileTypes, ggufModelKeys } from "./ggufKeys.ts";
import { ggufName, interleavedRows, tokenTypes } from "./ggufNames.ts";
import { readConfigs, storedParts } from "./modelFolder.ts";
import { requireFloats } from "./quantization.ts";
import { rememberLast, TensorFiles } from "./tensorFiles.ts";
import { findPart } from "./tensorNames.ts";

export interface ExportOptions {
  /** Type of the matrices; norms and routers are f32. */
  readonly type: GgufType;
  readonly onProgress?: (done: number, total: number) => void;
  readonly announce?: (line: string) => void;
  readonly signal?: AbortSignal;
}

/**
 * Writes the file, all of it or none.
 * @throws UsageError for a model that llama.cpp's architectures cannot express; RunError for damage or a full disk.
 */
export async function exportGguf(
  folder: string,
  path: string,
  { type, onProgress, announce, signal }: ExportOptions,
): Promise<{ architecture: string; tensors: number; parameters: number }> {
  const { config, stored } = readConfigs(folder);
  requireFloats(stored, folder, "written as GGUF");
  const architecture = architectureOf(config, stored, folder);
  if (keptNeurons(config) < expertWidth(config)) {
    announce?.("engines that read GGUF use all neurons: this model's K is not in the file");
  }
  const files = TensorFiles.open(folder);
  try {
    const specs = parameterSpecs(config);
    const total = specs.reduce((sum, { shape }) => sum + sizeOf(shape), 0);
    const floats = rememberLast((name) => files.readFloat32(name));
    let done = 0;
    const tensors = specs.map((spec): GgufTensor => {
      const vector = spec.init === "ones";
      const as = vector || spec.name.endsWith(".mlp.gate.weight") ? "F32" : type;
      if (spec.shape[spec.shape.length - 1] % ggufTypes[as].block !== 0) {
        throw new UsageError(
          `${spec.name} has rows of ${spec.shape[spec.shape.length - 1]}, and q8_0 needs multiples of 32: use bf16`,
        );
      }
      function* data() {
        for (const expert of storedParts(spec).keys()) {
          throwIfAborted(signal);
          const part = findPart(files, spec, expert, config.variant?.family);
          const values = files.partOf(floats(part.name), part);
          yield encodeGguf(architecture === "llama" ? interleavedRows(spec, values, config) : values, as);
          done += values.length;
          onProgress?.(done, total);
        }
      }
      return { name: ggufName(spec.name), shape: spec.shape, type: as, data };
    });
    const metadata = {
      "general.architecture": architecture,
      "general.name": nameOf(folder),
      "general.file_type": { u32: ggufFileTypes[type] },
      "general.quantization_version": { u32: 2 },
      ...ggufModelKeys(architecture, config),
      ...tokenizerKeys(folder, config, stored),
    };
    await writeGguf(path, metadata, tensors);
    return { architecture, tensors: tensors.length, parameters: total };
  } finally {
    files.close();
  }
}

function architectureOf(
  config: ModelConfig,
  stored: Readonly<Record<string, unknown>>,
  folder: string,
): string {
  const family = String(stored.model_type);
  const refuse = (what: string) => {
    throw new UsageError(
      `${folder}: ${what} cannot be written as GGUF; use another family or a safetensors target`,
    );
  };
  const { variant } = config;
  if (config.hidden_act !== "silu") refuse(`hidden_act ${config.hidden_act}`);
  if (config.sliding_window !== null) refuse("a sliding window");
  if (config.num_experts > 0 && config.mlp_only_layers.length > 0)
    refuse("a mixture of dense and sparse layers");
  if (variant?.ropeScaling) refuse("rotary scaling");
  if (variant?.qkvBias || variant?.outputBias || variant?.mlpBias) refuse("a model with biases");
  switch (family) {
    case "qwen3_moe":
      if (!config.norm_topk_prob) refuse("norm_topk_prob false");
      return "qwen3moe";
    case "qwen3":
      return "qwen3";
    case "olmoe":
      if (config.norm_topk_prob) refuse("norm_topk_prob true");
      if (variant?.clipQkv !== undefined) refuse("clip_qkv");
      return "olmoe";
    case "mixtral":
    case "llama":
      return "llama";
    default:
      return refuse(`model_type ${family}`);
  }
}

/** A checkpoint is called after its run: RUN/checkpoints/step-200. */
function nameOf(folder: string): string {
  const [run, checkpoints, step] = resolve(folder).split(sep).slice(-3);
  return checkpoints === "checkpoints" && /^step-\d+$/.test(step) ? run : basename(resolve(folder));
}

/** Byte-level BPE as llama.cpp takes it. */
function tokenizerKeys(
  folder: string,
  { vocab_size: V }: ModelConfig,
  stored: Readonly<Record<string, unknown>>,
): Record<string, GgufValue> {
  const path = join(folder, "tokenizer.json");
  if (!existsSync(path)) throw new UsageError(`${folder} has no tokenizer.json, and a GGUF file needs one`);
  const json = JSON.parse(readFileSync(path, "utf8")) as TokenizerJson;
  if (json.model?.type !== "BPE") throw new UsageError(`${path}: only byte-level BPE can be written as GGUF`);
  const tokens = Array.from({ length: V }, (_, id) => `[unused${id}]`);
  const types: number[] = new Array<number>(V).fill(tokenTypes.unused);
  for (const [token, id] of Object.entries(json.model.vocab)) {
    tokens[id] = token;
    types[id] = tokenTypes.normal;
  }
  for (const { id, content, special } of json.added_tokens ?? []) {
    tokens[id] = content;
    types[id] = special ? tokenTypes.control : tokenTypes.userDefined;
  }
  const merges = json.model.merges.map((merge) => (Array.isArray(merge) ? merge.join(" ") : merge));
  const eos =
    readGenerationDefaults(folder).eosIds?.[0] ?? json.added_tokens?.find(({ special }) => special)?.id;
  const bos = typeof stored.bos_token_id === "number" ? stored.bos_token_id : undefined;
  return {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": preTokenizer(json.pre_tokenizer),
    "tokenizer.ggml.tokens": { strings: tokens },
    "tokenizer.ggml.token_type": { i32s: types },
    "tokenizer.ggml.merges": { strings: merges },
    ...(bos !== undefined && { "tokenizer.ggml.bos_token_id": { u32: bos } }),
    ...(eos !== undefined && { "tokenizer.ggml.eos_token_id": { u32: eos } }),
    "tokenizer.ggml.add_bos_token": false,
  };
}

/** llama.cpp's name for the rule that splits a text into words, told by the rule itself. */
function preTokenizer(rule: unknown): string {
  const text = JSON.stringify(rule ?? null);
  if (text.includes("\\\\p{N}{1,3}")) return "llama-bpe";
  if (text.includes("(?i:'s|'t|'re|'ve|'m|'ll|'d)")) return "qwen2";
  return "gpt-2";
}
