// The tensors of a checkpoint as bytes with a scale per row, made by the kernels that make them when a model is loaded with
// `--dtype int8`: the same model to the last bit. Where they lie: byteTensors.ts.

import type { Backend } from "../backends/backend.ts";
import { throwIfAborted } from "../errors.ts";
import { encodeWeights } from "../infer/encodeWeights.ts";
import { byteForm } from "../infer/storedWeights.ts";
import type { ModelConfig } from "../model/config.ts";
import { type ParameterSpec, parameterSpecs } from "../model/parameters.ts";
import { sizeOf } from "../tensor/tensor.ts";
import { byteMatrix } from "./byteTensors.ts";
import type { CheckpointSource } from "./checkpointSource.ts";
import { storedParts } from "./modelFolder.ts";
import type { TensorSource } from "./safetensors.ts";
import { familyName } from "./tensorNames.ts";

interface Int8Options {
  /** Told parameters that are done, and all. */
  readonly onProgress?: (done: number, total: number) => void;
  readonly signal?: AbortSignal;
}

/**
 * What to write, in the order of the model's parameters, so that the matrices of a layer's experts follow each other. Scales
 * stand before bytes in a file, hence every matrix is read and encoded twice; only one is in memory at a time.
 * @param source an open checkpoint of floats.
 */
export function int8Sources(
  config: ModelConfig,
  source: CheckpointSource,
  backend: Backend,
  { onProgress, signal }: Int8Options,
): { sources: TensorSource[]; parameters: number } {
  const specs = parameterSpecs(config);
  const parameters = specs.reduce((sum, { shape }) => sum + sizeOf(shape), 0);
  let done = 0;
  const advance = (elements: number) => {
    throwIfAborted(signal);
    done += elements;
    onProgress?.(Math.floor(done), parameters);
  };
  const sources = specs.flatMap((spec) =>
    storedParts(spec).flatMap((part, expert): TensorSource[] => {
      const elements = sizeOf(part.shape);
      const matrix = byteMatrix(spec, expert, config);
      if (!matrix) {
        const data = () => {
          advance(elements);
          return readFloats(spec, source, backend);
        };
        const name = familyName(part.name, config.variant?.family);
        return [{ name, dtype: "F32", shape: part.shape, data }];
      }
      const transposed = byteForm(spec, config) === "columns";
      const [rows, width] = matrix.shape;
      const read = async (what: "values" | "scales") => {
        advance(elements / 2);
        const from = source.tensor(spec, expert);
        const to = backend.allocate("i8", elements);
        const scales = backend.allocate("f32", rows);
        try {
          encodeWeights(backend, from, { to, scales, rows, width, transposed });
          return await backend.read(what === "values" ? to : scales);
        } finally {
          for (const buffer of [to, scales]) backend.free(buffer);
          source.release(from);
        }
      };
      return [
        { name: matrix.name, dtype: "I8", shape: matrix.shape, data: () => read("values") },
        { name: matrix.scaleName, dtype: "F32", shape: [rows], data: () => read("scales") },
      ];
    }),
  );
  return { sources, parameters };
}

/** Norms, biases and routers, as inference keeps them. */
async function readFloats(spec: ParameterSpec, source: CheckpointSource, backend: Backend) {
  const from = source.tensor(spec);
  const elements = sizeOf(spec.shape);
  const to = backend.allocate("f32", elements);
  const scales = backend.allocate("f32", 0);
  try {
    encodeWeights(backend, from, { to, scales, rows: 1, width: elements });
    return await backend.read(to);
  } finally {
    for (const buffer of [to, scales]) backend.free(buffer);
    source.release(from);
  }
}
