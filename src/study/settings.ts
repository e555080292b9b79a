// What a study measures: criteria and pruned shares as a plain list of settings with stable names. Letters: F expert width,
// K neurons kept per token in each expert, A experts per token.

import { UsageError } from "../errors.ts";
import { expertWidth, keptNeurons, type ModelConfig } from "../model/config.ts";
import { countOfPruned, resolveNeurons } from "../model/neurons.ts";

/** Ways to choose neurons, as users name them; `static` keeps the same neurons for every token. */
export const criteria = ["gate", "oracle", "oracle-norm", "threshold", "random", "static"] as const;
export type Criterion = (typeof criteria)[number];

export const defaultShares: readonly number[] = [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98];

export interface Setting {
  /** Unique and the same in every run: `gate-k51`, `experts-2`, `per-layer-0.8`. */
  readonly name: string;
  readonly kind: "reference" | "neurons" | "experts" | "per-layer";
  readonly criterion: Criterion;
  /** K; for `per-layer` one of each layer. For `threshold` only the aim. */
  readonly kept: number | readonly number[];
  /** A, where it is not the model's. */
  readonly active?: number;
}

/** Settings before anything is measured: the model as it is, then every criterion at every share, then fewer experts. */
export function planSettings(
  config: ModelConfig,
  wanted: readonly Criterion[],
  shares: readonly number[],
  experts: readonly number[],
): Setting[] {
  const own = keptNeurons(config);
  const settings: Setting[] = [{ name: "reference", kind: "reference", criterion: "gate", kept: own }];
  for (const criterion of wanted) {
    for (const kept of keptCounts(config, shares)) {
      // All neurons by another rule, or by the model's own, is the same model to the last bit.
      if (kept === expertWidth(config) && (criterion !== "gate" || kept === own)) continue;
      if (kept === own && criterion === "gate") continue;
      settings.push(neuronSetting(criterion, kept));
    }
  }
  for (const active of experts) {
    settings.push({ name: `experts-${active}`, kind: "experts", criterion: "gate", kept: own, active });
  }
  return settings;
}

/** What names of lists that users give begin with. */
export const GIVEN = "given-";

/** A list of K by layer that the user brings. @throws UsageError if it does not fit. */
export function givenSetting(config: ModelConfig, kept: readonly number[], number: number): Setting {
  return {
    name: `${GIVEN}${number}`,
    kind: "per-layer",
    criterion: "gate",
    kept: resolveNeurons(kept, config),
  };
}

export function neuronSetting(criterion: Criterion, kept: number): Setting {
  return { name: `${criterion}-k${kept}`, kind: "neurons", criterion, kept };
}

/** K of each share pruned, without repetition, largest first. @throws UsageError for a share out of bounds. */
export function keptCounts(config: ModelConfig, shares: readonly number[]): number[] {
  const width = expertWidth(config);
  for (const share of shares) {
    if (!(share >= 0 && share < 1)) {
      throw new UsageError(`pruned shares are numbers from 0 to below 1, not ${share}`);
    }
  }
  const counts = new Set(shares.map((share) => countOfPruned(share, width)));
  return [...counts].sort((a, b) => b - a);
}

/** @throws UsageError for a name that is none, or no criterion at all. */
export function parseCriteria(names: readonly string[]): Criterion[] {
  const unknown = names.find((name) => !(criteria as readonly string[]).includes(name));
  if (unknown !== undefined || names.length === 0) {
    throw new UsageError(
      `criteria are ${criteria.join(", ")}${unknown === undefined ? "" : `, not ${unknown}`}`,
    );
  }
  return criteria.filter((name) => names.includes(name));
}
