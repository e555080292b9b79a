// A model of random stored weights that can be timed: a prompt at once, or tokens one after the other for one or more
// sequences. Fed tokens do not depend on what the model says, so that experts vary as in a real text.

import { Decoder } from "../infer/decoder.ts";
import type { ModelConfig } from "../model/config.ts";
import type { Transformer } from "../model/transformer.ts";
import { type BenchSize, configOf } from "./sizes.ts";

/** What peers need of a vocabulary: bytes, merges and an end token (checkpoint/randomGguf.ts). */
const VOCABULARY = 512;

/** A size as it is decoded: K, a vocabulary that llama.cpp accepts, room for prompts. */
export function decodeConfig(size: BenchSize, kept: number, quick = false): ModelConfig {
  const small = quick ? { num_hidden_layers: 2, num_experts: 4, num_experts_per_tok: 2 } : {};
  return configOf(size, kept, { vocab_size: VOCABULARY, max_position_embeddings: 2048, ...small });
}

/** Who takes turns: an engine with a form of weights and a K. */
export interface DecodeContender {
  readonly engine: string;
  readonly version: string;
  readonly dtype: string;
  readonly kept: number;
  readonly bytesPerToken: number;
  readonly batches: readonly number[];
  prefill(tokens: number): Promise<number>;
  decode(work: { batch: number; tokens: number; prompt: number }): Promise<number[]>;
  close(): void;
}

export interface DecodeArmOptions {
  /** K. */
  readonly kept: number;
  /** Most sequences at a time. */
  readonly slots: number;
  /** Longest sequence. */
  readonly positions: number;
}

/** One K of a model, whose weights it shares with others and leaves to them. */
export class DecodeArm {
  readonly #decoder: Decoder;
  #token = 12345;

  constructor(model: Transformer, { kept, slots, positions }: DecodeArmOptions) {
    this.#decoder = new Decoder(model, { kept, slots, maxPositions: positions });
  }

  /** Seconds for a prompt from an empty cache. */
  async prefill(tokens: number): Promise<number> {
    const ids = this.#ids(tokens);
    const start = performance.now();
    await this.#decoder.run([{ slot: 0, position: 0, ids }]);
    return (performance.now() - start) / 1000;
  }

  /** Seconds of each step, in which each of `batch` sequences gets a token, after prompts and two steps of warm-up. */
  async decode(work: { batch: number; tokens: number; prompt: number }): Promise<number[]> {
    const { batch, tokens, prompt } = work;
    for (let slot = 0; slot < batch; slot++) {
      await this.#decoder.run([{ slot, position: 0, ids: this.#ids(prompt) }]);
    }
    const seconds: number[] = [];
    for (let i = 0; i < tokens + 2; i++) {
      const entries = Array.from({ length: batch }, (_, slot) => ({
        slot,
        position: prompt + i,
        ids: this.#ids(1),
      }));
      const start = performance.now();
      await this.#decoder.run(entries);
      if (i >= 2) seconds.push((performance.now() - start) / 1000);
    }
    return seconds;
  }

  #ids(count: number): Uint32Array {
    return Uint32Array.from({ length: count }, () => {
      this.#token = (Math.imul(this.#token, 1103515245) + 12345) >>> 0;
      return (this.#token >>> 8) % this.#decoder.model.config.vocab_size;
    });
  }

  close(): void {
    this.#decoder.close();
  }
}
