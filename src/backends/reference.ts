// The reference backend: every kernel by its own reference implementation, in plain TypeScript. It is the arbiter
// in tests, and what runs where the native kernels cannot be built. Hundreds of times slower than those.

import { kernelNames } from "../kernels/catalogue.ts";
import type { BufferDecls, DType, Kernel, ParamDecls, ParamsOf } from "../kernels/kernel.ts";
import {
  type Backend,
  type BuffersOf,
  checkCall,
  type DeviceBuffer,
  type HostArray,
  type SupportTable,
} from "./backend.ts";
import { HostMemory, nextTurn } from "./hostMemory.ts";

export class ReferenceBackend implements Backend {
  readonly name = "reference (plain TypeScript, one thread)";
  readonly nativeBf16 = false;
  readonly support = Object.fromEntries(kernelNames.map((name) => [name, "reference"])) as SupportTable;
  readonly #memory = new HostMemory((bytes) => new ArrayBuffer(bytes));

  get bytesInUse(): number {
    return this.#memory.bytesInUse;
  }

  allocate(dtype: DType, length: number): DeviceBuffer {
    return this.#memory.allocate(dtype, length);
  }

  free(buffer: DeviceBuffer): void {
    this.#memory.free(buffer);
  }

  write(buffer: DeviceBuffer, data: HostArray, offset = 0): void {
    this.#memory.write(buffer, data, offset);
  }

  run<B extends BufferDecls, P extends ParamDecls>(
    kernel: Kernel<string, B, P>,
    buffers: BuffersOf<B>,
    params: ParamsOf<P>,
  ): void {
    checkCall(kernel, buffers, params);
    const arrays: Record<string, Float32Array | Uint32Array> = {};
    for (const name in kernel.buffers) arrays[name] = this.#memory.array(buffers[name]);
    kernel.reference(arrays as Parameters<typeof kernel.reference>[0], params);
  }

  async read(buffer: DeviceBuffer, offset = 0, length?: number): Promise<HostArray> {
    await nextTurn();
    return this.#memory.copyOut(buffer, offset, length);
  }

  close(): void {
    this.#memory.close();
  }
}
