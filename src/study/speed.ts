// Measured decoding, one sequence at a time, by turns: what the settings of a study are worth on this machine.

import { throwIfAborted } from "../errors.ts";
import { Decoder } from "../infer/decoder.ts";
import { createRandomModel } from "../infer/randomModel.ts";
import type { WeightFormat } from "../infer/storedWeights.ts";
import type { DType } from "../kernels/kernel.ts";
import { type ModelConfig, withOverrides } from "../model/config.ts";
import type { Kept } from "../model/neurons.ts";
import type { Transformer } from "../model/transformer.ts";

/** Turns of each contender, and tokens in a turn. */
const TURNS = 7;
const TOKENS = 96;
const PROMPT = 16;

export interface SpeedContender {
  readonly name: string;
  readonly kept?: Kept;
  readonly active?: number;
  /** Width of experts that were cut to this many neurons for good; a random model of that shape stands in. */
  readonly cutTo?: number;
}

export interface Speed {
  readonly name: string;
  /** Median over turns. */
  readonly tokensPerSecond: number;
}

/** Tokens per second of each contender. */
export async function measureSpeeds(
  model: Transformer,
  contenders: readonly SpeedContender[],
  { signal }: { signal?: AbortSignal } = {},
): Promise<Speed[]> {
  const { config, backend } = model;
  const positions = Math.min(config.max_position_embeddings, PROMPT + TOKENS);
  const models: Transformer[] = [];
  const decoders: Decoder[] = [];
  try {
    for (const { kept, active, cutTo } of contenders) {
      let runs = model;
      if (cutTo !== undefined) {
        const dtype = formatOf(model.head.dtype);
        runs = createRandomModel(cutConfig(config, cutTo), backend, { dtype });
        models.push(runs);
      }
      decoders.push(new Decoder(runs, { kept, active, maxPositions: positions }));
    }
    const speeds = contenders.map((): number[] => []);
    for (let turn = 0; turn <= TURNS; turn++) {
      for (const [i, decoder] of decoders.entries()) {
        throwIfAborted(signal);
        const speed = await oneTurn(decoder, positions, turn);
        if (turn > 0) speeds[i].push(speed); // the first one prepares weights
      }
    }
    return contenders.map(({ name }, i) => ({
      name,
      tokensPerSecond: speeds[i].sort((a, b) => a - b)[Math.floor(TURNS / 2)],
    }));
  } finally {
    for (const decoder of decoders) decoder.close();
    for (const one of models) one.close();
  }
}

/** The form of weights, as users say it, from the type of a matrix. */
export function formatOf(type: DType): WeightFormat {
  if (type === "i8") return "int8";
  return type === "bf16" ? "bf16" : "f32";
}

/** The same model with narrower experts. */
function cutConfig(config: ModelConfig, width: number): ModelConfig {
  const key = config.num_experts > 0 ? "moe_intermediate_size" : "intermediate_size";
  return withOverrides(config, { [key]: width, num_neurons_per_tok: null }, "statically pruned");
}

/** Tokens per second after a prompt. Fed tokens do not depend on what the model says. */
async function oneTurn(decoder: Decoder, positions: number, turn: number): Promise<number> {
  const slot = decoder.claim() as number;
  const { vocab_size } = decoder.model.config;
  let token = 12345 + turn;
  const next = () => {
    token = (Math.imul(token, 1103515245) + 12345) >>> 0;
    return (token >>> 8) % vocab_size;
  };
  const prompt = Math.min(PROMPT, positions - 2);
  await decoder.run([{ slot, position: 0, ids: Uint32Array.from({ length: prompt }, next) }]);
  await decoder.run([{ slot, position: prompt, ids: Uint32Array.of(next()) }]);
  const start = performance.now();
  for (let position = prompt + 1; position < positions; position++) {
    await decoder.run([{ slot, position, ids: Uint32Array.of(next()) }]);
  }
  decoder.release(slot);
  return (1000 * (positions - prompt - 1)) / (performance.now() - start);
}
