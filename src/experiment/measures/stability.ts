// How much of what a token chooses stays the same while a run trains on: the model after the last step beside the one of the
// checkpoint before, on the same held-out text. Letters: A experts per token, K neurons kept, F width.

import { join } from "node:path";
import { openStoredModel } from "../../checkpoint/loadModel.ts";
import { throwIfAborted } from "../../errors.ts";
import { bitCount, keepWords } from "../../kernels/neuronTopK.ts";
import { expertWidth, keptNeurons } from "../../model/config.ts";
import { type LayerChoice, layerChoices } from "../../study/choices.ts";
import { validationBatches } from "../../text/batches.ts";
import { RunFolder } from "../../train/runFolder.ts";
import type { Measure } from "./measure.ts";

/** Tokens that are compared: enough for a third digit. */
const TOKENS = 32_768;
const BATCH_TOKENS = 2048;

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
      note: "Of the neurons that a token keeps in an expert, the share that it kept at the checkpoint before, about an eighth of the run earlier; K/F by chance. Absent where every neuron acts, or without such a checkpoint.",
    },
    {
      key: "routing_overlap",
      label: "Stability of routing",
      note: "Of the experts of a token, the share that it visited at the checkpoint before.",
    },
  ],
  async run({ checkpoint, config, prepared, backend, signal }) {
    // The one on schedule: others lie where the run was at its best, or was stopped.
    const { steps, checkpointEvery: every } = config;
    const step = every * Math.floor((steps - 1) / every);
    const checkpoints = RunFolder.open(join(checkpoint, "..", "..")).checkpoints();
    const before = checkpoints.find((one) => one.step === step);
    if (!before) return { values: {} };
    const open = (path: string) => openStoredModel(path, backend, { dtype: "f32" });
    const [last, earlier] = [open(checkpoint), open(before.path)];
    try {
      const { seqLen } = config;
      const windows = { seqLen, batch: Math.max(1, Math.floor(BATCH_TOKENS / seqLen)) };
      const width = expertWidth(last.config);
      const kept = keptNeurons(last.config);
      let [routed, rows, visited, both, done] = [0, 0, 0, 0, 0];
      for (const { inputs, count } of validationBatches(prepared.dataset.valid, windows)) {
        throwIfAborted(signal);
        const length = inputs.length / count;
        const now = await layerChoices(last, { inputs, length });
        const then = await layerChoices(earlier, { inputs, length });
        for (const [i, choice] of now.entries()) {
          const shared = sharedChoice(choice, then[i], inputs.length, width);
          visited += shared.routed;
          both += shared.kept;
          if (!choice.slots) continue; // a dense layer routes nothing
          routed += shared.routed;
          rows += shared.rows;
        }
        done += inputs.length;
        if (done >= TOKENS) break;
      }
      return {
        values: {
          ...(kept < width && visited > 0 && { kept_overlap: both / (visited * kept) }),
          ...(rows > 0 && { routing_overlap: routed / rows }),
        },
      };
    } finally {
      last.close();
      earlier.close();
    }
  },
};

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
