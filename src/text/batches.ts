// Which tokens a training step or an evaluation sees. Training: sequence number i is a pure function of (seed, i),
// so that the saved position of a run is one integer and any process can fetch any sequence. No Node module here.

import { UsageError } from "../errors.ts";
import { RandomStream } from "../random.ts";
import type { TokenSplit } from "./dataset.ts";

/** What a model is given and what it should predict: `count` rows of `seqLen`; targets are inputs one later. */
export interface Batch {
  readonly inputs: Uint32Array;
  readonly targets: Uint32Array;
  /** Rows. */
  readonly count: number;
}

/**
 * Training sequences. An epoch lays a grid of windows of `seqLen` tokens over the text, shifted by a random offset
 * below `seqLen`, and visits every window once, in a random order; the next epoch has another offset and order.
 */
export class BatchSampler {
  /** Windows, and so sequences, in an epoch. */
  readonly windows: number;
  readonly #split: TokenSplit;
  readonly #seqLen: number;
  readonly #offsets: RandomStream;
  readonly #order: RandomStream;

  /** UsageError if the split is too short for one sequence. */
  constructor(split: TokenSplit, options: { seqLen: number; seed: number }) {
    const { seqLen, seed } = options;
    checkSplit(split, seqLen, "training");
    // One window fewer than would fit, so that the grid can shift; but at least one.
    this.windows = Math.max(1, Math.floor((split.length - seqLen) / seqLen));
    this.#split = split;
    this.#seqLen = seqLen;
    this.#offsets = new RandomStream(seed, "batches/offset");
    this.#order = new RandomStream(seed, "batches/order");
  }

  /** The `seqLen` + 1 tokens of sequence `index` (0, 1, ... without end). */
  sequence(index: number): Uint32Array {
    const epoch = Math.floor(index / this.windows);
    const window = permute(index % this.windows, this.windows, this.#order, epoch);
    const shifts = Math.min(this.#seqLen, this.#split.length - this.windows * this.#seqLen);
    const offset = this.#offsets.integer(epoch, shifts);
    return this.#split.read(offset + window * this.#seqLen, this.#seqLen + 1);
  }

  /** Sequences `firstIndex` to `firstIndex + count - 1` as one batch. */
  batch(firstIndex: number, count: number): Batch {
    return toBatch(
      Array.from({ length: count }, (_, row) => this.sequence(firstIndex + row)),
      this.#seqLen,
    );
  }
}

/**
 * The usual evaluation: windows of `seqLen` side by side from the start, `batch` of them at a time (the last batch
 * may have fewer); with `maxTokens`, only as many windows as predict no more tokens than that, but at least one.
 * UsageError, at the first batch, if the split is too short.
 */
export function* validationBatches(
  split: TokenSplit,
  options: { seqLen: number; batch: number; maxTokens?: number },
): Generator<Batch> {
  const { seqLen, batch, maxTokens = Number.POSITIVE_INFINITY } = options;
  checkSplit(split, seqLen, "validation");
  const windows = Math.max(1, Math.floor(Math.min(split.length - 1, maxTokens) / seqLen));
  for (let first = 0; first < windows; first += batch) {
    const count = Math.min(batch, windows - first);
    const rows = Array.from({ length: count }, (_, row) => split.read((first + row) * seqLen, seqLen + 1));
    yield toBatch(rows, seqLen);
  }
}

/** @throws UsageError if a split ("training" or "validation") is too short for one sequence. */
export function checkSplit(split: TokenSplit, seqLen: number, part: "training" | "validation"): void {
  if (split.length >= seqLen + 1) return;
  throw new UsageError(
    `The ${part} part has ${split.length} tokens, but one sequence needs ${seqLen + 1}: give more text or lower --seq-len.`,
  );
}

function toBatch(sequences: readonly Uint32Array[], seqLen: number): Batch {
  const inputs = new Uint32Array(sequences.length * seqLen);
  const targets = new Uint32Array(sequences.length * seqLen);
  sequences.forEach((sequence, row) => {
    inputs.set(sequence.subarray(0, seqLen), row * seqLen);
    targets.set(sequence.subarray(1), row * seqLen);
  });
  return { inputs, targets, count: sequences.length };
}

const ROUNDS = 6;

/**
 * Where `index` of 0 .. size-1 goes in a random permutation of these numbers, one for each `epoch`: a Feistel network
 * permutes the next larger power of four; results that are too large are sent through again until one fits.
 * `size` is at most 2^32.
 */
function permute(index: number, size: number, random: RandomStream, epoch: number): number {
  let halfBits = 1;
  while (4 ** halfBits < size) halfBits++;
  const base = 2 ** halfBits;
  let value = index;
  do {
    let left = Math.floor(value / base);
    let right = value % base;
    for (let round = 0; round < ROUNDS; round++) {
      const word = random.words((epoch * ROUNDS + round) * base + right)[0];
      [left, right] = [right, left ^ (word % base)];
    }
    value = left * base + right;
  } while (value >= size);
  return value;
}
