// Memory of the backends that live in the host's own address space (reference, cpu): typed arrays in an arena, so
// that a training step finds the memory of the previous one instead of asking the system for it again.

import type { DType } from "../kernels/kernel.ts";
import { Arena, type Block } from "./arena.ts";
import type { DeviceBuffer, HostArray } from "./backend.ts";

export interface HostBuffer extends DeviceBuffer {
  readonly array: Float32Array | Uint32Array;
  readonly block: Block;
}

export class HostMemory {
  readonly #arena: Arena;
  readonly #live = new Set<HostBuffer>();
  #bytesInUse = 0;

  constructor(allocateBytes: (bytes: number) => ArrayBuffer) {
    this.#arena = new Arena(allocateBytes);
  }

  get bytesInUse(): number {
    return this.#bytesInUse;
  }

  allocate(dtype: DType, length: number): HostBuffer {
    const block = this.#arena.take(4 * length);
    const { chunk, offset } = block;
    const array =
      dtype === "f32" ? new Float32Array(chunk, offset, length) : new Uint32Array(chunk, offset, length);
    const buffer: HostBuffer = { dtype, length, array, block };
    this.#live.add(buffer);
    this.#bytesInUse += block.bytes;
    return buffer;
  }

  free(buffer: DeviceBuffer): void {
    const host = buffer as HostBuffer;
    if (!this.#live.delete(host))
      throw new Error("a buffer was freed twice, or by a backend that did not make it");
    this.#bytesInUse -= host.block.bytes;
    this.#arena.give(host.block);
  }

  /** The array behind a buffer; throws if the buffer was freed. */
  array(buffer: DeviceBuffer): Float32Array | Uint32Array {
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

  close(): void {
    this.#arena.clear();
    this.#live.clear();
    this.#bytesInUse = 0;
  }
}
