// The file format tokenizer.json of Hugging Face's tokenizers, as far as byte-level BPE needs it: reading with
// checks, and writing. Not here: encoding and decoding (bpe.ts).

import { UsageError } from "../errors.ts";
import { BYTE_CHARACTERS } from "./byteLevel.ts";

/** A token that is recognised in the text before anything else is done to it. */
export interface AddedToken {
  id: number;
  content: string;
  single_word: boolean;
  lstrip: boolean;
  rstrip: boolean;
  normalized: boolean;
  /** Left out by `decode(ids, { skipSpecial: true })`. */
  special: boolean;
}

/** The object that `JSON.stringify` turns into a tokenizer.json. */
export interface TokenizerJson {
  version: string;
  truncation: unknown;
  padding: unknown;
  added_tokens: AddedToken[];
  normalizer: unknown;
  pre_tokenizer: unknown;
  post_processor: unknown;
  decoder: unknown;
  model: {
    type: "BPE";
    dropout?: number | null;
    unk_token?: string | null;
    continuing_subword_prefix?: string | null;
    end_of_word_suffix?: string | null;
    fuse_unk?: boolean;
    byte_fallback?: boolean;
    ignore_merges?: boolean;
    /** Token, in the byte-level alphabet, to id. */
    vocab: Record<string, number>;
    /** Best first; `"a b"` or `["a", "b"]`. */
    merges: (string | [string, string])[];
  };
}

/** Ids stay below this, so that a pair of them fits into one exact number. */
export const ID_LIMIT = 2 ** 21;

/** A tokenizer.json for GPT-2 style byte-level BPE. Special tokens must have their ids in `vocab`. */
export function byteLevelJson(
  vocab: ReadonlyMap<string, number>,
  merges: readonly (readonly [string, string])[],
  specialTokens: readonly string[],
): TokenizerJson {
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true };
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: specialTokens.map((content) => ({
      id: vocab.get(content)!,
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: true,
    })),
    normalizer: null,
    pre_tokenizer: byteLevel,
    post_processor: null,
    decoder: byteLevel,
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab: Object.fromEntries(vocab),
      merges: merges.map(([left, right]) => `${left} ${right}`),
    },
  };
}

/** Checks that `value` is a tokenizer.json that bpe.ts can run; a UsageError says what is not. */
export function checkTokenizerJson(value: unknown): TokenizerJson {
  if (!isRecord(value) || !isRecord(value.model)) throw bad("there is no model in it");
  const { model } = value;
  // Old files leave out the type of a BPE model.
  const type = model.type ?? (Array.isArray(model.merges) ? "BPE" : "nothing");
  if (type !== "BPE") throw bad(`the model is ${JSON.stringify(type)}`);
  if (model.byte_fallback)
    throw bad("the model is BPE over characters with byte fallback (SentencePiece style)");
  for (const feature of ["dropout", "continuing_subword_prefix", "end_of_word_suffix"]) {
    if (model[feature]) throw bad(`the model uses ${feature}`);
  }
  if (!isRecord(value.pre_tokenizer)) throw bad("there is no byte-level pre-tokeniser");
  checkVocabulary(model.vocab);
  if (!Array.isArray(model.merges) || !model.merges.every(isMerge))
    throw bad("the merges are not pairs of tokens");
  if (!Array.isArray(value.added_tokens ?? [])) throw bad("added_tokens is not a list");
  for (const token of (value.added_tokens ?? []) as unknown[]) checkAddedToken(token);
  if (!isNfc(value.normalizer)) throw bad(`the normalizer is ${JSON.stringify(value.normalizer)}`);
  return { ...value, added_tokens: value.added_tokens ?? [], model: { ...model, type } } as TokenizerJson;
}

/** Both halves of a merge, however it is written. */
export function mergeParts(merge: string | readonly [string, string]): readonly [string, string] {
  return typeof merge === "string" ? (merge.split(" ") as [string, string]) : merge;
}

function checkVocabulary(vocab: unknown): void {
  if (!isRecord(vocab)) throw bad("the model has no vocabulary");
  for (const [token, id] of Object.entries(vocab)) {
    if (!isId(id)) throw bad(`the token ${JSON.stringify(token)} has the id ${JSON.stringify(id)}`);
  }
  const missing = BYTE_CHARACTERS.findIndex((character) => !Object.hasOwn(vocab, character));
  if (missing >= 0) throw bad(`the vocabulary has no token for byte ${missing}`);
}

function checkAddedToken(token: unknown): void {
  if (!isRecord(token) || typeof token.content !== "string" || token.content === "" || !isId(token.id)) {
    throw bad(`one added token is ${JSON.stringify(token)}`);
  }
  for (const feature of ["single_word", "lstrip", "rstrip"]) {
    if (token[feature] === true)
      throw bad(`the added token ${JSON.stringify(token.content)} uses ${feature}`);
  }
}

/** True for no normalizer, NFC, or a sequence of these. */
function isNfc(normalizer: unknown): boolean {
  if (normalizer === null || normalizer === undefined) return true;
  if (!isRecord(normalizer)) return false;
  if (normalizer.type === "Sequence") {
    return Array.isArray(normalizer.normalizers) && normalizer.normalizers.every(isNfc);
  }
  return normalizer.type === "NFC";
}

/** Whether a checked normalizer changes anything. */
export function appliesNfc(normalizer: unknown): boolean {
  return JSON.stringify(normalizer ?? null).includes('"NFC"');
}

function isMerge(merge: unknown): boolean {
  const parts = typeof merge === "string" ? merge.split(" ") : merge;
  return (
    Array.isArray(parts) &&
    parts.length === 2 &&
    parts.every((part) => typeof part === "string" && part !== "")
  );
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isId(id: unknown): boolean {
  return Number.isInteger(id) && (id as number) >= 0 && (id as number) < ID_LIMIT;
}

function bad(what: string): UsageError {
  return new UsageError(`This tokenizer.json cannot be used: ${what}; only byte-level BPE is supported.`);
}
