// One training step, on one page: forward, losses, backward for each micro-batch, then one update.
// Letters: B sequences, S tokens each, T = B S.

import { attendWithin } from "../model/attention.ts";
import type { ForwardOptions, ForwardOutput, Transformer } from "../model/transformer.ts";
import { headCrossEntropy } from "../tensor/ops.ts";
import { Tape } from "../tensor/tape.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { Batch } from "../text/batches.ts";
import type { AdamW } from "./optimizer.ts";

export interface StepMetrics {
  /** Cross entropy in nats per token. */
  loss: number;
  /** Mean over layers of the balance losses, before their coefficients. */
  expertBalance?: number;
  neuronBalance?: number;
  /** Global norm before clipping. */
  gradientNorm: number;
}

/** Runs a batch through the model up to its loss. */
export function forwardLoss(
  tape: Tape,
  model: Transformer,
  batch: Batch,
  options: Pick<ForwardOptions, "bf16" | "balance" | "recompute" | "kept">,
) {
  const tokens = batch.inputs.length;
  const seq = tokens / batch.count;
  const ids = tape.constant(batch.inputs, [tokens]);
  const targets = tape.constant(batch.targets, [tokens]);
  const positions = tape.constant(
    Uint32Array.from({ length: tokens }, (_, t) => t % seq),
    [tokens],
  );
  const attend = attendWithin(model.config, batch.count, seq, options.bf16);
  const { hidden, layers } = model.forward(tape, ids, positions, { ...options, attend });
  const { loss, losses } = headCrossEntropy(tape, hidden, model.head, targets, options.bf16);
  return { loss: tape.keep(loss), losses, layers };
}

/**
 * One update from the micro-batches of one step. The objective is the mean over micro-batches of cross entropy plus
 * the balance losses (mean over layers) times their coefficients.
 */
export async function trainStep(
  model: Transformer,
  optimizer: AdamW,
  batches: readonly Batch[],
  { learningRate, bf16, recompute }: { learningRate: number; bf16: boolean; recompute?: boolean },
): Promise<StepMetrics> {
  const { router_aux_loss_coef, neuron_aux_loss_coef } = model.config;
  const share = 1 / batches.length;
  const metrics: StepMetrics = { loss: 0, gradientNorm: 0 };
  for (const batch of batches) {
    const tape = new Tape(model.backend, { recording: true });
    const { loss, layers } = forwardLoss(tape, model, batch, { bf16, balance: true, recompute });
    const experts = balanceTerms(layers, "experts");
    const neurons = balanceTerms(layers, "neurons");
    tape.backward([
      { loss, weight: share },
      ...weighted(experts, share * router_aux_loss_coef),
      ...weighted(neurons, share * neuron_aux_loss_coef),
    ]);
    const [lossValue, expertBalance, neuronBalance] = await Promise.all([
      readMean(tape, [loss]),
      readMean(tape, experts),
      readMean(tape, neurons),
    ]);
    metrics.loss += share * (lossValue ?? 0);
    if (expertBalance !== undefined)
      metrics.expertBalance = (metrics.expertBalance ?? 0) + share * expertBalance;
    if (neuronBalance !== undefined)
      metrics.neuronBalance = (metrics.neuronBalance ?? 0) + share * neuronBalance;
    tape.release();
  }
  // All gradients are complete and none is used yet: several processes would add theirs together here.
  optimizer.update(learningRate);
  metrics.gradientNorm = await optimizer.gradientNorm();
  return metrics;
}

function balanceTerms(layers: ForwardOutput["layers"], which: "experts" | "neurons"): Tensor[] {
  return layers.flatMap(({ balanceLoss }) => balanceLoss[which] ?? []);
}

/** The mean of the terms times a coefficient, as parts of an objective; nothing for a coefficient of 0. */
function weighted(terms: readonly Tensor[], coefficient: number) {
  return coefficient === 0 ? [] : terms.map((loss) => ({ loss, weight: coefficient / terms.length }));
}

async function readMean(tape: Tape, terms: readonly Tensor[]): Promise<number | undefined> {
  if (terms.length === 0) return undefined;
  let sum = 0;
  for (const { buffer } of terms) sum += (await tape.backend.read(buffer, 0, 1))[0];
  return sum / terms.length;
}
