// Runs new tokens of many sequences at once through a model, over a cache of keys and values. A sequence is a slot of
// the cache; slots are claimed and given back between calls, so sequences may join and leave at any time.
// Letters: N new rows, S slots.

import type { DeviceBuffer, Program } from "../backends/backend.ts";
import { UsageError } from "../errors.ts";
import {
  type CacheType,
  cachedAttentionBf16,
  cachedAttentionF32,
  cacheSize,
  storeKeyValueBf16,
  storeKeyValueF32,
} from "../kernels/cachedAttention.ts";
import { type Attend, attentionOf } from "../model/attention.ts";
import type { ForwardOptions, Transformer } from "../model/transformer.ts";
import { embedding, linear, tokenScores } from "../tensor/ops.ts";
import { Tape } from "../tensor/tape.ts";
import { Tensor } from "../tensor/tensor.ts";

/** New tokens of one sequence; the first goes to `position`, which must follow what the slot holds. */
export interface Rows {
  readonly slot: number;
  readonly position: number;
  readonly ids: Uint32Array;
}

/** New tokens of one sequence, and which tokens are asked about: is `targets[n]` what follows row `rows[n]` of `ids`? */
export interface ScoredRows extends Rows {
  readonly rows: Uint32Array;
  readonly targets: Uint32Array;
}

/** Answers for the targets of one entry. */
export interface TokenScores {
  /** Natural logarithm of each target's probability, over the model's whole vocabulary. */
  readonly logProbs: Float64Array;
  /** 1 where the target is the most likely token (the first of equals), else 0. */
  readonly greedy: Uint8Array;
}

/** Numbers of sequences whose steps are kept captured, each with its memory: the latest ones. */
const MOST_CAPTURED = 8;

/** Logits in memory at a time while tokens are scored: 64 MiB, as many rows as fit. */
const SCORED_LOGITS = 1 << 24;

export interface DecoderOptions {
  /** Most sequences at a time. Default 1. */
  readonly slots?: number;
  /** Longest sequence, prompt included. Default: all that the model was made for. */
  readonly maxPositions?: number;
  /** Round operands of products to bf16; stored weights have their own type. */
  readonly bf16?: boolean;
  /** Neurons kept per token in each expert, instead of the model's own number; a list has one number for each layer. */
  readonly kept?: number | readonly number[];
  /** Experts per token, instead of the model's own number. */
  readonly active?: number;
  /** How keys and values are kept. Default: f32 for a model whose weights are f32, else bf16. */
  readonly cacheType?: CacheType;
}

/** The inputs of a step, one number per new row; `last` are the rows whose logits are wanted. */
interface Step {
  readonly ids: Uint32Array;
  readonly slots: Uint32Array;
  readonly positions: Uint32Array;
  readonly last: Uint32Array;
}
const inputKeys = ["ids", "slots", "positions"] as const;

export class Decoder {
  readonly model: Transformer;
  readonly slots: number;
  /** Longest sequence, prompt included. */
  readonly maxPositions: number;
  readonly bf16: boolean;
  readonly cacheType: CacheType;
  readonly kept: number | readonly number[] | undefined;
  readonly active: number | undefined;
  readonly #keys: DeviceBuffer[];
  readonly #values: DeviceBuffer[];
  readonly #freeSlots: number[];
  /** Steps of one token a sequence, by how many sequences; null: seen once. */
  readonly #captured = new Map<number, { step: Step; program: Program; logits: Tensor } | null>();

  constructor(model: Transformer, options: DecoderOptions = {}) {
    const { config, backend } = model;
    this.model = model;
    this.slots = options.slots ?? 1;
    this.maxPositions = Math.min(
      options.maxPositions ?? Number.POSITIVE_INFINITY,
      config.max_position_embeddings,
    );
    this.bf16 = options.bf16 ?? false;
    this.kept = options.kept;
    this.active = options.active;
    this.cacheType = options.cacheType ?? (model.isCompressed ? "bf16" : "f32");
    const { num_key_value_heads: kvHeads, head_dim: headDim } = config;
    const length = cacheSize(this.slots, this.maxPositions, kvHeads, headDim);
    const perLayer = () =>
      Array.from({ length: config.num_hidden_layers }, () => backend.allocate(this.cacheType, length));
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
   * @throws UsageError for a slot, position or token that is none.
   */
  async run(entries: readonly Rows[]): Promise<Float32Array> {
    const step = this.#layOut(entries);
    const { backend } = this.model;
    if (step.last.length === step.ids.length) {
      const logits = this.#repeated(step);
      if (logits) return (await backend.read(logits.buffer, 0, logits.size)) as Float32Array;
    }
    const tape = new Tape(backend, { recording: false });
    try {
      const logits = this.#logits(tape, step);
      return (await backend.read(logits.buffer, 0, logits.size)) as Float32Array;
    } finally {
      tape.release();
    }
  }

  /**
   * Logits of every row of all entries in their order, [rows, V], on the host; else as `run`.
   * @param onRouting told how each sparse layer routes. What it keeps on the tape is read by `read`, which is called
   *   before the tape is released.
   */
  async runAll(
    entries: readonly Rows[],
    { onRouting, read }: { onRouting?: ForwardOptions["onRouting"]; read?: () => Promise<void> } = {},
  ): Promise<Float32Array> {
    const step = this.#layOut(entries);
    const { backend } = this.model;
    const tape = new Tape(backend, { recording: false });
    try {
      const all = Uint32Array.from(step.ids.keys());
      const logits = this.#logits(tape, { ...step, last: all }, onRouting);
      const values = (await backend.read(logits.buffer, 0, logits.size)) as Float32Array;
      await read?.();
      return values;
    } finally {
      tape.release();
    }
  }

  /**
   * How likely the targets of each entry are, in one pass over all entries; the head is computed for the rows that have
   * targets only. Keys and values of all rows stay in the cache: a later call may write over them from any position on,
   * and so ask about several continuations of what stands before it.
   * @throws UsageError for a slot, position, row or token that is none.
   */
  async score(entries: readonly ScoredRows[]): Promise<TokenScores[]> {
    const step = this.#layOut(entries);
    for (const { ids, rows, targets } of entries) {
      this.#checkTokens(targets);
      if (rows.length !== targets.length || rows.some((row) => row >= ids.length)) {
        throw new UsageError(`targets follow rows below the ${ids.length} of their entry, one each`);
      }
    }
    const { backend } = this.model;
    const tape = new Tape(backend, { recording: false });
    try {
      const hidden = this.#hidden(tape, step);
      const scores = entries.map(({ targets }) => ({
        logProbs: new Float64Array(targets.length),
        greedy: new Uint8Array(targets.length),
      }));
      for (const chunk of chunksOf(
        entries,
        Math.max(1, Math.floor(SCORED_LOGITS / this.model.head.shape[0])),
      )) {
        const { lse, best, picked } = tape.scope(() => {
          const rows = embedding(
            tape,
            tape.constant(Uint32Array.from(chunk.rows), [chunk.rows.length]),
            hidden,
          );
          const logits = linear(tape, rows, this.model.head, this.bf16);
          const column = (values: number[]) => tape.constant(Uint32Array.from(values), [values.length]);
          return tokenScores(tape, logits, column(chunk.rowOf), column(chunk.targets));
        });
        const read = ({ buffer, size }: Tensor) => backend.read(buffer, 0, size);
        const [sums, largest, logits] = [await read(lse), await read(best), await read(picked)];
        for (const [n, { entry, index }] of chunk.places.entries()) {
          const row = chunk.rowOf[n];
          scores[entry].logProbs[index] = logits[n] - sums[row];
          scores[entry].greedy[index] = largest[row] === chunk.targets[n] ? 1 : 0;
        }
      }
      return scores;
    } finally {
      tape.release();
    }
  }

  /** Kernels read and write where these numbers say. */
  #check({ slot, position, ids }: Rows): void {
    if (!Number.isInteger(slot) || slot < 0 || slot >= this.slots) {
      throw new UsageError(`there is no slot ${slot}: they go from 0 to ${this.slots - 1}`);
    }
    if (ids.length === 0) throw new UsageError("an entry has no tokens");
    if (!Number.isInteger(position) || position < 0 || position + ids.length > this.maxPositions) {
      throw new UsageError(
        `${ids.length} tokens from position ${position} on are not within the ${this.maxPositions} positions of a sequence`,
      );
    }
    this.#checkTokens(ids);
  }

  #checkTokens(ids: Uint32Array): void {
    const { vocab_size } = this.model.config;
    const wrong = ids.find((id) => id >= vocab_size);
    if (wrong !== undefined) {
      throw new UsageError(`there is no token ${wrong}: the model knows ${vocab_size}, from 0`);
    }
  }

  #layOut(entries: readonly Rows[]): Step {
    if (entries.length === 0) throw new UsageError("there are no entries");
    for (const entry of entries) this.#check(entry);
    const column = (of: (entry: Rows) => Iterable<number>) =>
      Uint32Array.from(entries.flatMap((e) => [...of(e)]));
    const last: number[] = [];
    let rows = 0;
    for (const { ids } of entries) {
      rows += ids.length;
      last.push(rows - 1);
    }
    const positions = column(({ position, ids }) => ids.map((_, i) => position + i));
    const slots = column(({ slot, ids }) => ids.map(() => slot));
    return {
      ids: column(({ ids }) => ids),
      slots,
      positions,
      last: Uint32Array.from(last),
    };
  }

  /**
   * One token for each of N sequences: every step makes the same calls on other numbers, so the second one is captured
   * and later ones are repeated. (Not the first, in which weights may still be prepared.) Undefined for that first one.
   */
  #repeated(step: Step): Tensor | undefined {
    const rows = step.ids.length;
    const known = this.#captured.get(rows);
    if (known === undefined) {
      this.#captured.set(rows, null);
      return undefined;
    }
    if (known) {
      // The latest ones are last.
      this.#captured.delete(rows);
      this.#captured.set(rows, known);
      for (const key of inputKeys) known.step[key].set(step[key]);
      known.program.run();
      return known.logits;
    }
    let logits: Tensor | undefined;
    const program = this.model.backend.capture(() => {
      logits = this.#logits(new Tape(this.model.backend, { recording: false }), step);
    });
    if (!logits) throw new Error("a capture ended without logits");
    this.#captured.delete(rows);
    this.#captured.set(rows, { step, program, logits });
    const programs = [...this.#captured].filter(([, captured]) => captured !== null);
    for (const [oldest, captured] of programs.slice(0, -MOST_CAPTURED)) {
      captured?.program.close();
      this.#captured.delete(oldest);
    }
    return logits;
  }

  /** Enqueues a step, and its logits. The tape owns the result. */
  #logits(tape: Tape, step: Step, onRouting?: ForwardOptions["onRouting"]): Tensor {
    const { last } = step;
    const hidden = this.#hidden(tape, step, onRouting);
    const lastRows =
      last.length === step.ids.length ? hidden : embedding(tape, tape.constant(last, [last.length]), hidden);
    return linear(tape, lastRows, this.model.head, this.bf16);
  }

  /** Enqueues a step: what leaves the last norm, [rows, D]. */
  #hidden(tape: Tape, { ids, slots, positions }: Step, onRouting?: ForwardOptions["onRouting"]): Tensor {
    const column = (values: Uint32Array) => tape.constant(values, [values.length]);
    const positionsTensor = column(positions);
    const attend = this.#attend(column(slots), positionsTensor);
    const { bf16, kept, active } = this;
    const options = { attend, bf16, balance: false, kept, active, onRouting };
    return this.model.forward(tape, column(ids), positionsTensor, options).hidden;
  }

  /** Attention of new rows: stores their keys and values, then looks at everything their slots hold. */
  #attend(slots: Tensor, positions: Tensor): Attend {
    const { config, backend } = this.model;
    const { num_attention_heads: heads, num_key_value_heads: kvHeads, head_dim: headDim } = config;
    const { slots: cacheSlots, maxPositions } = this;
    const shape = { rows: slots.size, cacheSlots, maxPositions, kvHeads, headDim };
    const halves = this.cacheType === "bf16";
    return (tape, layer, q, k, v) => {
      const cache = { keys: this.#keys[layer], values: this.#values[layer] };
      const rows = { slots: slots.buffer, positions: positions.buffer };
      const added = { k: k.buffer, v: v.buffer, ...rows, ...cache };
      backend.run(halves ? storeKeyValueBf16 : storeKeyValueF32, added, shape);
      const [keys, values] = [cache.keys, cache.values].map((buffer) => new Tensor(buffer, [buffer.length]));
      return tape.infer(
        halves ? cachedAttentionBf16 : cachedAttentionF32,
        { q, keys, values, slots, positions },
        { ...shape, heads, ...attentionOf(config, layer) },
        { o: q.shape },
      ).o;
    };
  }

  /** Frees the cache; the model stays. */
  close(): void {
    for (const captured of this.#captured.values()) captured?.program.close();
    this.#captured.clear();
    for (const buffer of [...this.#keys, ...this.#values]) this.model.backend.free(buffer);
  }
}

/** A part of the targets of a call, with at most so many rows of logits. */
interface ScoreChunk {
  /** Rows of the step whose logits are wanted. */
  readonly rows: number[];
  /** Per target: which of `rows` it follows, its id, and where its score goes. */
  readonly rowOf: number[];
  readonly targets: number[];
  readonly places: { readonly entry: number; readonly index: number }[];
}

function chunksOf(entries: readonly ScoredRows[], rowsAtOnce: number): ScoreChunk[] {
  const chunks: ScoreChunk[] = [];
  let chunk: ScoreChunk | undefined;
  let first = 0;
  for (const [entry, { ids, rows, targets }] of entries.entries()) {
    // Several targets of one row share its logits where they are neighbours.
    for (let index = 0; index < targets.length; index++) {
      const row = first + rows[index];
      if (chunk?.rows.at(-1) !== row) {
        if (chunk === undefined || chunk.rows.length === rowsAtOnce) {
          chunk = { rows: [], rowOf: [], targets: [], places: [] };
          chunks.push(chunk);
        }
        chunk.rows.push(row);
      }
      chunk.rowOf.push(chunk.rows.length - 1);
      chunk.targets.push(targets[index]);
      chunk.places.push({ entry, index });
    }
    first += ids.length;
  }
  return chunks;
}
