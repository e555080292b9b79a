// Byte-level byte-pair encoding: text to ids and back, as a tokenizer.json says. Words are merged best rank first
// with a heap over a linked list (so a megabyte without a space is no trouble) and remembered.
// Not here: how merges are learnt (bpeTraining.ts), what the file may contain (tokenizerJson.ts).

import { UsageError } from "../errors.ts";
import { BYTE_CHARACTERS, bytesToCharacters, charactersToBytes } from "./byteLevel.ts";
import { Heap } from "./heap.ts";
import { escapeRegExp, type PreTokenizer, preTokenizer } from "./preTokenizer.ts";
import { appliesNfc, ID_LIMIT, mergeParts, type TokenizerJson } from "./tokenizerJson.ts";

/** Words remembered with their ids; when so many are known, all are forgotten. */
const CACHE_WORDS = 1 << 16;
/** Longer words are rare and would only fill the memory. */
const CACHE_WORD_LENGTH = 64;
/** A heap entry is rank * POSITIONS + position: lowest rank first, then leftmost. */
const POSITIONS = 2 ** 31;

const encoder = new TextEncoder();

/** One exact number for a pair of ids. */
export function pairKey(left: number, right: number): number {
  return left * ID_LIMIT + right;
}

/** A byte-level BPE tokenizer; `tokenizer.ts` documents the methods. */
export class BpeTokenizer {
  readonly vocabSize: number;
  readonly eosId: number | undefined;
  readonly #json: TokenizerJson;
  readonly #preTokenizer: PreTokenizer;
  readonly #nfc: boolean;
  /** Bytes of each id; an id without a token has none. */
  readonly #bytes: Uint8Array[] = [];
  readonly #byteIds: Uint32Array;
  readonly #rankOfPair = new Map<number, number>();
  readonly #mergedId: Uint32Array;
  /** Tokens that are taken whole, without merging; empty unless the model says `ignore_merges`. */
  readonly #wholeWords: ReadonlyMap<string, number>;
  readonly #addedIds: ReadonlyMap<string, number>;
  readonly #addedPattern: RegExp | undefined;
  readonly #specialIds: ReadonlySet<number>;
  readonly #cache = new Map<string, readonly number[]>();

  /** @param json a checked tokenizer.json; UsageError where its parts contradict each other. */
  constructor(json: TokenizerJson) {
    this.#json = json;
    this.#preTokenizer = preTokenizer(json.pre_tokenizer);
    this.#nfc = appliesNfc(json.normalizer);

    const vocab = new Map(Object.entries(json.model.vocab));
    for (const [token, id] of vocab) this.#bytes[id] = charactersToBytes(token) ?? encoder.encode(token);
    for (const { content, id } of json.added_tokens) this.#bytes[id] = encoder.encode(content);
    this.vocabSize = this.#bytes.length;
    for (let id = 0; id < this.vocabSize; id++) this.#bytes[id] ??= new Uint8Array(0);

    this.#byteIds = Uint32Array.from(BYTE_CHARACTERS, (character) => vocab.get(character)!);
    this.#wholeWords = json.model.ignore_merges ? vocab : new Map();
    this.#mergedId = new Uint32Array(json.model.merges.length);
    json.model.merges.forEach((merge, rank) => {
      const [left, right] = mergeParts(merge);
      const [leftId, rightId, id] = [vocab.get(left), vocab.get(right), vocab.get(left + right)];
      if (leftId === undefined || rightId === undefined || id === undefined) {
        const pair = JSON.stringify([left, right]);
        throw new UsageError(`This tokenizer.json is damaged: the merge ${pair} is not in its vocabulary.`);
      }
      this.#rankOfPair.set(pairKey(leftId, rightId), rank);
      this.#mergedId[rank] = id;
    });

    this.#addedIds = new Map(json.added_tokens.map(({ content, id }) => [content, id]));
    this.#specialIds = new Set(json.added_tokens.filter(({ special }) => special).map(({ id }) => id));
    // Where one added token begins another, the longer one counts.
    const contents = [...this.#addedIds.keys()].sort((a, b) => b.length - a.length);
    if (contents.length > 0) this.#addedPattern = new RegExp(contents.map(escapeRegExp).join("|"), "gu");
    this.eosId = this.#addedIds.get("<|endoftext|>") ?? vocab.get("<|endoftext|>");
  }

  encode(text: string): Uint32Array {
    const ids = new IdList();
    let done = 0;
    for (const match of this.#addedPattern ? text.matchAll(this.#addedPattern) : []) {
      this.#encodePlain(text.slice(done, match.index), ids);
      ids.push(this.#addedIds.get(match[0])!);
      done = match.index + match[0].length;
    }
    this.#encodePlain(text.slice(done), ids);
    return ids.toArray();
  }

  decode(ids: Iterable<number>, options: { skipSpecial?: boolean } = {}): string {
    const parts: Uint8Array[] = [];
    let length = 0;
    for (const id of ids) {
      if (options.skipSpecial && this.#specialIds.has(id)) continue;
      const bytes = this.bytesOf(id);
      parts.push(bytes);
      length += bytes.length;
    }
    const all = new Uint8Array(length);
    let at = 0;
    for (const bytes of parts) {
      all.set(bytes, at);
      at += bytes.length;
    }
    return new TextDecoder("utf-8", { ignoreBOM: true }).decode(all);
  }

  bytesOf(id: number): Uint8Array {
    const bytes = this.#bytes[id];
    if (bytes === undefined) {
      throw new UsageError(
        `Token id ${id} is outside this tokenizer's vocabulary of ${this.vocabSize}; use the tokenizer that belongs to the model.`,
      );
    }
    return bytes;
  }

  toJSON(): TokenizerJson {
    return this.#json;
  }

  /** Encodes text in which no added token is. */
  #encodePlain(text: string, ids: IdList): void {
    if (text === "") return;
    let plain = this.#nfc ? text.normalize("NFC") : text;
    if (this.#preTokenizer.addPrefixSpace && !plain.startsWith(" ")) plain = ` ${plain}`;
    if (this.#rankOfPair.size === 0 && this.#wholeWords.size === 0) {
      for (const byte of encoder.encode(plain)) ids.push(this.#byteIds[byte]);
      return;
    }
    this.#preTokenizer.split(plain, (word) => ids.pushAll(this.#encodeWord(word)));
  }

  #encodeWord(word: string): readonly number[] {
    const known = this.#cache.get(word);
    if (known !== undefined) return known;
    const bytes = encoder.encode(word);
    const whole = this.#wholeWords.size > 0 ? this.#wholeWords.get(bytesToCharacters(bytes)) : undefined;
    const ids = whole !== undefined ? [whole] : this.#merge(bytes);
    if (word.length <= CACHE_WORD_LENGTH) {
      if (this.#cache.size >= CACHE_WORDS) this.#cache.clear();
      // A slice would keep the whole text alive; the copy does not.
      this.#cache.set(` ${word}`.slice(1), ids);
    }
    return ids;
  }

  /** Merges the bytes of one word: always the pair of lowest rank, the leftmost of equals. */
  #merge(bytes: Uint8Array): number[] {
    const count = bytes.length;
    const ids = Array.from(bytes, (byte) => this.#byteIds[byte]);
    const next = Array.from(ids, (_, i) => i + 1);
    const previous = Array.from(ids, (_, i) => i - 1);
    const candidates = new Heap<number>((a, b) => a < b);
    const rankAt = (at: number): number | undefined =>
      next[at] < count ? this.#rankOfPair.get(pairKey(ids[at], ids[next[at]])) : undefined;
    const offer = (at: number): void => {
      const rank = rankAt(at);
      if (rank !== undefined) candidates.push(rank * POSITIONS + at);
    };
    for (let i = 0; i < count; i++) offer(i);
    for (let entry = candidates.pop(); entry !== undefined; entry = candidates.pop()) {
      const rank = Math.floor(entry / POSITIONS);
      const at = entry % POSITIONS;
      // The pair may have changed, or its left half been swallowed, since it was offered.
      if (ids[at] < 0 || rankAt(at) !== rank) continue;
      const right = next[at];
      ids[at] = this.#mergedId[rank];
      ids[right] = -1;
      next[at] = next[right];
      if (next[at] < count) previous[next[at]] = at;
      offer(at);
      if (previous[at] >= 0) offer(previous[at]);
    }
    return ids.filter((id) => id >= 0);
  }
}

/** A growing list of ids. */
class IdList {
  #ids = new Uint32Array(256);
  #length = 0;

  push(id: number): void {
    if (this.#length === this.#ids.length) {
      const grown = new Uint32Array(2 * this.#length);
      grown.set(this.#ids);
      this.#ids = grown;
    }
    this.#ids[this.#length++] = id;
  }

  pushAll(ids: readonly number[]): void {
    for (let i = 0; i < ids.length; i++) this.push(ids[i]);
  }

  toArray(): Uint32Array {
    return this.#ids.slice(0, this.#length);
  }
}
