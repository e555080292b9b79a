// The machine that figures belong to: what it is, and what it can do at most, measured in the same run. Limits are the best
// of several tries, since a disturbance only ever lowers them.

import { readFileSync } from "node:fs";
import { cpus, totalmem } from "node:os";
import type { Backend } from "../backends/backend.ts";
import { openBackend } from "../backends/cpu.ts";
import { throwIfAborted } from "../errors.ts";
import { fill } from "../kernels/elementwise.ts";
import { PROBE_SUMS, probeMultiply, probeRead } from "../kernels/probe.ts";

export interface Machine {
  readonly cpu: string;
  readonly cores: number;
  readonly memoryBytes: number;
  readonly system: string;
}

export function describeMachine(): Machine {
  const all = cpus();
  return {
    cpu: all[0]?.model.trim() || "unknown",
    cores: all.length,
    memoryBytes: totalmem(),
    system: `${process.platform} ${process.arch}`,
  };
}

/** What one thread and all threads of a run reach. */
export interface Reach {
  readonly one: number;
  readonly all: number;
}

export interface MachineLimits {
  readonly threads: number;
  /** 1e9 bytes a second, read in four streams a thread from memory far larger than the caches. */
  readonly readGigabytes: Reach;
  /** Billions of operations a second in registers. */
  readonly gigaflops: { readonly f32: Reach; readonly bf16: Reach };
}

export interface LimitOptions {
  readonly threads?: number;
  /** Bytes that are read. Default 1 GiB. */
  readonly bytes?: number;
  /** About how long each try of multiplication takes. Default 0.05 s. */
  readonly seconds?: number;
  readonly tries?: number;
  readonly signal?: AbortSignal;
  readonly announce?: (line: string) => void;
}

/** Of a smoke test. */
export const quickLimits: LimitOptions = { bytes: 1 << 18, seconds: 0.001, tries: 1 };

/** Measures the limits, on backends of its own. */
export async function measureLimits(options: LimitOptions = {}): Promise<MachineLimits> {
  const { threads = describeMachine().cores, announce } = options;
  const measure = async (count: number, say?: (line: string) => void) => {
    const backend = openBackend({ threads: count }, say ?? (() => {}));
    try {
      return await reachOf(backend, count, options);
    } finally {
      backend.close();
    }
  };
  const one = await measure(1, announce);
  const all = threads === 1 ? one : await measure(threads);
  const reach = (key: keyof typeof one): Reach => ({ one: one[key], all: all[key] });
  return { threads, readGigabytes: reach("read"), gigaflops: { f32: reach("f32"), bf16: reach("bf16") } };
}

/** Limits measured again with all threads, on a backend that has them: the better of both times. */
export async function improveLimits(
  limits: MachineLimits,
  backend: Backend,
  options: LimitOptions,
): Promise<MachineLimits> {
  const again = await reachOf(backend, limits.threads, options);
  const better = ({ one, all }: Reach, value: number): Reach => ({ one, all: Math.max(all, value) });
  const { f32, bf16 } = limits.gigaflops;
  return {
    threads: limits.threads,
    readGigabytes: better(limits.readGigabytes, again.read),
    gigaflops: { f32: better(f32, again.f32), bf16: better(bf16, again.bf16) },
  };
}

async function reachOf(backend: Backend, threads: number, options: LimitOptions) {
  // Plain TypeScript would take minutes, and says nothing about the machine.
  const plan = backend.support.probeRead === "native" ? options : { ...options, ...quickLimits };
  return {
    read: await readSpeed(backend, plan),
    f32: await multiplySpeed(backend, threads, 0, plan),
    bf16: await multiplySpeed(backend, threads, 1, plan),
  };
}

async function readSpeed(
  backend: Backend,
  { bytes = 2 ** 30, tries = 5, signal }: LimitOptions,
): Promise<number> {
  const n = bytes / 4;
  const x = backend.allocate("f32", n);
  const total = backend.allocate("f32", 1);
  backend.run(fill, { y: x }, { n, value: 1 });
  const best = await fastest(tries, signal, async () => {
    backend.run(probeRead, { x, total }, { n });
    await backend.read(total);
  });
  backend.free(x);
  backend.free(total);
  return bytes / best / 1e9;
}

async function multiplySpeed(
  backend: Backend,
  threads: number,
  bf16: 0 | 1,
  { seconds = 0.05, tries = 5, signal }: LimitOptions,
): Promise<number> {
  const tasks = 4 * threads; // several each, so that one that loses its core delays little
  const x = backend.allocate("f32", 2);
  const y = backend.allocate("f32", tasks * PROBE_SUMS);
  backend.write(x, Float32Array.of(0.5, 0.25));
  const run = async (iterations: number) => {
    backend.run(probeMultiply, { x, y }, { tasks, iterations, bf16 });
    await backend.read(y, 0, 1);
  };
  const once = await fastest(2, signal, () => run(1));
  const trial = Math.max(1, Math.min(1000, Math.round(seconds / 10 / once)));
  const each = (await fastest(1, signal, () => run(trial))) / trial;
  const iterations = Math.max(1, Math.round(seconds / each));
  const best = await fastest(tries, signal, () => run(iterations));
  backend.free(x);
  backend.free(y);
  return probeMultiply.flops!({ tasks, iterations, bf16 }) / best / 1e9;
}

/** Seconds of the fastest of `tries` calls. */
async function fastest(
  tries: number,
  signal: AbortSignal | undefined,
  work: () => Promise<void>,
): Promise<number> {
  let best = Number.POSITIVE_INFINITY;
  for (let i = 0; i < tries; i++) {
    throwIfAborted(signal);
    const start = performance.now();
    await work();
    best = Math.min(best, (performance.now() - start) / 1000);
  }
  return best;
}

/**
 * The most memory this process has held, bytes. Linux counts the peak of the process that started this one into
 * getrusage's figure, but not into its own.
 */
export function peakBytesOfProcess(): number {
  if (process.platform === "linux") {
    const own = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync("/proc/self/status", "utf8"));
    if (own) return Number(own[1]) * 1024;
  }
  return process.resourceUsage().maxRSS * 1024;
}
