// What a tokenizer is, and the ways to get one: one id a byte, or byte-level BPE from a tokenizer.json (a trained
// one comes from bpeTraining.ts). Runs in browsers too: no file is read here, and no Node module imported.

import { BpeTokenizer } from "./bpe.ts";
import { BYTE_CHARACTERS } from "./byteLevel.ts";
import { byteLevelJson, checkTokenizerJson, type TokenizerJson } from "./tokenizerJson.ts";

export type { TokenizerJson } from "./tokenizerJson.ts";

/** Turns text into ids and back. */
export interface Tokenizer {
  /** The largest id plus one. */
  readonly vocabSize: number;
  /** Id of `<|endoftext|>`, if there is such a token. */
  readonly eosId: number | undefined;
  /** Ids of `text`. Special tokens written in the text are recognised; none are added. */
  encode(text: string): Uint32Array;
  /** Text of `ids`. Bytes that are not UTF-8 become U+FFFD; a byte order mark stays. Throws as `bytesOf`. */
  decode(ids: Iterable<number>, options?: { skipSpecial?: boolean }): string;
  /** Bytes of one token, of special ones their text in UTF-8. UsageError if `id` is not below `vocabSize`. */
  bytesOf(id: number): Uint8Array;
  /** The content of a Hugging Face tokenizer.json; `JSON.stringify(tokenizer)` is the file. */
  toJSON(): TokenizerJson;
}

/** 256 ids, each the value of a byte. */
export function byteTokenizer(): Tokenizer {
  const vocab = new Map(BYTE_CHARACTERS.map((character, byte) => [character, byte]));
  return new BpeTokenizer(byteLevelJson(vocab, [], []));
}

/** The tokenizer that a parsed tokenizer.json describes; UsageError if it is not byte-level BPE. */
export function tokenizerFromJson(json: unknown): Tokenizer {
  return new BpeTokenizer(checkTokenizerJson(json));
}

/** Decodes ids as they come, and never emits half a character. All that it returns, joined, is `decode` of all ids. */
export class StreamDecoder {
  readonly #tokenizer: Tokenizer;
  readonly #decoder = new TextDecoder("utf-8", { ignoreBOM: true });

  constructor(tokenizer: Tokenizer) {
    this.#tokenizer = tokenizer;
  }

  /** The characters that `id` completes; often one token's text, sometimes "". */
  push(id: number): string {
    return this.#decoder.decode(this.#tokenizer.bytesOf(id), { stream: true });
  }

  /** What is left: "" or U+FFFD for a character that was never completed. */
  end(): string {
    return this.#decoder.decode();
  }
}
