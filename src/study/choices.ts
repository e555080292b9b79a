// What each layer chooses for the tokens of a batch: experts, neurons, and gate values if wanted.
// Letters: A experts per token, E experts, F neurons, K kept, R rows (a token in one of its experts).

import { keptNeurons } from "../model/config.ts";
import type { Transformer } from "../model/transformer.ts";
import { studyExperts } from "../tensor/studyOps.ts";
import { Tape } from "../tensor/tape.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { forwardBatch, type WindowBatch } from "./evaluate.ts";

export interface LayerChoice {
  readonly layer: number;
  /** Bits of kept neurons by row: [R, words]. */
  readonly keep: Uint32Array;
  /** Rows of each expert: [E + 1]. */
  readonly offsets: Uint32Array;
  /** Row r is token slots[r] / active; absent in a dense layer, where it is token r. */
  readonly slots?: Uint32Array;
  /** A; 0 in a dense layer. */
  readonly active: number;
  /** Gate values: [R, F]. */
  readonly values?: Float32Array;
}

/**
 * Runs the model as it is, and returns the choices of its layers in order.
 * @param kept K of `keep`; of the model, if not given. @param values whether gate values are wanted.
 */
export async function layerChoices(
  model: Transformer,
  batch: Pick<WindowBatch, "inputs" | "length">,
  { kept, values: wanted = false }: { kept?: number; values?: boolean } = {},
): Promise<LayerChoice[]> {
  const { backend, config } = model;
  const own = keptNeurons(config);
  const tape = new Tape(backend, { recording: false });
  const chosen: { layer: number; active: number; tensors: Record<string, Tensor> }[] = [];
  forwardBatch(tape, model, batch, {
    kept: own,
    experts: (layer) => (on, x, offsets, weights, options) => {
      const result = studyExperts(on, x, offsets, weights, { ...options, criterion: "gate", emit: wanted });
      const { keep } =
        kept === undefined || kept === own
          ? result
          : studyExperts(on, x, offsets, weights, { ...options, kept, criterion: "gate" });
      const { routed } = options;
      const tensors = {
        keep,
        offsets,
        ...(routed && { slots: routed.slotOfRow }),
        ...(wanted && { values: result.values }),
      };
      // Routing is freed with the layer, unless it is kept.
      for (const tensor of Object.values(tensors)) on.keep(tensor);
      chosen.push({ layer, active: routed ? routed.weights.shape[1] : 0, tensors });
      return result.y;
    },
  });
  const choices: LayerChoice[] = [];
  for (const { layer, active, tensors } of chosen) {
    const { keep, offsets, slots, values } = tensors;
    const words = async (tensor: Tensor) =>
      (await backend.read(tensor.buffer, 0, tensor.size)) as Uint32Array;
    choices.push({
      layer,
      active,
      keep: await words(keep),
      offsets: await words(offsets),
      ...(slots && { slots: await words(slots) }),
      ...(values && { values: (await backend.read(values.buffer, 0, values.size)) as Float32Array }),
    });
  }
  tape.release();
  return choices;
}
