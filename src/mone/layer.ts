// One mixture-of-experts layer, MoE (K = F) or MoNE (K < F): route, dispatch, experts, combine; and what its balance
// is. Everything a caller may want comes back as a value; nothing is left in module state.

import { combine, dispatch, type StoredExperts } from "../tensor/ops.ts";
import type { Tape } from "../tensor/tape.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { type ExpertOptions, type ExpertWeights, experts } from "./expert.ts";
import { countUsage, expertBalanceLoss, type NeuronScore, neuronBalanceLoss } from "./loadBalance.ts";
import { type Routing, route } from "./router.ts";

export type LayerWeights = (ExpertWeights | StoredExperts) & {
  /** [E, D] */
  readonly router: Tensor;
};

export interface LayerOptions extends ExpertOptions {
  /** A: experts per token. */
  readonly active: number;
  /** Divide the chosen router weights by their sum. */
  readonly normaliseWeights: boolean;
  readonly neuronScore: NeuronScore;
  /** Compute balance losses and usage (training and statistics); generation leaves them out. */
  readonly balance: boolean;
}

export interface LayerOutput {
  /** [T, D] */
  readonly output: Tensor;
  readonly routing: Routing;
  /** One number each; absent when not asked for, `neurons` also when K = F. */
  readonly balanceLoss: { readonly experts?: Tensor; readonly neurons?: Tensor };
  /** Rows per expert as offsets_E1, and rows that keep each neuron, usage_EF. */
  readonly usage: { readonly experts: Tensor; readonly neurons?: Tensor };
}

/** Applies the layer to x_TD. */
export function mixtureLayer(
  tape: Tape,
  x: Tensor,
  weights: LayerWeights,
  options: LayerOptions,
): LayerOutput {
  const routing = route(tape, x, weights.router, options.active, options.normaliseWeights);
  const { offsets } = routing;
  const rows = dispatch(tape, x, routing);
  const expert = experts(tape, rows, offsets, weights, options);
  const output = combine(tape, expert.output, routing.weights, routing);
  if (!options.balance) return { output, routing, balanceLoss: {}, usage: { experts: offsets } };

  const expertLoss = expertBalanceLoss(tape, routing);
  const width = weights.gate.shape[1];
  if (options.kept >= width) {
    return { output, routing, balanceLoss: { experts: expertLoss }, usage: { experts: offsets } };
  }
  const usage = countUsage(tape, expert, offsets, width);
  const { kept, activation, neuronScore: score } = options;
  const neurons = neuronBalanceLoss(tape, expert, offsets, usage, { kept, activation, score });
  return {
    output,
    routing,
    balanceLoss: { experts: expertLoss, neurons },
    usage: { experts: offsets, neurons: usage },
  };
}
