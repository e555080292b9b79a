// Checkpoints of random weights, of any size, for tests and measurements: what `mone init` writes. Matrices are pieces of
// one long row of normal numbers, so that writing is bound by the disk; they are not meant to be trained further.

import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { throwIfAborted, UsageError } from "../errors.ts";
import { toBf16s } from "../kernels/kernel.ts";
import type { ModelConfig } from "../model/config.ts";
import { parameterSpecs } from "../model/parameters.ts";
import { NormalRow } from "../random.ts";
import { sizeOf } from "../tensor/tensor.ts";
import { byteTokenizer } from "../text/tokenizer.ts";
import { requireNewFolder, writeFileAtomic } from "./atomic.ts";
import { configText } from "./configText.ts";
import { storedParts, toStoredConfig, writeTokenizer } from "./modelFolder.ts";
import { type TensorSource, writeSafetensors } from "./safetensors.ts";
import { familyName } from "./tensorNames.ts";

export interface RandomCheckpointOptions {
  readonly dtype: "f32" | "bf16";
  readonly seed: number;
  /** Told how many of all parameters are written. */
  readonly onProgress?: (done: number, total: number) => void;
  readonly signal?: AbortSignal;
  /** The content of config.json, where `config` is what it asks for; default: a model of our own. */
  readonly stored?: Readonly<Record<string, unknown>>;
}

/**
 * Writes config.json, model.safetensors and the tokenizer (bytes) into a new or empty folder.
 * @returns the number of parameters.
 * @throws UsageError if the folder holds something, or the vocabulary is too small for bytes; RunError for a full disk.
 */
export async function writeRandomCheckpoint(
  folder: string,
  config: ModelConfig,
  { dtype, seed, onProgress, signal, stored = toStoredConfig(config) }: RandomCheckpointOptions,
): Promise<number> {
  requireNewFolder(folder);
  const tokenizer = byteTokenizer();
  if (config.vocab_size < tokenizer.vocabSize) {
    throw new UsageError(
      `vocab_size must be at least ${tokenizer.vocabSize}, one for each byte, not ${config.vocab_size}`,
    );
  }
  const parts = parameterSpecs(config).flatMap((spec) =>
    storedParts(spec).map(({ name, shape }) => ({
      name: familyName(name, config.variant?.family),
      shape,
      init: spec.init,
    })),
  );
  const total = parts.reduce((sum, { shape }) => sum + sizeOf(shape), 0);
  const longest = Math.max(...parts.map(({ shape }) => sizeOf(shape)));
  const row = new NormalRow(seed, "random checkpoint", longest);
  const encode = (values: Float32Array) => (dtype === "bf16" ? toBf16s(values) : values);
  // The row once per standard deviation, of which there are two or three.
  const rows = new Map<number, Float32Array | Uint16Array>();
  const rowFor = (deviation: number) => {
    const known = rows.get(deviation) ?? encode(row.values.map((value) => value * deviation));
    rows.set(deviation, known);
    return known;
  };

  let done = 0;
  const sources = parts.map(({ name, shape, init }, i): TensorSource => {
    const size = sizeOf(shape);
    const data = () => {
      throwIfAborted(signal);
      done += size;
      onProgress?.(done, total);
      if (init === "ones") return encode(new Float32Array(size).fill(1));
      const place = row.place(i);
      return rowFor(init).subarray(place, place + size);
    };
    return { name, shape, dtype: dtype === "bf16" ? "BF16" : "F32", data };
  });
  mkdirSync(folder, { recursive: true });
  await writeSafetensors(join(folder, "model.safetensors"), sources, { format: "pt" });
  await writeTokenizer(folder, tokenizer);
  const typed = { ...stored, torch_dtype: dtype === "bf16" ? "bfloat16" : "float32" };
  await writeFileAtomic(join(folder, "config.json"), configText(typed));
  return total;
}
