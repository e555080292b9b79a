// The router: which experts a token goes to, with which weights, and the rows of each expert.
// Letters: T tokens, D width, E experts, A experts per token, R = T A rows grouped by expert.

import { groupByExpert, linear, type RowMap, routerGroups, routerTopK } from "../tensor/ops.ts";
import type { Tape } from "../tensor/tape.ts";
import type { Tensor } from "../tensor/tensor.ts";

/** Experts come only from the best `kept` of `count` groups; their weights are probabilities times `scale`. */
export interface ExpertGroups {
  readonly count: number;
  readonly kept: number;
  readonly scale: number;
}

export interface Routing extends RowMap {
  /** Before the softmax: [T, E]. */
  readonly logits: Tensor;
  /** Softmax over all experts: [T, E]. */
  readonly probs: Tensor;
  /** Best experts of each token, best first: [T, A]. */
  readonly ids: Tensor;
  /** What multiplies each chosen expert's output: [T, A]. */
  readonly weights: Tensor;
  /** Expert e has rows offsets[e]..offsets[e + 1]: [E + 1]. */
  readonly offsets: Tensor;
}

/**
 * Routes x_TD with router_ED. Logits are computed in f32 whatever the dtype of the experts: a rounding there would
 * change which expert is chosen.
 * @param normalise divide the chosen weights by their sum (`norm_topk_prob`). @param groups instead of that.
 */
export function route(
  tape: Tape,
  x: Tensor,
  router: Tensor,
  active: number,
  normalise: boolean,
  groups?: ExpertGroups,
): Routing {
  const logits = linear(tape, x, router, false);
  const { probs, ids, weights } = groups
    ? routerGroups(tape, logits, active, groups)
    : routerTopK(tape, logits, active, normalise);
  const { offsets, rowOfSlot, slotOfRow } = groupByExpert(tape, ids, router.shape[0]);
  return { logits, probs, ids, weights, offsets, rowOfSlot, slotOfRow };
}
