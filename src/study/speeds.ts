// Which settings are timed in decoding, and what their speeds are called.

import { expertWidth, keptNeurons } from "../model/config.ts";
import type { Kept } from "../model/neurons.ts";
import { countParameters } from "../model/parameters.ts";
import type { Transformer } from "../model/transformer.ts";
import { activatedParameters, meanKept, type SettingResult, type SpeedResult } from "./result.ts";
import { measureSpeeds, type SpeedContender } from "./speed.ts";

const timedShares: readonly number[] = [0.5, 0.75, 0.9];

/** Largest model of which statically pruned ones are made to be timed. */
const MOST_PARAMETERS_CUT = 5e8;

/** Times the model as it is, the recommended K, some shares by gate, statically cut experts, and fewer experts. */
export async function speedsOf(
  model: Transformer,
  recommended: Kept,
  settings: readonly SettingResult[],
  { signal, onProgress }: { signal?: AbortSignal; onProgress?: (task: string, share: number) => void },
): Promise<SpeedResult[]> {
  const { config } = model;
  const width = expertWidth(config);
  const own = keptNeurons(config);
  onProgress?.("measuring decoding speed", 0);
  interface Entry extends SpeedContender {
    readonly kind: SpeedResult["kind"];
    readonly setting?: string;
    readonly share: number;
  }
  const entries: Entry[] = [
    { name: "as it is", kind: "neurons", setting: "reference", kept: own, share: own / width },
  ];
  entries.push({
    name: "recommended",
    kind: "neurons",
    kept: recommended,
    share: meanKept(config, recommended) / width,
  });
  const counts = [...new Set(timedShares.map((share) => Math.max(1, Math.round((1 - share) * width))))];
  for (const kept of counts.filter((count) => count < own)) {
    entries.push({
      name: `K = ${kept}`,
      kind: "neurons",
      setting: `gate-k${kept}`,
      kept,
      share: kept / width,
    });
  }
  // Such a model is made beside the one that is studied: only where both surely fit into memory.
  const small = countParameters(config).total <= MOST_PARAMETERS_CUT;
  for (const cutTo of counts.filter((count) => small && count < own)) {
    entries.push({
      name: `cut to ${cutTo}`,
      kind: "static",
      setting: `static-k${cutTo}`,
      cutTo,
      share: cutTo / width,
    });
  }
  for (const { name, active } of settings) {
    if (active !== undefined) {
      entries.push({
        name: active === 1 ? "1 expert" : `${active} experts`,
        kind: "experts",
        setting: name,
        active,
        share: own / width,
      });
    }
  }
  const speeds = await measureSpeeds(model, entries, { signal });
  return entries.map(({ name, kind, setting, share, active }, i) => ({
    name,
    ...(setting !== undefined && { setting }),
    kind,
    prunedShare: 1 - share,
    activatedParameters: activatedParameters(config, kind === "static" ? "static" : "gate", share, active),
    tokensPerSecond: speeds[i].tokensPerSecond,
    speedup: speeds[i].tokensPerSecond / speeds[0].tokensPerSecond,
  }));
}
