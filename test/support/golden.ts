// What tests compare with: a model folder as trainable parameters, and the integers of golden files.

import { join } from "node:path";
import type { Backend } from "../../src/backends/backend.ts";
import { loadParameters, readModelConfig } from "../../src/checkpoint/modelFolder.ts";
import type { SafetensorsFile } from "../../src/checkpoint/safetensors.ts";
import { type ModelConfig, withOverrides } from "../../src/model/config.ts";
import { Transformer } from "../../src/model/transformer.ts";

/** The model of a folder with its weights as f32 parameters, which inference elsewhere keeps in forms of its own. */
export function openModel(
  folder: string,
  backend: Backend,
  overrides: Partial<ModelConfig> = {},
): Transformer {
  const config = withOverrides(readModelConfig(folder), overrides, join(folder, "config.json"));
  const model = new Transformer(config, backend);
  loadParameters(model, folder);
  return model;
}

export function readInt32(file: SafetensorsFile, name: string): Int32Array {
  const dtype = file.tensors.get(name)?.dtype;
  if (dtype !== "I32") throw new Error(`${file.path}: ${name} holds ${dtype}, not I32`);
  return new Int32Array(file.readBytes(name).buffer);
}
