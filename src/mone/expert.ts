// The experts as mixtures of neurons: y = sum over kept neurons j of G_j (w_up_j . x) w_down_j, G = act(W_gate x).
// Letters: R rows grouped by expert, D width, E experts, F expert width, K neurons kept.

import type { Activation } from "../kernels/activation.ts";
import { groupedLinear, linear, neuronExperts, neuronTopK, type StoredExperts } from "../tensor/ops.ts";
import type { Tape } from "../tensor/tape.ts";
import { StoredTensor, type Tensor } from "../tensor/tensor.ts";

export interface ExpertOptions {
  /** K: neurons kept per row; equal to the width, nothing is dropped. */
  readonly kept: number;
  readonly activation: Activation;
  /** Round operands of the products to bf16. */
  readonly bf16: boolean;
}

export interface ExpertWeights {
  /** [E, F, D] */
  readonly gate: Tensor;
  /** [E, F, D] */
  readonly up: Tensor;
  /** [E, D, F] */
  readonly down: Tensor;
}

export interface ExpertOutput {
  /** [R, D] */
  readonly output: Tensor;
  /** W_gate x before the activation: [R, F]; absent with stored weights. */
  readonly gate?: Tensor;
  /** The kept sets as bits: [R, ceil(F / 32)]. */
  readonly keep: Tensor;
}

/** Whether these are weights for inference, which one kernel reads. */
function isStored(weights: object): weights is StoredExperts {
  return "places" in weights && "gate" in weights && weights.gate instanceof StoredTensor;
}

/** All experts on their rows x_RD, rows of expert e from offsets_E1[e] on. */
export function experts(
  tape: Tape,
  x: Tensor,
  offsets: Tensor,
  weights: ExpertWeights | StoredExperts,
  { kept, activation, bf16 }: ExpertOptions,
): ExpertOutput {
  if (isStored(weights)) {
    const { y: output, keep } = neuronExperts(tape, x, offsets, weights, kept, activation);
    return { output, keep };
  }
  const gate = groupedLinear(tape, x, weights.gate, offsets, bf16);
  const up = groupedLinear(tape, x, weights.up, offsets, bf16);
  const { hidden, keep } = neuronTopK(tape, gate, up, kept, activation);
  const output = groupedLinear(tape, hidden, weights.down, offsets, bf16);
  return { output, gate, keep };
}

export interface DenseWeights {
  /** [F, D] */
  readonly gate: Tensor;
  /** [F, D] */
  readonly up: Tensor;
  /** [D, F] */
  readonly down: Tensor;
}

/** The same for one expert that every row of x_TD visits: dense layers and shared experts. */
export function denseExpert(
  tape: Tape,
  x: Tensor,
  weights: DenseWeights | StoredExperts,
  options: ExpertOptions,
): ExpertOutput {
  const { kept, activation, bf16 } = options;
  if (isStored(weights)) {
    const offsets = tape.constant(Uint32Array.of(0, x.shape[0]), [2]);
    return experts(tape, x, offsets, weights, options);
  }
  const gate = linear(tape, x, weights.gate, bf16);
  const up = linear(tape, x, weights.up, bf16);
  const { hidden, keep } = neuronTopK(tape, gate, up, kept, activation);
  return { output: linear(tape, hidden, weights.down, bf16), gate, keep };
}
