// Memory of the backends that live in the host's own address space (reference, cpu): typed arrays in an arena, so
// that a training step finds the memory of the previous one instead of asking the system for it again.

import { arrayTypes, type DType } from "../kernels/kernel.ts";
import { Arena, type Block } from "./arena.ts";
import type { DeviceBuffer, HostArray } from "./backend.ts";

export interface HostBuffer extends DeviceBuffer {
  readonly array: HostArray;
  /** Where its memory goes when it is freed; absent for a part of another buffer or of a mapped file. */
  readonly home?: { readonly arena: Arena; readonly block: Block };
}

export class HostMemory {
  readonly #allocateBytes: (bytes: number) => ArrayBuffer;
  #arena: Arena;
  readonly #live = new Set<HostBuffer>();
  /** Bytes of reserved arenas that no live buffer holds. */
  #reserved = 0;
  #bytesInUse = 0;

  constructor(allocateBytes: (bytes: number) => ArrayBuffer) {
    this.#allocateBytes = allocateBytes;
    this.#arena = new Arena(allocateBytes);
  }

  get bytesInUse(): number {
    return this.#bytesInUse + this.#reserved;
  }

  allocate(dtype: DType, length: number): HostBuffer {
    const ArrayType = arrayTypes[dtype];
    const arena = this.#arena;
    const block = arena.take(ArrayType.BYTES_PER_ELEMENT * length);
    this.#bytesInUse += block.bytes;
    return this.#register({
      dtype,
      length,
      array: new ArrayType(block.chunk, block.offset, length),
      home: { arena, block },
    });
  }

  /** A buffer over memory that somebody else owns and keeps while the buffer is in use. */
  adopt(dtype: DType, array: HostArray): HostBuffer {
    return this.#register({ dtype, length: array.length, array });
  }

  slice(buffer: DeviceBuffer, offset: number, length: number): HostBuffer {
    const array = this.array(buffer);
    if (offset < 0 || offset + length > array.length)
      throw new Error(`a slice of ${length} elements at ${offset} of a buffer of ${array.length}`);
    return this.adopt(buffer.dtype, array.subarray(offset, offset + length));
  }

  #register(buffer: HostBuffer): HostBuffer {
    this.#live.add(buffer);
    return buffer;
  }

  free(buffer: DeviceBuffer): void {
    const host = buffer as HostBuffer;
    if (!this.#live.delete(host))
      throw new Error("a buffer was freed twice, or by a backend that did not make it");
    if (!host.home) return;
    this.#bytesInUse -= host.home.block.bytes;
    host.home.arena.give(host.home.block);
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
   * Runs `body` in an arena of its own, from which nobody else gets memory afterwards, so that what it computed can be
   * computed again in the same place. @returns what gives that memory back. Buffers that are alive after `body` go with it,
   * and at once if it throws.
   */
  reserve(body: () => void): () => void {
    const usual = this.#arena;
    const own = new Arena(this.#allocateBytes);
    this.#arena = own;
    const aliveIn = () => [...this.#live].filter(({ home }) => home?.arena === own);
    try {
      body();
    } catch (error) {
      for (const buffer of aliveIn()) this.free(buffer);
      throw error;
    } finally {
      this.#arena = usual;
    }
    const alive = aliveIn();
    const held = alive.reduce((sum, { home }) => sum + (home?.block.bytes ?? 0), 0);
    const others = own.bytes - held;
    this.#reserved += others;
    return () => {
      for (const buffer of alive) this.free(buffer);
      this.#reserved -= others;
    };
  }

  close(): void {
    this.#arena.clear();
    this.#live.clear();
    this.#bytesInUse = 0;
    this.#reserved = 0;
  }
}
