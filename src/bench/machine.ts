// The machine that a benchmark runs on: in words, and what it can do at most, measured in the same run as what is
// compared with it, since machines are shared and change from minute to minute.

import { availableParallelism, cpus, totalmem } from "node:os";
import type { Backend } from "../backends/backend.ts";
import { probeMultiply, probeRead } from "../kernels/probe.ts";
import { packageVersion } from "../version.ts";

export interface MachineDescription {
  readonly cpu: string;
  readonly cores: number;
  readonly memoryGiB: number;
  readonly platform: string;
  readonly node: string;
  readonly version: string;
  /** Instruction level and threads. */
  readonly backend: string;
  /** ISO 8601. */
  readonly date: string;
}

export function describeMachine(backend: Backend): MachineDescription {
  return {
    cpu: cpus()[0]?.model.trim() ?? "unknown",
    cores: availableParallelism(),
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    platform: `${process.platform} ${process.arch}`,
    node: process.version,
    version: packageVersion,
    backend: backend.name,
    date: new Date().toISOString(),
  };
}

/** What cannot be exceeded. */
export interface MachineLimits {
  /** Read bandwidth of memory far beyond the caches, all threads: 1e9 bytes a second. */
  readonly gigabytesPerSecond: number;
  /** Products in registers, all threads: 1e9 operations a second. */
  readonly gigaflopsF32: number;
  readonly gigaflopsBf16: number;
}

/** Measures the limits again and again, between what is to be compared with them. */
export class LimitProbe {
  readonly #backend: Backend;
  readonly #elements: number;
  readonly #samples: MachineLimits[] = [];

  /** @param bytes of memory that is read; beyond the caches unless a quick look will do. */
  constructor(backend: Backend, bytes = 2 ** 30) {
    this.#backend = backend;
    this.#elements = bytes / 4;
  }

  /** One more sample: some tenths of a second. */
  async measure(): Promise<void> {
    const backend = this.#backend;
    const x = backend.allocate("f32", this.#elements);
    const total = backend.allocate("f32", 1);
    const seconds = async (run: () => void) => {
      const start = performance.now();
      run();
      await backend.read(total, 0, 1);
      return (performance.now() - start) / 1000;
    };
    const n = this.#elements;
    const read = () => backend.run(probeRead, { x, total }, { n });
    await seconds(read); // touches the memory
    const best = Math.min(await seconds(read), await seconds(read), await seconds(read));
    backend.free(x);

    const factors = backend.allocate("f32", 2);
    backend.write(factors, Float32Array.of(0.5, 0.25));
    const tasks = 64;
    const iterations = 100;
    const y = backend.allocate("f32", probeMultiply.sizes({ tasks, iterations, bf16: 0 }).y);
    const rate = async (bf16: number) => {
      const params = { tasks, iterations, bf16 };
      const run = () => backend.run(probeMultiply, { x: factors, y }, params);
      await seconds(run);
      const flops = probeMultiply.flops?.(params) ?? 0;
      return flops / 1e9 / Math.min(await seconds(run), await seconds(run), await seconds(run));
    };
    this.#samples.push({
      gigabytesPerSecond: (4 * n) / 1e9 / best,
      gigaflopsF32: await rate(0),
      gigaflopsBf16: await rate(1),
    });
    for (const buffer of [y, factors, total]) backend.free(buffer);
  }

  /** Medians of the samples. @throws Error if there is none. */
  get limits(): MachineLimits {
    if (this.#samples.length === 0) throw new Error("the limits were not measured");
    const of = (key: keyof MachineLimits) => median(this.#samples.map((sample) => sample[key]));
    return {
      gigabytesPerSecond: of("gigabytesPerSecond"),
      gigaflopsF32: of("gigaflopsF32"),
      gigaflopsBf16: of("gigaflopsBf16"),
    };
  }
}

/** The middle one, or the lower of the two; NaN of none. */
export function median(values: Iterable<number>): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[(sorted.length - 1) >> 1] ?? Number.NaN;
}

/** The value below which this share of the values lies. */
export function quantile(values: Iterable<number>, share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? Number.NaN;
}
