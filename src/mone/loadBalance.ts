// Both balance losses as pure functions of what the forward pass made. Equations: README.md beside this file.

import type { Activation } from "../kernels/activation.ts";
import { expertBalance, type NeuronScore, neuronBalance, neuronUsage } from "../tensor/ops.ts";
import type { Tape } from "../tensor/tape.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { ExpertOutput } from "./expert.ts";
import type { Routing } from "./router.ts";

export type { NeuronScore } from "../tensor/ops.ts";

/** LBL: E sum_e f_e P_e over one layer; 1 when balanced. */
export function expertBalanceLoss(tape: Tape, { probs, offsets, ids }: Routing): Tensor {
  return expertBalance(tape, probs, offsets, ids.shape[1]);
}

/** usage_EF: rows of each expert that keep each neuron. */
export function countUsage(tape: Tape, { keep }: ExpertOutput, offsets: Tensor, width: number): Tensor {
  return neuronUsage(tape, keep, offsets, width);
}

/** NG-LBL: mean over experts with rows of sum_j f_ej P_ej; 1 when balanced and scores are `l1`. */
export function neuronBalanceLoss(
  tape: Tape,
  { gate, keep }: ExpertOutput,
  offsets: Tensor,
  usage: Tensor,
  options: { kept: number; activation: Activation; score: NeuronScore },
): Tensor {
  if (!gate)
    throw new Error("the balance of neurons is for training: stored weights do not keep gate values");
  return neuronBalance(tape, { gate, keep, offsets, usage }, options.kept, options.activation, options.score);
}
