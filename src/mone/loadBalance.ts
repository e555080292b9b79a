// Both balance losses as pure functions of what the forward pass made. Equations: README.md beside this file.

import { expertBalance, neuronBalance } from "../tensor/ops.ts";
import type { Tape } from "../tensor/tape.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { NeuronSums } from "./expert.ts";
import type { Routing } from "./router.ts";

export type { NeuronScore } from "../tensor/ops.ts";

/** LBL: E sum_e f_e P_e over one layer; 1 when balanced. */
export function expertBalanceLoss(tape: Tape, { probs, offsets, ids }: Routing): Tensor {
  return expertBalance(tape, probs, offsets, ids.shape[1]);
}

/** NG-LBL: mean over experts with rows of sum_j f_ej P_ej; 1 when balanced and scores are `l1`. */
export function neuronBalanceLoss(tape: Tape, sums: NeuronSums, kept: number): Tensor {
  return neuronBalance(tape, sums, kept);
}
