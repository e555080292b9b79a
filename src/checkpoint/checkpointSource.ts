// A folder's safetensors files as the source of a model's stored weights. Large ones are mapped into memory where the
// backend can, so that they open at once and are read where they lie; what needs another form is read tensor by tensor. Small
// ones are read whole: that takes no time, and memory of our own is faster (the system maps files in small pages).

import { type Backend, type DeviceBuffer, MAX_VIEW_BYTES, type MappedFile } from "../backends/backend.ts";
import { RunError } from "../errors.ts";
import type { ByteSource, WeightSource } from "../infer/storedWeights.ts";
import { arrayTypes, type DType } from "../kernels/kernel.ts";
import type { WeightType } from "../kernels/stored.ts";
import type { ModelConfig } from "../model/config.ts";
import type { ParameterSpec } from "../model/parameters.ts";
import { byteMatrix, findBytes } from "./byteTensors.ts";
import { storedParts } from "./modelFolder.ts";
import type { StoredDType } from "./safetensors.ts";
import { type PlacedTensor, TensorFiles } from "./tensorFiles.ts";
import { findPart } from "./tensorNames.ts";

/** What kernels read without conversion on the host. */
const KERNEL_TYPES: Partial<Record<StoredDType, WeightType>> = { F32: "f32", BF16: "bf16" };
/** Files from this size on are mapped. */
const LARGE_BYTES = 2 ** 30;

const bytesOf = (type: DType) => arrayTypes[type].BYTES_PER_ELEMENT;

export class CheckpointSource implements WeightSource {
  readonly #backend: Backend;
  readonly #files: TensorFiles;
  readonly #config: ModelConfig;
  readonly bytes: ByteSource | undefined;
  /** Files in memory, by path. */
  readonly #mapped = new Map<string, MappedFile>();
  /** Where tensors arrive; reused, since fresh memory costs more than a copy. */
  #arrival = new Uint8Array(0);
  /** The tensor of all experts that was read last, since its parts are asked for one after the other. */
  #fused: { name: string; values: Float32Array | Uint16Array } | undefined;

  /**
   * Opens and checks a model folder's tensors.
   * @param config whose parameters are asked for. @param largeBytes files are mapped if they have so many bytes together.
   * @param int8 whether its matrices are bytes (byteTensors.ts).
   * @throws RunError if one is damaged.
   */
  constructor(
    folder: string,
    config: ModelConfig,
    backend: Backend,
    { largeBytes = LARGE_BYTES, int8 = false }: { largeBytes?: number; int8?: boolean } = {},
  ) {
    this.#config = config;
    this.bytes = int8 ? this.#byteSource() : undefined;
    this.#backend = backend;
    this.#files = TensorFiles.open(folder);
    if (this.#files.bytes < largeBytes || !backend.map) return;
    for (const { path } of this.#files.files) {
      try {
        this.#mapped.set(path, backend.map(path));
      } catch (error) {
        this.close();
        throw new RunError(`${path} cannot be mapped into memory: ${(error as Error).message}`, {
          cause: error,
        });
      }
    }
  }

  /** The type that most of the file's elements have. */
  get mainType(): StoredDType {
    const elements = new Map<StoredDType, number>();
    for (const { dtype, begin, end } of this.#files.tensors.values()) {
      elements.set(dtype, (elements.get(dtype) ?? 0) + end - begin);
    }
    return [...elements].sort((a, b) => b[1] - a[1])[0]?.[0] ?? "F32";
  }

  /** Layers that the files have tensors of. */
  get layers(): number {
    let layers = 0;
    for (const name of this.#files.tensors.keys()) {
      const layer = name.match(/^model\.layers\.(\d+)\./);
      if (layer) layers = Math.max(layers, Number(layer[1]) + 1);
    }
    return layers;
  }

  #byteSource(): ByteSource {
    const find = (spec: ParameterSpec, expert = 0) => {
      const matrix = byteMatrix(spec, expert, this.#config);
      if (!matrix) throw new Error(`${spec.name} is not stored as bytes`);
      return findBytes(this.#files, matrix);
    };
    return {
      values: (spec, expert) => {
        const bytes = this.#arrive(find(spec, expert).values);
        return new Int8Array(bytes.buffer, 0, bytes.length);
      },
      scales: (spec, expert) => this.#files.readFloat32(find(spec, expert).scales.name),
    };
  }

  tensor(spec: ParameterSpec, expert = 0): DeviceBuffer {
    const info = this.#find(spec, expert);
    const values = this.#read(info);
    const buffer = this.#backend.allocate(values instanceof Uint16Array ? "bf16" : "f32", values.length);
    this.#backend.write(buffer, values);
    return buffer;
  }

  #read(part: PlacedTensor): Float32Array | Uint16Array {
    const { name, begin, end } = part;
    const whole = this.#files.tensors.get(name) ?? part;
    if (whole.end - whole.begin === end - begin) return this.#readWhole(whole);
    if (this.#fused?.name !== name) this.#fused = { name, values: this.#readWhole(whole).slice() };
    return this.#files.partOf(this.#fused.values, part);
  }

  #readWhole({ name, dtype, begin, end }: PlacedTensor): Float32Array | Uint16Array {
    const type = KERNEL_TYPES[dtype];
    if (!type) return this.#files.readFloat32(name);
    const bytes = this.#arrive({ name, begin, end });
    const length = bytes.length / bytesOf(type);
    return type === "bf16"
      ? new Uint16Array(bytes.buffer, 0, length)
      : new Float32Array(bytes.buffer, 0, length);
  }

  /** A tensor's bytes, good until the next call. */
  #arrive({ name, begin, end }: Pick<PlacedTensor, "name" | "begin" | "end">): Uint8Array<ArrayBuffer> {
    if (this.#arrival.length < end - begin) this.#arrival = new Uint8Array(end - begin);
    return this.#files.readInto(name, this.#arrival);
  }

  inPlace(spec: ParameterSpec, type: WeightType): DeviceBuffer | undefined {
    const info = this.#find(spec, 0);
    return this.#typeOf(info) === type ? this.#view(type, info) : undefined;
  }

  #find(spec: ParameterSpec, expert: number): PlacedTensor {
    const matrix = this.bytes && byteMatrix(spec, expert, this.#config);
    if (matrix) return findBytes(this.#files, matrix).values;
    return findPart(this.#files, spec, expert, this.#config.variant?.family);
  }

  /** What a tensor is to kernels without conversion; bytes are nothing without their scales. */
  #typeOf({ dtype }: PlacedTensor): WeightType | undefined {
    return dtype === "I8" && this.bytes ? "i8" : KERNEL_TYPES[dtype];
  }

  /** A tensor in place; undefined where its file is not mapped or it lies askew. */
  #view(type: DType, { file, begin, end }: Pick<PlacedTensor, "file" | "begin" | "end">) {
    const mapped = this.#mapped.get(file);
    if (!mapped || begin % bytesOf(type) !== 0 || end - begin > MAX_VIEW_BYTES) return undefined;
    if (end > mapped.bytes) throw new RunError(`${file} became shorter while it was read`);
    return mapped.view(type, begin, (end - begin) / bytesOf(type));
  }

  release(buffer: DeviceBuffer): void {
    this.#backend.free(buffer);
  }

  together(specs: readonly ParameterSpec[], type: WeightType) {
    if (this.#mapped.size === 0) return undefined;
    const infos = specs.flatMap((spec) =>
      Array.from({ length: storedParts(spec).length }, (_, expert) => this.#find(spec, expert)),
    );
    const begin = Math.min(...infos.map((info) => info.begin));
    const end = Math.max(...infos.map((info) => info.end));
    const size = bytesOf(type);
    const { file } = infos[0];
    const fits = (info: PlacedTensor) =>
      info.file === file && this.#typeOf(info) === type && (info.begin - begin) % size === 0;
    if (!infos.every(fits)) return undefined;
    const buffer = this.#view(type, { file, begin, end });
    return buffer && { buffer, places: infos.map((info) => (info.begin - begin) / size) };
  }

  /** The largest tensor's memory, and that of a layer's fused experts. */
  settle(): void {
    this.#arrival = new Uint8Array(0);
    this.#fused = undefined;
  }

  close(): void {
    this.#files.close();
    for (const mapped of this.#mapped.values()) mapped.close();
  }
}
