// Brings a model's weights into the form that inference reads (kernels/stored.ts): matrices as f32, bf16 or bytes, the
// experts' down projections neuron by neuron, norms and router in f32. Where weights come from is a WeightSource's
// business; one that lies in mapped memory is used in place as far as its form allows.
// Letters: D width, E experts, F neurons.

import type { Backend, DeviceBuffer } from "../backends/backend.ts";
import { copy } from "../kernels/elementwise.ts";
import {
  copyBf16,
  decodeBf16,
  encodeBf16,
  encodeInt8,
  transposeBf16,
  transposeF32,
} from "../kernels/encode.ts";
import { scalesFor, type WeightType } from "../kernels/stored.ts";
import type { ModelConfig } from "../model/config.ts";
import { type ParameterSpec, parameterSpecs } from "../model/parameters.ts";
import type { StoredWeights } from "../model/transformer.ts";
import type { StoredExperts } from "../tensor/ops.ts";
import { StoredTensor, sizeOf, Tensor } from "../tensor/tensor.ts";

/** How weights are kept, as users say it. */
export type WeightFormat = "f32" | "bf16" | "int8";

export function weightTypeOf(format: WeightFormat): WeightType {
  return format === "int8" ? "i8" : format;
}

/** Where weights come from. Parameters are named as in model/parameters.ts. */
export interface WeightSource {
  /** Values as f32 or bf16, in row-major order, until `release`. `expert` picks one of a parameter [E, ...]. */
  tensor(spec: ParameterSpec, expert?: number): DeviceBuffer;
  release(buffer: DeviceBuffer): void;
  /** A parameter that lies in memory in this form and may be used there until `close`; undefined if it does not. */
  inPlace(spec: ParameterSpec, type: WeightType): DeviceBuffer | undefined;
  /**
   * All experts of some parameters as parts of one such buffer, and the element where each begins (those of the first
   * parameter, then those of the second).
   */
  together(
    specs: readonly ParameterSpec[],
    type: WeightType,
  ): { buffer: DeviceBuffer; places: number[] } | undefined;
  close(): void;
}

export interface StoreOptions {
  /** Form of the matrices. */
  readonly type: WeightType;
  /** Told how many of all parameters are ready. */
  readonly onProgress?: (done: number, total: number) => void;
}

/** A feed-forward network or all experts of a layer: names up to `gate_proj`. */
interface Network {
  readonly gate: ParameterSpec;
  readonly up: ParameterSpec;
  readonly down: ParameterSpec;
  readonly neurons: number;
  readonly width: number;
  /** Undefined for a network that is no expert. */
  readonly experts: number | undefined;
}

const PROJECTION = /^(.*)\.(gate|up|down)_proj(\.weight)?$/;

/**
 * Reads all weights from a source, which belongs to the result from then on. What can be used in place is not read; the
 * down projections of such networks are transposed when they are first used.
 */
export function createStoredWeights(
  config: ModelConfig,
  backend: Backend,
  source: WeightSource,
  { type, onProgress }: StoreOptions,
): StoredWeights {
  const specs = parameterSpecs(config);
  /** Networks with biases are computed product by product, so their matrices stay as they are. */
  const biased = config.variant?.mlpBias === true;
  const total = specs.reduce((sum, { shape }) => sum + sizeOf(shape), 0);
  let done = 0;
  const advance = (elements: number) => {
    done += elements;
    onProgress?.(done, total);
  };
  const store = new Store(backend, source, type);
  const weights = new Map<string, Tensor>();
  const networks = new Map<string, Network>();
  try {
    for (const spec of specs) {
      const projection = biased ? null : spec.name.match(PROJECTION);
      if (projection) {
        addProjection(networks, projection[1], projection[2] as "gate" | "up" | "down", spec);
      } else {
        weights.set(
          spec.name,
          spec.shape.length === 1 ? store.vector(spec) : store.matrix(spec, matrixType(spec, type)),
        );
        advance(sizeOf(spec.shape));
      }
    }
    const ready = new Map<string, StoredExperts | (() => StoredExperts)>();
    for (const [prefix, network] of networks) {
      ready.set(prefix, store.networkInPlace(network) ?? store.network(network));
      advance(3 * sizeOf(network.gate.shape));
    }
    return {
      weight: (name) => weights.get(name),
      experts(prefix) {
        const known = ready.get(prefix);
        if (!known) throw new Error(`the model has no network ${prefix}`);
        if (typeof known !== "function") return known;
        const experts = known();
        ready.set(prefix, experts);
        return experts;
      },
      close: () => store.close(),
    };
  } catch (error) {
    store.close();
    throw error;
  }
}

/** Routers stay f32: a rounding there would change which expert is chosen. So does the row that gates a shared expert. */
function matrixType({ name }: ParameterSpec, type: WeightType): WeightType {
  return /\.mlp\.(gate|shared_expert_gate)\.weight$/.test(name) ? "f32" : type;
}

/** Adds one of a network's three matrices. */
function addProjection(
  networks: Map<string, Network>,
  prefix: string,
  which: "gate" | "up" | "down",
  spec: ParameterSpec,
): void {
  const [outputs, inputs] = spec.shape.slice(-2);
  const [neurons, width] = which === "down" ? [inputs, outputs] : [outputs, inputs];
  const experts = spec.shape.length === 3 ? spec.shape[0] : undefined;
  const others = networks.get(prefix) ?? { gate: spec, up: spec, down: spec };
  networks.set(prefix, { ...others, [which]: spec, neurons, width, experts });
}

/** Makes stored tensors and owns their memory. */
class Store {
  readonly #backend: Backend;
  readonly #source: WeightSource;
  readonly #type: WeightType;
  readonly #owned: DeviceBuffer[] = [];

  constructor(backend: Backend, source: WeightSource, type: WeightType) {
    this.#backend = backend;
    this.#source = source;
    this.#type = type;
  }

  /** A norm's weights or a bias, as f32. */
  vector(spec: ParameterSpec): Tensor {
    return new Tensor(this.#matrixBuffer(spec, "f32").buffer, spec.shape);
  }

  matrix(spec: ParameterSpec, type: WeightType): StoredTensor {
    const { buffer, scales } = this.#matrixBuffer(spec, type);
    return new StoredTensor(buffer, spec.shape, scales);
  }

  #matrixBuffer(spec: ParameterSpec, type: WeightType): { buffer: DeviceBuffer; scales: Tensor } {
    const [rows, width] = spec.shape.length === 1 ? [1, spec.shape[0]] : spec.shape;
    const scales = this.#scales(type, [rows]);
    const inPlace = this.#source.inPlace(spec, type);
    if (inPlace) {
      this.#owned.push(inPlace);
      return { buffer: inPlace, scales };
    }
    const from = this.#source.tensor(spec);
    const buffer = this.#allocate(type, rows * width);
    this.#encode(from, { to: buffer, scales: scales.buffer, rows, width });
    this.#source.release(from);
    return { buffer, scales };
  }

  /** Experts whose gate and up stay where they are; the function transposes down. */
  networkInPlace({ gate, up, down, neurons, width, experts }: Network): (() => StoredExperts) | undefined {
    if (experts === undefined) return undefined;
    const together = this.#source.together([gate, up], this.#type);
    if (!together) return undefined;
    this.#owned.push(together.buffer);
    const shape = [experts, neurons, width];
    const tensor = new StoredTensor(together.buffer, shape, this.#scales(this.#type, [experts, neurons]));
    const places = this.#places(together.places);
    return () => ({ gate: tensor, up: tensor, down: this.#encodeAll(down, shape, experts, true), places });
  }

  /** Gate and up encoded, down transposed. */
  network({ gate, up, down, neurons, width, experts }: Network): StoredExperts {
    const count = experts ?? 1;
    const shape = [count, neurons, width];
    return {
      gate: this.#encodeAll(gate, shape, experts, false),
      up: this.#encodeAll(up, shape, experts, false),
      down: this.#encodeAll(down, shape, experts, true),
      places: this.#places(Array.from({ length: 2 * count }, (_, i) => (i % count) * neurons * width)),
    };
  }

  #encodeAll(
    spec: ParameterSpec,
    shape: readonly number[],
    experts: number | undefined,
    transposed: boolean,
  ): StoredTensor {
    const [count, rows, width] = shape;
    const type = this.#type;
    const size = rows * width;
    const scaleCount = scalesFor(type, rows);
    const tensor = new StoredTensor(
      this.#allocate(type, count * size),
      shape,
      this.#scales(type, [count, rows]),
    );
    for (let e = 0; e < count; e++) {
      const from = this.#source.tensor(spec, experts === undefined ? undefined : e);
      const to = this.#backend.slice(tensor.buffer, e * size, size);
      const scales = this.#backend.slice(tensor.scales.buffer, e * scaleCount, scaleCount);
      this.#encode(from, { to, scales, rows, width, transposed });
      for (const part of [to, scales]) this.#backend.free(part);
      this.#source.release(from);
    }
    return tensor;
  }

  /** Writes a matrix of f32 or bf16 into `to`, [rows, width] in `to`'s type; `transposed`: it comes as [width, rows]. */
  #encode(
    from: DeviceBuffer,
    to: { to: DeviceBuffer; scales: DeviceBuffer; rows: number; width: number; transposed?: boolean },
  ): void {
    const backend = this.#backend;
    const { scales, rows, width } = to;
    const n = rows * width;
    const scratch: DeviceBuffer[] = [];
    const into = (dtype: "f32" | "bf16", last: boolean) => {
      if (last) return to.to;
      scratch.push(backend.allocate(dtype, n));
      return scratch[scratch.length - 1];
    };
    let x = from;
    if (to.transposed) {
      const y = into(x.dtype as "f32" | "bf16", x.dtype === to.to.dtype);
      backend.run(
        x.dtype === "bf16" ? transposeBf16 : transposeF32,
        { x, y },
        { groups: 1, rows: width, columns: rows },
      );
      x = y;
    }
    if (x.dtype === "bf16" && to.to.dtype !== "bf16") {
      const y = into("f32", to.to.dtype === "f32");
      backend.run(decodeBf16, { x, y }, { n });
      x = y;
    }
    if (x !== to.to) {
      if (to.to.dtype === "i8") backend.run(encodeInt8, { x, y: to.to, scales }, { rows, width });
      else if (x.dtype === "bf16") backend.run(copyBf16, { x, y: to.to }, { n });
      else if (to.to.dtype === "bf16") backend.run(encodeBf16, { x, y: to.to }, { n });
      else backend.run(copy, { x, y: to.to }, { n, accumulate: 0 });
    }
    for (const buffer of scratch) backend.free(buffer);
  }

  #scales(type: WeightType, rows: readonly number[]): Tensor {
    const shape = type === "i8" ? rows : [0];
    return new Tensor(this.#allocate("f32", sizeOf(shape)), shape);
  }

  #places(places: readonly number[]): Tensor {
    const buffer = this.#allocate("u32", places.length);
    this.#backend.write(buffer, Uint32Array.from(places));
    return new Tensor(buffer, [2, places.length / 2]);
  }

  #allocate(dtype: "u32" | WeightType, length: number): DeviceBuffer {
    const buffer = this.#backend.allocate(dtype, length);
    this.#owned.push(buffer);
    return buffer;
  }

  close(): void {
    for (const buffer of this.#owned) this.#backend.free(buffer);
    this.#owned.length = 0;
    this.#source.close();
  }
}
