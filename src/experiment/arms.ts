// From an experiment to its runs: each arm and seed resolved to a complete configuration, and the hash of that, which
// names the run's folder. Equal hashes mean equal results, so experiments share runs (to rounding, where machines differ:
// `dtype: auto` is what a machine is good at, and reports say where runs are of several backends).

import { createHash } from "node:crypto";
import { UsageError } from "../errors.ts";
import { expertWidth, type ModelConfig, modelDefaults } from "../model/config.ts";
import { countOfNeurons } from "../model/neurons.ts";
import { presetConfig } from "../model/presets.ts";
import { resolveTrainConfig, settings, type TrainConfig, type TrainConfigInput } from "../train/config.ts";
import type { ArmSpec, Experiment } from "./spec.ts";

/** A run folder. */
export interface PlannedPhase {
  /** What `train` is given, without what only the phase before knows: where its weights are. */
  readonly input: TrainConfigInput;
  /** Of everything that decides the result: 16 hexadecimal digits. */
  readonly hash: string;
}

/** What an arm and seed come to: a run, or the last of several phases. */
export interface PlannedRun extends PlannedPhase {
  readonly arm: string;
  readonly seed: number;
  /** Phases before the last one, each started from the one before; absent without phases. */
  readonly before?: readonly PlannedPhase[];
  /** K when measured, where the arm is pruned after training. */
  readonly prunedTo?: number;
}

/** All phases in order. */
export function phasesOf({ before = [], input, hash }: PlannedRun): PlannedPhase[] {
  return [...before, { input, hash }];
}

/** The run folders of all phases, in order. */
export function hashesOf({ before = [], hash }: Pick<PlannedRun, "hash" | "before">): string[] {
  return [...before.map((phase) => phase.hash), hash];
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
/** Settings that are hashed only where they are used: they came later, and the runs from before are still good. */
const LATER = ["startFrom", "startSequence"] as const;

/**
 * The runs in the order of the queue: seed by seed over all arms, so that whatever is finished when somebody stops is
 * made of pairs.
 * @param dataHash of tokens and held-out part. @throws UsageError for an arm that cannot be.
 */
export function planRuns(experiment: Experiment, vocabSize: number, dataHash: string): PlannedRun[] {
  return experiment.seeds.flatMap((seed) =>
    experiment.arms.map((arm): PlannedRun => {
      const phases = planPhases(experiment, arm, { seed, vocabSize, dataHash });
      const last = phases[phases.length - 1];
      const before = phases.slice(0, -1);
      const prunedTo = arm.prunedTo === undefined ? undefined : keptOf(arm.prunedTo, last.config);
      return {
        arm: arm.name,
        seed,
        input: last.input,
        hash: last.hash,
        ...(before.length > 0 && { before: before.map(({ input, hash }) => ({ input, hash })) }),
        ...(prunedTo !== undefined && { prunedTo }),
      };
    }),
  );
}

/** One for each phase of the arm, or one in all. */
function planPhases(
  experiment: Experiment,
  arm: ArmSpec,
  { seed, vocabSize, dataHash }: { seed: number; vocabSize: number; dataHash: string },
): (PlannedPhase & { config: TrainConfig })[] {
  const where = `arm ${arm.name}`;
  if (arm.phases && (arm.change?.steps ?? experiment.base.steps) !== undefined) {
    throw new UsageError(`${where}: its phases are shares of tokens: leave out steps.`);
  }
  const planned: (PlannedPhase & { config: TrainConfig })[] = [];
  let tokens = 0;
  let sequences = 0;
  for (const { share, neurons = arm.neurons, change } of arm.phases ?? [{ share: 1 }]) {
    const changed = {
      ...arm,
      neurons,
      change: { ...arm.change, ...change, model: { ...arm.change?.model, ...change?.model } },
    };
    const rest = planned.length + 1 === arm.phases?.length ? experiment.tokens - tokens : undefined;
    const own = rest ?? share * experiment.tokens;
    const start = sequences === 0 ? {} : { startSequence: sequences };
    const input = { ...armInput(experiment, changed, { seed, vocabSize, tokens: own }), ...start };
    const config = resolveTrainConfig(input, vocabSize, where);
    planned.push({ input, config, hash: hashOf(config, dataHash, planned.at(-1)?.hash) });
    const done = config.steps * config.batch * config.accumulation;
    sequences += done;
    tokens += done * config.seqLen;
  }
  return planned;
}

/** K from a share or count of an experiment's file, in which 1 is all neurons: its arms are shares. */
function keptOf(neurons: number, { model }: TrainConfig): number {
  const width = expertWidth(model);
  return neurons === 1 ? width : countOfNeurons(neurons, width);
}

/** The settings of one run. */
function armInput(
  experiment: Experiment,
  arm: ArmSpec,
  { seed, vocabSize, tokens }: { seed: number; vocabSize: number; tokens: number },
): TrainConfigInput {
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
    const kept = keptOf(arm.neurons, resolved);
    model.num_neurons_per_tok = kept === expertWidth(resolved.model) ? null : kept;
  }
  const { batch, accumulation, seqLen } = resolved;
  const steps = merged.steps ?? Math.max(1, Math.floor(tokens / (batch * accumulation * seqLen)));
  const validEvery = merged.validEvery ?? Math.max(1, Math.floor(steps / 10));
  const { data: _data, tokenizer: _tokenizer, validShare: _share, ...others } = merged;
  // The last two checkpoints stay: what changes between them is measured (measures/stability.ts).
  const kept = { keepCheckpoints: 2, checkpointEvery: Math.max(1, Math.ceil(steps / 8)) };
  return { ...kept, ...others, steps, validEvery };
}

/** @param before hash of the phase that the run starts from. */
function hashOf(config: TrainConfig, dataHash: string, before?: string): string {
  const isHashed = ([name, value]: [string, unknown]) =>
    !WITHOUT_EFFECT.includes(name) &&
    !LATER.some((later) => later === name && value === settings[later].default);
  const parts = Object.fromEntries(Object.entries(config).filter(isHashed));
  return createHash("sha256")
    .update(canonical([parts, dataHash, ...(before === undefined ? [] : [before])]))
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
