// Learns byte-level BPE merges from text: again and again the most frequent pair of neighbouring tokens becomes a
// token. Counts are kept up to date rather than counted anew, and only words that hold the pair are touched.
// Ties: the pair with the lower left id wins, then the lower right id; so the same text always gives the same file.

import { throwIfAborted, UsageError } from "../errors.ts";
import { pairKey } from "./bpe.ts";
import { BYTE_CHARACTERS } from "./byteLevel.ts";
import { Heap } from "./heap.ts";
import { escapeRegExp, preTokenizer } from "./preTokenizer.ts";
import type { OnProgress } from "./progress.ts";
import { type Tokenizer, tokenizerFromJson } from "./tokenizer.ts";
import { byteLevelJson, ID_LIMIT } from "./tokenizerJson.ts";

export interface BpeTrainingOptions {
  /** Tokens wanted, special ones and the 256 bytes included. */
  vocabSize: number;
  /** They get the first ids; where they stand in the text, nothing is learnt. */
  specialTokens?: readonly string[];
  onProgress?: OnProgress;
  signal?: AbortSignal;
}

/**
 * Trains a tokenizer: ids are the special tokens, the 256 bytes, then the merges. If no pair occurs twice any more,
 * the result has fewer tokens than wanted; `vocabSize` of the result tells, and the last progress report has a note.
 * UsageError if `vocabSize` cannot hold the bytes and special tokens.
 */
export function trainBpe(texts: Iterable<string>, options: BpeTrainingOptions): Tokenizer {
  const { vocabSize, specialTokens = ["<|endoftext|>"], onProgress, signal } = options;
  const fixed = 256 + specialTokens.length;
  if (!Number.isInteger(vocabSize) || vocabSize < fixed || vocabSize >= ID_LIMIT) {
    throw new UsageError(
      `A vocabulary of ${vocabSize} cannot be trained: choose a whole number from ${fixed} (256 bytes and ${specialTokens.length} special tokens) to ${ID_LIMIT - 1}.`,
    );
  }
  // In the order of the characters, as Hugging Face's trainer has it.
  const tokens = [...specialTokens, ...[...BYTE_CHARACTERS].sort()];
  const idOf = new Map(tokens.map((token, id) => [token, id]));
  if (idOf.size < tokens.length) throw new UsageError("Two special tokens are the same; name each once.");

  const pairs = new PairTable(splitIntoWords(countPieces(texts, specialTokens, onProgress, signal), idOf));
  const merges: [string, string][] = [];
  const task = "training the tokenizer";
  while (tokens.length < vocabSize) {
    throwIfAborted(signal);
    const best = pairs.takeMostFrequent();
    if (best === undefined) {
      const note = `The text has no pair of tokens left that occurs twice: the vocabulary has ${tokens.length} tokens, not ${vocabSize}.`;
      onProgress?.({ task, done: tokens.length, total: vocabSize, unit: "tokens", note });
      break;
    }
    const token = tokens[best.left] + tokens[best.right];
    merges.push([tokens[best.left], tokens[best.right]]);
    // Two different pairs can spell the same token, which is then made twice but listed once.
    let id = idOf.get(token);
    if (id === undefined) {
      id = tokens.length;
      tokens.push(token);
      idOf.set(token, id);
      onProgress?.({ task, done: tokens.length, total: vocabSize, unit: "tokens" });
    }
    pairs.merge(best.left, best.right, id);
  }
  return tokenizerFromJson(byteLevelJson(idOf, merges, specialTokens));
}

/** How often each piece of the pre-tokeniser occurs. */
function countPieces(
  texts: Iterable<string>,
  specialTokens: readonly string[],
  onProgress: OnProgress | undefined,
  signal: AbortSignal | undefined,
): Map<string, number> {
  const { split } = preTokenizer({ type: "ByteLevel" });
  const specials =
    specialTokens.length > 0 ? new RegExp(specialTokens.map(escapeRegExp).join("|"), "u") : undefined;
  const counts = new Map<string, number>();
  let done = 0;
  for (const text of texts) {
    throwIfAborted(signal);
    for (const part of specials ? text.split(specials) : [text]) {
      split(part, (piece) => {
        const count = counts.get(piece);
        if (count !== undefined) counts.set(piece, count + 1);
        // A slice would keep the whole text alive; the copy does not.
        else counts.set(` ${piece}`.slice(1), 1);
      });
    }
    done += text.length;
    onProgress?.({ task: "counting words", done, total: undefined, unit: "bytes" });
  }
  return counts;
}

/** A different word of the text, as token ids, and how often it occurs. */
interface Word {
  ids: number[];
  readonly count: number;
}

function splitIntoWords(pieces: ReadonlyMap<string, number>, idOf: ReadonlyMap<string, number>): Word[] {
  const encoder = new TextEncoder();
  const byteIds = BYTE_CHARACTERS.map((character) => idOf.get(character)!);
  return Array.from(pieces, ([piece, count]) => ({
    ids: Array.from(encoder.encode(piece), (byte) => byteIds[byte]),
    count,
  }));
}

interface Candidate {
  readonly pair: number;
  readonly count: number;
}

/** Counts of all neighbouring pairs, kept right while pairs are merged. */
class PairTable {
  readonly #words: readonly Word[];
  readonly #counts = new Map<number, number>();
  /** Words that hold a pair, or once did; a word may be listed twice. */
  readonly #wordsWith = new Map<number, number[]>();
  /** May hold stale counts, but never too low a one: those that grow are pushed anew. */
  readonly #candidates = new Heap<Candidate>(
    (a, b) => a.count > b.count || (a.count === b.count && a.pair < b.pair),
  );

  constructor(words: readonly Word[]) {
    this.#words = words;
    words.forEach((_, index) => {
      this.#addPairs(index, undefined);
    });
    for (const [pair, count] of this.#counts) this.#candidates.push({ pair, count });
  }

  /** The pair to merge next; undefined if none occurs twice. */
  takeMostFrequent(): { left: number; right: number } | undefined {
    for (let top = this.#candidates.pop(); top !== undefined; top = this.#candidates.pop()) {
      const { pair } = top;
      const count = this.#counts.get(pair) ?? 0;
      if (count < 2) continue;
      if (count === top.count) return { left: Math.floor(pair / ID_LIMIT), right: pair % ID_LIMIT };
      this.#candidates.push({ pair, count });
    }
    return undefined;
  }

  /** Replaces the pair by `id` wherever it stands. */
  merge(left: number, right: number, id: number): void {
    const pair = pairKey(left, right);
    const grown = new Set<number>();
    for (const index of new Set(this.#wordsWith.get(pair))) {
      const word = this.#words[index];
      const merged = mergePair(word.ids, left, right, id);
      if (merged.length === word.ids.length) continue;
      for (let i = 0; i + 1 < word.ids.length; i++) {
        const old = pairKey(word.ids[i], word.ids[i + 1]);
        this.#counts.set(old, this.#counts.get(old)! - word.count);
      }
      word.ids = merged;
      this.#addPairs(index, id, grown);
    }
    this.#counts.delete(pair);
    this.#wordsWith.delete(pair);
    for (const key of grown) this.#candidates.push({ pair: key, count: this.#counts.get(key)! });
  }

  /** Counts the pairs of a word. Those with `made` in them (all, if undefined) are new to it: they are listed. */
  #addPairs(index: number, made: number | undefined, grown?: Set<number>): void {
    const { ids, count } = this.#words[index];
    for (let i = 0; i + 1 < ids.length; i++) {
      const pair = pairKey(ids[i], ids[i + 1]);
      this.#counts.set(pair, (this.#counts.get(pair) ?? 0) + count);
      if (made !== undefined && ids[i] !== made && ids[i + 1] !== made) continue;
      grown?.add(pair);
      const list = this.#wordsWith.get(pair);
      if (list === undefined) this.#wordsWith.set(pair, [index]);
      else if (list[list.length - 1] !== index) list.push(index);
    }
  }
}

/** `ids` with every (left, right) made `id`, from the left. */
function mergePair(ids: readonly number[], left: number, right: number, id: number): number[] {
  const merged: number[] = [];
  for (let i = 0; i < ids.length; i++) {
    if (ids[i] === left && ids[i + 1] === right) {
      merged.push(id);
      i++;
    } else {
      merged.push(ids[i]);
    }
  }
  return merged;
}
