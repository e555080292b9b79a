// Runs new tokens of many sequences at once through a model, over a cache of keys and values. A sequence is a slot of
// the cache; slots are claimed and given back between calls, so sequences may join and leave at any time.
// Letters: N new rows, S slots, P positions per slot, G key/value heads, C = head_dim.

import type { DeviceBuffer } from "../backends/backend.ts";
import { cachedAttention, storeRows } from "../kernels/cachedAttention.ts";
import type { Attend, Transformer } from "../model/transformer.ts";
import { embedding, linear } from "../tensor/ops.ts";
import { Tape } from "../tensor/tape.ts";
import { Tensor } from "../tensor/tensor.ts";

/** New tokens of one sequence; the first goes to `position`, which must follow what the slot holds. */
export interface Rows {
  readonly slot: number;
  readonly position: number;
  readonly ids: Uint32Array;
}

export class Decoder {
  readonly model: Transformer;
  readonly slots: number;
  /** Longest sequence, prompt included. */
  readonly maxPositions: number;
  readonly bf16: boolean;
  readonly #keys: DeviceBuffer[];
  readonly #values: DeviceBuffer[];
  readonly #freeSlots: number[];

  /** @param maxPositions default: all that the model was made for. */
  constructor(model: Transformer, options: { slots?: number; maxPositions?: number; bf16?: boolean } = {}) {
    const { config, backend } = model;
    this.model = model;
    this.slots = options.slots ?? 1;
    this.maxPositions = Math.min(
      options.maxPositions ?? Number.POSITIVE_INFINITY,
      config.max_position_embeddings,
    );
    this.bf16 = options.bf16 ?? false;
    const length = this.slots * this.maxPositions * config.num_key_value_heads * config.head_dim;
    const perLayer = () =>
      Array.from({ length: config.num_hidden_layers }, () => backend.allocate("f32", length));
    this.#keys = perLayer();
    this.#values = perLayer();
    this.#freeSlots = Array.from({ length: this.slots }, (_, slot) => this.slots - 1 - slot);
  }

  /** A free slot, or undefined if all are taken. */
  claim(): number | undefined {
    return this.#freeSlots.pop();
  }

  release(slot: number): void {
    this.#freeSlots.push(slot);
  }

  /**
   * Logits after the last token of each entry: [entries, V], on the host. Keys and values of all rows stay in the cache.
   * @throws Error if an entry reaches beyond `maxPositions`.
   */
  async run(entries: readonly Rows[]): Promise<Float32Array> {
    const { model, maxPositions } = this;
    const ids = entries.flatMap(({ ids }) => [...ids]);
    const slots = entries.flatMap(({ slot, ids }) => [...ids].map(() => slot));
    const positions = entries.flatMap(({ position, ids }) => [...ids].map((_, i) => position + i));
    if (positions.some((position) => position >= maxPositions)) {
      throw new Error(`a sequence is longer than ${maxPositions} positions`);
    }
    const last: number[] = [];
    let rows = 0;
    for (const entry of entries) {
      rows += entry.ids.length;
      last.push(rows - 1);
    }

    const tape = new Tape(model.backend, { recording: false });
    try {
      const column = (values: readonly number[]) => tape.constant(Uint32Array.from(values), [values.length]);
      const positionsTensor = column(positions);
      const attend = this.#attend(
        column(slots),
        positionsTensor,
        column(positions.map((position, n) => slots[n] * maxPositions + position)),
      );
      const { hidden } = model.forward(tape, column(ids), positionsTensor, {
        attend,
        bf16: this.bf16,
        balance: false,
      });
      const lastRows = last.length === rows ? hidden : embedding(tape, column(last), hidden);
      const logits = linear(tape, lastRows, model.head, this.bf16);
      return (await model.backend.read(logits.buffer, 0, logits.size)) as Float32Array;
    } finally {
      tape.release();
    }
  }

  /** Attention of new rows: stores their keys and values, then looks at everything their slots hold. */
  #attend(slots: Tensor, positions: Tensor, indices: Tensor): Attend {
    const { config, backend } = this.model;
    const { num_attention_heads: heads, num_key_value_heads: kvHeads, head_dim: headDim } = config;
    const rows = slots.size;
    const width = kvHeads * headDim;
    const cacheRows = this.slots * this.maxPositions;
    return (tape, layer, q, k, v) => {
      for (const [x, cache] of [
        [k, this.#keys[layer]],
        [v, this.#values[layer]],
      ] as const) {
        backend.run(storeRows, { x: x.buffer, indices: indices.buffer, cache }, { rows, width, cacheRows });
      }
      return tape.infer(
        cachedAttention,
        {
          q,
          keys: new Tensor(this.#keys[layer], [cacheRows, width]),
          values: new Tensor(this.#values[layer], [cacheRows, width]),
          slots,
          positions,
        },
        {
          rows,
          cacheSlots: this.slots,
          maxPositions: this.maxPositions,
          heads,
          kvHeads,
          headDim,
          window: config.sliding_window ?? 0,
          scale: headDim ** -0.5,
        },
        { o: q.shape },
      ).o;
    };
  }

  /** Frees the cache; the model stays. */
  close(): void {
    for (const buffer of [...this.#keys, ...this.#values]) this.model.backend.free(buffer);
  }
}
