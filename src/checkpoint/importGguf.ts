// A GGUF file of llama.cpp and its relatives as a model folder in Hugging Face's layout, for architectures that are written,
// too (exportGguf.ts). Numbers stay as they are; those of Q8_0, which no safetensors file has, become f32, exactly. One
// matrix is in memory at a time.

import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { quote, throwIfAborted, UsageError } from "../errors.ts";
import { toBf16s } from "../kernels/kernel.ts";
import { parameterSpecs } from "../model/parameters.ts";
import { sizeOf } from "../tensor/tensor.ts";
import { requireNewFolder, writeFileAtomic } from "./atomic.ts";
import { configText } from "./configText.ts";
import { architectureOf, configOfGguf } from "./ggufConfig.ts";
import { decodeGguf, type GgufValues, isReadable, readableTypes, widen } from "./ggufDecode.ts";
import { ggufName, halvedRows } from "./ggufNames.ts";
import { damagedGguf, GgufFile, type GgufTensorInfo } from "./ggufReader.ts";
import { tokenizerOfGguf } from "./ggufTokenizer.ts";
import { configOfStored, storedParts } from "./modelFolder.ts";
import { type StoredDType, type TensorSource, writeSafetensors } from "./safetensors.ts";
import { SINGLE_FILE } from "./tensorFiles.ts";
import { familyName } from "./tensorNames.ts";

export interface ImportOptions {
  /** Type of all numbers on disk; default: as they are, Q8_0 as f32. */
  readonly dtype?: "f32" | "bf16";
  readonly onProgress?: (done: number, total: number) => void;
  /** Told why there is no tokenizer, if there is none. */
  readonly announce?: (line: string) => void;
  readonly signal?: AbortSignal;
}

export interface Import {
  readonly path: string;
  readonly architecture: string;
  /** `model_type` of the folder. */
  readonly family: string;
  readonly tensors: number;
  readonly parameters: number;
  /** Whether a tokenizer.json was written. */
  readonly tokenizer: boolean;
}

/** How the numbers of a tensor are written without an option. */
const plainTypes: Readonly<Record<string, StoredDType>> = {
  F32: "F32",
  F16: "F16",
  BF16: "BF16",
  Q8_0: "F32",
};

/**
 * Writes the folder, config.json last: half of it is no model.
 * @param target a new or empty folder.
 * @throws UsageError for a file whose architecture, settings or quantisation are not supported; RunError for damage.
 */
export async function importGguf(
  path: string,
  target: string,
  { dtype, onProgress, announce, signal }: ImportOptions = {},
): Promise<Import> {
  requireNewFolder(target);
  const file = GgufFile.open(path);
  try {
    const architecture = architectureOf(file);
    const stored = configOfGguf(file);
    const config = configOfStored(stored, path);
    const family = String(stored.model_type);
    checkTypes(file);
    const specs = parameterSpecs(config);
    const used = new Set<string>();
    const parameters = specs.reduce((sum, { shape }) => sum + sizeOf(shape), 0);
    let done = 0;
    const sources = specs.flatMap((spec): TensorSource[] => {
      const info = tensorOf(file, ggufName(spec.name), spec.shape);
      used.add(info.name);
      const type = dtype ? (dtype === "bf16" ? "BF16" : "F32") : plainTypes[info.type.name];
      return storedParts(spec).map(({ name, shape, offset }) => ({
        name: familyName(name, family),
        dtype: type,
        shape,
        data: () => {
          throwIfAborted(signal);
          const size = sizeOf(shape);
          const values = typed(decodeGguf(file.read(info.name, offset, size), info.type), type);
          done += size;
          onProgress?.(done, parameters);
          return architecture === "llama" ? halvedRows({ name: spec.name, shape }, values, config) : values;
        },
      }));
    });
    const more = [...file.tensors.keys()].find((name) => !used.has(name));
    if (more !== undefined) {
      throw new UsageError(
        `${path}: tensor ${quote(more)} has no place in a model of ${family}; use another file or the original checkpoint`,
      );
    }
    const { json, problem } = tokenizerOfGguf(file, config.vocab_size);
    // Read before anything is written: a file that is refused leaves no folder.
    const companions = companionsOf(file);
    mkdirSync(target, { recursive: true });
    await writeSafetensors(join(target, SINGLE_FILE), sources, { format: "pt" });
    if (json) await writeFileAtomic(join(target, "tokenizer.json"), JSON.stringify(json));
    else
      announce?.(`no tokenizer.json was written: ${problem}; copy that of the original model to ${target}`);
    for (const [name, text] of Object.entries(companions)) await writeFileAtomic(join(target, name), text);
    const main = sources.reduce((a, b) => (sizeOf(b.shape) > sizeOf(a.shape) ? b : a)).dtype;
    const torch = { F32: "float32", F16: "float16", BF16: "bfloat16" }[main as "F32"];
    await writeFileAtomic(join(target, "config.json"), configText({ ...stored, torch_dtype: torch }));
    return { path: target, architecture, family, tensors: sources.length, parameters, tokenizer: !!json };
  } finally {
    file.close();
  }
}

/** All types that are not read are named at once. */
function checkTypes(file: GgufFile): void {
  const others = new Set<string>();
  for (const { type } of file.tensors.values()) if (!isReadable(type)) others.add(type.name);
  if (others.size === 0) return;
  throw new UsageError(
    `${file.path} has tensors of ${[...others].sort().join(", ")}, which are not read: use a file of ${readableTypes.join(", ")}`,
  );
}

function tensorOf(file: GgufFile, name: string, shape: readonly number[]): GgufTensorInfo {
  const info = file.tensors.get(name);
  if (!info) throw damagedGguf(file.path, `there is no tensor ${quote(name)}`);
  if (info.shape.join() !== shape.join())
    throw damagedGguf(
      file.path,
      `tensor ${quote(name)} has shape [${info.shape}], its keys ask for [${shape}]`,
    );
  return info;
}

/** In the form that is written. */
function typed(found: GgufValues, wanted: StoredDType): Float32Array | Uint16Array {
  if (found.type === wanted) return found.values;
  return wanted === "F32" ? widen(found) : toBf16s(widen(found));
}

/**
 * By file name, the texts of special tokens and the chat template, where renderChat of generation.ts finds them, and that
 * tokenizer.json is to be taken as it is.
 */
function companionsOf(file: GgufFile): Record<string, string> {
  const template = file.text("tokenizer.chat_template");
  const tokens = file.texts("tokenizer.ggml.tokens") ?? [];
  const textOf = (key: string) => tokens[file.number(`tokenizer.ggml.${key}_token_id`) ?? -1];
  const special = { bos_token: textOf("bos"), eos_token: textOf("eos") };
  const content = JSON.stringify({ tokenizer_class: "PreTrainedTokenizerFast", ...special }, null, 2);
  return {
    "tokenizer_config.json": `${content}\n`,
    ...(template !== undefined && { "chat_template.jinja": template }),
  };
}
