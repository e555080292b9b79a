// What is in a model, without loading it: its configuration, its tensors grouped by what they do, and how many
// parameters a token multiplies with. Not here: statistics of the values.

import type { ModelConfig } from "../model/config.ts";
import { countParameters, type ParameterCounts, parameterSpecs } from "../model/parameters.ts";
import { sizeOf } from "../tensor/tensor.ts";
import { byteMatrix, findBytes } from "./byteTensors.ts";
import { findModelFolder } from "./loadModel.ts";
import { readConfigs, storedParts } from "./modelFolder.ts";
import { findNonFinite, type NonFinite } from "./nonFinite.ts";
import { isInt8 } from "./quantization.ts";
import { TensorFiles } from "./tensorFiles.ts";
import { findPart } from "./tensorNames.ts";

const groups = [
  "embedding",
  "attention",
  "router",
  "experts",
  "shared expert",
  "dense layers",
  "norms",
  "head",
] as const;

/** What a tensor is for. */
export type ParameterGroup = (typeof groups)[number];

/** The tensors of one kind, over all layers. */
export interface TensorSummary {
  group: ParameterGroup;
  /** The name, with `*` for the number of the layer. All experts of a layer are one tensor here. */
  name: string;
  shape: number[];
  /** How many there are. */
  tensors: number;
  /** Weights in all of them. */
  parameters: number;
}

export interface ModelInspection {
  /** The model folder. */
  path: string;
  config: ModelConfig;
  /** Types of the stored values, e.g. `["F32"]`. */
  dtypes: string[];
  tensors: TensorSummary[];
  parameters: ParameterCounts;
  /** Tensors with numbers that are not finite, if they were looked for. */
  nonFinite?: NonFinite[];
}

/**
 * Describes the model at `path`: a model folder, or a run folder, of which the best checkpoint is taken. Only the
 * header of its file is read.
 * @throws UsageError if there is no model; RunError if the file is damaged, or differs from what its configuration asks for.
 */
export function inspectModel(path: string): ModelInspection {
  const folder = findModelFolder(path);
  const { config, stored } = readConfigs(folder);
  return {
    path: folder,
    config,
    dtypes: checkStoredTensors(folder, config, isInt8(stored)),
    tensors: summarise(config),
    parameters: countParameters(config),
  };
}

/** Whether every tensor is there in its shape. @returns the types of values that occur. */
function checkStoredTensors(folder: string, config: ModelConfig, int8: boolean): string[] {
  const file = TensorFiles.open(folder);
  file.close();
  const dtypes = new Set<string>();
  for (const spec of parameterSpecs(config)) {
    for (const expert of storedParts(spec).keys()) {
      const matrix = int8 && byteMatrix(spec, expert, config);
      const part = matrix
        ? findBytes(file, matrix).values
        : findPart(file, spec, expert, config.variant?.family);
      dtypes.add(part.dtype);
    }
  }
  return [...dtypes].sort();
}

function summarise(config: ModelConfig): TensorSummary[] {
  const summaries = new Map<string, TensorSummary>();
  for (const { name: fullName, shape } of parameterSpecs(config)) {
    const name = fullName.replace(/^model\.layers\.\d+/, "model.layers.*");
    const summary = summaries.get(name);
    if (summary) {
      summary.tensors++;
      summary.parameters += sizeOf(shape);
    } else {
      const group = groupOf(name);
      summaries.set(name, { group, name, shape: [...shape], tensors: 1, parameters: sizeOf(shape) });
    }
  }
  return [...summaries.values()].sort((a, b) => groups.indexOf(a.group) - groups.indexOf(b.group));
}

function groupOf(name: string): ParameterGroup {
  if (name === "model.embed_tokens.weight") return "embedding";
  if (name === "lm_head.weight") return "head";
  if (/norm\.weight$/.test(name)) return "norms";
  if (name.includes(".self_attn.")) return "attention";
  if (name.endsWith(".mlp.gate.weight")) return "router";
  if (name.includes(".mlp.experts.")) return "experts";
  if (name.includes(".mlp.shared_expert")) return "shared expert";
  if (name.includes(".mlp.")) return "dense layers";
  throw new Error(`inspect.ts knows no group for ${name}`);
}

/** Reads all weights of the model at `path` for numbers that are not finite. @param onProgress told bytes of all. */
export function checkValues(path: string, onProgress?: (done: number, total: number) => void): NonFinite[] {
  const files = TensorFiles.open(findModelFolder(path));
  try {
    return findNonFinite(files, onProgress);
  } finally {
    files.close();
  }
}
