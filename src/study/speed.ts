// Measured decoding, one sequence at a time, by turns: what the settings of a study are worth on this machine.

import { median } from "d3-array";
import { Decoder } from "../infer/decoder.ts";
import { createRandomModel } from "../infer/randomModel.ts";
import type { WeightFormat } from "../infer/storedWeights.ts";
import type { DType } from "../kernels/kernel.ts";
import { type ModelConfig, withOverrides } from "../model/config.ts";
import type { Kept } from "../model/neurons.ts";
import type { Transformer } from "../model/transformer.ts";
import { type Runner, timeByTurns } from "./turns.ts";

/** Longest sequence. */
const POSITIONS = 113;

export interface SpeedContender {
  readonly name: string;
  readonly kept?: Kept;
  readonly active?: number;
  /** Width of experts that were cut to this many neurons for good; a random model of that shape stands in. */
  readonly cutTo?: number;
}

/** Tokens per second of a contender over turns. */
export interface Speed {
  readonly median: number;
  readonly least: number;
  readonly most: number;
}

export interface MeasuredSpeeds {
  readonly turns: number;
  /** In a turn. */
  readonly tokens: number;
  /** By contender. */
  readonly speeds: readonly Speed[];
}

/** Tokens per second of each contender. */
export async function measureSpeeds(
  model: Transformer,
  contenders: readonly SpeedContender[],
  { signal, seconds }: { signal?: AbortSignal; seconds?: number } = {},
): Promise<MeasuredSpeeds> {
  const { config, backend } = model;
  const positions = Math.min(config.max_position_embeddings, POSITIONS);
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
    const options = { seconds, mostTokens: positions - 1, signal };
    const { turns, tokens, speeds } = await timeByTurns(decoders.map(runnerOf), options);
    return {
      turns,
      tokens,
      speeds: speeds.map((each) => ({
        median: median(each) as number,
        least: Math.min(...each),
        most: Math.max(...each),
      })),
    };
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

/** Fed tokens do not depend on what the model says. */
function runnerOf(decoder: Decoder): Runner {
  const slot = decoder.claim() as number;
  const { vocab_size } = decoder.model.config;
  let token = 0;
  let position = 0;
  return {
    restart: (turn) => {
      token = 12345 + turn;
      position = 0;
    },
    step: async () => {
      token = (Math.imul(token, 1103515245) + 12345) >>> 0;
      await decoder.run([{ slot, position: position++, ids: Uint32Array.of((token >>> 8) % vocab_size) }]);
    },
  };
}
