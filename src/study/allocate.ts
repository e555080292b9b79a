// What pruning one layer alone costs, measured on calibration text, and the K per layer that follow (allocation.ts).

import { expertWidth, keptNeurons, type ModelConfig } from "../model/config.ts";
import type { Transformer } from "../model/transformer.ts";
import { allocateGreedily } from "./allocation.ts";
import { Evaluator } from "./evaluate.ts";
import type { StudyParts } from "./parts.ts";
import type { StudyResult } from "./result.ts";
import { keptCounts, type Setting } from "./settings.ts";
import type { Window } from "./text.ts";

const shares: readonly number[] = [0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98];

type Allocation = NonNullable<StudyResult["allocation"]>;

/** Divergence, nats per token, of each layer at each count when all others keep what the model keeps. */
export async function layerCosts(
  model: Transformer,
  windows: readonly Window[],
  layers: readonly number[],
  parts: StudyParts,
  {
    seed,
    signal,
    onProgress,
  }: { seed: number; signal?: AbortSignal; onProgress?: (task: string, share: number) => void },
): Promise<Allocation> {
  const { config } = model;
  const own = keptNeurons(config);
  const counts = [own, ...keptCounts(config, shares).filter((count) => count < own)];
  const reference: Setting = { name: "reference", kind: "reference", criterion: "gate", kept: own };
  const evaluator = new Evaluator(model, windows, reference);
  const costs: number[][] = [];
  for (const [i, layer] of layers.entries()) {
    onProgress?.("cost of each layer", i / layers.length);
    costs.push(
      await parts.once(`layer-${layer}`, async () => {
        const cost = [0];
        for (const count of counts.slice(1)) {
          const kept = Array.from({ length: config.num_hidden_layers }, (_, l) =>
            l === layer ? count : own,
          );
          const setting: Setting = { name: "", kind: "experts", criterion: "gate", kept };
          const sums = (await evaluator.evaluate(setting, { seed, signal })).windows;
          const total = (of: (one: (typeof sums)[number]) => number) =>
            sums.reduce((sum, one) => sum + of(one), 0);
          cost.push(Math.max(0, total((one) => one.divergence) / total((one) => one.tokens)));
        }
        return cost;
      }),
    );
  }
  return { counts, costs };
}

/** K per layer with this mean. Layers without experts have the full width, which nobody reads. */
export function perLayerSetting(
  config: ModelConfig,
  layers: readonly number[],
  { counts, costs }: Allocation,
  mean: number,
): Setting {
  const kept = new Array<number>(config.num_hidden_layers).fill(expertWidth(config));
  const allocated = allocateGreedily(counts, costs, mean);
  for (const [i, layer] of layers.entries()) kept[layer] = allocated[i];
  return { name: `per-layer-k${mean}`, kind: "per-layer", criterion: "gate", kept };
}
