// What a backend is: memory and a queue of kernel calls, nothing of tensors, shapes or gradients.
// A backend only enqueues; `read` is the one asynchronous call. Between two reads nothing on the host may depend
// on values, so that a GPU can follow: counts such as rows per expert stay in buffers that kernels read.

import type { KernelName } from "../kernels/catalogue.ts";
import {
  type AnyKernel,
  type ArrayOf,
  accessOf,
  type BufferDecls,
  type DType,
  dtypeOf,
  type Kernel,
  type ParamDecls,
  type ParamsOf,
} from "../kernels/kernel.ts";

/** Memory of a backend. Opaque: only the backend that made it knows what is inside. */
export interface DeviceBuffer {
  readonly dtype: DType;
  /** Number of elements. */
  readonly length: number;
}

export type HostArray<D extends DType = DType> = ArrayOf<D>;

export type BuffersOf<B extends BufferDecls> = { readonly [K in keyof B]: DeviceBuffer };

/** How a backend comes by a kernel; a gap carries its reason. Tables of these are total over the catalogue. */
export type Support = "native" | "reference" | { readonly unsupported: string };
export type SupportTable = Readonly<Record<KernelName, Support>>;

/** A captured sequence of writes and kernel calls. */
export interface Program {
  /** Runs it again: writes take what their arrays hold now. */
  run(): void;
  /** Gives its memory back. */
  close(): void;
}

/** No view of a mapped file may be longer: runtimes do not take more memory in one piece. */
export const MAX_VIEW_BYTES = 2 ** 32 - 2 ** 17;

/** A file in memory, read from disk when it is touched. */
export interface MappedFile {
  readonly bytes: number;
  /** `length` elements from a byte on, which must be a multiple of the element's size. To be freed like any buffer. */
  view(dtype: DType, byteOffset: number, length: number): DeviceBuffer;
  /** Buffers over it must not be used afterwards. */
  close(): void;
}

export interface Backend {
  /** For people and for the run's records, e.g. `cpu (avx512bf16, 2 threads)`. */
  readonly name: string;
  /** True where bf16 operands of matrix products are multiplied by hardware, hence faster than f32. */
  readonly nativeBf16: boolean;
  readonly support: SupportTable;

  /** Memory for `length` elements; its content is undefined. */
  allocate(dtype: DType, length: number): DeviceBuffer;
  /** Gives memory back; a later allocation may receive it. Pending calls that use it are not disturbed. */
  free(buffer: DeviceBuffer): void;
  /** Enqueues a copy of `data` to `buffer`, from element `offset` on. */
  write(buffer: DeviceBuffer, data: HostArray, offset?: number): void;
  /** Enqueues one kernel call. */
  run<B extends BufferDecls, P extends ParamDecls>(
    kernel: Kernel<string, B, P>,
    buffers: BuffersOf<B>,
    params: ParamsOf<P>,
  ): void;
  /** Waits for what was enqueued and copies elements `offset` to `offset + length` to the host. */
  read(buffer: DeviceBuffer, offset?: number, length?: number): Promise<HostArray>;
  /**
   * Elements `offset` to `offset + length` of a buffer as a buffer of its own. Freeing it frees no memory; it must not be
   * used after the whole buffer was freed.
   */
  slice(buffer: DeviceBuffer, offset: number, length: number): DeviceBuffer;
  /**
   * Runs `body` and remembers what it enqueues, to be run again in one call: a decoding step costs the host nothing then.
   * `body` must not wait for anything; memory that it allocates belongs to the program, whether it was freed or not.
   */
  capture(body: () => void): Program;
  /** Makes a file readable as buffers without copying it; absent where that is impossible. */
  map?(path: string): MappedFile;
  /** Bytes of memory in use by buffers that were not freed. */
  readonly bytesInUse: number;
  /** Frees everything. The backend is unusable afterwards. */
  close(): void;
}

/**
 * Checks a call against the kernel's declaration: every buffer present, of the right type, large enough; every
 * parameter a finite number. A mistake here is a bug of the caller, so it throws a plain Error.
 */
export function checkCall(
  kernel: AnyKernel,
  buffers: Readonly<Record<string, DeviceBuffer>>,
  params: Readonly<Record<string, number>>,
): void {
  for (const name in kernel.params) {
    const value = params[name];
    if (!Number.isFinite(value)) throw new Error(`${kernel.name}: parameter ${name} is ${value}`);
    if (kernel.params[name] === "int" && !Number.isInteger(value)) {
      throw new Error(`${kernel.name}: parameter ${name} = ${value} is not an integer`);
    }
  }
  const sizes = kernel.sizes(params);
  for (const name in kernel.buffers) {
    const decl = kernel.buffers[name];
    const buffer = buffers[name];
    if (!buffer) throw new Error(`${kernel.name}: buffer ${name} is missing`);
    if (buffer.dtype !== dtypeOf(decl)) {
      throw new Error(`${kernel.name}: buffer ${name} holds ${buffer.dtype}, not ${dtypeOf(decl)}`);
    }
    if (buffer.length < sizes[name]) {
      throw new Error(`${kernel.name}: buffer ${name} has ${buffer.length} elements, needs ${sizes[name]}`);
    }
    if (accessOf(decl) !== "in") {
      for (const other in buffers) {
        if (other !== name && buffers[other] === buffer && kernel.inPlace?.[name] !== other) {
          throw new Error(`${kernel.name}: ${name} and ${other} are the same buffer, and ${name} is written`);
        }
      }
    }
  }
}

/** A backend's name without its number of threads: what has the same gives the same bits. */
export function arithmeticOf(name: string): string {
  return name.replace(/, \d+ threads?/, "");
}
