// The result of a study in words.

import { expertWidth, keptNeurons } from "../model/config.ts";
import type { Kept } from "../model/neurons.ts";
import type { Transformer } from "../model/transformer.ts";
import { decodeBytes } from "../model/work.ts";
import { formatPercent } from "../report/format.ts";
import { meanKept, type SettingResult, type SpeedResult, type Verdict } from "./result.ts";
import { formatOf } from "./speed.ts";

/** Turns of the same model whose speeds differ by more say nothing about a ratio of medians. */
const STEADY = 1.5;

export function verdictOf(
  { config, head }: Transformer,
  kept: Kept,
  settings: readonly SettingResult[],
  speeds: readonly SpeedResult[],
  tolerance: number,
): Verdict {
  const width = expertWidth(config);
  const own = keptNeurons(config);
  const mean = Math.round(meanKept(config, kept));
  const name = typeof kept === "object" ? `per-layer-k${mean}` : mean === own ? "reference" : `gate-k${mean}`;
  const result = settings.find((one) => one.name === name);
  if (!result) throw new Error(`the recommended ${name} was not measured`);
  const bytes = (k: number) => decodeBytes({ ...config, num_neurons_per_tok: k }, formatOf(head.dtype)).total;
  const expectedSpeedup = bytes(own) / bytes(mean);
  const recommended = speeds.find(({ name }) => name === "recommended");
  const measuredSpeedup = recommended?.speedup ?? Number.NaN;
  const unsteady = [speeds[0], recommended].some((one) => one && one.most > STEADY * one.least);
  const prunedShare = 1 - mean / width;
  const { ratio, ratioInterval } = result;
  const rise = (value: number) => `${value < 1 ? "-" : "+"}${formatPercent(Math.abs(value - 1), 2)}`;
  const limit = formatPercent(
    tolerance,
    tolerance < 0.01 ? 2 : tolerance * 100 === Math.round(tolerance * 100) ? 0 : 1,
  );
  const how =
    typeof kept === "object" ? `K per layer, ${mean} of ${width} on average` : `K = ${mean} of ${width}`;
  const text =
    mean === own
      ? `No neurons can be dropped for at most ${limit} higher perplexity on this text, beyond what the model drops itself (${how}).`
      : `Drop up to ${formatPercent(prunedShare, 0)} of neurons (${how}) for at most ${limit} higher perplexity on this text: ` +
        `${rise(ratio)} (95 % interval ${rise(ratioInterval.low)} to ${rise(ratioInterval.high)}); ` +
        `expected decode speed-up ${expectedSpeedup.toFixed(2)}x (measured ${measuredSpeedup.toFixed(2)}x${unsteady ? `, but turns of the same model differed by more than ${STEADY} times: measure again on a quiet machine` : ""}).`;
  return { text, prunedShare, ratio, ratioInterval, expectedSpeedup, measuredSpeedup };
}
