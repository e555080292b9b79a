// Where the matrices of an int8 checkpoint lie: `X.weight` as I8 with `X.weight_scale` as F32, one scale a row; down
// projections of feed-forward networks, which inference reads neuron by neuron, transposed as `X.weight_t` with
// `X.weight_t_scale`. Each expert has tensors of its own, so that the layout says nothing new about experts. Norms, biases
// and routers are plain floats under their own names.

import { RunError } from "../errors.ts";
import { byteForm } from "../infer/storedWeights.ts";
import type { ModelConfig } from "../model/config.ts";
import type { ParameterSpec } from "../model/parameters.ts";
import { storedParts } from "./modelFolder.ts";
import type { StoredDType } from "./safetensors.ts";
import type { PlacedTensor, TensorFiles } from "./tensorFiles.ts";
import { familyName } from "./tensorNames.ts";

/** One matrix on disk, as it is called and shaped there. */
export interface ByteMatrix {
  readonly name: string;
  readonly shape: readonly [rows: number, width: number];
  readonly scaleName: string;
}

/** Undefined for a parameter that stays float. */
export function byteMatrix(spec: ParameterSpec, expert: number, config: ModelConfig): ByteMatrix | undefined {
  const form = byteForm(spec, config);
  if (form === "floats") return undefined;
  const part = storedParts(spec)[expert];
  const plain = familyName(part.name, config.variant?.family);
  const [rows, width] = part.shape;
  const name = form === "columns" ? `${plain}_t` : plain;
  return { name, shape: form === "columns" ? [width, rows] : [rows, width], scaleName: `${name}_scale` };
}

/** @throws RunError if the matrix or its scales are missing or of another type or shape. */
export function findBytes(
  { path, tensors }: Pick<TensorFiles, "path" | "tensors">,
  { name, shape, scaleName }: ByteMatrix,
): { values: PlacedTensor; scales: PlacedTensor } {
  const find = (wanted: string, dtype: StoredDType, size: readonly number[], what: string) => {
    const info = tensors.get(wanted);
    if (!info) throw new RunError(`${path} has no tensor "${wanted}", ${what}: ${AGAIN}`);
    if (info.dtype !== dtype) {
      throw new RunError(`${path}: tensor ${wanted} holds ${info.dtype}, not ${dtype}, as ${what}: ${AGAIN}`);
    }
    if (info.shape.join() !== size.join()) {
      throw new RunError(
        `${path}: tensor ${wanted}, ${what}, has shape [${info.shape}], not [${size}]: ${AGAIN}`,
      );
    }
    return info;
  };
  return {
    values: find(name, "I8", shape, "which its config.json asks for"),
    scales: find(scaleName, "F32", [shape[0]], `the scales of ${name}`),
  };
}

const AGAIN = "convert or download the model again";
