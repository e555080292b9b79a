// What training and evaluation see of a text: two runs of token ids. In memory here; on disk in shards.ts.
// No Node module is imported, so that examples can train in a browser.

/** One part of a dataset: a long run of token ids. */
export interface TokenSplit {
  /** Tokens in it. */
  readonly length: number;
  /** Bytes of UTF-8 text that the tokens stand for, end-of-text tokens not counted; for bits per byte. */
  readonly textBytes: number;
  /** A copy of `count` ids from `start` on. RangeError if they are not all there. */
  read(start: number, count: number): Uint32Array;
}

/** A tokenised text in two parts. */
export interface TokenDataset {
  readonly vocabSize: number;
  readonly train: TokenSplit;
  readonly valid: TokenSplit;
  /** Of the text, for people. */
  readonly name: string;
  /** Changes when the text, the tokenizer or the way of splitting changes. */
  readonly hash: string;
}

/** Throws unless `count` tokens from `start` on lie in a split of `length` tokens. */
export function checkRange(start: number, count: number, length: number): void {
  if (
    !Number.isInteger(start) ||
    !Number.isInteger(count) ||
    start < 0 ||
    count < 0 ||
    start + count > length
  ) {
    throw new RangeError(`Tokens ${start} to ${start + count} were asked of a split of ${length}.`);
  }
}

/** A dataset of ids at hand. `textBytes` is taken as one byte a token unless given. */
export function tokenDatasetFromMemory(
  trainIds: ArrayLike<number>,
  validIds: ArrayLike<number>,
  options: { vocabSize: number; name?: string; trainTextBytes?: number; validTextBytes?: number },
): TokenDataset {
  const train = splitFromMemory(trainIds, options.trainTextBytes);
  const valid = splitFromMemory(validIds, options.validTextBytes);
  const hash = `memory-${fingerprint([options.vocabSize, train.length], trainIds, validIds)}`;
  return { vocabSize: options.vocabSize, train, valid, name: options.name ?? "memory", hash };
}

function splitFromMemory(ids: ArrayLike<number>, textBytes = ids.length): TokenSplit {
  const copy = Uint32Array.from(ids);
  return {
    length: copy.length,
    textBytes,
    read(start, count) {
      checkRange(start, count, copy.length);
      return copy.slice(start, start + count);
    },
  };
}

/** Two FNV-1a hashes of 32 bits over all numbers, as hexadecimal digits. */
function fingerprint(...lists: readonly ArrayLike<number>[]): string {
  let [a, b] = [0x811c9dc5, 0x01234567];
  for (const list of lists) {
    for (let i = 0; i < list.length; i++) {
      a = Math.imul(a ^ list[i], 0x01000193);
      b = Math.imul(b ^ list[i] ^ (a >>> 15), 0x01000193);
    }
  }
  return [a, b].map((half) => (half >>> 0).toString(16).padStart(8, "0")).join("");
}
