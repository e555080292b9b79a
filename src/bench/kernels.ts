// Times the kernels of the catalogue on a backend, on the samples that they declare as large.
// Not here: whether the results are right, which the parity test checks on the other samples.

import type { Backend, DeviceBuffer, HostArray } from "../backends/backend.ts";
import { openBackend } from "../backends/cpu.ts";
import { nearest, throwIfAborted, UsageError } from "../errors.ts";
import { type AnyKernel, dtypeOf } from "../kernels/kernel.ts";
import { type AnySample, allKernels, makeArrays } from "../kernels/samples.ts";

export interface KernelTiming {
  kernel: string;
  sample: string;
  /** Median time of one call. */
  microseconds: number;
  /** Billions of floating-point operations a second; absent for kernels that are bound by memory. */
  gigaflops?: number;
  /** All buffers of the call, once. */
  bytes: number;
  /** 1e9 bytes a second, from `bytes`. */
  gigabytesPerSecond: number;
}

export interface KernelBenchOptions {
  /** Names from the catalogue; default: all. */
  readonly kernels?: readonly string[];
  readonly threads?: number;
  /** Where to compute; default: the best backend of this machine. A backend that is given stays open. */
  readonly backend?: Backend;
  /** About how long each sample is repeated, in seconds. Default 0.3. */
  readonly secondsEach?: number;
  readonly signal?: AbortSignal;
  /** Before each sample. */
  readonly onSample?: (sample: { kernel: string; sample: string; index: number; count: number }) => void;
  /** Told one line about things the user should know, such as a slow backend. */
  readonly announce?: (line: string) => void;
}

/**
 * Times every large sample, in the order of the catalogue.
 * @throws UsageError for an unknown kernel, or one without a large sample.
 */
export async function benchKernels(
  options: KernelBenchOptions = {},
): Promise<{ backend: string; timings: KernelTiming[] }> {
  const cases = selectCases(options.kernels);
  const backend = options.backend ?? openBackend({ threads: options.threads }, options.announce);
  try {
    const timings: KernelTiming[] = [];
    for (const [index, { kernel, sample }] of cases.entries()) {
      throwIfAborted(options.signal);
      options.onSample?.({ kernel: kernel.name, sample: sample.name, index, count: cases.length });
      timings.push(await timeSample(backend, kernel, sample, options));
    }
    return { backend: backend.name, timings };
  } finally {
    if (!options.backend) backend.close();
  }
}

function selectCases(names: readonly string[] | undefined): { kernel: AnyKernel; sample: AnySample }[] {
  const known = allKernels.map(({ name }) => name);
  for (const name of names ?? []) {
    if (known.includes(name)) continue;
    const suggestion = nearest(name, known);
    throw new UsageError(
      `There is no kernel "${name}"; ${suggestion ? `did you mean "${suggestion}"?` : `there are ${known.join(", ")}.`}`,
    );
  }
  const chosen = allKernels.filter(({ name }) => names === undefined || names.includes(name));
  const cases = chosen.flatMap((kernel) =>
    kernel
      .samples()
      .filter(({ large }) => large)
      .map((sample) => ({ kernel, sample })),
  );
  if (cases.length === 0) {
    throw new UsageError(`${names?.join(", ")}: no large sample is declared, so there is nothing to time.`);
  }
  return cases;
}

async function timeSample(
  backend: Backend,
  kernel: AnyKernel,
  sample: AnySample,
  { secondsEach = 0.3, signal }: KernelBenchOptions,
): Promise<KernelTiming> {
  const buffers: Record<string, DeviceBuffer> = {};
  for (const [name, array] of Object.entries(makeArrays(kernel, sample, "f32"))) {
    buffers[name] = backend.allocate(dtypeOf(kernel.buffers[name]), array.length);
    backend.write(buffers[name], array as HostArray);
  }
  const last = Object.values(buffers).at(-1)!;
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
    const calls = Math.max(1, Math.round(MEASUREMENT_MS / (await measure(1))));
    const each = await measure(calls);
    const rounds = Math.max(1, Math.round((1000 * secondsEach) / (each * calls)));
    times = [each];
    for (let i = 1; i < rounds; i++) times.push(await measure(calls));
  }
  const milliseconds = times.sort((a, b) => a - b)[Math.floor(times.length / 2)];

  const bytes = Object.values(buffers).reduce((sum, { length }) => sum + 4 * length, 0);
  for (const buffer of Object.values(buffers)) backend.free(buffer);
  const flops = kernel.flops?.(sample.params);
  return {
    kernel: kernel.name,
    sample: sample.name,
    microseconds: milliseconds * 1e3,
    ...(flops !== undefined && { gigaflops: flops / (milliseconds * 1e6) }),
    bytes,
    gigabytesPerSecond: bytes / (milliseconds * 1e6),
  };
}

/** Length of one measurement: long enough for the clock and for the wait at its end. */
const MEASUREMENT_MS = 10;
