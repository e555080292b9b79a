// A model as a folder that others can read: config.json, model.safetensors, tokenizer.json, in the layout of a
// qwen3_moe checkpoint (qwen3 where there are no experts), plus this project's extra keys. With K = F, q/k norm and no
// shared expert it is such a checkpoint. Not here: what the keys of other families mean (families.ts), shards.

import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { RunError, UsageError } from "../errors.ts";
import { type ModelConfig, modelKeys, resolveModelConfig } from "../model/config.ts";
import type { Transformer } from "../model/transformer.ts";
import { type Parameter, sizeOf } from "../tensor/tensor.ts";
import { type Tokenizer, tokenizerFromJson } from "../text/tokenizer.ts";
import { errorCode, writeFileAtomic } from "./atomic.ts";
import { configText } from "./configText.ts";
import { translateConfig } from "./families.ts";
import { isInt8 } from "./quantization.ts";
import { type SafetensorsFile, type TensorSource, writeSafetensors } from "./safetensors.ts";
import { isObject, parseStrictJson } from "./strictJson.ts";
import { TensorFiles } from "./tensorFiles.ts";

/** Where part of a parameter lies on disk: elements `offset` to `offset + size` are tensor `name`. */
interface StoredPart {
  readonly name: string;
  readonly shape: readonly number[];
  readonly offset: number;
}

/** The tensors on disk that make up a parameter: one, or one per expert. */
export function storedParts(parameter: Pick<Parameter, "name" | "shape">): StoredPart[] {
  const grouped = parameter.name.match(/^(.*\.mlp\.experts)\.(\w+_proj)$/);
  if (!grouped) return [{ name: parameter.name, shape: parameter.shape, offset: 0 }];
  const [experts, ...shape] = parameter.shape;
  return Array.from({ length: experts }, (_, e) => ({
    name: `${grouped[1]}.${e}.${grouped[2]}.weight`,
    shape,
    offset: e * sizeOf(shape),
  }));
}

/** Writes config.json, model.safetensors (f32) and the tokenizer. @throws RunError for a full disk. */
export async function saveModel(folder: string, model: Transformer, tokenizer: Tokenizer): Promise<void> {
  const sources: TensorSource[] = [];
  for (const parameter of model.parameters.values()) {
    for (const { name, shape, offset } of storedParts(parameter)) {
      const data = () => model.backend.read(parameter.buffer, offset, sizeOf(shape));
      sources.push({ name, dtype: "F32", shape, data });
    }
  }
  await writeSafetensors(join(folder, "model.safetensors"), sources, { format: "pt" });
  await writeTokenizer(folder, tokenizer);
  await writeFileAtomic(join(folder, "config.json"), configText(toStoredConfig(model.config)));
}

/**
 * Writes tokenizer.json and, in tokenizer_config.json, that it is to be taken as it is: by the model's family alone
 * transformers 5 chooses a class that cuts words by rules of its own.
 */
export async function writeTokenizer(folder: string, tokenizer: Tokenizer): Promise<void> {
  await writeFileAtomic(join(folder, "tokenizer.json"), JSON.stringify(tokenizer));
  const { eosId } = tokenizer;
  const eos = eosId === undefined ? {} : { eos_token: tokenizer.decode([eosId]) };
  const content = { tokenizer_class: "PreTrainedTokenizerFast", clean_up_tokenization_spaces: false, ...eos };
  await writeFileAtomic(join(folder, "tokenizer_config.json"), `${JSON.stringify(content, null, 2)}\n`);
}

/** The content of config.json. */
export function toStoredConfig(config: ModelConfig): Record<string, unknown> {
  const { num_neurons_per_tok, qk_norm, shared_expert_intermediate_size, ...rest } = config;
  const standard = qk_norm && shared_expert_intermediate_size === 0;
  const family = config.num_experts > 0 ? "qwen3_moe" : "qwen3";
  return {
    architectures: [
      standard ? (family === "qwen3" ? "Qwen3ForCausalLM" : "Qwen3MoeForCausalLM") : "MoneForCausalLM",
    ],
    model_type: standard ? family : "mone",
    ...rest,
    // Keys of our own only where they say something that the family cannot.
    ...(num_neurons_per_tok !== null && { num_neurons_per_tok }),
    ...(!standard && { qk_norm, shared_expert_intermediate_size }),
    use_sliding_window: config.sliding_window !== null,
    max_window_layers: 0,
    attention_bias: false,
    decoder_sparse_step: 1,
    torch_dtype: "float32",
  };
}

/** Reads and checks config.json. @throws UsageError if it is missing, of another family, or inconsistent. */
export function readModelConfig(folder: string): ModelConfig {
  return readConfigs(folder).config;
}

/** As `readModelConfig`, with the content of the file as it is. */
export function readConfigs(folder: string): { config: ModelConfig; stored: Record<string, unknown> } {
  const path = join(folder, "config.json");
  if (!existsSync(path)) throw new UsageError(`${folder} is not a model folder: it has no config.json`);
  const stored = readJson(path, 32);
  if (!isObject(stored))
    throw new UsageError(`${path} is no JSON object: restore the file or use another checkpoint`);
  return { config: configOfStored(stored, path), stored };
}

/** Whether a model folder's matrices are stored as bytes. @throws as `readConfigs`. */
export function holdsInt8(folder: string): boolean {
  return isInt8(readConfigs(folder).stored);
}

/** The configuration that the content of a config.json asks for. @throws UsageError naming `where` if it cannot work. */
export function configOfStored(stored: Readonly<Record<string, unknown>>, where: string): ModelConfig {
  const { config, variant } = translateConfig(stored, where);
  const known = Object.fromEntries(modelKeys.filter((key) => key in config).map((key) => [key, config[key]]));
  return resolveModelConfig(known, where, variant);
}

/** Reads tokenizer.json. @throws UsageError if it is missing or of another kind. */
export function readTokenizer(folder: string): Tokenizer {
  const path = join(folder, "tokenizer.json");
  if (!existsSync(path)) throw new UsageError(`${folder} has no tokenizer.json`);
  return tokenizerFromJson(readJson(path, 32));
}

/** @param maxNesting messages show values, which has to stay possible. */
function readJson(path: string, maxNesting: number): unknown {
  let bytes: Uint8Array;
  try {
    bytes = readFileSync(path);
  } catch (error) {
    throw new RunError(`${path} cannot be read (${errorCode(error)}): use another checkpoint`, {
      cause: error,
    });
  }
  const { value, problem } = parseStrictJson(bytes, maxNesting);
  if (problem !== undefined)
    throw new RunError(`${path} ${problem}: restore the file or use another checkpoint`);
  return value;
}

/** Fills a model's parameters. @throws RunError naming the tensor that is missing, damaged or of another shape. */
export function loadParameters(model: Transformer, folder: string): void {
  const file = TensorFiles.open(folder);
  try {
    for (const parameter of model.parameters.values()) {
      for (const { name, shape, offset } of storedParts(parameter)) {
        model.backend.write(parameter.buffer, readTensor(file, name, shape), offset);
      }
    }
  } finally {
    file.close();
  }
}

/** A tensor of floats that must have this shape. */
export function readTensor(
  file: SafetensorsFile | TensorFiles,
  name: string,
  shape: readonly number[],
): Float32Array {
  const found = file.tensors.get(name);
  if (found && found.shape.join() !== shape.join()) {
    throw new RunError(
      `${file.path}: tensor ${name} has shape [${found.shape}], but config.json asks for [${shape}]`,
    );
  }
  return file.readFloat32(name);
}
