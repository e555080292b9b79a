// Models of random stored weights, of any size and form, within seconds: for measuring speed. All matrices are pieces
// of one long row of normal numbers, so their values repeat; nothing of a model's speed depends on them.

import type { Backend, DeviceBuffer } from "../backends/backend.ts";
import { toBf16s } from "../kernels/kernel.ts";
import type { ModelConfig } from "../model/config.ts";
import { type ParameterSpec, parameterSpecs } from "../model/parameters.ts";
import { Transformer } from "../model/transformer.ts";
import { NormalRow } from "../random.ts";
import { sizeOf } from "../tensor/tensor.ts";
import { createStoredWeights, type WeightFormat, type WeightSource, weightTypeOf } from "./storedWeights.ts";

/** A model that can infer but not be trained. Close it to free its memory. */
export function createRandomModel(
  config: ModelConfig,
  backend: Backend,
  { dtype, seed = 1 }: { dtype: WeightFormat; seed?: number },
): Transformer {
  const source = new RandomSource(config, backend, seed);
  return new Transformer(
    config,
    backend,
    createStoredWeights(config, backend, source, { type: weightTypeOf(dtype) }),
  );
}

class RandomSource implements WeightSource {
  readonly #backend: Backend;
  readonly #row: DeviceBuffer;
  readonly #normals: NormalRow;
  #taken = 0;

  constructor(config: ModelConfig, backend: Backend, seed: number) {
    this.#backend = backend;
    const largest = Math.max(...parameterSpecs(config).map((spec) => sizeOf(matrixShape(spec))));
    this.#normals = new NormalRow(seed, "random model", largest, { deviation: config.initializer_range });
    const { values } = this.#normals;
    this.#row = backend.allocate("bf16", values.length);
    backend.write(this.#row, toBf16s(values));
  }

  tensor(spec: ParameterSpec): DeviceBuffer {
    if (spec.init === "ones") {
      const ones = this.#backend.allocate("f32", sizeOf(spec.shape));
      this.#backend.write(ones, new Float32Array(sizeOf(spec.shape)).fill(1));
      return ones;
    }
    return this.#backend.slice(this.#row, this.#normals.place(this.#taken++), sizeOf(matrixShape(spec)));
  }

  release(buffer: DeviceBuffer): void {
    this.#backend.free(buffer);
  }

  inPlace(): undefined {}

  together(): undefined {}

  close(): void {
    this.#backend.free(this.#row);
  }
}

/** One expert of a parameter [E, ...]. */
function matrixShape({ shape }: ParameterSpec): readonly number[] {
  return shape.length === 3 ? shape.slice(1) : shape;
}
