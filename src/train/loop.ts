// A whole run: data, model, steps, validations, checkpoints, metrics, and how it stops and goes on. The arithmetic of
// a step is step.ts; what is saved is trainer.ts; where it is saved is runFolder.ts.

import { rmSync } from "node:fs";
import { join } from "node:path";
import { arithmeticOf, type Backend } from "../backends/backend.ts";
import { openBackend } from "../backends/cpu.ts";
import { writeFileAtomic } from "../checkpoint/atomic.ts";
import { findModelFolder } from "../checkpoint/loadModel.ts";
import { readTokenizer } from "../checkpoint/modelFolder.ts";
import { RunError, UsageError } from "../errors.ts";
import { countParameters, type ParameterCounts } from "../model/parameters.ts";
import type { OnProgress } from "../text/progress.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import { packageVersion } from "../version.ts";
import {
  resolveTrainConfig,
  settingNames,
  settings,
  settingsAmong,
  type TrainConfigInput,
} from "./config.ts";
import { type PreparedData, prepareData } from "./data.ts";
import { RunFolder } from "./runFolder.ts";
import type { StepMetrics } from "./step.ts";
import { Trainer } from "./trainer.ts";
import { type Validation, validate } from "./validate.ts";

/** One line of metrics.jsonl. */
export interface MetricsRecord extends StepMetrics {
  /** Updates done, from 1. */
  step: number;
  /** Tokens trained on so far. */
  tokens: number;
  learningRate: number;
  tokensPerSecond: number;
  /** Seconds of training so far. */
  seconds: number;
  validLoss?: number;
  validBitsPerByte?: number;
}

export interface TrainOptions extends TrainConfigInput {
  /** Run folder; default: `defaultRunFolder`. */
  readonly out?: string;
  /** Continue the run in `out` from its newest checkpoint. Its own configuration applies. */
  readonly resume?: boolean;
  /** Where to compute; default: the best backend of this machine. A backend that is given stays open. */
  readonly backend?: Backend;
  readonly threads?: number;
  /** Data prepared already, shared between runs; default: prepared in the run folder. */
  readonly prepared?: PreparedData;
  /** Stops after the current step, with a checkpoint; the promise then rejects with the signal's reason. */
  readonly signal?: AbortSignal;
  /** After every step. `steps` is the run's total. */
  readonly onStep?: (record: MetricsRecord, steps: number) => void;
  readonly onProgress?: OnProgress;
  /** Told one line about things the user should know, such as a slow backend. */
  readonly announce?: (line: string) => void;
}

export interface TrainResult {
  /** The run folder. */
  path: string;
  /** The last checkpoint, a model folder. */
  checkpoint: string;
  steps: number;
  tokens: number;
  /** On the whole validation part, after the last step. */
  validation: Validation;
  parameters: ParameterCounts;
  seconds: number;
  tokensPerSecond: number;
  backend: string;
}

/**
 * Trains a model. Everything that decides the result is in the configuration, so the same options give the same run,
 * and a run that was killed and resumed ends in the same weights, bit for bit, on the same backend.
 * @throws UsageError for settings or data that cannot work; Diverged for a loss that is not finite; RunError for damaged
 * checkpoints, a full disk.
 */
export async function train(options: TrainOptions = {}): Promise<TrainResult> {
  const { announce = console.error } = options;
  const given = settingsAmong(options, RUN_OPTIONS);
  const path = options.out ?? defaultRunFolder(given);
  const existing = options.resume ? RunFolder.open(path) : undefined;
  if (existing) refuseChanges(given, existing);
  const input = existing ? storedSettings(existing.config as TrainConfigInput) : given;
  const wanted = resolveTrainConfig(input, 1);

  const backend = options.backend ?? openBackend({ threads: options.threads }, announce);
  const run = existing ?? RunFolder.create(path, input);
  let started = false;
  let unlock: (() => void) | undefined;
  try {
    unlock = run.lock();
    const { dataHash: known } = (existing?.config ?? {}) as { dataHash?: string };
    const prepared =
      options.prepared ?? (await prepareData(join(path, "data"), { ...options, ...wanted, known, announce }));
    const dataHash = prepared.dataset.hash;
    if (known !== undefined && known !== dataHash) {
      throw new UsageError(
        `the text is not the one that ${path} was begun with: bring that back to ${wanted.data ?? "its place"}, or start a new run with another --out`,
      );
    }
    const config = resolveTrainConfig(input, prepared.tokenizer.vocabSize);
    const trainer = new Trainer(config, prepared.dataset, backend);
    try {
      if (run.checkpoints().length === 0) {
        refuseOtherTokenizer(config.startFrom, prepared.tokenizer);
        trainer.initialise();
      }
      const record = { ...config, dataHash, versions: versions(backend) };
      await writeFileAtomic(join(path, "config.json"), `${JSON.stringify(record, null, 2)}\n`);
      started = true;
      return await runSteps(run, trainer, prepared, options);
    } finally {
      trainer.close();
    }
  } finally {
    // Nothing was computed yet, so nothing is lost, and the same command can be given again. Only under our own lock:
    // otherwise another process has taken the folder up.
    if (unlock && !started && !existing) rmSync(path, { recursive: true, force: true });
    else unlock?.();
    if (!options.backend) backend.close();
  }
}

/** Goes from the newest checkpoint, or from the first weights that the trainer has, to the last step. */
async function runSteps(
  run: RunFolder,
  trainer: Trainer,
  { tokenizer, dataset }: PreparedData,
  { signal, onStep, announce = console.error }: TrainOptions,
): Promise<TrainResult> {
  const { config, model } = trainer;
  const { backend } = model;
  const saved = run.checkpoints().at(-1);
  if (saved) {
    const madeBy = trainer.load(saved.path);
    if (arithmeticOf(madeBy) !== arithmeticOf(backend.name)) {
      announce(`This run was on ${madeBy}; on ${backend.name} it goes on correctly, but not bit for bit.`);
    }
  }
  run.truncateMetrics(trainer.step);
  const validationOf = (limits: { maxTokens?: number; signal?: AbortSignal }) =>
    validate(model, dataset.valid, { ...config, bf16: trainer.bf16, ...limits });
  const save = async () => {
    if (run.checkpoints().some(({ step }) => step === trainer.step)) return;
    const keep = {
      last: config.keepCheckpoints,
      every: config.checkpointEvery,
      ...(trainer.best && { best: trainer.best.step }),
    };
    await run.saveCheckpoint(trainer.step, (folder) => trainer.save(folder, tokenizer), keep);
  };

  while (trainer.step < config.steps) {
    if (signal?.aborted) {
      await save();
      throw signal.reason;
    }
    const before = trainer.seconds;
    const position = trainer.position;
    const metrics = await trainer.advance();
    const { step, seconds } = trainer;
    if (!Number.isFinite(metrics.loss) || !Number.isFinite(metrics.gradientNorm))
      throw notFinite(run, step, position, metrics);
    const record: MetricsRecord = {
      step,
      tokens: step * trainer.tokensPerStep,
      ...metrics,
      tokensPerSecond: trainer.tokensPerStep / (seconds - before),
      seconds,
    };
    const isLast = step === config.steps;
    if (step % config.validEvery === 0 || isLast) {
      const { loss, bitsPerByte } = await validationOf({ maxTokens: config.validTokens });
      if (!Number.isFinite(loss)) throw notFinite(run, step, position, { ...metrics, loss });
      record.validLoss = loss;
      record.validBitsPerByte = bitsPerByte;
      if (!trainer.best || loss < trainer.best.loss) trainer.best = { step, loss };
    }
    run.appendMetrics(record);
    onStep?.(record, config.steps);
    if (step % config.checkpointEvery === 0 || isLast || trainer.best?.step === step) await save();
  }

  const validation = await validationOf({ signal });
  if (!Number.isFinite(validation.loss)) {
    throw notFinite(run, trainer.step, trainer.position, { loss: validation.loss, gradientNorm: 0 });
  }
  const result: TrainResult = {
    path: run.path,
    checkpoint: run.checkpoints().at(-1)?.path ?? run.path,
    steps: trainer.step,
    tokens: trainer.step * trainer.tokensPerStep,
    validation,
    parameters: countParameters(config.model),
    seconds: trainer.seconds,
    tokensPerSecond: (trainer.step * trainer.tokensPerStep) / trainer.seconds,
    backend: backend.name,
  };
  await writeFileAtomic(join(run.path, "result.json"), `${JSON.stringify(result, null, 2)}\n`);
  return result;
}

/** The rows of an embedding mean what the tokenizer says. */
function refuseOtherTokenizer(startFrom: string | null, tokenizer: Tokenizer): void {
  if (startFrom === null) return;
  if (JSON.stringify(readTokenizer(findModelFolder(startFrom))) === JSON.stringify(tokenizer)) return;
  throw new UsageError(
    `${startFrom} has another tokenizer than this run: give its tokenizer.json as the tokenizer.`,
  );
}

/** A loss or gradient is not finite. The same configuration does it again. */
export class Diverged extends RunError {
  /** "loss NaN at step 12". */
  readonly reason: string;

  constructor(message: string, reason: string) {
    super(message);
    this.reason = reason;
  }
}

function notFinite(
  run: RunFolder,
  step: number,
  position: number,
  { loss, gradientNorm }: StepMetrics,
): Diverged {
  const good = run.checkpoints().at(-1);
  return new Diverged(
    `Step ${step} of ${run.path} gave loss ${loss} and gradient norm ${gradientNorm} (batch from sequence ${position} on); ` +
      `${good ? `the last good checkpoint is ${good.path}` : "there is no checkpoint yet"}. ` +
      "Lower the learning rate or raise warm-up.",
    `${Number.isFinite(loss) ? `gradient norm ${gradientNorm}` : `loss ${loss}`} at step ${step}`,
  );
}

/** Where a run goes if nobody says: `runs/<preset>-seed<seed>`. */
export function defaultRunFolder({ preset, seed }: TrainConfigInput): string {
  return join("runs", `${preset ?? settings.preset.default}-seed${seed ?? settings.seed.default}`);
}

/** Options that say how to run, not what to compute. */
const RUN_OPTIONS = [
  "out",
  "resume",
  "backend",
  "threads",
  "prepared",
  "signal",
  "onStep",
  "onProgress",
  "announce",
];

/** The settings among the keys of a stored configuration. */
function storedSettings(stored: TrainConfigInput): TrainConfigInput {
  const entries = [...settingNames, "model" as const].map((name) => [name, stored[name]]);
  return Object.fromEntries(entries.filter(([, value]) => value !== undefined));
}

/** A resumed run keeps its configuration: a changed one would make its first half something else. */
function refuseChanges(given: TrainConfigInput, run: RunFolder): void {
  const stored = run.config as Record<string, unknown>;
  const storedModel = (stored.model ?? {}) as Record<string, unknown>;
  const pairs = [
    ...Object.entries(given)
      .filter(([name]) => name !== "model")
      .map(([name, value]) => [name, value, stored[name]]),
    ...Object.entries(given.model ?? {}).map(([name, value]) => [`model.${name}`, value, storedModel[name]]),
  ];
  for (const [name, value, was] of pairs) {
    if (JSON.stringify(value) === JSON.stringify(was)) continue;
    throw new UsageError(
      `${run.path} was started with ${name} = ${JSON.stringify(was)}, so it cannot be resumed with ${JSON.stringify(value)}: ` +
        "leave it out, or start a new run with another --out",
    );
  }
}

/** What a result depends on besides its configuration. */
function versions(backend: Backend): Record<string, string> {
  return { package: packageVersion, node: process.version, backend: backend.name };
}
