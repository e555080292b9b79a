// The experts as mixtures of neurons: y = sum over kept neurons j of G_j (w_up_j . x) w_down_j, G = act(W_gate x).
// Letters: R rows grouped by expert, D width, E experts, F expert width, K neurons kept.

import type { Activation } from "../kernels/activation.ts";
import {
  addBias,
  groupedLinear,
  linear,
  type NeuronScore,
  neuronExperts,
  neuronTopK,
  type StoredExperts,
} from "../tensor/ops.ts";
import type { Tape } from "../tensor/tape.ts";
import { StoredTensor, type Tensor } from "../tensor/tensor.ts";
import type { Routing } from "./router.ts";

export interface ExpertOptions {
  /** K: neurons kept per row; equal to the width, nothing is dropped. */
  readonly kept: number;
  readonly activation: Activation;
  /** Round operands of the products to bf16. */
  readonly bf16: boolean;
  /** Computes the experts in place of the functions here; for inference on stored weights. */
  readonly override?: ExpertsOverride;
}

/**
 * Another way to compute the experts of a layer: outputs [R, D] for the tokens x_TD, as neuronExperts of tensor/ops.ts
 * makes them. Without `routing` there is one network that every row visits.
 */
export type ExpertsOverride = (
  tape: Tape,
  x: Tensor,
  offsets: Tensor,
  weights: StoredExperts,
  options: { readonly kept: number; readonly activation: Activation; readonly routed?: Routing },
) => Tensor;

export interface ExpertWeights {
  /** [E, F, D] */
  readonly gate: Tensor;
  /** [E, F, D] */
  readonly up: Tensor;
  /** [E, D, F] */
  readonly down: Tensor;
}

export interface ExpertOutput {
  /** Weighted by the router: [R, D]. */
  readonly output: Tensor;
  /** Of each expert's rows, if asked for. */
  readonly balance?: NeuronSums;
}

/** What the neuron balance loss is made of. */
export interface NeuronSums {
  /** Rows that keep each neuron: [E, F]. */
  readonly usage: Tensor;
  /** Sums of the neurons' scores over the rows: [E, F]. */
  readonly scores: Tensor;
  /** Where the rows of each expert begin: [E + 1]. */
  readonly offsets: Tensor;
}

/** Whether these are weights for inference, which one kernel reads. */
function isStored(weights: object): weights is StoredExperts {
  return "places" in weights && "gate" in weights && weights.gate instanceof StoredTensor;
}

/**
 * All experts on the tokens x_TD that the router sends them, each row's result times its router weight. `score`: how
 * neurons are scored, if at all.
 */
export function experts(
  tape: Tape,
  x: Tensor,
  routing: Routing,
  weights: ExpertWeights | StoredExperts,
  { kept, activation, bf16, override }: ExpertOptions,
  score?: NeuronScore,
): ExpertOutput {
  const { offsets } = routing;
  if (isStored(weights)) {
    if (score) throw noScores();
    const options = { kept, activation, routed: routing };
    return {
      output:
        override?.(tape, x, offsets, weights, options) ?? neuronExperts(tape, x, offsets, weights, options).y,
    };
  }
  if (override) throw new Error("other ways to compute experts need stored weights");
  const gate = groupedLinear(tape, x, weights.gate, offsets, bf16, routing);
  const up = groupedLinear(tape, x, weights.up, offsets, bf16, routing);
  const scored = score && { ...score, offsets };
  // The router's weight is a factor of the sum over neurons: on the hidden values it costs next to nothing.
  const { hidden, usage, scores } = neuronTopK(tape, gate, up, { kept, activation, routed: routing, scored });
  const output = groupedLinear(tape, hidden, weights.down, offsets, bf16);
  return { output, ...(score && { balance: { usage, scores, offsets } }) };
}

function noScores(): Error {
  return new Error("the balance of neurons is for training: stored weights keep no scores");
}

export interface DenseWeights {
  /** [F, D] */
  readonly gate: Tensor;
  /** [F, D] */
  readonly up: Tensor;
  /** [D, F] */
  readonly down: Tensor;
  /** [F], [F], [D]; for inference. */
  readonly biases?: { readonly gate: Tensor; readonly up: Tensor; readonly down: Tensor };
}

/** The same for one expert that every row of x_TD visits, unweighted: dense layers and shared experts; E = 1, R = T. */
export function denseExpert(
  tape: Tape,
  x: Tensor,
  weights: DenseWeights | StoredExperts,
  { kept, activation, bf16, override }: ExpertOptions,
  score?: NeuronScore,
): ExpertOutput {
  const everyRow = () => tape.constant(Uint32Array.of(0, x.shape[0]), [2]);
  if (isStored(weights)) {
    if (score) throw noScores();
    const options = { kept, activation };
    const offsets = everyRow();
    return {
      output:
        override?.(tape, x, offsets, weights, options) ?? neuronExperts(tape, x, offsets, weights, options).y,
    };
  }
  if (override) throw new Error("other ways to compute experts need stored weights");
  const { biases } = weights;
  const product = (input: Tensor, which: "gate" | "up" | "down") => {
    const y = linear(tape, input, weights[which], bf16);
    return biases ? addBias(tape, y, biases[which]) : y;
  };
  const scored = score && { ...score, offsets: everyRow() };
  const [gate, up] = [product(x, "gate"), product(x, "up")];
  const { hidden, usage, scores } = neuronTopK(tape, gate, up, { kept, activation, scored });
  return {
    output: product(hidden, "down"),
    ...(scored && { balance: { usage, scores, offsets: scored.offsets } }),
  };
}
