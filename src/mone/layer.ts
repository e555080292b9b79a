// One mixture-of-experts layer, MoE (K = F) or MoNE (K < F): route, experts, combine; and what its balance
// is. The same without experts: the layer of a dense model, one network of neurons that every row visits.
// Everything a caller may want comes back as a value; nothing is left in module state.

import { combine, type StoredExperts } from "../tensor/ops.ts";
import type { Tape } from "../tensor/tape.ts";
import type { Tensor } from "../tensor/tensor.ts";
import {
  type DenseWeights,
  denseExpert,
  type ExpertOptions,
  type ExpertOutput,
  type ExpertWeights,
  experts,
} from "./expert.ts";
import { expertBalanceLoss, type NeuronScore, neuronBalanceLoss } from "./loadBalance.ts";
import { type ExpertGroups, type Routing, route } from "./router.ts";

export type LayerWeights = (ExpertWeights | StoredExperts) & {
  /** [E, D] */
  readonly router: Tensor;
};

export interface DenseLayerOptions extends ExpertOptions {
  readonly neuronScore: NeuronScore;
  /** Compute balance losses and usage (training and statistics); generation leaves them out. */
  readonly balance: boolean;
}

export interface LayerOptions extends DenseLayerOptions {
  /** A: experts per token. */
  readonly active: number;
  /** Divide the chosen router weights by their sum. */
  readonly normaliseWeights: boolean;
  /** Choose groups of experts first. */
  readonly groups?: ExpertGroups;
}

/** How evenly a layer uses what it has; for `neurons` only where K < F, for `experts` only where there are some. */
export interface LayerBalance {
  /** One number each; absent when not asked for. */
  readonly balanceLoss: { readonly experts?: Tensor; readonly neurons?: Tensor };
  /** Rows per expert as offsets_E1, and rows that keep each neuron, usage_EF (E = 1 without experts). */
  readonly usage: { readonly experts?: Tensor; readonly neurons?: Tensor };
}

export interface DenseLayerOutput extends LayerBalance {
  /** [T, D] */
  readonly output: Tensor;
}

export interface LayerOutput extends DenseLayerOutput {
  readonly routing: Routing;
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
  const { kept, balance } = options;
  const expert = experts(tape, x, routing, weights, options, scoreOf(options, weights.gate.shape[1]));
  const output = combine(tape, expert.output, x.shape[0], routing);
  const neurons = neuronBalanceOf(tape, expert, kept);
  return {
    output,
    routing,
    balanceLoss: {
      ...(balance && { experts: expertBalanceLoss(tape, routing) }),
      ...neurons.balanceLoss,
    },
    usage: { experts: routing.offsets, ...neurons.usage },
  };
}

/** Applies the only network of a dense model's layer to x_TD. */
export function denseLayer(
  tape: Tape,
  x: Tensor,
  weights: DenseWeights | StoredExperts,
  options: DenseLayerOptions,
): DenseLayerOutput {
  const width = weights.gate.shape.at(-2) as number;
  const expert = denseExpert(tape, x, weights, options, scoreOf(options, width));
  return { output: expert.output, ...neuronBalanceOf(tape, expert, options.kept) };
}

/** How neurons are scored, if at all: where all of a width act there is nothing to balance. */
function scoreOf({ kept, balance, neuronScore }: DenseLayerOptions, width: number): NeuronScore | undefined {
  return balance && kept < width ? neuronScore : undefined;
}

function neuronBalanceOf(tape: Tape, { balance }: ExpertOutput, kept: number): LayerBalance {
  if (!balance) return { balanceLoss: {}, usage: {} };
  return {
    balanceLoss: { neurons: neuronBalanceLoss(tape, balance, kept) },
    usage: { neurons: balance.usage },
  };
}
