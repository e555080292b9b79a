// Rewrites a checkpoint: another number of neurons kept, another type on disk, experts apart or fused. Tensors go through
// one at a time; the configuration keeps every key that need not change, and the files beside the weights come along.
// Not here: how bytes are made (convertInt8.ts), GGUF (exportGguf.ts), what tensors mean (families.ts).

import { copyFileSync, mkdirSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { openBackend } from "../backends/cpu.ts";
import { throwIfAborted, UsageError } from "../errors.ts";
import { toBf16 } from "../kernels/kernel.ts";
import { expertWidth, keptNeurons } from "../model/config.ts";
import { countOfNeurons } from "../model/neurons.ts";
import { sizeOf } from "../tensor/tensor.ts";
import { requireNewFolder, writeFileAtomic } from "./atomic.ts";
import { CheckpointSource } from "./checkpointSource.ts";
import { configText } from "./configText.ts";
import { int8Sources } from "./convertInt8.ts";
import { type ExpertLayout, type Piece, type PlannedTensor, planTensors } from "./expertLayout.ts";
import { readConfigs } from "./modelFolder.ts";
import { PYTHON_FILE, pythonFile } from "./pythonFile.ts";
import { int8Quantization, isInt8, requireFloats } from "./quantization.ts";
import { type StoredDType, type TensorSource, writeSafetensors } from "./safetensors.ts";
import { rememberLast, SINGLE_FILE, TensorFiles } from "./tensorFiles.ts";

export interface ConvertOptions {
  /** Neurons kept per token in each expert from then on, as model/neurons.ts reads it: "25%", 0.25, 64, "all". */
  readonly neurons?: number | string;
  /**
   * Type of all floats on disk; default: as they are. `int8`: matrices as bytes with a scale per row, each expert apart, for
   * this project only; from there no type leads back.
   */
  readonly dtype?: "f32" | "bf16" | "int8";
  readonly experts?: ExpertLayout;
  /** Told how many of all parameters are written. */
  readonly onProgress?: (done: number, total: number) => void;
  /** Told one line about things the user should know. */
  readonly announce?: (line: string) => void;
  readonly signal?: AbortSignal;
}

export interface Conversion {
  readonly path: string;
  readonly tensors: number;
  readonly parameters: number;
  /** K of the new checkpoint, and F. */
  readonly kept: number;
  readonly width: number;
}

const FLOATS: ReadonlySet<StoredDType> = new Set(["F64", "F32", "F16", "BF16"]);

/**
 * Writes the converted model into a new or empty folder, config.json last: an interrupted conversion is no model.
 * @param folder a model folder (`findModelFolder`).
 * @throws UsageError for a folder that holds something or options that cannot work; RunError for damage or a full disk.
 */
export async function convertCheckpoint(
  folder: string,
  target: string,
  options: ConvertOptions,
): Promise<Conversion> {
  requireNewFolder(target);
  const { neurons, dtype, experts, onProgress, signal } = options;
  const { config, stored } = readConfigs(folder);
  const width = expertWidth(config);
  const kept = neurons === undefined ? keptNeurons(config) : countOfNeurons(neurons, width);
  if (dtype) requireFloats(stored, folder, `written as ${dtype} again`);
  if (experts) requireFloats(stored, folder, `laid out with experts ${experts}`);
  if (dtype === "int8") return writeInt8(folder, target, kept, options);
  const files = TensorFiles.open(folder);
  try {
    const planned = planTensors(files.tensors, experts, stored.model_type === "mixtral");
    const total = planned.reduce((sum, { pieces }) => sum + elements(pieces), 0);
    const reader = new PieceReader(files);
    let done = 0;
    const sources = planned.map((tensor): TensorSource => {
      const wanted = dtype === "bf16" ? "BF16" : "F32";
      const same = !dtype || !FLOATS.has(tensor.dtype) || tensor.dtype === wanted;
      const data = () => {
        throwIfAborted(signal);
        done += elements(tensor.pieces);
        onProgress?.(done, total);
        return same ? reader.bytes(tensor) : reader.floats(tensor, wanted);
      };
      return { name: tensor.name, shape: tensor.shape, dtype: same ? tensor.dtype : wanted, data };
    });
    const changed = { ...withNeurons(stored, kept, width), ...(dtype && typeKeys(stored, dtype)) };
    await writeModelLike(folder, target, { sources, config: changed });
    return { path: target, tensors: planned.length, parameters: total, kept, width };
  } finally {
    files.close();
  }
}

/** Matrices as bytes. */
async function writeInt8(
  folder: string,
  target: string,
  kept: number,
  { experts, onProgress, announce, signal }: ConvertOptions,
): Promise<Conversion> {
  if (experts === "fused")
    throw new UsageError("int8 goes with experts apart: leave out one of the two options");
  const { config, stored } = readConfigs(folder);
  const width = expertWidth(config);
  const backend = openBackend({}, announce);
  try {
    const source = new CheckpointSource(folder, config, backend);
    try {
      const { sources, parameters } = int8Sources(config, source, backend, { onProgress, signal });
      const changed = { ...withNeurons(stored, kept, width), quantization_config: int8Quantization };
      await writeModelLike(folder, target, { sources, config: changed });
      return { path: target, tensors: sources.length, parameters, kept, width };
    } finally {
      source.close();
    }
  } finally {
    backend.close();
  }
}

/** The content of config.json for another K. */
function withNeurons(stored: Readonly<Record<string, unknown>>, kept: number, width: number) {
  const { num_neurons_per_tok: _, ...rest } = stored;
  return { ...rest, ...(kept < width && { num_neurons_per_tok: kept }) };
}

const elements = (pieces: readonly Piece[]) => pieces.reduce((sum, { length }) => sum + length, 0);

/** The key for the type, in the style of the file: `torch_dtype`, or `dtype` as transformers 5 writes. */
function typeKeys(stored: Readonly<Record<string, unknown>>, dtype: "f32" | "bf16"): Record<string, string> {
  const name = dtype === "bf16" ? "bfloat16" : "float32";
  return { ["dtype" in stored ? "dtype" : "torch_dtype"]: name };
}

/**
 * Writes a model into a new folder with what lies beside another: all but config.json first, so that half of it is no model.
 * Python files of the other stay behind; where the configuration keeps fewer than all neurons, ours comes along. (Other
 * software does not read int8.)
 */
export async function writeModelLike(
  folder: string,
  target: string,
  { sources, config }: NewModel,
): Promise<void> {
  mkdirSync(target, { recursive: true });
  await writeSafetensors(join(target, SINGLE_FILE), sources, { format: "pt" });
  copyCompanions(folder, target);
  const { auto_map: _, ...rest } = config;
  const python = "num_neurons_per_tok" in rest && !isInt8(rest) ? pythonFile(rest) : undefined;
  if (python) await writeFileAtomic(join(target, PYTHON_FILE), python.source);
  const written = { ...rest, ...(python && { auto_map: python.autoMap }) };
  const original = readFileSync(join(folder, "config.json"), "utf8");
  await writeFileAtomic(join(target, "config.json"), configText(written, original));
}

interface NewModel {
  readonly sources: readonly TensorSource[];
  /** The content of config.json; K in it only where that is less than all. */
  readonly config: Readonly<Record<string, unknown>>;
}

/** Tokenizer, generation settings, chat template, licence: small files that a model needs or owes. */
function copyCompanions(folder: string, target: string): void {
  const wanted =
    /^(tokenizer.*|generation_config|special_tokens_map|vocab|merges|chat_template|added_tokens)\.(json|txt|model|jinja)$|^(LICENSE|README|NOTICE)/i;
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    if (entry.isDirectory() || !wanted.test(entry.name)) continue;
    copyFileSync(join(folder, entry.name), join(target, entry.name));
  }
}

/** Reads pieces of tensors, as they are or as other floats. */
class PieceReader {
  readonly #bytes: (name: string) => Uint8Array;
  readonly #floats: (name: string) => Float32Array;
  readonly #files: TensorFiles;

  constructor(files: TensorFiles) {
    this.#files = files;
    this.#bytes = rememberLast((name) => files.readBytes(name));
    this.#floats = rememberLast((name) => files.readFloat32(name));
  }

  bytes({ pieces }: PlannedTensor): Uint8Array {
    const parts = pieces.map(({ name, offset, length }) => {
      const bytes = this.#bytes(name);
      const size = bytes.length / sizeOf(this.#files.tensors.get(name)?.shape ?? []);
      return bytes.subarray(offset * size, (offset + length) * size);
    });
    return parts.length === 1 ? parts[0] : Buffer.concat(parts);
  }

  floats({ pieces }: PlannedTensor, to: "F32" | "BF16"): Float32Array | Uint16Array {
    const total = elements(pieces);
    const values = to === "F32" ? new Float32Array(total) : new Uint16Array(total);
    let at = 0;
    for (const { name, offset, length } of pieces) {
      const piece = this.#floats(name).subarray(offset, offset + length);
      if (values instanceof Float32Array) values.set(piece, at);
      else for (let i = 0; i < length; i++) values[at + i] = toBf16(piece[i]);
      at += length;
    }
    return values;
  }
}
