// The training step: MoE (K = F) and MoNE by turns on the same tokens, over one size or several; what share of the
// machine's products a step reaches, and where its time goes.

import { readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import type { Backend } from "../backends/backend.ts";
import { openBackend } from "../backends/cpu.ts";
import { type KernelProfile, profileBackend } from "../backends/profile.ts";
import { throwIfAborted, UsageError } from "../errors.ts";
import { expertWidth } from "../model/config.ts";
import { countParameters } from "../model/parameters.ts";
import { type TokenDataset, tokenDatasetFromMemory } from "../text/dataset.ts";
import { installedDeclarations } from "../text/declarations.ts";
import { resolveTrainConfig, type TrainConfig } from "../train/config.ts";
import { Trainer } from "../train/trainer.ts";
import { trainingFlops } from "./cost.ts";
import { benchConfig, keptOf } from "./decode.ts";
import {
  describeMachine,
  LimitProbe,
  type MachineDescription,
  type MachineLimits,
  median,
} from "./machine.ts";
import type { MissingPeer } from "./peers/process.ts";
import { TrainPeers, type TrainPeerTiming } from "./trainPeers.ts";

export interface TrainBenchOptions {
  /** Named sizes or widths. Default small. */
  readonly sizes?: readonly string[];
  /** K of the MoNE, a share up to 1 or a count. Default 0.25. */
  readonly neurons?: number;
  /** Sequences and tokens in each; default 16 x 256 below width 512, 8 x 512 from there on. */
  readonly batch?: number;
  readonly seqLen?: number;
  /** Timed steps of each model in a round, after two that are not timed. */
  readonly steps?: number;
  readonly rounds?: number;
  readonly dtype?: "auto" | "f32" | "bf16";
  readonly recompute?: boolean;
  /** A text file, read as bytes; default: the type declarations of the installed packages. */
  readonly data?: string;
  /** Run PyTorch beside ours, if it is installed. */
  readonly peers?: boolean;
  /** Report where the time of the MoNE's steps goes. */
  readonly profile?: boolean;
  readonly threads?: number;
  readonly backend?: Backend;
  readonly probeBytes?: number;
  readonly signal?: AbortSignal;
  readonly onStep?: (done: number, total: number, what: string) => void;
  readonly announce?: (line: string) => void;
}

export interface ArmTiming {
  readonly kept: number;
  readonly tokensPerSecond: number;
  readonly range: readonly [number, number];
  readonly gigaflops: number;
  /** Of the products in registers, in the type that the products have. */
  readonly peakShare: number;
}

export interface TrainTiming {
  readonly size: string;
  readonly width: number;
  readonly parameters: number;
  readonly batch: number;
  readonly seqLen: number;
  readonly moe: ArmTiming;
  readonly mone: ArmTiming;
  /** Step time of the MoNE over that of the MoE: the price of choosing neurons, its balance loss included. */
  readonly stepRatio: number;
  /** Of a step. */
  readonly profile?: readonly KernelProfile[];
  /** PyTorch on the same steps, in turn with ours. */
  readonly peers?: readonly TrainPeerTiming[];
}

export interface TrainBench {
  readonly machine: MachineDescription;
  readonly limits: MachineLimits;
  readonly dtype: "f32" | "bf16";
  readonly data: string;
  readonly timings: readonly TrainTiming[];
  /** Of the process, over all sizes: bytes. */
  readonly peakMemory: number;
  readonly missingPeers?: readonly MissingPeer[];
}

/** @throws UsageError for an option that is out of bounds, or a file that cannot be read. */
export async function benchTrain(options: TrainBenchOptions = {}): Promise<TrainBench> {
  const { rounds = 3, steps = 5, sizes = ["small"] } = options;
  const opened = options.backend ?? openBackend({ threads: options.threads }, options.announce);
  const { dataset, name, bytes } = readData(options.data);
  let missingPeers: readonly MissingPeer[] | undefined;
  const probe = new LimitProbe(opened, options.probeBytes);
  const timings: Omit<TrainTiming, "moe" | "mone">[] = [];
  try {
    const results: { rates: number[]; flops: number; kept: number }[][] = [];
    let bf16 = false;
    for (const [index, size] of sizes.entries()) {
      const profiled = options.profile ? profileBackend(opened) : undefined;
      const backend = profiled?.backend ?? opened;
      const arms = trainConfigs(size, options).map((config) => {
        const trainer = new Trainer(config, dataset, backend);
        trainer.initialise();
        const flops = trainingFlops(config.model, config.seqLen);
        const kept = config.model.num_neurons_per_tok ?? expertWidth(config.model);
        return { config, trainer, flops, kept, rates: [] as number[], profile: [] as KernelProfile[] };
      });
      bf16 = arms[0].trainer.bf16;
      let peers: TrainPeers | undefined;
      try {
        if (options.peers) {
          const configs = arms.map(({ config }) => config);
          peers = await TrainPeers.start(
            configs,
            bytes,
            options.threads ?? availableParallelism(),
            options.signal,
          );
          missingPeers = peers.missing;
        }
        for (let round = 0; round < rounds; round++) {
          await probe.measure();
          await peers?.measure(2, round === 0);
          for (const arm of arms) {
            const done = (index * rounds + round) * arms.length + arms.indexOf(arm);
            options.onStep?.(done, sizes.length * rounds * arms.length, `size ${size}, K ${arm.kept}`);
            for (let i = 0; i < (round === 0 ? 2 : 1); i++) await arm.trainer.advance();
            profiled?.reset();
            const seconds: number[] = [];
            for (let i = 0; i < steps; i++) {
              throwIfAborted(options.signal);
              const start = performance.now();
              await arm.trainer.advance();
              seconds.push((performance.now() - start) / 1000);
            }
            arm.rates.push(arm.trainer.tokensPerStep / median(seconds));
            arm.profile =
              profiled?.report().map((line) => ({
                ...line,
                seconds: line.seconds / steps,
                flops: line.flops / steps,
                calls: line.calls / steps,
              })) ?? [];
          }
        }
        const [moe, mone] = arms;
        results.push(arms);
        timings.push({
          size,
          width: moe.config.model.hidden_size,
          parameters: countParameters(moe.config.model).total,
          batch: moe.config.batch,
          seqLen: moe.config.seqLen,
          stepRatio: median(moe.rates) / median(mone.rates),
          ...(profiled && { profile: mone.profile }),
          ...(peers && { peers: peers.timings }),
        });
      } finally {
        peers?.close();
        for (const { trainer } of arms) trainer.close();
      }
    }
    const { limits } = probe;
    const peak = bf16 ? limits.gigaflopsBf16 : limits.gigaflopsF32;
    const timingOf = ({ rates, flops, kept }: (typeof results)[number][number]): ArmTiming => {
      const tokensPerSecond = median(rates);
      const gigaflops = (tokensPerSecond * flops) / 1e9;
      const range = [Math.min(...rates), Math.max(...rates)] as const;
      return { kept, tokensPerSecond, range, gigaflops, peakShare: gigaflops / peak };
    };
    return {
      machine: describeMachine(opened),
      limits,
      dtype: bf16 ? "bf16" : "f32",
      data: name,
      timings: timings.map((timing, i) => ({
        ...timing,
        moe: timingOf(results[i][0]),
        mone: timingOf(results[i][1]),
      })),
      peakMemory: process.resourceUsage().maxRSS * 1024,
      ...(missingPeers && { missingPeers }),
    };
  } finally {
    if (!options.backend) opened.close();
  }
}

/** The MoE and the MoNE of a size. */
function trainConfigs(size: string, options: TrainBenchOptions): TrainConfig[] {
  const model = benchConfig(size);
  const large = model.hidden_size >= 512;
  const { batch = large ? 8 : 16, seqLen = large ? 512 : 256, dtype = "auto", recompute = false } = options;
  const kept = keptOf(options.neurons ?? 0.25, expertWidth(model));
  return [null, kept].map((K) =>
    resolveTrainConfig(
      {
        batch,
        seqLen,
        dtype,
        recompute,
        steps: 1000,
        model: { ...model, vocab_size: 256, max_position_embeddings: seqLen, num_neurons_per_tok: K },
      },
      256,
    ),
  );
}

function readData(path: string | undefined): { dataset: TokenDataset; name: string; bytes: Uint8Array } {
  let bytes: Uint8Array;
  if (path === undefined) {
    const text = installedDeclarations().map((document) => document.text);
    bytes = new TextEncoder().encode(text.join("\n").slice(0, 4 << 20));
  } else {
    try {
      bytes = readFileSync(path);
    } catch (error) {
      throw new UsageError(`${path} cannot be read: name a text file`, { cause: error });
    }
  }
  const cut = Math.floor(0.9 * bytes.length);
  return {
    dataset: tokenDatasetFromMemory(bytes.subarray(0, cut), bytes.subarray(cut), { vocabSize: 256 }),
    name: path ?? "type declarations of the installed packages",
    bytes,
  };
}
