// Brings a model's weights into the form that inference reads (kernels/stored.ts): matrices as f32, bf16 or bytes, the
// experts' down projections neuron by neuron, norms and router in f32. Where weights come from is a WeightSource's
// business; one that lies in mapped memory is used in place as far as its form allows.
// Letters: D width, E experts, F neurons.

import type { Backend, DeviceBuffer } from "../backends/backend.ts";
import { RunError } from "../errors.ts";
import { scalesFor, type WeightType } from "../kernels/stored.ts";
import type { ModelConfig } from "../model/config.ts";
import { type ParameterSpec, parameterSpecs } from "../model/parameters.ts";
import type { StoredWeights } from "../model/transformer.ts";
import type { StoredExperts } from "../tensor/ops.ts";
import { StoredTensor, sizeOf, Tensor } from "../tensor/tensor.ts";
import { encodeWeights } from "./encodeWeights.ts";

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
  /** Set where matrices come as bytes already; `tensor` is asked for what is f32 then (`byteForm`). */
  readonly bytes?: ByteSource;
  /** Most has been asked for: memory that is of use only while much is, may go. */
  settle?(): void;
  close(): void;
}

/** Matrices in the form of `byteForm`: one, or one expert of it. */
export interface ByteSource {
  /** Good until the next call. */
  values(spec: ParameterSpec, expert?: number): Int8Array;
  /** One per row of `values`. */
  scales(spec: ParameterSpec, expert?: number): Float32Array;
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

/** Where experts begin is stored as u32. */
const MOST_PLACE = 2 ** 32 - 1;

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
    source.settle?.();
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

/**
 * How a parameter is stored where matrices are bytes: its rows with a scale each; its columns (down projections of networks,
 * which are read neuron by neuron); or floats (norms, biases, routers).
 */
export function byteForm(spec: ParameterSpec, { variant }: ModelConfig): "rows" | "columns" | "floats" {
  if (spec.shape.length === 1 || matrixType(spec, "i8") === "f32") return "floats";
  return spec.name.match(PROJECTION)?.[2] === "down" && !variant?.mlpBias ? "columns" : "rows";
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
    const bytes = type === "i8" ? this.#source.bytes : undefined;
    if (bytes) this.#backend.write(scales.buffer, bytes.scales(spec));
    const inPlace = this.#source.inPlace(spec, type);
    if (inPlace) {
      this.#owned.push(inPlace);
      return { buffer: inPlace, scales };
    }
    if (bytes) {
      const buffer = this.#allocate(type, rows * width);
      this.#backend.write(buffer, bytes.values(spec));
      return { buffer, scales };
    }
    const from = this.#source.tensor(spec);
    const buffer = this.#allocate(type, rows * width);
    encodeWeights(this.#backend, from, { to: buffer, scales: scales.buffer, rows, width });
    this.#source.release(from);
    return { buffer, scales };
  }

  /** Experts whose gate and up stay where they are; the function transposes down, unless it lies as it is wanted. */
  networkInPlace({ gate, up, down, neurons, width, experts }: Network): (() => StoredExperts) | undefined {
    const bytes = this.#source.bytes !== undefined;
    if (experts === undefined && !bytes) return undefined;
    const together = this.#source.together([gate, up], this.#type);
    if (!together) return undefined;
    this.#owned.push(together.buffer);
    const shape = [experts ?? 1, neurons, width];
    const [ofGate, ofUp] = [gate, up].map(
      (spec) => new StoredTensor(together.buffer, shape, this.#scalesOf(spec, shape)),
    );
    const places = this.#places(gate, together.places);
    const whole = bytes ? this.#wholeInPlace(down, shape) : undefined;
    return () => ({
      gate: ofGate,
      up: ofUp,
      down: whole ?? this.#encodeAll(down, shape, experts, true),
      places,
    });
  }

  /** All experts of a parameter, if they follow each other where they lie. */
  #wholeInPlace(spec: ParameterSpec, shape: readonly number[]): StoredTensor | undefined {
    const together = this.#source.together([spec], this.#type);
    if (!together) return undefined;
    this.#owned.push(together.buffer);
    const [, rows, width] = shape;
    if (together.places.some((place, e) => place !== e * rows * width)) return undefined;
    return new StoredTensor(together.buffer, shape, this.#scalesOf(spec, shape));
  }

  /** Scales of all experts of a parameter that lies in place: [E, rows], or none. */
  #scalesOf(spec: ParameterSpec, [count, rows]: readonly number[]): Tensor {
    const scales = this.#scales(this.#type, [count, rows]);
    for (let e = 0; e < count && this.#source.bytes; e++)
      this.#backend.write(scales.buffer, this.#source.bytes.scales(spec, e), e * rows);
    return scales;
  }

  /** Gate and up encoded, down transposed. */
  network({ gate, up, down, neurons, width, experts }: Network): StoredExperts {
    const count = experts ?? 1;
    const shape = [count, neurons, width];
    return {
      gate: this.#encodeAll(gate, shape, experts, false),
      up: this.#encodeAll(up, shape, experts, false),
      down: this.#encodeAll(down, shape, experts, true),
      places: this.#places(
        gate,
        Array.from({ length: 2 * count }, (_, i) => (i % count) * neurons * width),
      ),
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
    const { bytes } = this.#source;
    for (let e = 0; e < count; e++) {
      if (bytes) {
        this.#backend.write(tensor.buffer, bytes.values(spec, e), e * size);
        this.#backend.write(tensor.scales.buffer, bytes.scales(spec, e), e * rows);
        continue;
      }
      const from = this.#source.tensor(spec, experts === undefined ? undefined : e);
      const to = this.#backend.slice(tensor.buffer, e * size, size);
      const scales = this.#backend.slice(tensor.scales.buffer, e * scaleCount, scaleCount);
      encodeWeights(this.#backend, from, { to, scales, rows, width, transposed });
      for (const part of [to, scales]) this.#backend.free(part);
      this.#source.release(from);
    }
    return tensor;
  }

  #scales(type: WeightType, rows: readonly number[]): Tensor {
    const shape = type === "i8" ? rows : [0];
    return new Tensor(this.#allocate("f32", sizeOf(shape)), shape);
  }

  #places(gate: ParameterSpec, places: readonly number[]): Tensor {
    // An array of 32 bits would take the remainder without a word.
    if (places.some((place) => place > MOST_PLACE)) {
      throw new RunError(
        `experts of ${gate.name} begin beyond element ${MOST_PLACE}, which kernels cannot address: use a smaller model`,
      );
    }
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
