// How much of what a token chooses stays the same while a run trains on: the model after the last step beside the one of the
// checkpoint before, on the same held-out text. Letters: A experts per token, K neurons kept, F width.

import { join } from "node:path";
import { openStoredModel } from "../checkpoint/loadModel.ts";
import { throwIfAborted } from "../errors.ts";
import { bitCount, keepWords } from "../kernels/neuronTopK.ts";
import { expertWidth, keptNeurons } from "../model/config.ts";
import type { Transformer } from "../model/transformer.ts";
import { forwardBatch } from "../study/evaluate.ts";
import { studyExperts } from "../tensor/studyOps.ts";
import { Tape } from "../tensor/tape.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { validationBatches } from "../text/batches.ts";
import { RunFolder } from "../train/runFolder.ts";
import type { Measure } from "./measure.ts";

/** Tokens that are compared: enough for a third digit. */
const TOKENS = 32_768;
const BATCH_TOKENS = 2048;

/** What one layer chose for the tokens of a batch. */
export interface LayerChoice {
  /** Bits of kept neurons by row: [R, words]. */
  readonly keep: Uint32Array;
  /** Rows of each expert: [E + 1]. */
  readonly offsets: Uint32Array;
  /** Row r is token slots[r] / active; absent in a dense layer, where it is token r. */
  readonly slots?: Uint32Array;
  readonly active: number;
}

export interface Shared {
  /** Rows whose token visits the same expert in both, and all rows. */
  readonly routed: number;
  readonly rows: number;
  /** Neurons that both keep, in such rows. */
  readonly kept: number;
}

export const stability: Measure = {
  quantities: [
    {
      key: "kept_overlap",
      label: "Stability of kept sets",
      note: "Of the neurons that a token keeps in an expert, the share that it kept at the checkpoint before, an eighth of the run earlier; K/F by chance. Absent where every neuron acts, or without such a checkpoint.",
    },
    {
      key: "routing_overlap",
      label: "Stability of routing",
      note: "Of the experts of a token, the share that it visited at the checkpoint before.",
    },
  ],
  async run({ checkpoint, config, prepared, backend, signal }) {
    const steps = RunFolder.open(join(checkpoint, "..", "..")).checkpoints();
    const before = steps.at(-2);
    if (!before) return { values: {} };
    const open = (path: string) => openStoredModel(path, backend, { dtype: "f32" });
    const [last, earlier] = [open(checkpoint), open(before.path)];
    try {
      const { seqLen } = config;
      const windows = { seqLen, batch: Math.max(1, Math.floor(BATCH_TOKENS / seqLen)) };
      const width = expertWidth(last.config);
      const kept = keptNeurons(last.config);
      let [routed, rows, both, done] = [0, 0, 0, 0];
      for (const { inputs, count } of validationBatches(prepared.dataset.valid, windows)) {
        throwIfAborted(signal);
        const length = inputs.length / count;
        const now = await choicesOf(last, inputs, length);
        const then = await choicesOf(earlier, inputs, length);
        for (const [layer, choice] of now.entries()) {
          const shared = sharedChoice(choice, then[layer], inputs.length, width);
          routed += shared.routed;
          rows += shared.rows;
          both += shared.kept;
        }
        done += inputs.length;
        if (done >= TOKENS) break;
      }
      const isSparse = last.config.num_experts > 0;
      return {
        values: {
          ...(kept < width && routed > 0 && { kept_overlap: both / (routed * kept) }),
          ...(isSparse && { routing_overlap: routed / rows }),
        },
      };
    } finally {
      last.close();
      earlier.close();
    }
  },
};

/** By layer in which neurons are chosen, for windows of `length` tokens. */
async function choicesOf(model: Transformer, inputs: Uint32Array, length: number): Promise<LayerChoice[]> {
  const { backend, config } = model;
  const tape = new Tape(backend, { recording: false });
  const chosen: { keep: Tensor; offsets: Tensor; slots?: Tensor; active: number }[] = [];
  forwardBatch(
    tape,
    model,
    { inputs, length },
    {
      kept: keptNeurons(config),
      experts: () => (on, x, offsets, weights, options) => {
        const { y, keep } = studyExperts(on, x, offsets, weights, { ...options, criterion: "gate" });
        const slots = options.routed?.slotOfRow;
        for (const tensor of [keep, offsets, ...(slots ? [slots] : [])]) on.keep(tensor);
        chosen.push({ keep, offsets, slots, active: options.routed?.weights.shape[1] ?? 0 });
        return y;
      },
    },
  );
  const read = async (tensor: Tensor) => (await backend.read(tensor.buffer, 0, tensor.size)) as Uint32Array;
  const choices: LayerChoice[] = [];
  for (const { keep, offsets, slots, active } of chosen) {
    const own = slots && { slots: await read(slots) };
    choices.push({ keep: await read(keep), offsets: await read(offsets), active, ...own });
  }
  tape.release();
  return choices;
}

/** What two models choose alike for the same tokens. @param width F. */
export function sharedChoice(a: LayerChoice, b: LayerChoice, tokens: number, width: number): Shared {
  const experts = a.offsets.length - 1;
  const words = keepWords(width);
  const rowOf = new Int32Array(tokens * experts).fill(-1);
  eachRow(b, (token, expert, row) => {
    rowOf[token * experts + expert] = row;
  });
  let [routed, rows, kept] = [0, 0, 0];
  eachRow(a, (token, expert, row) => {
    rows++;
    const other = rowOf[token * experts + expert];
    if (other < 0) return;
    routed++;
    for (let word = 0; word < words; word++)
      kept += bitCount(a.keep[row * words + word] & b.keep[other * words + word]);
  });
  return { routed, rows, kept };
}

function eachRow(
  { offsets, slots, active }: LayerChoice,
  visit: (token: number, expert: number, row: number) => void,
): void {
  for (let expert = 0; expert + 1 < offsets.length; expert++) {
    for (let row = offsets[expert]; row < offsets[expert + 1]; row++) {
      visit(slots ? Math.floor(slots[row] / active) : row, expert, row);
    }
  }
}
