// Times the kernels of the catalogue on a backend, on the samples that they declare as large, and says which share of the
// machine's peak and bandwidth that is. Not here: whether the results are right, which the parity test checks.

import type { Backend, DeviceBuffer, HostArray } from "../backends/backend.ts";
import { nearest, throwIfAborted, UsageError } from "../errors.ts";
import { type AnyKernel, arrayTypes, dtypeOf } from "../kernels/kernel.ts";
import { type AnySample, allKernels, makeArrays } from "../kernels/samples.ts";
import { packageVersion } from "../version.ts";
import { describeMachine, type MachineLimits } from "./machine.ts";
import { median, type Spread, spreadOf } from "./measure.ts";
import { type BenchOptions, type Envelope, inSession } from "./result.ts";

export interface KernelTiming {
  kernel: string;
  sample: string;
  /** Median time of one call. */
  microseconds: number;
  /** Of the rounds. */
  spread: Spread;
  /** Billions of floating-point operations a second; absent for kernels that are bound by memory. */
  gigaflops?: number;
  /** The type that the hardware multiplies, which decides the peak. */
  dtype: "f32" | "bf16";
  /** All buffers of the call, once. */
  bytes: number;
  /** 1e9 bytes a second, from `bytes`; above the bandwidth of memory where caches hold the buffers. */
  gigabytesPerSecond: number;
  shareOfPeak?: number;
  shareOfBandwidth?: number;
}

export interface KernelBenchOptions extends BenchOptions {
  /** Names from the catalogue; default: all. */
  readonly kernels?: readonly string[];
  /** Where to compute, without measuring the machine; default: the best backend of this machine. It stays open. */
  readonly backend?: Backend;
  /** About how long each sample is repeated in a round, in seconds. Default 0.3. */
  readonly secondsEach?: number;
  /** Before each sample. */
  readonly onSample?: (sample: { kernel: string; sample: string; index: number; count: number }) => void;
}

export interface KernelBench extends Envelope<"kernels"> {
  readonly timings: readonly KernelTiming[];
}

/**
 * Times every large sample, in the order of the catalogue.
 * @throws UsageError for an unknown kernel, or one without a large sample.
 */
export async function benchKernels(options: KernelBenchOptions = {}): Promise<KernelBench> {
  const cases = selectCases(options.kernels, options.quick ?? false);
  const { backend } = options;
  if (backend) {
    const spreads = await timeCases(backend, cases, { ...options, rounds: options.rounds ?? 1 });
    return { ...plainEnvelope(backend, options), timings: cases.map((one, i) => timingOf(one, spreads[i])) };
  }
  const rounds = options.rounds ?? 1;
  return inSession("kernels", { ...options, rounds }, async (session) => {
    const plan = { secondsEach: options.quick ? 0.001 : 0.3, ...options, rounds };
    const spreads = await timeCases(session.backend, cases, plan);
    const { envelope, limits } = await session.settle();
    return { ...envelope, timings: cases.map((one, i) => timingOf(one, spreads[i], limits)) };
  });
}

/** Around figures of a backend that somebody else opened. */
function plainEnvelope(backend: Backend, { command, quick, rounds }: BenchOptions): Envelope<"kernels"> {
  return {
    bench: "kernels",
    command: command ?? "(library) kernels",
    date: new Date().toISOString(),
    machine: describeMachine(),
    backend: backend.name,
    level: backend.name.split(" ")[0],
    threads: 1,
    versions: { node: process.version, package: packageVersion },
    rounds: rounds ?? 1,
    quick: quick ?? false,
    missing: [],
  };
}

interface Case {
  readonly kernel: AnyKernel;
  readonly sample: AnySample;
}

function selectCases(names: readonly string[] | undefined, quick: boolean): Case[] {
  const known = allKernels.map(({ name }) => name);
  for (const name of names ?? []) {
    if (known.includes(name)) continue;
    const suggestion = nearest(name, known);
    throw new UsageError(
      `There is no kernel "${name}"; ${suggestion ? `did you mean "${suggestion}"?` : `there are ${known.join(", ")}.`}`,
    );
  }
  const chosen = allKernels.filter(({ name }) => names === undefined || names.includes(name));
  const cases = chosen.flatMap((kernel) => {
    const samples = kernel.samples();
    return (quick ? samples.slice(0, 1) : samples.filter(({ large }) => large)).map((sample) => ({
      kernel,
      sample,
    }));
  });
  if (cases.length === 0) {
    throw new UsageError(`${names?.join(", ")}: no large sample is declared, so there is nothing to time.`);
  }
  return cases;
}

/** Microseconds of a call of each, over the rounds. */
async function timeCases(
  backend: Backend,
  cases: readonly Case[],
  options: KernelBenchOptions & { readonly rounds: number },
): Promise<Spread[]> {
  const seconds: number[][] = cases.map(() => []);
  for (let round = 0; round < options.rounds; round++) {
    for (const [index, { kernel, sample }] of cases.entries()) {
      throwIfAborted(options.signal);
      options.onSample?.({ kernel: kernel.name, sample: sample.name, index, count: cases.length });
      seconds[index].push(await timeSample(backend, kernel, sample, options));
    }
  }
  return seconds.map((times) => spreadOf(times.map((one) => one * 1e6)));
}

function timingOf({ kernel, sample }: Case, spread: Spread, limits?: MachineLimits): KernelTiming {
  const seconds = spread.median / 1e6;
  const bytes = bytesOf(kernel, sample);
  const flops = kernel.flops?.(sample.params);
  const gigabytesPerSecond = bytes / seconds / 1e9;
  // Weights stored as bytes are multiplied as bf16.
  const dtype = sample.params.bf16 === 1 || /(Bf16|Int8)$/.test(kernel.name) ? "bf16" : "f32";
  const gigaflops = flops === undefined ? undefined : flops / seconds / 1e9;
  return {
    kernel: kernel.name,
    sample: sample.name,
    microseconds: spread.median,
    spread,
    ...(gigaflops !== undefined && { gigaflops }),
    dtype,
    bytes,
    gigabytesPerSecond,
    ...(limits && { shareOfBandwidth: gigabytesPerSecond / limits.readGigabytes.all }),
    ...(limits && gigaflops !== undefined && { shareOfPeak: gigaflops / limits.gigaflops[dtype].all }),
  };
}

/** Of all buffers, once. */
function bytesOf(kernel: AnyKernel, sample: AnySample): number {
  const sizes = kernel.sizes(sample.params);
  return Object.entries(kernel.buffers).reduce(
    (sum, [name, decl]) => sum + arrayTypes[dtypeOf(decl)].BYTES_PER_ELEMENT * sizes[name],
    0,
  );
}

/** Median seconds of a call. */
async function timeSample(
  backend: Backend,
  kernel: AnyKernel,
  sample: AnySample,
  { secondsEach = 0.3, signal }: KernelBenchOptions,
): Promise<number> {
  const buffers: Record<string, DeviceBuffer> = {};
  for (const [name, array] of Object.entries(makeArrays(kernel, sample, "f32"))) {
    buffers[name] = backend.allocate(dtypeOf(kernel.buffers[name]), array.length);
    backend.write(buffers[name], array as HostArray);
  }
  const last = Object.values(buffers).findLast(({ length }) => length > 0)!;
  /** Milliseconds a call, over `calls` of them: one wait for all, since waiting costs more than a small kernel. */
  const measure = async (calls: number) => {
    throwIfAborted(signal);
    const start = performance.now();
    for (let i = 0; i < calls; i++) backend.run(kernel, buffers, sample.params);
    await backend.read(last, 0, 1);
    return (performance.now() - start) / calls;
  };

  // The first call also touches the memory and wakes the threads; it counts only where it is slow enough to drown that.
  let times = [await measure(1)];
  if (times[0] < 1000 * secondsEach) {
    const calls = Math.max(1, Math.round(Math.min(MEASUREMENT_MS, 1000 * secondsEach) / (await measure(1))));
    const each = await measure(calls);
    const rounds = Math.max(1, Math.round((1000 * secondsEach) / (each * calls)));
    times = [each];
    for (let i = 1; i < rounds; i++) times.push(await measure(calls));
  }
  for (const buffer of Object.values(buffers)) backend.free(buffer);
  return median(times) / 1000;
}

/** Length of one measurement: long enough for the clock and for the wait at its end. */
const MEASUREMENT_MS = 10;
