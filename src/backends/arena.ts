// Memory in large chunks from which blocks of any size are cut, and to which they return: what one size of block gives
// back, another can have. Without that a training step would need its activations and its gradients side by side.
// The pages of a chunk take real memory when they are first written. Not here: what is in a block.

export interface Block {
  readonly chunk: ArrayBuffer;
  readonly offset: number;
  readonly bytes: number;
}

/** Blocks begin at multiples of a cache line. */
const ALIGNMENT = 64;
const LEAST_CHUNK = 1 << 20;
const LARGEST_CHUNK = 1 << 28;

export class Arena {
  readonly #allocateBytes: (bytes: number) => ArrayBuffer;
  /** Gaps of each chunk, by offset; neighbours are joined. */
  readonly #gaps = new Map<ArrayBuffer, Block[]>();
  #total = 0;

  /** @param allocateBytes zeroed memory, aligned to a cache line if that matters. */
  constructor(allocateBytes: (bytes: number) => ArrayBuffer) {
    this.#allocateBytes = allocateBytes;
  }

  /** Of all chunks. */
  get bytes(): number {
    return this.#total;
  }

  /** The smallest gap that is large enough, the first of equals: the same for the same calls. */
  take(wanted: number): Block {
    const bytes = Math.max(1, Math.ceil(wanted / ALIGNMENT)) * ALIGNMENT;
    let best: { gaps: Block[]; index: number } | undefined;
    for (const gaps of this.#gaps.values()) {
      for (let index = 0; index < gaps.length; index++) {
        const size = gaps[index].bytes;
        if (size >= bytes && (!best || size < best.gaps[best.index].bytes)) best = { gaps, index };
      }
    }
    best ??= this.#addChunk(bytes);
    const gap = best.gaps[best.index];
    if (gap.bytes === bytes) best.gaps.splice(best.index, 1);
    else best.gaps[best.index] = { ...gap, offset: gap.offset + bytes, bytes: gap.bytes - bytes };
    return { chunk: gap.chunk, offset: gap.offset, bytes };
  }

  give(block: Block): void {
    const gaps = this.#gaps.get(block.chunk);
    if (!gaps) throw new Error("a block was given back to an arena that did not cut it");
    let index = 0;
    let end = gaps.length;
    while (index < end) {
      const middle = (index + end) >> 1;
      if (gaps[middle].offset < block.offset) index = middle + 1;
      else end = middle;
    }
    const before = gaps[index - 1];
    const after = gaps[index];
    const joinsBefore = before !== undefined && before.offset + before.bytes === block.offset;
    const joinsAfter = after !== undefined && block.offset + block.bytes === after.offset;
    const first = joinsBefore ? index - 1 : index;
    const offset = joinsBefore ? before.offset : block.offset;
    const last = joinsAfter ? after.offset + after.bytes : block.offset + block.bytes;
    const joined = { chunk: block.chunk, offset, bytes: last - offset };
    gaps.splice(first, Number(joinsBefore) + Number(joinsAfter), joined);
  }

  /** Forgets all chunks: the host frees them when no array refers to them. */
  clear(): void {
    this.#gaps.clear();
    this.#total = 0;
  }

  /** Chunks grow with what is in use, so that small programs stay small and large ones have few chunks. */
  #addChunk(bytes: number): { gaps: Block[]; index: number } {
    const size = Math.max(bytes, Math.min(LARGEST_CHUNK, Math.max(LEAST_CHUNK, this.#total)));
    const chunk = this.#allocateBytes(size);
    const gaps = [{ chunk, offset: 0, bytes: size }];
    this.#gaps.set(chunk, gaps);
    this.#total += size;
    return { gaps, index: 0 };
  }
}
