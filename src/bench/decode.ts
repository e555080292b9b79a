// Times decoding with stored weights: one sequence, several at once, and prompts; what the weights' bytes make of that, as a
// share of the machine's read bandwidth. Peers take turns with this project's own.

import { UsageError } from "../errors.ts";
import { createRandomModel } from "../infer/randomModel.ts";
import type { WeightFormat } from "../infer/storedWeights.ts";
import { countOfNeurons } from "../model/neurons.ts";
import type { Transformer } from "../model/transformer.ts";
import { decodeBytes, forwardFlops } from "../model/work.ts";
import { DecodeArm, type DecodeContender, decodeConfig } from "./decodeArm.ts";
import { median, type Spread, spreadOf, takeTurns } from "./measure.ts";
import { type DecodePeer, startDecodePeers } from "./peers/decode.ts";
import { type BenchOptions, type Envelope, inSession, type Session } from "./result.ts";
import { type BenchSize, parseSizes } from "./sizes.ts";

export interface DecodeBenchOptions extends BenchOptions {
  /** Names or widths. Default: large. */
  readonly sizes?: readonly string[];
  /** K besides K = F, or shares of F below 1. Default: 1/4. */
  readonly neurons?: readonly (number | string)[];
  /** Forms of the weights. Default: bf16 and int8. */
  readonly dtypes?: readonly WeightFormat[];
  /** Sequences at once. Default: 1, 2, 4, 8, 16, 32. */
  readonly batches?: readonly number[];
  /** Tokens of the prompt whose speed is measured. Default 512. */
  readonly prompt?: number;
  /** Tokens that are decoded in a turn. Default 64. */
  readonly tokens?: number;
  readonly peers?: boolean;
}

export interface BatchSpeed {
  readonly batch: number;
  /** Of all sequences together. */
  readonly tokensPerSecond: Spread;
  /** The same, round by round: rows of a case took turns. */
  readonly rounds: readonly number[];
}

export interface DecodeRow {
  readonly engine: string;
  readonly version: string;
  /** Form of the weights, in the engine's words. */
  readonly dtype: string;
  readonly kept: number;
  /** One sequence. */
  readonly tokensPerSecond: Spread;
  /** Of weights that one token needs, by the formula of model/work.ts with this engine's bytes an element. */
  readonly bytesPerToken: number;
  readonly gigabytesPerSecond: number;
  readonly shareOfBandwidth: number;
  readonly prefillPerSecond: Spread;
  /** Of products with all neurons. */
  readonly prefillGigaflops: number;
  readonly batches: readonly BatchSpeed[];
}

export interface DecodeCase {
  readonly size: string;
  readonly width: number;
  readonly neurons: number;
  readonly prompt: number;
  /** Tokens in the cache when decoding begins. */
  readonly context: number;
  readonly tokens: number;
  readonly rows: readonly DecodeRow[];
}

export interface DecodeBench extends Envelope<"decode"> {
  readonly cases: readonly DecodeCase[];
}

interface Turn {
  readonly prefill: number;
  /** Median seconds of a step, by batch. */
  readonly steps: ReadonlyMap<number, number>;
}

/** @throws UsageError for a size, K, or batch that cannot be used. */
export function benchDecode(options: DecodeBenchOptions = {}): Promise<DecodeBench> {
  const { quick = false } = options;
  const sizes = parseSizes(options.sizes ?? [quick ? "32" : "large"]);
  for (const { width } of sizes) for (const k of options.neurons ?? []) countOfNeurons(k, width);
  const batches = options.batches ?? (quick ? [1, 2] : [1, 2, 4, 8, 16, 32]);
  if (batches.some((batch) => !Number.isInteger(batch) || batch < 1 || batch > 256)) {
    throw new UsageError(`--batch must be integers from 1 to 256, not ${batches.join(",")}.`);
  }
  return inSession("decode", options, async (session) => {
    const cases: DecodeCase[] = [];
    for (const size of sizes) cases.push(await timeSize(session, size, batches, options));
    const { envelope, limits } = await session.settle();
    const share = (row: DecodeRow) => row.gigabytesPerSecond / limits.readGigabytes.all;
    const withShares = cases.map((one) => ({
      ...one,
      rows: one.rows.map((row) => ({ ...row, shareOfBandwidth: share(row) })),
    }));
    return { ...envelope, cases: withShares };
  });
}

async function timeSize(
  session: Session<"decode">,
  size: BenchSize,
  batches: readonly number[],
  options: DecodeBenchOptions,
): Promise<DecodeCase> {
  const { quick, versions } = session.envelope;
  const prompt = options.prompt ?? (quick ? 4 : 512);
  const tokens = options.tokens ?? (quick ? 2 : 64);
  const context = quick ? 2 : 32;
  const positions = Math.max(prompt, context + tokens + 3);
  const full = decodeConfig(size, 1, quick);
  if (positions > full.max_position_embeddings) {
    throw new UsageError(`--prompt and --tokens go up to ${full.max_position_embeddings} positions.`);
  }
  const neurons = full.moe_intermediate_size;
  const kepts = [neurons, ...(options.neurons ?? [0.25]).map((k) => countOfNeurons(k, neurons))];
  const contenders: DecodeContender[] = [];
  const models: Transformer[] = [];
  try {
    for (const dtype of options.dtypes ?? (["bf16", "int8"] as const)) {
      options.onProgress?.("making weights", [`${size.name}, ${dtype}`]);
      const model = createRandomModel(full, session.backend, { dtype });
      models.push(model);
      for (const kept of new Set(kepts)) {
        const config = decodeConfig(size, kept, quick);
        const slots = Math.max(...batches, 1);
        const arm = new DecodeArm(model, { kept, slots, positions });
        contenders.push({
          engine: "neuron-experts",
          version: versions.package,
          dtype,
          kept,
          bytesPerToken: decodeBytes(config, dtype).total,
          batches,
          prefill: (count) => arm.prefill(count),
          decode: (work) => arm.decode(work),
          close: () => arm.close(),
        });
      }
    }
    if (options.peers) {
      const plan = { size, kepts, positions: positions + 16, quick, signal: options.signal };
      const peers: DecodePeer[] = await startDecodePeers(session, plan, options.onProgress);
      contenders.push(...peers);
    }
    const turnOf = async (contender: DecodeContender): Promise<Turn> => {
      const prefill = await contender.prefill(prompt);
      const steps = new Map<number, number>();
      for (const batch of new Set([1, ...contender.batches])) {
        options.signal?.throwIfAborted();
        const count = batch === 1 ? tokens : Math.max(2, Math.round(tokens / 4));
        steps.set(batch, median(await contender.decode({ batch, tokens: count, prompt: context })));
      }
      return { prefill, steps };
    };
    for (const contender of contenders) {
      await contender.prefill(prompt); // touches memory for the first time
      options.signal?.throwIfAborted();
    }
    const turns = await takeTurns(
      contenders.map((contender) => ({
        name: `${size.name}, ${contender.engine} ${contender.dtype}, K ${contender.kept}`,
        run: () => turnOf(contender),
      })),
      session.turns,
    );
    const flops = forwardFlops(full, prompt).total - forwardFlops(full, prompt).head;
    return {
      size: size.name,
      width: size.width,
      neurons,
      prompt,
      context,
      tokens,
      rows: contenders.map((contender, i) => rowOf(contender, turns[i], { prompt, flops })),
    };
  } finally {
    for (const contender of contenders) contender.close();
    for (const model of models) model.close();
  }
}

function rowOf(
  { engine, version, dtype, kept, bytesPerToken }: DecodeContender,
  turns: readonly Turn[],
  { prompt, flops }: { prompt: number; flops: number },
): DecodeRow {
  const roundsAt = (batch: number) => turns.map(({ steps }) => batch / (steps.get(batch) ?? Number.NaN));
  const tokensPerSecond = spreadOf(roundsAt(1));
  const gigabytesPerSecond = (bytesPerToken * tokensPerSecond.median) / 1e9;
  const prefillPerSecond = spreadOf(turns.map(({ prefill }) => prompt / prefill));
  return {
    engine,
    version,
    dtype,
    kept,
    tokensPerSecond,
    bytesPerToken,
    gigabytesPerSecond,
    shareOfBandwidth: 0, // known when the machine was measured to the end
    prefillPerSecond,
    prefillGigaflops: (flops * prefillPerSecond.median) / 1e9,
    batches: [...turns[0].steps.keys()]
      .sort((a, b) => a - b)
      .map((batch) => ({ batch, tokensPerSecond: spreadOf(roundsAt(batch)), rounds: roundsAt(batch) })),
  };
}
