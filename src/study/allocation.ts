// K of each layer from what pruning it alone costs: greedy. Nothing is measured here.

/**
 * Spends a budget of kept neurons where they are worth most: all layers begin with all neurons, and again and again the
 * layer is pruned whose loss per neuron dropped is least, looking at every smaller count and not only at the next, so that
 * a layer is not stuck behind one dear step. Costs of layers are taken to add up.
 * @param counts numbers of neurons for which costs are known, falling; the first keeps all.
 * @param costs by layer: what each of `counts` costs when this layer alone keeps that many.
 * @param meanKept budget: the mean over layers that must not be exceeded; from the least of `counts` up.
 * @returns K of each layer, whose mean is the budget as nearly as whole numbers allow.
 */
export function allocateGreedily(
  counts: readonly number[],
  costs: readonly (readonly number[])[],
  meanKept: number,
): number[] {
  const budget = Math.floor(meanKept * costs.length + 1e-9);
  const at = costs.map(() => 0);
  const kept = costs.map(() => counts[0]);
  let total = counts[0] * costs.length;
  while (total > budget) {
    let best: { layer: number; index: number; price: number } | undefined;
    for (const [layer, cost] of costs.entries()) {
      for (let index = at[layer] + 1; index < counts.length; index++) {
        const price = (cost[index] - cost[at[layer]]) / (counts[at[layer]] - counts[index]);
        if (!best || price < best.price) best = { layer, index, price };
      }
    }
    if (!best) break;
    const { layer, index } = best;
    total -= counts[at[layer]] - counts[index];
    at[layer] = index;
    kept[layer] = counts[index];
    if (total < budget) {
      // The last step went too far: its layer gets back what is left.
      kept[layer] += budget - total;
      break;
    }
  }
  return kept;
}
