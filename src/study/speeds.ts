// Which settings are timed in decoding, and what their speeds are called.

import { expertWidth, keptNeurons, type ModelConfig } from "../model/config.ts";
import { countOfPruned, type Kept } from "../model/neurons.ts";
import { countParameters } from "../model/parameters.ts";
import type { Transformer } from "../model/transformer.ts";
import {
  activatedParameters,
  meanKept,
  type SettingResult,
  type SpeedResult,
  type Timing,
} from "./result.ts";
import { measureSpeeds, type SpeedContender } from "./speed.ts";

const timedShares: readonly number[] = [0.5, 0.75, 0.9];

/** Largest model of which statically pruned ones are made to be timed. */
const MOST_PARAMETERS_CUT = 5e8;

/** A contender, and what it stands for in the study. */
export interface TimedSetting extends SpeedContender {
  readonly kind: SpeedResult["kind"];
  readonly setting?: string;
  /** Of neurons kept. */
  readonly share: number;
}

/** What is timed: the model as it is, the recommended K, some shares by gate, statically cut experts, fewer experts. */
export function timedSettings(
  config: ModelConfig,
  recommended: Kept,
  settings: readonly SettingResult[],
): TimedSetting[] {
  const width = expertWidth(config);
  const own = keptNeurons(config);
  const timed: TimedSetting[] = [
    { name: "as it is", kind: "neurons", setting: "reference", kept: own, share: own / width },
  ];
  timed.push({
    name: "recommended",
    kind: "neurons",
    kept: recommended,
    share: meanKept(config, recommended) / width,
  });
  const counts = [...new Set(timedShares.map((share) => countOfPruned(share, width)))];
  for (const kept of counts.filter((count) => count < own)) {
    timed.push({
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
    timed.push({
      name: `cut to ${cutTo}`,
      kind: "static",
      setting: `static-k${cutTo}`,
      cutTo,
      share: cutTo / width,
    });
  }
  for (const { name, active } of settings) {
    if (active !== undefined) {
      timed.push({
        name: active === 1 ? "1 expert" : `${active} experts`,
        kind: "experts",
        setting: name,
        active,
        share: own / width,
      });
    }
  }
  return timed;
}

/** Times them; the first one is what the others are compared with. */
export async function speedsOf(
  model: Transformer,
  timed: readonly TimedSetting[],
  { signal }: { signal?: AbortSignal },
): Promise<{ timing: Timing; speeds: SpeedResult[] }> {
  const { turns, tokens, speeds } = await measureSpeeds(model, timed, { signal });
  return {
    timing: { turns, tokens },
    speeds: timed.map(({ name, kind, setting, share, active }, i) => ({
      name,
      ...(setting !== undefined && { setting }),
      kind,
      prunedShare: 1 - share,
      activatedParameters: activatedParameters(
        model.config,
        kind === "static" ? "static" : "gate",
        share,
        active,
      ),
      tokensPerSecond: speeds[i].median,
      least: speeds[i].least,
      most: speeds[i].most,
      speedup: speeds[i].median / speeds[0].median,
    })),
  };
}
