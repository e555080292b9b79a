// What backends in the host's own address space share: memory, checks, reading. What differs is how a kernel runs.

import type { AnyKernel, BufferDecls, DType, Kernel, ParamDecls, ParamsOf } from "../kernels/kernel.ts";
import {
  type Backend,
  type BuffersOf,
  checkCall,
  type DeviceBuffer,
  type HostArray,
  type Program,
  type SupportTable,
} from "./backend.ts";
import { HostMemory } from "./hostMemory.ts";

/** Buffers of one call, by name, in the order of the kernel's declaration. */
export type HostArrays = Readonly<Record<string, HostArray>>;

/** A write (again from what `from` holds) or a kernel call. */
export type ProgramStep =
  | { readonly to: HostArray; readonly from: HostArray }
  | {
      readonly kernel: AnyKernel;
      readonly arrays: HostArrays;
      readonly params: Readonly<Record<string, number>>;
    };

export abstract class HostBackend implements Backend {
  abstract readonly name: string;
  abstract readonly nativeBf16: boolean;
  abstract readonly support: SupportTable;
  protected readonly memory: HostMemory;
  /** What is being captured, if anything. */
  #steps: ProgramStep[] | undefined;

  constructor(allocateBytes: (bytes: number) => ArrayBuffer) {
    this.memory = new HostMemory(allocateBytes);
  }

  /** Runs a kernel at once. The call has been checked. */
  protected abstract execute(
    kernel: AnyKernel,
    arrays: HostArrays,
    params: Readonly<Record<string, number>>,
  ): void;

  /** Makes something that runs the steps again. */
  protected abstract compile(steps: readonly ProgramStep[]): () => void;

  get bytesInUse(): number {
    return this.memory.bytesInUse;
  }

  allocate(dtype: DType, length: number): DeviceBuffer {
    return this.memory.allocate(dtype, length);
  }

  free(buffer: DeviceBuffer): void {
    this.memory.free(buffer);
  }

  write(buffer: DeviceBuffer, data: HostArray, offset = 0): void {
    this.memory.write(buffer, data, offset);
    this.#steps?.push({ to: this.memory.array(buffer).subarray(offset, offset + data.length), from: data });
  }

  run<B extends BufferDecls, P extends ParamDecls>(
    kernel: Kernel<string, B, P>,
    buffers: BuffersOf<B>,
    params: ParamsOf<P>,
  ): void {
    checkCall(kernel, buffers, params);
    const arrays: Record<string, HostArray> = {};
    for (const name in kernel.buffers) arrays[name] = this.memory.array(buffers[name]);
    // From here on kernels are treated alike; the check above stands for their types.
    this.execute(kernel as unknown as AnyKernel, arrays, params);
    this.#steps?.push({ kernel: kernel as unknown as AnyKernel, arrays, params: { ...params } });
  }

  slice(buffer: DeviceBuffer, offset: number, length: number): DeviceBuffer {
    return this.memory.slice(buffer, offset, length);
  }

  capture(body: () => void): Program {
    if (this.#steps) throw new Error("a capture within a capture");
    const steps: ProgramStep[] = [];
    this.#steps = steps;
    let close: () => void;
    try {
      close = this.memory.reserve(body);
    } finally {
      this.#steps = undefined;
    }
    return { run: this.compile(steps), close };
  }

  // Kernels run on this thread, so everything enqueued is done; the turn lets signals and timers through.
  async read(buffer: DeviceBuffer, offset = 0, length?: number): Promise<HostArray> {
    await nextTurn();
    return this.memory.copyOut(buffer, offset, length);
  }

  close(): void {
    this.memory.close();
  }
}

/** Browsers have no setImmediate, and their timers are slow but work. */
function nextTurn(): Promise<void> {
  return new Promise((resolve) => {
    if (typeof setImmediate === "function") setImmediate(resolve);
    else setTimeout(resolve, 0);
  });
}
