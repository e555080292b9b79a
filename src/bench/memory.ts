// Peak memory of training and of decoding. A process only ever knows the most it has had, so each case gets a process of its
// own (memoryWorker.ts).

import { fileURLToPath } from "node:url";
import { RunError, throwIfAborted } from "../errors.ts";
import type { WeightFormat } from "../infer/storedWeights.ts";
import { countOfNeurons } from "../model/neurons.ts";
import { countParameters } from "../model/parameters.ts";
import { decodeConfig } from "./decodeArm.ts";
import { PeerProcess } from "./peers/process.ts";
import { type BenchOptions, type Envelope, inSession } from "./result.ts";
import { configOf, parseSizes } from "./sizes.ts";

/** What a worker does. */
export interface MemoryWork {
  readonly kind: "train" | "decode";
  readonly width: number;
  readonly kept: number;
  readonly dtype: WeightFormat;
  readonly threads: number;
  readonly quick: boolean;
  readonly recompute?: boolean;
}

export interface MemoryUse {
  /** The process's largest resident size. */
  readonly peakBytes: number;
  /** Of that before anything was allocated: Node, this program, the addon. */
  readonly startBytes: number;
  /** Buffers of the backend after the work. */
  readonly bufferBytes: number;
}

export interface MemoryCase extends MemoryUse {
  readonly kind: MemoryWork["kind"];
  readonly size: string;
  readonly width: number;
  readonly kept: number;
  readonly neurons: number;
  readonly dtype: WeightFormat;
  readonly recompute: boolean;
  readonly parameters: number;
  /** What weights alone take, with gradients and two moments when training (16 bytes a parameter). */
  readonly leastBytes: number;
}

export interface MemoryBench extends Envelope<"memory"> {
  readonly cases: readonly MemoryCase[];
}

export interface MemoryBenchOptions extends BenchOptions {
  /** Names, widths, or "all". Default: small and medium. */
  readonly sizes?: readonly string[];
  /** K of the MoNE, or a share of F below 1. Default 1/4. */
  readonly neurons?: number | string;
}

/** Does a piece of work in a process of its own. @throws RunError if that process fails, as for want of memory. */
export async function measureMemory(work: MemoryWork, signal?: AbortSignal): Promise<MemoryUse> {
  // The worker has the ending of this file: .ts where a loader runs the sources, .js where they are compiled.
  const ending = import.meta.url.slice(import.meta.url.lastIndexOf("."));
  const worker = fileURLToPath(new URL(`./memoryWorker${ending}`, import.meta.url));
  const process_ = await PeerProcess.start(
    {
      name: `the measurement of memory (${work.kind}, width ${work.width})`,
      command: process.execPath,
      args: [...process.execArgv.filter((arg) => !arg.startsWith("--test")), worker, JSON.stringify(work)],
    },
    signal,
  );
  process_.close();
  const { peakBytes, startBytes, bufferBytes } = process_.about;
  return {
    peakBytes: Number(peakBytes),
    startBytes: Number(startBytes),
    bufferBytes: Number(bufferBytes),
  };
}

/** @throws UsageError for a size or a K that cannot be used. */
export function benchMemory(options: MemoryBenchOptions = {}): Promise<MemoryBench> {
  const { quick = false, signal, onProgress, announce } = options;
  const sizes = parseSizes(options.sizes ?? (quick ? ["32"] : ["small", "medium"]));
  return inSession("memory", options, async (session) => {
    const { envelope, backend } = session;
    const trained: WeightFormat = backend.nativeBf16 ? "bf16" : "f32";
    const cases: MemoryCase[] = [];
    for (const size of sizes) {
      const neurons = configOf(size, null).moe_intermediate_size;
      const kept = countOfNeurons(options.neurons ?? 0.25, neurons);
      const plans: Omit<MemoryWork, "width" | "threads" | "quick">[] = [
        { kind: "train", kept: neurons, dtype: trained },
        { kind: "train", kept, dtype: trained },
        { kind: "train", kept, dtype: trained, recompute: true },
        ...(["f32", "bf16", "int8"] as const).map((dtype) => ({ kind: "decode", kept, dtype }) as const),
      ];
      for (const plan of plans) {
        throwIfAborted(signal);
        onProgress?.("measuring memory", [`${size.name}, ${plan.kind}`, plan.dtype]);
        const work: MemoryWork = { ...plan, width: size.width, threads: envelope.threads, quick };
        const config = plan.kind === "train" ? configOf(size, plan.kept) : decodeConfig(size, plan.kept);
        const parameters = countParameters(config).total;
        try {
          cases.push({
            ...(await measureMemory(work, signal)),
            ...plan,
            size: size.name,
            width: size.width,
            neurons,
            recompute: plan.recompute ?? false,
            parameters,
            leastBytes: parameters * (plan.kind === "train" ? 16 : { f32: 4, bf16: 2, int8: 1 }[plan.dtype]),
          });
        } catch (error) {
          if (!(error instanceof RunError)) throw error;
          announce?.(`${size.name}, ${plan.kind} is left out: ${error.message}`);
        }
      }
    }
    return { ...(await session.settle()).envelope, cases };
  });
}
