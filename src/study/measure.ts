// The stages of a study on a model, each of which is remembered as soon as it is done (parts.ts): the model as it is, every
// setting, activation statistics, the largest share within the tolerance, allocation over layers, decoding speed.

import { cpus } from "node:os";
import { expertWidth, keptNeurons } from "../model/config.ts";
import type { Transformer } from "../model/transformer.ts";
import { gatherActivation, layerStatistics } from "./activation.ts";
import { layerCosts, perLayerSetting } from "./allocate.ts";
import { calibrate } from "./calibrate.ts";
import { type Evaluation, Evaluator } from "./evaluate.ts";
import type { StudyParts } from "./parts.ts";
import type { StudyOptions, StudyPlan } from "./plan.ts";
import { type SettingResult, type StudyResult, settingResult, unitsOf } from "./result.ts";
import { searchKept } from "./search.ts";
import { keptCounts, neuronSetting, type Setting } from "./settings.ts";
import { speedsOf, timedSettings } from "./speeds.ts";
import { verdictOf } from "./verdict.ts";

/** Mean pruned shares at which K per layer is compared with one K. */
const perLayerShares: readonly number[] = [0.5, 0.7, 0.8, 0.9, 0.95];

type Measured = Pick<
  StudyResult,
  "kept" | "verdict" | "unit" | "settings" | "activation" | "allocation" | "speeds" | "timing" | "machine"
>;

/** All stages on a model. */
export async function measure(
  model: Transformer,
  { text, settings, seed, tolerance }: StudyPlan,
  parts: StudyParts,
  { perLayer = true, signal, onProgress }: Pick<StudyOptions, "perLayer" | "signal" | "onProgress">,
): Promise<Measured> {
  const { config } = model;
  const within = (task: string) => (done: number, total: number) => onProgress?.(task, done / total);
  const [reference] = settings;
  const evaluator = new Evaluator(model, text.measured, reference);
  const calibrated = await calibrate(
    model,
    text.calibration,
    settings.map(({ criterion }) => criterion),
    {
      signal,
      onTokens: within("calibrating"),
    },
  );
  try {
    const { of: units, ...unit } = unitsOf(text.measured.map(({ document }) => document));
    const results = new Map<string, SettingResult>();
    let referenceSums: Evaluation["windows"] = [];
    const run = async (setting: Setting, task: string): Promise<SettingResult> => {
      const known = results.get(setting.name);
      if (known) return known;
      const evaluation = await parts.once(setting.name, () =>
        evaluator.evaluate(setting, {
          seed,
          calibrated,
          signal,
          onTokens: within(`${task}: ${setting.name}`),
        }),
      );
      if (setting === reference) referenceSums = evaluation.windows;
      const result = settingResult(config, setting, evaluation, referenceSums, units, seed);
      results.set(setting.name, result);
      return result;
    };
    for (const [i, setting] of settings.entries())
      await run(setting, `setting ${i + 1} of ${settings.length}`);
    const width = expertWidth(config);
    const statisticsKept = Math.min(keptNeurons(config), Math.max(1, Math.round(width / 4)));
    const activation = await parts.once("activation", async () => {
      const gathered = await gatherActivation(model, text.measured, statisticsKept, {
        signal,
        onTokens: within("activation statistics"),
      });
      return {
        kept: statisticsKept,
        layers: gathered.map((one) => layerStatistics(one, width, statisticsKept)),
      };
    });
    const own = keptNeurons(config);
    const byGate = (mean: number) => run(neuronSetting("gate", mean), "looking for the limit");
    const layers = activation.layers.map(({ layer }) => layer);
    const allocation: StudyResult["allocation"] =
      perLayer && layers.length > 1
        ? await layerCosts(model, text.calibration, layers, parts, { seed, signal, onProgress })
        : undefined;
    const byLayer = (costs: NonNullable<typeof allocation>, mean: number) =>
      run(perLayerSetting(config, layers, costs, mean), "K per layer");
    if (allocation) {
      for (const mean of keptCounts(config, perLayerShares).filter((count) => count < own)) {
        await byLayer(allocation, mean);
        await byGate(mean);
      }
    }
    const best = await searchKept(own, results.values(), "neurons", tolerance, byGate);
    let kept: StudyResult["kept"] = best;
    if (allocation) {
      const costs = allocation;
      // K per layer is recommended where it drops more, or the same with less harm.
      const measureByLayer = (mean: number) => byLayer(costs, mean);
      const bestByLayer = await searchKept(own, results.values(), "per-layer", tolerance, measureByLayer);
      const uniform = results.get(`gate-k${best}`);
      const mean = Math.min(best, bestByLayer);
      if (mean < own) {
        const result = await byLayer(costs, mean);
        const isBetter = mean < best || result.ratio < (uniform?.ratio ?? 1);
        if (result.ratio <= 1 + tolerance && isBetter) kept = result.kept;
      }
    }
    const all = [...results.values()];
    // Depends on the tolerance by what is recommended, on the numbers of experts, and on where it is measured.
    const timed = timedSettings(config, kept, all);
    const machine = `${cpus()[0]?.model.trim()}; ${model.backend.name}`;
    onProgress?.("measuring decoding speed", 0);
    const { speeds, timing } = await parts.once("speeds", () => speedsOf(model, timed, { signal }), {
      timed,
      machine,
    });
    return {
      kept,
      verdict: verdictOf(model, kept, all, speeds, tolerance),
      unit,
      settings: all,
      activation,
      allocation,
      speeds,
      timing,
      machine,
    };
  } finally {
    calibrated.close();
  }
}
