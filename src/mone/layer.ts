// One mixture-of-experts layer, MoE (K = F) or MoNE (K < F): route, experts, combine; and what its balance
// is. Everything a caller may want comes back as a value; nothing is left in module state.

import { combine, type StoredExperts } from "../tensor/ops.ts";
import type { Tape } from "../tensor/tape.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { type ExpertOptions, type ExpertWeights, experts } from "./expert.ts";
import { expertBalanceLoss, type NeuronScore, neuronBalanceLoss } from "./loadBalance.ts";
import { type ExpertGroups, type Routing, route } from "./router.ts";

export type LayerWeights = (ExpertWeights | StoredExperts) & {
  /** [E, D] */
  readonly router: Tensor;
};

export interface LayerOptions extends ExpertOptions {
  /** A: experts per token. */
  readonly active: number;
  /** Divide the chosen router weights by their sum. */
  readonly normaliseWeights: boolean;
  /** Choose groups of experts first. */
  readonly groups?: ExpertGroups;
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
  const { active, normaliseWeights, groups } = options;
  const routing = route(tape, x, weights.router, active, normaliseWeights, groups);
  const { kept, balance, neuronScore } = options;
  const score = balance && kept < weights.gate.shape[1] ? neuronScore : undefined;
  const expert = experts(tape, x, routing, weights, options, score);
  const output = combine(tape, expert.output, x.shape[0], routing);
  return {
    output,
    routing,
    balanceLoss: {
      ...(balance && { experts: expertBalanceLoss(tape, routing) }),
      ...(expert.balance && { neurons: neuronBalanceLoss(tape, expert.balance, routing, kept) }),
    },
    usage: { experts: routing.offsets, ...(expert.balance && { neurons: expert.balance.usage }) },
  };
}
