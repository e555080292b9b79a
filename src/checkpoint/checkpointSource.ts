// A safetensors file as the source of a model's stored weights. A large one is mapped into memory where the backend can, so
// that it opens at once and is read where it lies; what needs another form is read tensor by tensor. A small one is read
// whole: that takes no time, and memory of our own is faster (the system maps files in small pages).

import { type Backend, type DeviceBuffer, MAX_VIEW_BYTES, type MappedFile } from "../backends/backend.ts";
import { RunError } from "../errors.ts";
import type { WeightSource } from "../infer/storedWeights.ts";
import { arrayTypes, type DType } from "../kernels/kernel.ts";
import type { WeightType } from "../kernels/stored.ts";
import type { ParameterSpec } from "../model/parameters.ts";
import { SafetensorsFile, type StoredDType } from "./safetensors.ts";
import { findPart, type StoredTensorPart, type TensorReader } from "./tensorNames.ts";

/** What kernels read without conversion on the host. */
const KERNEL_TYPES: Partial<Record<StoredDType, WeightType>> = { F32: "f32", BF16: "bf16" };
/** Files from this size on are mapped. */
const LARGE_BYTES = 2 ** 30;

const bytesOf = (type: DType) => arrayTypes[type].BYTES_PER_ELEMENT;

export class CheckpointSource implements WeightSource {
  readonly #backend: Backend;
  readonly #file: TensorReader;
  readonly #family: string | undefined;
  readonly #mapped: MappedFile | undefined;
  /** Where tensors arrive; reused, since fresh memory costs more than a copy. */
  #arrival = new Uint8Array(0);

  /** The tensor of all experts that was read last, since its parts are asked for one after the other. */
  #fused: { name: string; values: Float32Array | Uint16Array } | undefined;

  /**
   * Opens and checks a file.
   * @param largeBytes files from this size on are mapped. @param family whose names the tensors have.
   * @throws RunError if it is damaged.
   */
  constructor(
    path: string,
    backend: Backend,
    { largeBytes = LARGE_BYTES, family }: { largeBytes?: number; family?: string } = {},
  ) {
    this.#family = family;
    this.#backend = backend;
    this.#file = SafetensorsFile.open(path);
    try {
      if (this.#file.bytes >= largeBytes) this.#mapped = backend.map?.(path);
    } catch (error) {
      this.#file.close();
      throw new RunError(`${path} cannot be mapped into memory: ${(error as Error).message}`, {
        cause: error,
      });
    }
  }

  /** The type that most of the file's elements have. */
  get mainType(): StoredDType {
    const elements = new Map<StoredDType, number>();
    for (const { dtype, begin, end } of this.#file.tensors.values()) {
      elements.set(dtype, (elements.get(dtype) ?? 0) + end - begin);
    }
    return [...elements].sort((a, b) => b[1] - a[1])[0]?.[0] ?? "F32";
  }

  tensor(spec: ParameterSpec, expert = 0): DeviceBuffer {
    const info = this.#find(spec, expert);
    const values = this.#read(info);
    const buffer = this.#backend.allocate(values instanceof Uint16Array ? "bf16" : "f32", values.length);
    this.#backend.write(buffer, values);
    return buffer;
  }

  #read(part: StoredTensorPart): Float32Array | Uint16Array {
    const { name, begin, end } = part;
    const whole = this.#file.tensors.get(name) ?? part;
    if (whole.end - whole.begin === end - begin) return this.#readWhole(whole);
    if (this.#fused?.name !== name) this.#fused = { name, values: this.#readWhole(whole).slice() };
    const { values } = this.#fused;
    const size = (whole.end - whole.begin) / values.length;
    return values.subarray((begin - whole.begin) / size, (end - whole.begin) / size);
  }

  #readWhole({ name, dtype, begin, end }: StoredTensorPart): Float32Array | Uint16Array {
    const type = KERNEL_TYPES[dtype];
    if (!type) return this.#file.readFloat32(name);
    if (this.#arrival.length < end - begin) this.#arrival = new Uint8Array(end - begin);
    const bytes = this.#file.readInto(name, this.#arrival);
    const length = bytes.length / bytesOf(type);
    return type === "bf16"
      ? new Uint16Array(bytes.buffer, 0, length)
      : new Float32Array(bytes.buffer, 0, length);
  }

  inPlace(spec: ParameterSpec, type: WeightType): DeviceBuffer | undefined {
    const info = this.#find(spec, 0);
    return KERNEL_TYPES[info.dtype] === type ? this.#view(type, info) : undefined;
  }

  #find(spec: ParameterSpec, expert: number): StoredTensorPart {
    return findPart(this.#file, spec, expert, this.#family);
  }

  /** A tensor in place; undefined where the file is not mapped or the tensor lies askew. */
  #view(type: DType, { begin, end }: Pick<StoredTensorPart, "begin" | "end">): DeviceBuffer | undefined {
    if (!this.#mapped || begin % bytesOf(type) !== 0 || end - begin > MAX_VIEW_BYTES) return undefined;
    if (end > this.#mapped.bytes) throw new RunError(`${this.#file.path} became shorter while it was read`);
    return this.#mapped.view(type, begin, (end - begin) / bytesOf(type));
  }

  release(buffer: DeviceBuffer): void {
    this.#backend.free(buffer);
  }

  together(specs: readonly ParameterSpec[], type: WeightType) {
    if (!this.#mapped) return undefined;
    const infos = specs.flatMap((spec) =>
      Array.from({ length: spec.shape[0] }, (_, expert) => this.#find(spec, expert)),
    );
    const begin = Math.min(...infos.map((info) => info.begin));
    const end = Math.max(...infos.map((info) => info.end));
    const size = bytesOf(type);
    const fits = (info: StoredTensorPart) =>
      KERNEL_TYPES[info.dtype] === type && (info.begin - begin) % size === 0;
    if (!infos.every(fits)) return undefined;
    const buffer = this.#view(type, { begin, end });
    return buffer && { buffer, places: infos.map((info) => (info.begin - begin) / size) };
  }

  close(): void {
    this.#file.close();
    this.#mapped?.close();
  }
}
