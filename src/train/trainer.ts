// The state of training and the way it is saved: model, optimiser, step. A checkpoint is a model folder
// (checkpoint/modelFolder.ts) with optimizer.safetensors and trainer.json beside it. Data order and every random
// number follow from seed and step, so nothing else needs saving.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Backend } from "../backends/backend.ts";
import { writeFileAtomic } from "../checkpoint/atomic.ts";
import { findModelFolder } from "../checkpoint/loadModel.ts";
import { loadParameters, readConfigs, readTensor, saveModel } from "../checkpoint/modelFolder.ts";
import { requireFloats } from "../checkpoint/quantization.ts";
import { SafetensorsFile, type TensorSource, writeSafetensors } from "../checkpoint/safetensors.ts";
import { RunError } from "../errors.ts";
import { Transformer } from "../model/transformer.ts";
import { BatchSampler, checkSplit } from "../text/batches.ts";
import type { TokenDataset } from "../text/dataset.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import { type TrainConfig, usesBf16 } from "./config.ts";
import { AdamW } from "./optimizer.ts";
import { cosineRate } from "./schedule.ts";
import { type StepMetrics, trainStep } from "./step.ts";

/** What trainer.json holds. */
interface SavedState {
  format: 1;
  step: number;
  /** Seconds of training so far. */
  seconds: number;
  best: { step: number; loss: number } | null;
  backend: string;
}

export class Trainer {
  readonly config: TrainConfig;
  readonly model: Transformer;
  readonly optimizer: AdamW;
  readonly sampler: BatchSampler;
  readonly bf16: boolean;
  /** Updates done. */
  step = 0;
  seconds = 0;
  /** The validation with the lowest loss so far. */
  best: { step: number; loss: number } | null = null;

  constructor(config: TrainConfig, dataset: TokenDataset, backend: Backend) {
    this.config = config;
    checkSplit(dataset.valid, config.seqLen, "validation"); // now, not after the first hundred steps
    this.sampler = new BatchSampler(dataset.train, { seqLen: config.seqLen, seed: config.seed });
    this.bf16 = usesBf16(config, backend);
    this.model = new Transformer(config.model, backend);
    const { beta1, beta2, epsilon, weightDecay, clip } = config;
    this.optimizer = new AdamW(backend, this.model.parameters.values(), {
      beta1,
      beta2,
      epsilon,
      weightDecay,
      clip,
    });
  }

  /**
   * Weights of step 0: from the seed, or those of the model that the run starts from. Follow the constructor with this or
   * with `load`. @throws UsageError or RunError if that model is missing, damaged or of another shape.
   */
  initialise(): void {
    const { startFrom, seed } = this.config;
    if (startFrom === null) {
      this.model.initialise(seed);
      return;
    }
    const folder = findModelFolder(startFrom);
    requireFloats(readConfigs(folder).stored, folder, "trained on");
    loadParameters(this.model, folder);
  }

  get tokensPerStep(): number {
    return this.config.batch * this.config.accumulation * this.config.seqLen;
  }

  /** Index of the next step's first sequence in the sampler. */
  get position(): number {
    const { startSequence, batch, accumulation } = this.config;
    return startSequence + this.step * batch * accumulation;
  }

  get learningRate(): number {
    const { learningRate: base, warmup, steps: total, minLearningRate: minRatio } = this.config;
    return cosineRate(this.step, { base, warmup, total, minRatio });
  }

  /** One update. */
  async advance(): Promise<StepMetrics & { learningRate: number }> {
    const { batch, accumulation, recompute } = this.config;
    const { learningRate, bf16, position } = this;
    const batches = Array.from({ length: accumulation }, (_, i) =>
      this.sampler.batch(position + i * batch, batch),
    );
    const start = performance.now();
    const metrics = await trainStep(this.model, this.optimizer, batches, {
      learningRate,
      bf16,
      recompute,
    });
    this.seconds += (performance.now() - start) / 1000;
    this.step++;
    return { ...metrics, learningRate };
  }

  /** Fills a folder with everything `load` needs. */
  async save(folder: string, tokenizer: Tokenizer): Promise<void> {
    await saveModel(folder, this.model, tokenizer);
    const { backend } = this.model;
    const sources = this.optimizer.moments.flatMap(({ parameter, m, v }) =>
      Object.entries({ m, v }).map(
        ([name, moment]): TensorSource => ({
          name: `${parameter.name}.${name}`,
          dtype: "F32",
          shape: parameter.shape,
          data: () => backend.read(moment.buffer, 0, moment.size),
        }),
      ),
    );
    await writeSafetensors(join(folder, "optimizer.safetensors"), sources);
    const { step, seconds, best } = this;
    const state: SavedState = { format: 1, step, seconds, best, backend: backend.name };
    await writeFileAtomic(join(folder, "trainer.json"), `${JSON.stringify(state)}\n`);
  }

  /**
   * Takes up the state that `save` left. @returns the name of the backend that made it.
   * @throws RunError if a file is missing or damaged.
   */
  load(folder: string): string {
    const path = join(folder, "trainer.json");
    let state: SavedState;
    try {
      state = JSON.parse(readFileSync(path, "utf8"));
    } catch (error) {
      throw new RunError(`${path} cannot be read: delete this checkpoint to resume from the one before`, {
        cause: error,
      });
    }
    if (state.format !== 1)
      throw new RunError(`${path} has format ${state.format}, but this version reads format 1`);
    loadParameters(this.model, folder);
    const file = SafetensorsFile.open(join(folder, "optimizer.safetensors"));
    for (const { parameter, m, v } of this.optimizer.moments) {
      this.model.backend.write(m.buffer, readTensor(file, `${parameter.name}.m`, parameter.shape));
      this.model.backend.write(v.buffer, readTensor(file, `${parameter.name}.v`, parameter.shape));
    }
    file.close();
    this.step = state.step;
    this.optimizer.step = state.step;
    this.seconds = state.seconds;
    this.best = state.best;
    return state.backend;
  }

  close(): void {
    this.optimizer.close();
    this.model.close();
  }
}
