// The CPU backend: the native addon's kernels, at the best instruction level the machine has. The only file in
// kernels, backends, tensor, mone, model and infer that imports Node modules.
//
// MONE_LEVEL=amx|avx512bf16|avx512|avx2|portable chooses a lower level (tests run all of them);
// MONE_LEVEL=reference refuses the addon; amxEmulated is level amx for tests on machines without its instructions.

import { statSync } from "node:fs";
import { createRequire } from "node:module";
import { availableParallelism } from "node:os";
import { RunError, UsageError } from "../errors.ts";
import { catalogue, type KernelName, kernelNames } from "../kernels/catalogue.ts";
import { type AnyKernel, arrayTypes, signature } from "../kernels/kernel.ts";
import {
  type Backend,
  type HostArray,
  MAX_VIEW_BYTES,
  type MappedFile,
  type SupportTable,
} from "./backend.ts";
import { type HostArrays, HostBackend, type ProgramStep } from "./hostBackend.ts";
import { ReferenceBackend } from "./reference.ts";

/** What native/addon.cc exports. */
interface Addon {
  levels(emulated: boolean): string[];
  problems(): string[];
  /** The handle stands for both in what follows; the addon keeps nothing about it. */
  open(level: string, threads: number): { handle: number; signatures: string[]; nativeBf16: boolean };
  run(handle: number, index: number, buffers: HostArray[], params: Float64Array): void;
  /** Calls to be made again with the same memory, which the caller must keep alive. */
  program(handle: number, steps: NativeStep[]): NativeProgram;
  replay(program: NativeProgram): void;
  allocate(bytes: number): ArrayBuffer;
  map(path: string, offset: number, bytes: number): ArrayBuffer;
}

/** A kernel call as for `run`, or a copy of `from` to `to`, which are equally long. */
type NativeStep =
  | { index: number; buffers: HostArray[]; params: Float64Array }
  | { to: HostArray; from: HostArray };

/** Opaque: a list of calls in the addon's memory. */
interface NativeProgram {
  readonly native: unique symbol;
}

/** Every place where the addon may lie, with what went wrong there. */
function loadAddon(): { addon: Addon } | { failure: string } {
  const require = createRequire(import.meta.url);
  const attempts: string[] = [];
  for (const path of ["../../native/build/Release/mone.node"]) {
    try {
      return { addon: require(path) as Addon };
    } catch (error) {
      attempts.push(`${path}: ${(error as Error).message.split("\n")[0]}`);
    }
  }
  return { failure: attempts.join("; ") };
}

export interface CpuOptions {
  /** Threads that work on a kernel, the caller included. Default: as many as the machine has. */
  threads?: number;
  /** Instruction level; default: `MONE_LEVEL`, else the best one. */
  level?: string;
}

/**
 * The instruction levels this machine can run, best first; empty without the native addon. With `emulated` also the
 * slow one that emulates AMX tiles, for tests.
 */
export function cpuLevels({ emulated = false } = {}): string[] {
  const loaded = loadAddon();
  return "addon" in loaded ? loaded.addon.levels(emulated) : [];
}

/**
 * Opens the best backend this installation has: native kernels, or the reference backend where they are missing,
 * which `announce` is told about.
 * @throws UsageError for a level or a thread count that the machine cannot provide.
 */
export function openBackend(
  options: CpuOptions = {},
  announce: (line: string) => void = console.error,
): Backend {
  const level = options.level ?? process.env.MONE_LEVEL;
  if (level === "reference") {
    announce(
      "Using the reference backend as asked for: correct, but hundreds of times slower than native kernels.",
    );
    return new ReferenceBackend();
  }
  const loaded = loadAddon();
  if ("failure" in loaded) {
    announce(
      `The native kernels could not be loaded (${loaded.failure}), so the slow reference backend is used; ` +
        "install a C++20 compiler, make and Python 3, then run: node scripts/build-native.mjs",
    );
    return new ReferenceBackend();
  }
  for (const problem of loaded.addon.problems()) announce(problem);
  return new CpuBackend(loaded.addon, { ...options, level });
}

class CpuBackend extends HostBackend {
  readonly name: string;
  readonly nativeBf16: boolean;
  readonly support: SupportTable;
  readonly #addon: Addon;
  readonly #handle: number;
  readonly #index = new Map<string, number>();
  /** Parameter values of the call being made: the addon copies them before it runs. */
  readonly #params = new Float64Array(16);

  constructor(addon: Addon, { threads = availableParallelism(), level }: CpuOptions) {
    super((bytes) => allocate(addon, bytes));
    const levels = addon.levels(false);
    const chosen = level ?? levels[0];
    if (!addon.levels(true).includes(chosen)) {
      throw new UsageError(
        `This machine cannot run instruction level "${chosen}"; it has ${levels.join(", ")}.`,
      );
    }
    if (!Number.isInteger(threads) || threads < 1 || threads > 1024) {
      throw new UsageError(`The number of threads must be an integer from 1 to 1024, not ${threads}.`);
    }
    const { handle, signatures, nativeBf16 } = addon.open(chosen, threads);
    this.#addon = addon;
    this.#handle = handle;
    this.name = `cpu (${chosen}, ${threads} ${threads === 1 ? "thread" : "threads"})`;
    this.nativeBf16 = nativeBf16;
    this.support = checkTable(signatures);
    signatures.forEach((line, index) => {
      this.#index.set(line.slice(0, line.indexOf(":")), index);
    });
  }

  protected override execute(
    kernel: AnyKernel,
    arrays: HostArrays,
    params: Readonly<Record<string, number>>,
  ): void {
    let count = 0;
    for (const name in kernel.params) this.#params[count++] = params[name];
    const values = this.#params.subarray(0, count);
    this.#addon.run(this.#handle, this.#indexOf(kernel), Object.values(arrays), values);
  }

  #indexOf({ name }: AnyKernel): number {
    const index = this.#index.get(name);
    if (index === undefined) throw new Error(`${name} is not in the native table`);
    return index;
  }

  protected override compile(steps: readonly ProgramStep[]): () => void {
    const native = steps.map((step): NativeStep => {
      if (!("kernel" in step)) return { to: step.to, from: step.from };
      const { kernel, arrays, params } = step;
      const values = Float64Array.from(Object.keys(kernel.params), (name) => params[name]);
      return { index: this.#indexOf(kernel), buffers: Object.values(arrays), params: values };
    });
    const program = this.#addon.program(this.#handle, native);
    // `steps` is named so that the arrays live as long as the program.
    return () => {
      if (steps.length > 0) this.#addon.replay(program);
    };
  }

  map(path: string): MappedFile {
    const { size } = statSync(path);
    // Pieces of the file that views share; one that crosses their borders gets memory of its own.
    const segments = new Map<number, ArrayBuffer>();
    const segmentAt = (start: number) => {
      const known = segments.get(start);
      if (known) return known;
      const memory = this.#addon.map(path, start, Math.min(SEGMENT_BYTES, size - start));
      segments.set(start, memory);
      return memory;
    };
    return {
      bytes: size,
      view: (dtype, byteOffset, length) => {
        const ArrayType = arrayTypes[dtype];
        const end = byteOffset + length * ArrayType.BYTES_PER_ELEMENT;
        if (length === 0) return this.memory.adopt(dtype, new ArrayType(0));
        const segment = byteOffset - (byteOffset % SEGMENT_BYTES);
        const own = end > segment + SEGMENT_BYTES;
        const start = own ? byteOffset - (byteOffset % PAGE_BYTES) : segment;
        const memory = own ? this.#addon.map(path, start, end - start) : segmentAt(segment);
        return this.memory.adopt(dtype, new ArrayType(memory, byteOffset - start, length));
      },
      close: () => segments.clear(), // unmapped when their last view is collected
    };
  }
}

/** A multiple of every page size. */
const PAGE_BYTES = 65536;
/** Enough for all of a small file, few enough mappings for a large one. */
const SEGMENT_BYTES = 2 ** 30;

function allocate(addon: Addon, bytes: number): ArrayBuffer {
  try {
    if (bytes > MAX_VIEW_BYTES) return new ArrayBuffer(bytes);
    return addon.allocate(bytes);
  } catch (error) {
    const size = `${(bytes / 2 ** 30).toFixed(1)} GiB`;
    throw new RunError(
      `There is no memory for a buffer of ${size}: use a smaller model, batch or vocabulary.`,
      {
        cause: error,
      },
    );
  }
}

/** Compares the addon's table with the catalogue; a stale build must not compute something else. */
function checkTable(signatures: readonly string[]): SupportTable {
  const native = new Set(signatures);
  const wrong = kernelNames.filter((name) => !native.has(signature(catalogue[name])));
  if (wrong.length > 0 || signatures.length !== kernelNames.length) {
    const names = wrong.length > 0 ? wrong.join(", ") : "extra kernels";
    throw new Error(
      `The native addon and the catalogue differ (${names}): rebuild it with node scripts/build-native.mjs`,
    );
  }
  return Object.fromEntries(kernelNames.map((name: KernelName) => [name, "native"])) as SupportTable;
}
