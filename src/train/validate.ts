// Loss and usage on held-out text, without gradients.

import { throwIfAborted } from "../errors.ts";
import { keptNeurons } from "../model/config.ts";
import type { Transformer } from "../model/transformer.ts";
import { Tape } from "../tensor/tape.ts";
import { validationBatches } from "../text/batches.ts";
import type { TokenSplit } from "../text/dataset.ts";
import { forwardLoss } from "./step.ts";
import { type LayerUse, meanUse, neuronUseOf, type Use, useOf } from "./usage.ts";

export interface Validation {
  /** Mean cross entropy in nats per token. */
  loss: number;
  bitsPerByte: number;
  tokens: number;
  /** Over the routed experts of each sparse layer; absent in dense models. */
  expertUse?: Use & { layers: Use[] };
  /** Over the neurons inside experts, or of a dense model's layers; absent where all are kept. */
  neuronUse?: Use & { layers: LayerUse[] };
}

export interface ValidateOptions {
  seqLen: number;
  batch: number;
  bf16: boolean;
  /** Stop after this many tokens; default: the whole part. */
  maxTokens?: number;
  /** Neurons kept per token in each expert, instead of the model's own number: prunes without training. */
  kept?: number;
  signal?: AbortSignal;
}

/** Non-overlapping windows from the start of `split`. @throws UsageError if it is shorter than one window. */
export async function validate(
  model: Transformer,
  split: TokenSplit,
  options: ValidateOptions,
): Promise<Validation> {
  const { backend } = model;
  let sum = 0;
  let tokens = 0;
  const rows: number[][] = [];
  const neurons: number[][] = [];
  let hasExperts = false;
  const addTo = (totals: number[][], layer: number, counts: ArrayLike<number>) => {
    totals[layer] ??= new Array<number>(counts.length).fill(0);
    for (let i = 0; i < counts.length; i++) totals[layer][i] += counts[i];
  };
  for (const batch of validationBatches(split, options)) {
    throwIfAborted(options.signal);
    const tape = new Tape(backend, { recording: false });
    const { loss, layers } = forwardLoss(tape, model, batch, {
      bf16: options.bf16,
      balance: true,
      kept: options.kept,
    });
    sum += (await backend.read(loss.buffer, 0, 1))[0] * batch.inputs.length;
    tokens += batch.inputs.length;
    for (const [layer, { usage }] of layers.entries()) {
      // Of a dense model one network, which every row visits.
      const offsets = usage.experts && (await backend.read(usage.experts.buffer, 0, usage.experts.size));
      addTo(rows, layer, offsets ? differences(offsets) : [batch.inputs.length]);
      hasExperts ||= usage.experts !== undefined;
      if (usage.neurons)
        addTo(neurons, layer, await backend.read(usage.neurons.buffer, 0, usage.neurons.size));
    }
    tape.release();
  }
  const loss = sum / tokens;
  const expertLayers = hasExperts ? rows.map(useOf) : [];
  const kept = options.kept ?? keptNeurons(model.config);
  const neuronLayers = neurons.map((usage, layer) => neuronUseOf(usage, rows[layer], kept));
  return {
    loss,
    bitsPerByte: bitsPerByte(loss, split),
    tokens,
    ...(expertLayers.length > 0 && { expertUse: { ...meanUse(expertLayers), layers: expertLayers } }),
    ...(neuronLayers.length > 0 && { neuronUse: { ...meanUse(neuronLayers), layers: neuronLayers } }),
  };
}

/** Nats per token to bits per byte of text, with the split's own ratio of tokens to bytes. */
export function bitsPerByte(loss: number, split: TokenSplit): number {
  return (loss / Math.LN2) * (split.length / split.textBytes);
}

function differences(offsets: ArrayLike<number>): number[] {
  return Array.from({ length: offsets.length - 1 }, (_, e) => offsets[e + 1] - offsets[e]);
}
