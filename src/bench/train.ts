// Times whole training steps, MoE and MoNE by turns, at one or more sizes of model; peers take turns with them. Also the
// achieved share of the machine's peak, the peak memory of each, and where the time of a step goes (trainProfile.ts).

import { RunError, UsageError } from "../errors.ts";
import { countOfNeurons } from "../model/neurons.ts";
import { countParameters } from "../model/parameters.ts";
import { forwardFlops, trainingFlops } from "../model/work.ts";
import type { MachineLimits } from "./machine.ts";
import { ratioOf, type Spread, spreadOf, takeTurns } from "./measure.ts";
import { measureMemory } from "./memory.ts";
import { type BenchOptions, type Envelope, inSession, type Session } from "./result.ts";
import { type BenchSize, configOf, parseSizes } from "./sizes.ts";
import { type BenchText, batchOf, openBenchText, trainerOf } from "./trainerArm.ts";
import { type Runner, type TrainContender, torchRunners } from "./trainPeers.ts";
import { type ProfileRow, profileSteps } from "./trainProfile.ts";

export interface TrainBenchOptions extends BenchOptions {
  /** Names, widths, or "all". Default: small. */
  readonly sizes?: readonly string[];
  /** K, or a share of F below 1. Default 1/4. */
  readonly neurons?: number | string;
  /** A text, as `mone train --data` takes it. */
  readonly data?: string;
  readonly dtype?: "auto" | "f32" | "bf16";
  /** Also say where the time of a step goes. */
  readonly profile?: boolean;
  /** Also time the MoNE with activations computed again for the backward pass: what that costs, what memory it saves. */
  readonly recompute?: boolean;
  readonly peers?: boolean;
}

export interface TrainRow extends TrainContender {
  readonly secondsPerStep: Spread;
  /** Median seconds of a step, round by round: rows of a case took turns. */
  readonly rounds: readonly number[];
  readonly tokensPerSecond: Spread;
  /** Of the products with all neurons (model/work.ts). */
  readonly gigaflops: number;
  readonly shareOfPeak: number;
  readonly peakBytes?: number;
}

export interface TrainCase {
  readonly size: string;
  readonly width: number;
  readonly neurons: number;
  readonly kept: number;
  readonly parameters: number;
  readonly seq: number;
  readonly batch: number;
  readonly flopsPerToken: number;
  /** What share of the products would remain if only kept neurons were multiplied. */
  readonly keptShareOfFlops: number;
  readonly rows: readonly TrainRow[];
  /** MoNE's step time relative to MoE's, round by round. */
  readonly stepRatio: Spread;
  readonly profiles: readonly { readonly arm: "MoE" | "MoNE"; readonly rows: readonly ProfileRow[] }[];
}

export interface TrainBench extends Envelope<"train"> {
  readonly data: string;
  readonly cases: readonly TrainCase[];
}

/** @throws UsageError for a size, a K or a text that cannot be used; RunError where memory does not suffice. */
export async function benchTrain(options: TrainBenchOptions = {}): Promise<TrainBench> {
  const sizes = parseSizes(options.sizes ?? [options.quick ? "32" : "small"]);
  for (const { width } of sizes) countOfNeurons(options.neurons ?? 0.25, width); // before anything long begins
  const text = await openBenchText(options);
  try {
    return await inSession("train", options, async (session) => {
      const cases: TrainCase[] = [];
      for (const size of sizes) cases.push(await timeSize(session, size, text, options));
      const { envelope, limits } = await session.settle();
      return { ...envelope, data: text.name, cases: cases.map((one) => withShares(one, limits)) };
    });
  } finally {
    text.close();
  }
}

/** A case with shares of the machine's peak. */
function withShares(one: TrainCase, limits: MachineLimits): TrainCase {
  const peakOf = (dtype: string) => limits.gigaflops[dtype === "f32" ? "f32" : "bf16"].all;
  const own = peakOf(one.rows[0].dtype);
  return {
    ...one,
    rows: one.rows.map((row) => ({ ...row, shareOfPeak: row.gigaflops / peakOf(row.dtype) })),
    profiles: one.profiles.map(({ arm, rows }) => ({
      arm,
      rows: rows.map((row) =>
        row.gigaflops === undefined ? row : { ...row, shareOfPeak: row.gigaflops / own },
      ),
    })),
  };
}

async function timeSize(
  session: Session<"train">,
  size: BenchSize,
  text: BenchText,
  options: TrainBenchOptions,
): Promise<TrainCase> {
  const { quick } = session.envelope;
  const { signal, onProgress } = options;
  const config = configOf(size, null);
  const neurons = config.moe_intermediate_size;
  const kept = countOfNeurons(options.neurons ?? 0.25, neurons);
  if (kept === neurons) throw new UsageError("--neurons must be below the expert width: K = F is the MoE.");
  const { seq, batch } = batchOf(size, quick);
  const parameters = countParameters(config).total;
  // Weights, gradients and two moments in f32, for all own arms at once.
  const models = options.recompute ? 3 : 2;
  const needed = models * 16 * parameters;
  if (needed > 0.8 * session.envelope.machine.memoryBytes) {
    throw new RunError(
      `Training ${size.name} takes at least ${(needed / 2 ** 30).toFixed(0)} GiB for ${models} models: choose a smaller --size.`,
    );
  }
  const arms = [
    { arm: "MoE", kept: neurons },
    { arm: "MoNE", kept },
  ] as const;
  const runners: Runner[] = [];
  try {
    for (const { arm, kept } of arms) {
      runners.push(ownRunner(session, { arm, size, kept, text, options }));
    }
    if (options.recompute) {
      runners.push(ownRunner(session, { arm: "MoNE", size, kept, text, options, recompute: true }));
    }
    if (options.peers) {
      onProgress?.("starting peers", [size.name]);
      runners.push(
        ...(await torchRunners({
          size,
          arms,
          seq,
          batch,
          tokens: text.path,
          threads: session.envelope.threads,
          memory: session.envelope.machine.memoryBytes,
          own: needed,
          miss: session.miss,
          signal,
        })),
      );
    }
    const count = await warmUp(runners, quick);
    const times = await takeTurns(
      runners.map((runner) => ({
        name: [
          size.name,
          runner.row.arm,
          runner.row.engine,
          ...(runner.row.recompute ? ["recomputed"] : []),
        ].join(", "),
        run: async () => spreadOf(await runner.steps(count)).median,
      })),
      session.turns,
    );
    const flopsPerToken = trainingFlops(config, seq);
    const rows: TrainRow[] = [];
    for (const [i, runner] of runners.entries()) {
      const secondsPerStep = spreadOf(times[i]);
      const tokensPerSecond = spreadOf(times[i].map((seconds) => (seq * batch) / seconds));
      const gigaflops = (flopsPerToken * tokensPerSecond.median) / 1e9;
      const peakBytes = await runner.peakBytes();
      rows.push({
        ...runner.row,
        secondsPerStep,
        rounds: times[i],
        tokensPerSecond,
        gigaflops,
        shareOfPeak: 0, // known when the machine was measured to the end
        ...(peakBytes !== undefined && { peakBytes }),
      });
    }
    const profiles: TrainCase["profiles"][number][] = [];
    for (const { arm, kept } of options.profile ? arms : []) {
      onProgress?.("profiling", [`${size.name}, ${arm}`]);
      const profiled = { size, kept, text, quick, dtype: options.dtype, signal };
      profiles.push({ arm, rows: await profileSteps(session.backend, profiled) });
    }
    const forward = forwardFlops(configOf(size, kept), seq);
    return {
      size: size.name,
      width: size.width,
      neurons,
      kept,
      parameters,
      seq,
      batch,
      flopsPerToken,
      keptShareOfFlops: (forward.total - forward.experts + forward.keptExperts) / forward.total,
      rows,
      stepRatio: ratioOf(times[1], times[0]),
      profiles,
    };
  } finally {
    for (const runner of runners) runner.close();
  }
}

/**
 * One step of each that is not counted. @returns how many steps a turn has: about two seconds of the fastest, but not
 * more than ten of the slowest.
 */
async function warmUp(runners: readonly Runner[], quick: boolean): Promise<number> {
  const times: number[] = [];
  for (const runner of runners) {
    const seconds = await runner.steps(quick ? 1 : 2);
    times.push(seconds[seconds.length - 1]);
  }
  return quick
    ? 1
    : Math.max(3, Math.min(50, Math.round(2 / Math.min(...times)), Math.round(10 / Math.max(...times))));
}

function ownRunner(
  session: Session<"train">,
  arm: {
    arm: "MoE" | "MoNE";
    size: BenchSize;
    kept: number;
    text: BenchText;
    options: TrainBenchOptions;
    recompute?: boolean;
  },
): Runner {
  const { size, kept, text, options, recompute } = arm;
  const { quick, threads, versions } = session.envelope;
  const trainer = trainerOf(session.backend, { size, kept, text, quick, dtype: options.dtype, recompute });
  const dtype = trainer.bf16 ? "bf16" : "f32";
  return {
    row: {
      arm: arm.arm,
      engine: "neuron-experts",
      version: versions.package,
      kept,
      dtype,
      ...(recompute && { recompute }),
    },
    async steps(count) {
      const times: number[] = [];
      for (let i = 0; i < count; i++) {
        options.signal?.throwIfAborted();
        const before = trainer.seconds;
        await trainer.advance();
        times.push(trainer.seconds - before);
      }
      return times;
    },
    async peakBytes() {
      options.onProgress?.("measuring memory", [`${size.name}, ${arm.arm}`]);
      const work = { kind: "train", width: size.width, kept, dtype, threads, quick, recompute } as const;
      return (await measureMemory(work, options.signal)).peakBytes;
    },
    close: () => trainer.close(),
  };
}
