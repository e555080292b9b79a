// From an experiment to its runs: each arm and seed resolved to a complete configuration, and the hash of that, which
// names the run's folder. Equal hashes mean equal results, so experiments share runs.

import { createHash } from "node:crypto";
import { UsageError } from "../errors.ts";
import { expertWidth, type ModelConfig, modelDefaults } from "../model/config.ts";
import { countOfNeurons } from "../model/neurons.ts";
import { presetConfig } from "../model/presets.ts";
import { resolveTrainConfig, settings, type TrainConfig, type TrainConfigInput } from "../train/config.ts";
import type { ArmSpec, Experiment } from "./spec.ts";

export interface PlannedRun {
  readonly arm: string;
  readonly seed: number;
  /** What `train` is given. */
  readonly input: TrainConfigInput;
  /** Of everything that decides the result: 16 hexadecimal digits. */
  readonly hash: string;
}

/** Settings that decide how a run is kept or computed, not what comes out; and those that the data's hash stands for. */
const WITHOUT_EFFECT = [
  "checkpointEvery",
  "keepCheckpoints",
  "recompute",
  "preset",
  "data",
  "tokenizer",
  "validShare",
];

/**
 * The runs in the order of the queue: seed by seed over all arms, so that whatever is finished when somebody stops is
 * made of pairs.
 * @param dataHash of tokens and held-out part. @throws UsageError for an arm that cannot be.
 */
export function planRuns(experiment: Experiment, vocabSize: number, dataHash: string): PlannedRun[] {
  return experiment.seeds.flatMap((seed) =>
    experiment.arms.map((arm) => {
      const input = armInput(experiment, arm, seed, vocabSize);
      const config = resolveTrainConfig(input, vocabSize, `arm ${arm.name}`);
      return { arm: arm.name, seed, input, hash: hashOf(config, dataHash) };
    }),
  );
}

/** The settings of one run. */
function armInput(experiment: Experiment, arm: ArmSpec, seed: number, vocabSize: number): TrainConfigInput {
  const where = `arm ${arm.name}`;
  const { base } = experiment;
  const preset = presetConfig(arm.change?.preset ?? base.preset ?? settings.preset.default);
  const model: Record<string, unknown> = { ...base.model, ...arm.change?.model };
  const start: Partial<ModelConfig> = { ...modelDefaults, ...preset, ...model };
  for (const [key, factor] of Object.entries(arm.times?.model ?? {})) {
    const value = start[key as keyof ModelConfig];
    const product = typeof value === "number" ? Math.round(value * factor * 1e9) / 1e9 : Number.NaN;
    if (!Number.isInteger(product) || product < 1) {
      throw new UsageError(`${where}: ${key} = ${value} times ${factor} is no whole number of at least 1.`);
    }
    model[key] = product;
  }
  const merged = { ...base, ...arm.change, seed, model };
  const resolved = resolveTrainConfig(merged, vocabSize, where);
  if (arm.neurons !== undefined) {
    const width = expertWidth(resolved.model);
    // In an experiment's file 1 is all neurons: its arms are shares.
    const kept = arm.neurons === 1 ? width : countOfNeurons(arm.neurons, width);
    model.num_neurons_per_tok = kept === width ? null : kept;
  }
  const { batch, accumulation, seqLen } = resolved;
  const steps = merged.steps ?? Math.max(1, Math.floor(experiment.tokens / (batch * accumulation * seqLen)));
  const validEvery = merged.validEvery ?? Math.max(1, Math.floor(steps / 10));
  const { data: _data, tokenizer: _tokenizer, validShare: _share, ...others } = merged;
  return { keepCheckpoints: 1, checkpointEvery: 100, ...others, steps, validEvery };
}

function hashOf(config: TrainConfig, dataHash: string): string {
  const parts = Object.entries(config).filter(([name]) => !WITHOUT_EFFECT.includes(name));
  return createHash("sha256")
    .update(canonical([Object.fromEntries(parts), dataHash]))
    .digest("hex")
    .slice(0, 16);
}

/** JSON with keys in order. */
function canonical(value: unknown): string {
  return JSON.stringify(value, (_key, inner: unknown) =>
    typeof inner === "object" && inner !== null && !Array.isArray(inner)
      ? Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1)))
      : inner,
  );
}
