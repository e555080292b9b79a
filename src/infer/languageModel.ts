// A model with its tokenizer, ready to write: what users of the library hold. No file is read here; see
// src/checkpoint/loadModel.ts for opening one.

import { throwIfAborted, UsageError } from "../errors.ts";
import type { ModelConfig } from "../model/config.ts";
import type { Kept } from "../model/neurons.ts";
import type { Transformer } from "../model/transformer.ts";
import { RandomStream } from "../random.ts";
import { StreamDecoder, type Tokenizer } from "../text/tokenizer.ts";
import { Decoder, type DecoderOptions } from "./decoder.ts";
import { checkSampling, type SamplingOptions, sampleToken } from "./sampling.ts";
import { StopFilter } from "./stopFilter.ts";

export interface GenerateOptions extends SamplingOptions {
  /** Most tokens to write. */
  readonly maxTokens?: number;
  /** The same seed, prompt and options give the same text; default: a new one each time. */
  readonly seed?: number;
  /** Writing ends before the first of these. */
  readonly stop?: readonly string[];
  readonly signal?: AbortSignal;
  /** Told each token that is written, before its text. */
  readonly onToken?: (id: number) => void;
  /** Told when writing has ended by itself. */
  readonly onEnd?: (end: GenerationEnd) => void;
}

export interface GenerationEnd {
  /** An end-of-text token, a stop string, `maxTokens`, or the model's positions are used up. */
  readonly reason: "end" | "stop" | "length" | "positions";
  readonly promptTokens: number;
  /** With which the same text comes again. */
  readonly seed: number;
}

/** What a model asks for (its generation_config.json); options of a call win. */
export interface GenerationDefaults extends Pick<SamplingOptions, "temperature" | "topK" | "topP"> {
  /** Tokens that end the text, besides the tokenizer's. */
  readonly eosIds?: readonly number[];
  /** The token that stands before a text: its beginning-of-text token, else its end-of-text token. */
  readonly startToken?: string;
}

export class LanguageModel {
  readonly model: Transformer;
  readonly tokenizer: Tokenizer;
  readonly defaults: GenerationDefaults;
  /** Where it was loaded from. */
  readonly folder: string | undefined;
  /** Neurons kept instead of the model's own number. */
  readonly kept: Kept | undefined;
  readonly #bf16: boolean;
  readonly #onClose: () => void;

  /**
   * @param kept neurons kept instead of the model's number. @param onClose called by `close` after the model's memory is
   *   free, e.g. to close the backend.
   */
  constructor(
    model: Transformer,
    tokenizer: Tokenizer,
    {
      bf16 = false,
      kept,
      onClose = () => {},
      defaults = {},
      folder,
    }: {
      bf16?: boolean;
      kept?: Kept;
      onClose?: () => void;
      defaults?: GenerationDefaults;
      folder?: string;
    } = {},
  ) {
    if (tokenizer.vocabSize > model.config.vocab_size) {
      throw new UsageError(
        `the tokenizer has ${tokenizer.vocabSize} tokens, but the model knows ${model.config.vocab_size} only`,
      );
    }
    this.model = model;
    this.tokenizer = tokenizer;
    this.defaults = defaults;
    this.folder = folder;
    this.kept = kept;
    this.#bf16 = bf16;
    this.#onClose = onClose;
  }

  get config(): ModelConfig {
    return this.model.config;
  }

  /** What a text without a beginning is taken to follow: the model's own token for that, if it names one. */
  get startIds(): Uint32Array {
    const named = this.tokenizer.encode(this.defaults.startToken ?? "");
    return named.length === 1 ? named : startIds(this.tokenizer);
  }

  /** A cache for sequences of this model, to be closed by the caller. */
  decoder(options: DecoderOptions = {}): Decoder {
    return new Decoder(this.model, { bf16: this.#bf16, kept: this.kept, ...options });
  }

  /**
   * Continues `prompt`, piece by piece: whole characters only. Ends at the end-of-text token, at a stop string, after
   * `maxTokens`, or when the model's positions are used up.
   * @throws UsageError for a prompt that leaves no position free, or sampling options out of bounds.
   */
  async *generate(prompt: string, options: GenerateOptions = {}): AsyncGenerator<string, void, void> {
    const { maxTokens = 256, stop = [], signal } = options;
    const seed = options.seed ?? Math.floor(Math.random() * 2 ** 32);
    const sampling = checkSampling(options, this.defaults);
    const { tokenizer } = this;
    // A model needs something to continue.
    let ids = prompt === "" ? this.startIds : tokenizer.encode(prompt);
    const room = this.config.max_position_embeddings - ids.length;
    if (room < 1) {
      throw new UsageError(
        `the prompt has ${ids.length} tokens, but the model has ${this.config.max_position_embeddings} positions: shorten it`,
      );
    }
    const draws = new RandomStream(seed, "generate");
    const decoder = this.decoder({ maxPositions: ids.length + Math.min(room, maxTokens) });
    const slot = decoder.claim() as number;
    const text = new StreamDecoder(tokenizer);
    const filter = new StopFilter(stop);
    const promptTokens = ids.length;
    let reason: GenerationEnd["reason"] = room < maxTokens ? "positions" : "length";
    try {
      let position = 0;
      for (let n = 0; n < Math.min(room, maxTokens) && !filter.stopped; n++) {
        throwIfAborted(signal);
        const logits = await decoder.run([{ slot, position, ids }]);
        position += ids.length;
        // A model's vocabulary may be padded beyond the tokenizer's.
        const id = sampleToken(logits.subarray(0, tokenizer.vocabSize), sampling, draws.uniform(n));
        if (id === tokenizer.eosId || this.defaults.eosIds?.includes(id)) {
          reason = "end";
          break;
        }
        options.onToken?.(id);
        const piece = filter.push(text.push(id));
        if (piece !== "") yield piece;
        ids = Uint32Array.of(id);
      }
      const rest = filter.end(text.end());
      if (rest !== "") yield rest;
      options.onEnd?.({ reason: filter.stopped ? "stop" : reason, promptTokens, seed });
    } finally {
      decoder.close();
    }
  }

  /** Frees the model's memory. */
  close(): void {
    this.model.close();
    this.#onClose();
  }
}

/** What a text without a beginning is taken to follow where no model says it: the end of another one, or a new line. */
export function startIds(tokenizer: Tokenizer): Uint32Array {
  return tokenizer.eosId === undefined ? tokenizer.encode("\n") : Uint32Array.of(tokenizer.eosId);
}
