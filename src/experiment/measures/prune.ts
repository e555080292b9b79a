// Measures of the loss after training as fewer neurons are kept: `prune` by the gate value, which is how a MoNE chooses,
// `prune-random` by chance, the floor. A MoE and a MoNE are compared at equal numbers of kept neurons, so shares are of the
// expert's width for both; above its own K a MoNE runs with more neurons than it was trained with.
// Letters: F expert width, K neurons kept, T tokens, V vocabulary.

import { openStoredModel } from "../../checkpoint/loadModel.ts";
import { throwIfAborted } from "../../errors.ts";
import { expertWidth, keptNeurons, type ModelConfig } from "../../model/config.ts";
import { countOfPruned } from "../../model/neurons.ts";
import type { Transformer } from "../../model/transformer.ts";
import type { ExpertsOverride } from "../../mone/expert.ts";
import { forwardBatch } from "../../study/evaluate.ts";
import { linear } from "../../tensor/ops.ts";
import { logitDivergence, studyExperts } from "../../tensor/studyOps.ts";
import { Tape } from "../../tensor/tape.ts";
import { validationBatches } from "../../text/batches.ts";
import type { Measure, MeasureContext, Quantity } from "./measure.ts";
import { withTrainedModel } from "./trainedModel.ts";

/** Of the expert's width. */
export const prunedShares: readonly number[] = [0, 0.25, 0.5, 0.6, 0.75, 0.875, 0.9, 0.95];

/** Rise of the loss that counts as none for `prunable`. */
const TOLERANCE = 0.01;
/** Seed of the random choice: the same neurons for every run of an experiment. */
const RANDOM_SEED = 1;
/** Logits in memory at a time. */
const CHUNK_LOGITS = 1 << 22;

const percent = (share: number) => `${Math.round(share * 1000) / 10} %`;
const keyOf = (name: string, pruned: number) => `${name}_${Math.round(pruned * 1000) / 10}`;

function quantitiesOf(name: string, by: string): Quantity[] {
  return prunedShares.map((pruned) => ({
    key: keyOf(name, pruned),
    label: `Loss, ${percent(pruned)} pruned ${by}`,
    better: "lower",
    note: `Validation loss with ${percent(1 - pruned)} of each chosen expert's neurons.`,
    at: { sweep: name, x: 1 - pruned },
  }));
}

/** Losses by key; shares that leave the same K are computed once. */
async function sweepOf(
  name: string,
  config: ModelConfig,
  lossWith: (kept: number) => Promise<number>,
): Promise<Record<string, number>> {
  const byKept = new Map<number, number>();
  const values: Record<string, number> = {};
  for (const pruned of prunedShares) {
    const kept = countOfPruned(pruned, expertWidth(config));
    const loss = byKept.get(kept) ?? (await lossWith(kept));
    byKept.set(kept, loss);
    values[keyOf(name, pruned)] = loss;
  }
  return values;
}

/** With the arithmetic of training, so that at the model's own K this is its validation loss to the last digit. */
export const prune: Measure = {
  quantities: [
    ...quantitiesOf("prune", "by gate"),
    {
      key: "prunable",
      label: `Prunable within ${percent(TOLERANCE)}`,
      note: `Share of the neurons a token uses (K, of the MoE F) that can be left out by the gate value before the loss rises by ${percent(TOLERANCE)}; straight lines between the measured shares.`,
    },
  ],
  sweep: {
    name: "prune",
    title: "Pruned after training, by the gate value",
    x: "kept neurons, share of the expert's width",
    percent: true,
    log: true,
    y: "validation loss, nats a token",
    note: "The neurons of largest |gate value| stay, per token. A MoNE above its own K runs with more neurons than it was trained with.",
  },
  run: (context) =>
    withTrainedModel(context, async (model, validateWith) => {
      const known = new Map<number, number>();
      const lossWith = async (kept: number) => {
        const { loss } = await validateWith(kept);
        known.set(kept, loss);
        return loss;
      };
      const values = await sweepOf("prune", model.config, lossWith);
      const own = keptNeurons(model.config);
      if (!known.has(own)) await lossWith(own);
      const prunable = prunableShare([...known], own);
      return { values: { ...values, ...(prunable !== undefined && { prunable }) } };
    }),
};

/**
 * The share of `own` neurons that can go before the loss rises by the tolerance.
 * @param losses pairs of K and loss. @returns undefined if the loss never rises so far.
 */
export function prunableShare(
  losses: readonly (readonly [number, number])[],
  own: number,
): number | undefined {
  const below = losses.filter(([kept]) => kept <= own).sort(([a], [b]) => b - a);
  const limit = below[0][1] * (1 + TOLERANCE);
  for (let i = 1; i < below.length; i++) {
    const [[before, low], [kept, high]] = [below[i - 1], below[i]];
    if (high > limit) return 1 - (before + ((limit - low) / (high - low)) * (kept - before)) / own;
  }
  return undefined;
}

/** On stored f32 weights, the one form in which another choice of neurons can be computed. */
export const pruneRandom: Measure = {
  quantities: quantitiesOf("prune-random", "at random"),
  sweep: {
    name: "prune-random",
    title: "Pruned after training, at random (control)",
    x: "kept neurons, share of the expert's width",
    percent: true,
    log: true,
    y: "validation loss, nats a token",
    note: "Which neurons stay is drawn for each token and expert. Computed in f32, so with all neurons it agrees with the loss above to rounding.",
  },
  async run({ checkpoint, backend, ...context }) {
    const model = openStoredModel(checkpoint, backend, { dtype: "f32" });
    try {
      return {
        values: await sweepOf("prune-random", model.config, (kept) => randomLoss(model, kept, context)),
      };
    } finally {
      model.close();
    }
  },
};

/** Mean loss over the windows that `validate` sees. */
async function randomLoss(
  model: Transformer,
  kept: number,
  { config, prepared, signal }: Omit<MeasureContext, "checkpoint" | "backend">,
): Promise<number> {
  const { seqLen } = config;
  const { backend, head } = model;
  const rows = Math.max(1, Math.floor(CHUNK_LOGITS / model.config.vocab_size / seqLen));
  let sum = 0;
  let done = 0;
  for (const { inputs, targets, count } of validationBatches(prepared.dataset.valid, {
    seqLen,
    batch: rows,
  })) {
    throwIfAborted(signal);
    const tape = new Tape(backend, { recording: false });
    const tokens = inputs.length;
    const names = tape.constant(
      Uint32Array.from(inputs, (_, t) => done + t),
      [tokens],
    );
    const experts = (layer: number): ExpertsOverride => {
      const random = { seed: RANDOM_SEED, layer, tokens: names };
      return (on, x, offsets, weights, options) =>
        studyExperts(on, x, offsets, weights, { ...options, criterion: "random", random }).y;
    };
    const hidden = forwardBatch(tape, model, { inputs, length: tokens / count }, { kept, experts });
    const logits = linear(tape, hidden, head, false);
    const { losses } = logitDivergence(tape, logits, logits, tape.constant(targets, [tokens]));
    for (const loss of await backend.read(losses.buffer, 0, tokens)) sum += loss;
    done += tokens;
    tape.release();
  }
  return sum / done;
}
