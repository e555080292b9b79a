// Memory of the backends that live in the host's own address space (reference, cpu): typed arrays with a pool, so
// that a training step finds the memory of the previous one instead of asking the system for it again.

import { arrayTypes, type DType } from "../kernels/kernel.ts";
import type { DeviceBuffer, HostArray } from "./backend.ts";

export interface HostBuffer extends DeviceBuffer {
  readonly array: HostArray;
  /** False for a part of another buffer or of a mapped file, which does not go to the pool. */
  readonly owned: boolean;
}

type FreeLists = Map<number, ArrayBuffer[]>;

export class HostMemory {
  readonly #allocateBytes: (bytes: number) => ArrayBuffer;
  /** Free memory by size class. */
  #free: FreeLists = new Map();
  readonly #live = new Set<HostBuffer>();
  #bytesInUse = 0;

  constructor(allocateBytes: (bytes: number) => ArrayBuffer) {
    this.#allocateBytes = allocateBytes;
  }

  get bytesInUse(): number {
    return this.#bytesInUse;
  }

  allocate(dtype: DType, length: number): HostBuffer {
    const ArrayType = arrayTypes[dtype];
    const bytes = sizeClass(ArrayType.BYTES_PER_ELEMENT * length);
    const memory = this.#free.get(bytes)?.pop() ?? this.#allocateBytes(bytes);
    this.#bytesInUse += bytes;
    return this.#register(dtype, new ArrayType(memory, 0, length), true);
  }

  /** A buffer over memory that somebody else owns and keeps while the buffer is in use. */
  adopt(dtype: DType, array: HostArray): HostBuffer {
    return this.#register(dtype, array, false);
  }

  slice(buffer: DeviceBuffer, offset: number, length: number): HostBuffer {
    const array = this.array(buffer);
    if (offset < 0 || offset + length > array.length)
      throw new Error(`a slice of ${length} elements at ${offset} of a buffer of ${array.length}`);
    return this.adopt(buffer.dtype, array.subarray(offset, offset + length));
  }

  #register(dtype: DType, array: HostArray, owned: boolean): HostBuffer {
    const buffer: HostBuffer = { dtype, length: array.length, array, owned };
    this.#live.add(buffer);
    return buffer;
  }

  free(buffer: DeviceBuffer): void {
    const host = buffer as HostBuffer;
    if (!this.#live.delete(host))
      throw new Error("a buffer was freed twice, or by a backend that did not make it");
    if (host.owned) this.#pool(host.array.buffer as ArrayBuffer);
  }

  #pool(memory: ArrayBuffer): void {
    this.#bytesInUse -= memory.byteLength;
    const list = this.#free.get(memory.byteLength);
    if (list) list.push(memory);
    else this.#free.set(memory.byteLength, [memory]);
  }

  /** The array behind a buffer; throws if the buffer was freed. */
  array(buffer: DeviceBuffer): HostArray {
    const host = buffer as HostBuffer;
    if (!this.#live.has(host)) throw new Error("a buffer is used after it was freed");
    return host.array;
  }

  write(buffer: DeviceBuffer, data: HostArray, offset: number): void {
    const array = this.array(buffer);
    if (offset + data.length > array.length) {
      throw new Error(`write of ${data.length} elements at ${offset} into a buffer of ${array.length}`);
    }
    array.set(data, offset);
  }

  copyOut(buffer: DeviceBuffer, offset: number, length: number | undefined): HostArray {
    return this.array(buffer).slice(offset, length === undefined ? undefined : offset + length);
  }

  /**
   * Runs `body` on memory that nobody else gets afterwards, so that what it computed can be computed again in the same
   * place. @returns what gives that memory back. Buffers that are alive after `body` belong to it too.
   */
  reserve(body: () => void): () => void {
    const others = this.#free;
    const before = new Set(this.#live);
    const reserved: FreeLists = new Map();
    this.#free = reserved;
    try {
      body();
    } finally {
      this.#free = others;
    }
    for (const list of reserved.values()) {
      for (const memory of list) this.#bytesInUse += memory.byteLength;
    }
    const alive = [...this.#live].filter((buffer) => !before.has(buffer));
    return () => {
      for (const buffer of alive) this.free(buffer);
      for (const list of reserved.values()) for (const memory of list) this.#pool(memory);
    };
  }

  close(): void {
    this.#free.clear();
    this.#live.clear();
    this.#bytesInUse = 0;
  }
}

/** Sizes are rounded up by at most 1/8, so that buffers of nearly equal length share memory. */
function sizeClass(bytes: number): number {
  if (bytes <= 4096) return Math.max(64, 2 ** Math.ceil(Math.log2(bytes)));
  const step = 2 ** Math.floor(Math.log2(bytes - 1)) / 8;
  return Math.ceil(bytes / step) * step;
}
