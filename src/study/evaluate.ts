// One pass of a model over windows of text under a setting: sums of cross entropy, divergence from the reference and
// agreement for each window, and on the first windows how far each layer's output is from what all neurons give.
// Memory beside the model: hidden states of the reference for all windows, tokens x D x 4 bytes, from which its logits
// are made again, so that the divergence is exact; and the logits of a chunk of tokens, twice.
// Letters: T tokens, D width, V vocabulary, R routed rows.

import type { Backend } from "../backends/backend.ts";
import { throwIfAborted } from "../errors.ts";
import { IGNORE } from "../kernels/crossEntropy.ts";
import { bitCount, keepWords } from "../kernels/neuronTopK.ts";
import { attendWithin } from "../model/attention.ts";
import type { ForwardOptions, Transformer } from "../model/transformer.ts";
import type { ExpertsOverride } from "../mone/expert.ts";
import type { Routing } from "../mone/router.ts";
import { combine, linear, neuronExperts } from "../tensor/ops.ts";
import { logitDivergence, studyExperts } from "../tensor/studyOps.ts";
import { Tape } from "../tensor/tape.ts";
import { Tensor } from "../tensor/tensor.ts";
import type { Setting } from "./settings.ts";
import type { Window } from "./text.ts";

/** Tokens that go through the model at once, at least a window; the first batch is also where layers are compared. */
const BATCH_TOKENS = 2048;
/** Logits in memory at a time, per model. */
const CHUNK_LOGITS = 1 << 22;

/** What some criteria need to know beforehand; by layer. Calibration makes it. */
export interface Calibrated {
  /** |act(g)| above which a share of neurons lies, for the K of a setting. */
  threshold(layer: number, kept: number): number;
  /** Norms of the down columns: [E, F]. */
  readonly downNorms: readonly Tensor[];
  /** Mean |act(g)| of each neuron over the tokens of its expert: [E, F]. */
  readonly meanGates: readonly Tensor[];
}

/** Sums over the tokens of a window. */
export interface WindowSums {
  readonly tokens: number;
  readonly bytes: number;
  /** Nats. */
  readonly loss: number;
  readonly divergence: number;
  /** Tokens for which both models find the same next token most likely. */
  readonly agrees: number;
}

export interface Evaluation {
  readonly windows: readonly WindowSums[];
  /** By layer: |y - y of all neurons| / |y of all neurons| for the same input, the norms over the longest windows. */
  readonly layerErrors: readonly number[];
  /** By layer: mean share of neurons kept, over the same tokens. */
  readonly keptShares: readonly number[];
}

export interface EvaluateOptions {
  readonly seed: number;
  readonly calibrated?: Calibrated;
  readonly signal?: AbortSignal;
  readonly onTokens?: (done: number, total: number) => void;
}

/** Windows that go through the model together: of one length if they can. */
export interface WindowBatch {
  readonly windows: readonly Window[];
  /** Of the windows, in the list that was batched. */
  readonly indices: readonly number[];
  readonly length: number;
  /** Padded at the end of each window, which causal attention does not see. */
  readonly inputs: Uint32Array;
  readonly targets: Uint32Array;
  /** Numbers of tokens in the text; IGNORE for padding. */
  readonly names: Uint32Array;
}

export function batchesOf(windows: readonly Window[], batchTokens = BATCH_TOKENS): WindowBatch[] {
  const order = windows.map((_, i) => i);
  order.sort((a, b) => windows[b].inputs.length - windows[a].inputs.length || a - b);
  const batches: WindowBatch[] = [];
  for (let first = 0; first < order.length; ) {
    const length = windows[order[first]].inputs.length;
    const count = Math.max(1, Math.floor(batchTokens / length));
    const indices = order.slice(first, first + count);
    const [inputs, targets, names] = [0, IGNORE, IGNORE].map((padding) =>
      new Uint32Array(indices.length * length).fill(padding),
    );
    indices.forEach((index, row) => {
      const window = windows[index];
      inputs.set(window.inputs, row * length);
      targets.set(window.targets, row * length);
      names.set(
        window.inputs.map((_, i) => window.start + i),
        row * length,
      );
    });
    batches.push({ windows: indices.map((i) => windows[i]), indices, length, inputs, targets, names });
    first += count;
  }
  return batches;
}

/** Hidden states after the last norm of each batch: [T, D] on the tape. */
export function forwardBatch(
  tape: Tape,
  model: Transformer,
  { inputs, length }: Pick<WindowBatch, "inputs" | "length">,
  options: Pick<ForwardOptions, "experts" | "kept" | "active">,
): Tensor {
  const tokens = inputs.length;
  const ids = tape.constant(inputs, [tokens]);
  const positions = tape.constant(
    Uint32Array.from(inputs, (_, t) => t % length),
    [tokens],
  );
  const attend = attendWithin(model.config, tokens / length, length);
  return model.forward(tape, ids, positions, { attend, bf16: false, balance: false, ...options }).hidden;
}

/** Evaluates settings against a reference whose hidden states it remembers. */
export class Evaluator {
  readonly model: Transformer;
  readonly #batches: readonly WindowBatch[];
  readonly #windows: readonly Window[];
  readonly #reference: Setting;
  #hidden: Float32Array[] | undefined;

  constructor(model: Transformer, windows: readonly Window[], reference: Setting) {
    this.model = model;
    this.#windows = windows;
    this.#batches = batchesOf(windows);
    this.#reference = reference;
  }

  async evaluate(setting: Setting, options: EvaluateOptions): Promise<Evaluation> {
    const { backend } = this.model;
    const reference = await this.#referenceHidden(options);
    const sums: WindowSums[] = [];
    const layers: LayerComparison[] = [];
    let done = 0;
    const total = this.#batches.reduce((sum, { inputs }) => sum + inputs.length, 0);
    for (const [index, batch] of this.#batches.entries()) {
      throwIfAborted(options.signal);
      const tape = new Tape(backend, { recording: false });
      try {
        const compare = index === 0 && setting.kind !== "experts" ? layers : undefined;
        const isToken = (t: number) =>
          t % batch.length < batch.windows[Math.floor(t / batch.length)].inputs.length;
        const forward = forwardOptions(tape, setting, batch, { ...options, compare });
        const hidden = forwardBatch(tape, this.model, batch, forward);
        const each = await this.#compareLogits(hidden, reference[index], batch);
        for (const [row, at] of batch.indices.entries()) sums[at] = sumWindow(each, batch, row);
        for (const layer of compare ?? []) await layer.read(isToken);
      } finally {
        tape.release();
      }
      done += batch.inputs.length;
      options.onTokens?.(done, total);
    }
    return {
      windows: this.#windows.map((_, i) => sums[i]),
      layerErrors: layers.map(({ error }) => error),
      keptShares: layers.map(({ keptShare }) => keptShare),
    };
  }

  async #referenceHidden({ signal, seed }: EvaluateOptions): Promise<Float32Array[]> {
    if (this.#hidden) return this.#hidden;
    const all: Float32Array[] = [];
    for (const batch of this.#batches) {
      throwIfAborted(signal);
      const tape = new Tape(this.model.backend, { recording: false });
      const options = forwardOptions(tape, this.#reference, batch, { seed });
      const hidden = forwardBatch(tape, this.model, batch, options);
      all.push((await this.model.backend.read(hidden.buffer, 0, hidden.size)) as Float32Array);
      tape.release();
    }
    this.#hidden = all;
    return all;
  }

  async #compareLogits(hidden: Tensor, expected: Float32Array, { targets }: WindowBatch) {
    const { backend, head, config } = this.model;
    const width = config.hidden_size;
    const chunk = Math.max(16, Math.floor(CHUNK_LOGITS / config.vocab_size));
    const tokens = targets.length;
    const each = {
      losses: new Float32Array(tokens),
      divergence: new Float32Array(tokens),
      agrees: new Uint32Array(tokens),
    };
    for (let first = 0; first < tokens; first += chunk) {
      const rows = Math.min(chunk, tokens - first);
      const part = backend.slice(hidden.buffer, first * width, rows * width);
      const inner = new Tape(backend, { recording: false });
      const logits = linear(inner, new Tensor(part, [rows, width]), head, false);
      const other = inner.constant(expected.slice(first * width, (first + rows) * width), [rows, width]);
      const out = logitDivergence(
        inner,
        logits,
        linear(inner, other, head, false),
        inner.constant(targets.slice(first, first + rows), [rows]),
      );
      for (const key of ["losses", "divergence", "agrees"] as const) {
        each[key].set(await backend.read(out[key].buffer, 0, rows), first);
      }
      inner.release();
      backend.free(part);
    }
    return each;
  }
}

type PerToken = { losses: Float32Array; divergence: Float32Array; agrees: Uint32Array };

function sumWindow({ losses, divergence, agrees }: PerToken, batch: WindowBatch, row: number): WindowSums {
  const { inputs, bytes } = batch.windows[row];
  let [loss, kl, same] = [0, 0, 0];
  for (let t = row * batch.length; t < row * batch.length + inputs.length; t++) {
    loss += losses[t];
    kl += divergence[t];
    same += agrees[t];
  }
  return { tokens: inputs.length, bytes, loss, divergence: kl, agrees: same };
}

/** One layer's output beside that of all neurons, until it is read. */
class LayerComparison {
  error = 0;
  keptShare = 1;
  readonly #sparse: Tensor;
  readonly #full: Tensor;
  readonly #keep: Tensor;
  readonly #routed: Routing | undefined;
  readonly #neurons: number;
  readonly #backend: Backend;

  constructor(
    tape: Tape,
    { sparse, full, keep, routed }: { sparse: Tensor; full: Tensor; keep: Tensor; routed?: Routing },
    neurons: number,
  ) {
    this.#sparse = tape.keep(sparse);
    this.#full = tape.keep(full);
    this.#keep = tape.keep(keep);
    if (routed) tape.keep(routed.slotOfRow);
    this.#routed = routed;
    this.#neurons = neurons;
    this.#backend = tape.backend;
  }

  /** @param isToken whether a token of the batch is one of the text, not padding. */
  async read(isToken: (token: number) => boolean): Promise<void> {
    const read = ({ buffer, size }: Tensor) => this.#backend.read(buffer, 0, size);
    const [sparse, full, keep] = await Promise.all([this.#sparse, this.#full, this.#keep].map(read));
    const [tokens, width] = this.#full.shape;
    let [difference, norm] = [0, 0];
    for (let i = 0; i < tokens * width; i++) {
      if (!isToken(Math.floor(i / width))) continue;
      difference += (sparse[i] - full[i]) ** 2;
      norm += full[i] ** 2;
    }
    this.error = norm > 0 ? Math.sqrt(difference / norm) : 0;
    const slots = this.#routed && (await read(this.#routed.slotOfRow));
    const active = this.#routed?.weights.shape[1] ?? 1;
    const words = keepWords(this.#neurons);
    let [kept, rows] = [0, 0];
    for (let r = 0; r < keep.length / words; r++) {
      if (!isToken(slots ? Math.floor(slots[r] / active) : r)) continue;
      rows++;
      for (const word of keep.subarray(r * words, (r + 1) * words)) kept += bitCount(word);
    }
    this.keptShare = kept / (rows * this.#neurons);
  }
}

interface RunOptions {
  readonly seed: number;
  readonly calibrated?: Calibrated;
  /** Receives a comparison for each layer. */
  readonly compare?: LayerComparison[];
}

/** How a setting changes the forward pass. The criterion `gate` runs on the kernel that generation uses. */
export function forwardOptions(
  tape: Tape,
  setting: Setting,
  batch: WindowBatch,
  { seed, calibrated, compare }: RunOptions,
): Pick<ForwardOptions, "experts" | "kept" | "active"> {
  const { criterion, kept, active } = setting;
  const tokens = criterion === "random" ? tape.constant(batch.names, [batch.names.length]) : undefined;
  const experts = (layer: number): ExpertsOverride => {
    return (on, x, offsets, weights, options) => {
      const { y, keep } = sparse(on, x, offsets, weights, options, layer);
      if (compare) {
        const all = { ...options, kept: weights.gate.shape[1] };
        const full = neuronExperts(on, x, offsets, weights, all).y;
        const summed = (rows: Tensor) =>
          options.routed ? combine(on, rows, x.shape[0], options.routed) : rows;
        const outputs = { sparse: summed(y), full: summed(full), keep, routed: options.routed };
        compare.push(new LayerComparison(on, outputs, weights.gate.shape[1]));
      }
      return y;
    };
  };
  const sparse = (
    ...[on, x, offsets, weights, options, layer]: [...Parameters<ExpertsOverride>, number]
  ): { y: Tensor; keep: Tensor } => {
    if (criterion === "gate") return neuronExperts(on, x, offsets, weights, options);
    if (!calibrated && criterion !== "oracle" && criterion !== "random") {
      throw new Error(`${criterion} needs calibration`);
    }
    return studyExperts(on, x, offsets, weights, {
      ...options,
      criterion: criterion === "oracle-norm" ? "oracleNorm" : criterion,
      threshold: criterion === "threshold" ? calibrated?.threshold(layer, options.kept) : undefined,
      scores:
        criterion === "oracle-norm"
          ? calibrated?.downNorms[layer]
          : criterion === "static"
            ? calibrated?.meanGates[layer]
            : undefined,
      random: tokens && { seed, layer, tokens },
    });
  };
  return { kept, active, experts: criterion === "gate" && !compare ? undefined : experts };
}
