// Decoding and prompts on a model of random stored weights: tokens a second against kept neurons and sequences at once,
// and the share of the machine's read bandwidth that a single sequence reaches.

import { availableParallelism } from "node:os";
import type { Backend } from "../backends/backend.ts";
import { openBackend } from "../backends/cpu.ts";
import { throwIfAborted, UsageError } from "../errors.ts";
import { Decoder } from "../infer/decoder.ts";
import { createRandomModel, type WeightFormat } from "../infer/randomModel.ts";
import { expertWidth, type ModelConfig, resolveModelConfig } from "../model/config.ts";
import { sizedConfig, sizes } from "../model/presets.ts";
import type { Transformer } from "../model/transformer.ts";
import { RandomStream } from "../random.ts";
import { decodeBytes } from "./cost.ts";
import { DecodePeers, type PeerTiming } from "./decodePeers.ts";
import {
  describeMachine,
  LimitProbe,
  type MachineDescription,
  type MachineLimits,
  median,
  quantile,
} from "./machine.ts";
import type { MissingPeer } from "./peers/process.ts";

export interface DecodeBenchOptions {
  /** A named size, or a width. Default large: D 1024, 12 layers, 16 heads, 32 experts top-4, F 1024. */
  readonly size?: string;
  readonly dtype?: WeightFormat;
  /** Kept neurons to compare: shares up to 1, or counts. Default 1, 0.5, 0.25, 0.125; the first is the base of ratios. */
  readonly neurons?: readonly number[];
  /** Sequences at once. Default 1. */
  readonly batch?: readonly number[];
  readonly prompt?: number;
  readonly tokens?: number;
  /** Everything is measured so many times, by turns. */
  readonly rounds?: number;
  readonly threads?: number;
  readonly backend?: Backend;
  /** Run other engines beside ours, where they are installed. */
  readonly peers?: boolean;
  /** Memory that the bandwidth probe reads; small only for a quick look. */
  readonly probeBytes?: number;
  readonly signal?: AbortSignal;
  readonly onStep?: (done: number, total: number, what: string) => void;
  readonly announce?: (line: string) => void;
}

export interface DecodeTiming {
  readonly kept: number;
  readonly batch: number;
  /** Of all sequences together, from the median step; and from the fastest tenth of steps. */
  readonly tokensPerSecond: number;
  readonly bestTokensPerSecond: number;
  /** The smallest and the largest median of a round. */
  readonly range: readonly [number, number];
  /** Against the first K with the same batch. */
  readonly speedup: number;
  /** Of weights, for a single sequence; absent for several, whose tokens share some. */
  readonly bytesPerToken?: number;
  readonly gigabytesPerSecond?: number;
  /** Of the read bandwidth measured between the rounds. */
  readonly bandwidthShare?: number;
  /** Tokens of a prompt a second. */
  readonly promptTokensPerSecond: number;
}

export interface DecodeBench {
  readonly machine: MachineDescription;
  readonly limits: MachineLimits;
  readonly config: ModelConfig;
  readonly dtype: WeightFormat;
  readonly prompt: number;
  readonly tokens: number;
  readonly rounds: number;
  readonly timings: readonly DecodeTiming[];
  /** Other engines, measured in turn with ours, and those that are not here. */
  readonly peers?: readonly PeerTiming[];
  readonly missingPeers?: readonly MissingPeer[];
}

/** A size's configuration. @throws UsageError for an unknown name. */
export function benchConfig(size: string): ModelConfig {
  const width = size in sizes ? sizes[size as keyof typeof sizes] : Number(size);
  if (!Number.isInteger(width) || width < 32 || width % 32 !== 0) {
    throw new UsageError(
      `There is no size "${size}": name ${Object.keys(sizes).join(", ")}, or a width that is a multiple of 32.`,
    );
  }
  return resolveModelConfig({ ...sizedConfig(width), vocab_size: width >= 1024 ? 512 : 256 }, `size ${size}`);
}

/** K for a share up to 1, or a count. @throws UsageError if it is out of bounds. */
export function keptOf(neurons: number, width: number): number {
  const kept = neurons <= 1 ? Math.max(1, Math.round(neurons * width)) : neurons;
  if (!(neurons > 0) || !Number.isInteger(kept) || kept > width) {
    throw new UsageError(`neurons must be a share up to 1 or a count up to ${width}, not ${neurons}`);
  }
  return kept;
}

/** @throws UsageError for an option that is out of bounds. */
export async function benchDecode(options: DecodeBenchOptions = {}): Promise<DecodeBench> {
  const { dtype = "bf16", batch: batches = [1], prompt = 32, tokens = 64, rounds = 3 } = options;
  const positions = prompt + tokens + 1;
  const base = { ...benchConfig(options.size ?? "large"), max_position_embeddings: positions };
  const kept = (options.neurons ?? [1, 0.5, 0.25, 0.125]).map((share) => keptOf(share, expertWidth(base)));
  const backend = options.backend ?? openBackend({ threads: options.threads }, options.announce);
  try {
    const probe = new LimitProbe(backend, options.probeBytes);
    // One set of weights; what differs is how many neurons are kept.
    const models = kept.map((K) => ({ ...base, num_neurons_per_tok: K }));
    const model = createRandomModel(base, backend, { dtype });
    const cases = models.flatMap((config) => batches.map((batch) => ({ config, batch, runs: [] as Run[] })));
    let peers: DecodePeers | undefined;
    let peerTimings: PeerTiming[] = [];
    try {
      if (options.peers) {
        options.onStep?.(0, rounds * cases.length, "starting other engines");
        peers = await DecodePeers.start(
          models,
          dtype,
          options.threads ?? availableParallelism(),
          options.signal,
        );
      }
      for (let round = 0; round < rounds; round++) {
        await probe.measure();
        await peers?.measure(prompt, tokens);
        for (const [index, one] of cases.entries()) {
          throwIfAborted(options.signal);
          const what = `K ${one.config.num_neurons_per_tok}, batch ${one.batch}`;
          options.onStep?.(round * cases.length + index, rounds * cases.length, what);
          const { batch, config } = one;
          const kept = config.num_neurons_per_tok;
          const run = { kept, batch, prompt, tokens, seed: round, signal: options.signal };
          one.runs.push(await timeDecoding(model, run));
        }
      }
      peerTimings = peers?.timings(prompt) ?? [];
    } finally {
      model.close();
      peers?.close();
    }
    const { limits } = probe;
    const rate = ({ batch, runs }: (typeof cases)[number]) => batch / median(runs.map((run) => run.step));
    const timings = cases.map((one): DecodeTiming => {
      const { config, batch, runs } = one;
      const first = cases.find((other) => other.batch === batch) ?? one;
      const each = runs.map((run) => batch / run.step);
      const bytes = decodeBytes(config, dtype);
      const gigabytesPerSecond = (bytes * rate(one)) / 1e9;
      return {
        kept: config.num_neurons_per_tok,
        batch,
        tokensPerSecond: rate(one),
        bestTokensPerSecond: batch / Math.min(...runs.map((run) => run.best)),
        range: [Math.min(...each), Math.max(...each)],
        speedup: rate(one) / rate(first),
        ...(batch === 1 && {
          bytesPerToken: bytes,
          gigabytesPerSecond,
          bandwidthShare: gigabytesPerSecond / limits.gigabytesPerSecond,
        }),
        promptTokensPerSecond: prompt / median(runs.map((run) => run.prompt)),
      };
    });
    return {
      machine: describeMachine(backend),
      limits,
      config: base,
      dtype,
      prompt,
      tokens,
      rounds,
      timings,
      ...(peers && { peers: peerTimings, missingPeers: peers.missing }),
    };
  } finally {
    if (!options.backend) backend.close();
  }
}

/** Seconds. */
interface Run {
  /** A whole prompt. */
  prompt: number;
  /** The median step, and the tenth of the fastest. */
  step: number;
  best: number;
}

async function timeDecoding(
  model: Transformer,
  how: { kept: number; batch: number; prompt: number; tokens: number; seed: number; signal?: AbortSignal },
): Promise<Run> {
  const { kept, batch, prompt, tokens, seed, signal } = how;
  const decoder = new Decoder(model, { slots: batch, maxPositions: prompt + tokens + 1, kept });
  // Random tokens: greedy ones of random weights repeat, and with them their experts.
  const draws = new RandomStream(seed, "bench decode");
  let drawn = 0;
  const ids = (count: number) =>
    Uint32Array.from({ length: count }, () => Math.floor(draws.uniform(drawn++) * model.config.vocab_size));
  const timed = async (entries: Parameters<Decoder["run"]>[0]) => {
    throwIfAborted(signal);
    const start = performance.now();
    await decoder.run(entries);
    return (performance.now() - start) / 1000;
  };
  try {
    const prompts: number[] = [];
    for (let slot = 0; slot < batch; slot++)
      prompts.push(await timed([{ slot, position: 0, ids: ids(prompt) }]));
    const steps: number[] = [];
    for (let i = 0; i < tokens; i++) {
      const rows = Array.from({ length: batch }, (_, slot) => ({ slot, position: prompt + i, ids: ids(1) }));
      steps.push(await timed(rows));
    }
    const repeated = steps.slice(Math.min(2, steps.length - 1)); // the first two are made in another way
    return { prompt: Math.min(...prompts), step: median(repeated), best: quantile(repeated, 0.1) };
  } finally {
    decoder.close();
  }
}
