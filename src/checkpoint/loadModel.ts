// Opening a model by path: a model folder, or a run folder, of which the best checkpoint is taken.

import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { Backend } from "../backends/backend.ts";
import { openBackend } from "../backends/cpu.ts";
import { UsageError } from "../errors.ts";
import { LanguageModel } from "../infer/languageModel.ts";
import { createStoredWeights, type WeightFormat, weightTypeOf } from "../infer/storedWeights.ts";
import { type ModelConfig, withOverrides } from "../model/config.ts";
import { type NeuronsOption, resolveNeurons } from "../model/neurons.ts";
import { Transformer } from "../model/transformer.ts";
import { CheckpointSource } from "./checkpointSource.ts";
import { readGenerationDefaults } from "./generation.ts";
import { isGguf } from "./ggufTypes.ts";
import { type HubOptions, resolveModelPath } from "./hub.ts";
import { holdsInt8, readModelConfig, readTokenizer } from "./modelFolder.ts";
import { readNeuronsOption } from "./studyFile.ts";
import { hasTensors } from "./tensorFiles.ts";

export interface LoadOptions extends HubOptions {
  /** Neurons kept per token in each expert, as model/neurons.ts reads it: 0.25, "25%", 64, a list by layer, a study's file. */
  readonly neurons?: NeuronsOption;
  /**
   * How weights are kept: f32, bf16, or int8 with a scale per row. `auto` (default): int8 for a checkpoint of int8, which
   * cannot be kept otherwise; bf16 for one of 16-bit numbers and where the hardware multiplies bf16; else f32.
   */
  readonly dtype?: "auto" | WeightFormat;
  readonly threads?: number;
  /** Where to compute; default: the best backend, closed with the model. */
  readonly backend?: Backend;
  /** Checkpoints of at least so many bytes are mapped into memory instead of read. Default 1 GiB. */
  readonly largeBytes?: number;
  /** Told how much of the weights is ready, in parameters, where they have to be converted. */
  readonly onProgress?: (done: number, total: number) => void;
}

/**
 * The model folder behind a path: itself, or in a run folder the checkpoint with the best validation, else the newest.
 * @throws UsageError if there is none.
 */
export function findModelFolder(path: string): string {
  if (hasTensors(path)) return path;
  const checkpoints = join(path, "checkpoints");
  if (!existsSync(path))
    throw new UsageError(`there is no model at ${path}: give a model folder or a run folder`);
  if (isGguf(path))
    throw new UsageError(
      `${path} is a GGUF file: make a model folder of it with mone convert ${path} FOLDER`,
    );
  const steps = existsSync(checkpoints)
    ? readdirSync(checkpoints)
        .map((name) => name.match(/^step-(\d+)$/)?.[1])
        .filter((step) => step !== undefined)
        .map(Number)
        .sort((a, b) => a - b)
    : [];
  if (steps.length === 0) {
    throw new UsageError(
      `${path} is neither a model folder (no model.safetensors) nor a run folder with checkpoints`,
    );
  }
  const newest = steps[steps.length - 1];
  const best = bestStep(join(checkpoints, `step-${newest}`, "trainer.json"));
  return join(checkpoints, `step-${best !== undefined && steps.includes(best) ? best : newest}`);
}

/** The step of the best validation so far, as the newest checkpoint remembers it. */
function bestStep(trainerPath: string): number | undefined {
  try {
    return (JSON.parse(readFileSync(trainerPath, "utf8")) as { best?: { step: number } | null }).best?.step;
  } catch {
    return undefined; // a copied model folder without training state
  }
}

/**
 * Opens a model folder for inference: its weights in the form asked for, in place where they have it already.
 * @param overrides keys that win over the folder's configuration. @param stored that configuration, if it is read already.
 * @throws UsageError for a configuration that cannot work; RunError for a damaged checkpoint.
 */
export function openStoredModel(
  folder: string,
  backend: Backend,
  {
    dtype = "auto",
    onProgress,
    largeBytes,
    announce,
  }: Pick<LoadOptions, "dtype" | "onProgress" | "largeBytes" | "announce"> = {},
  overrides: Partial<ModelConfig> = {},
  stored: ModelConfig = readModelConfig(folder),
): Transformer {
  const config = withOverrides(stored, overrides, join(folder, "config.json"));
  const int8 = holdsInt8(folder);
  if (int8 && dtype !== "auto" && dtype !== "int8") {
    throw new UsageError(
      `${folder} holds int8 weights, which cannot be kept as ${dtype}: leave that out, or use the checkpoint that they were made from`,
    );
  }
  const source = new CheckpointSource(folder, config, backend, { largeBytes, int8 });
  if (source.layers > config.num_hidden_layers) {
    announce?.(
      `${folder} has weights of ${source.layers} layers, of which its config.json names ${config.num_hidden_layers}: the others are not used.`,
    );
  }
  const halves = ["BF16", "F16"].includes(source.mainType);
  const automatic = int8 ? "int8" : halves || backend.nativeBf16 ? "bf16" : "f32";
  const format = dtype === "auto" ? automatic : dtype;
  const options = { type: weightTypeOf(format), onProgress };
  return new Transformer(config, backend, createStoredWeights(config, backend, source, options));
}

/**
 * Opens a model for generation.
 * @param path a model folder, a run folder, or a model of the Hugging Face hub: `org/name[@revision]`.
 * @throws UsageError for a path or option that cannot work; RunError for a damaged checkpoint.
 */
export async function loadModel(path: string, options: LoadOptions = {}): Promise<LanguageModel> {
  const folder = findModelFolder(await resolveModelPath(path, options));
  const config = readModelConfig(folder);
  const { neurons } = options;
  const asked = typeof neurons === "string" ? readNeuronsOption(neurons) : neurons;
  const kept = asked === undefined ? undefined : resolveNeurons(asked, config);
  // One K is the model's own from then on; one of each layer is the decoder's business.
  const overrides = typeof kept === "number" ? { num_neurons_per_tok: kept } : {};
  const tokenizer = readTokenizer(folder);
  const defaults = readGenerationDefaults(folder);
  const backend = options.backend ?? openBackend({ threads: options.threads }, options.announce);
  let model: Transformer | undefined;
  try {
    const onClose = () => {
      if (!options.backend) backend.close();
    };
    model = openStoredModel(folder, backend, options, overrides, config);
    return new LanguageModel(model, tokenizer, {
      kept: typeof kept === "object" ? kept : undefined,
      onClose,
      defaults,
      folder,
    });
  } catch (error) {
    model?.close();
    if (!options.backend) backend.close();
    throw error;
  }
}
