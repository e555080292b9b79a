// `mone compare`: a MoE, a MoNE with half of its activated expert parameters, and the control that halves them by
// sending tokens to half as many experts; trained on the same tokens from the same seed, put side by side in a report.

import { existsSync, readFileSync } from "node:fs";
import { arch, cpus, platform, totalmem } from "node:os";
import { join } from "node:path";
import type { Backend } from "../backends/backend.ts";
import { openBackend } from "../backends/cpu.ts";
import { ReferenceBackend } from "../backends/reference.ts";
import { writeFileAtomic } from "../checkpoint/atomic.ts";
import { loadModel } from "../checkpoint/loadModel.ts";
import { quote, UsageError } from "../errors.ts";
import type { ModelConfig } from "../model/config.ts";
import { presetConfig } from "../model/presets.ts";
import type { ArmResult, Comparison } from "../report/comparison.ts";
import { comparisonPage } from "../report/comparisonPage.ts";
import type { OnProgress } from "../text/progress.ts";
import { packageVersion } from "../version.ts";
import { resolveTrainConfig, settingsAmong, type TrainConfigInput } from "./config.ts";
import { type PreparedData, prepareData } from "./data.ts";
import { type MetricsRecord, type TrainResult, train } from "./loop.ts";
import { RunFolder } from "./runFolder.ts";

/** Settings of a comparison by name: a size, and how long to train. */
const comparisonPresets: Record<string, TrainConfigInput> = {
  /** About a minute an arm on two cores with AMX or AVX-512. */
  quick: {
    preset: "moe-quick",
    tokenizer: "bpe:1024",
    seqLen: 128,
    batch: 16,
    steps: 450,
    learningRate: 3e-3,
    warmup: 50,
    validEvery: 75,
    validTokens: 32768,
    keepCheckpoints: 1,
  },
  /** Half a minute an arm on the reference backend: enough to see every part work, too little to compare. */
  glimpse: {
    preset: "moe-tiny",
    tokenizer: "byte",
    seqLen: 32,
    batch: 8,
    steps: 60,
    learningRate: 3e-3,
    warmup: 5,
    validShare: 0.002,
    model: {
      hidden_size: 32,
      num_hidden_layers: 2,
      num_attention_heads: 2,
      num_experts: 8,
      moe_intermediate_size: 32,
    },
  },
  small: { preset: "moe-small", tokenizer: "byte", seqLen: 256, batch: 16, steps: 2000 },
};

export const comparisonPresetNames = Object.keys(comparisonPresets);

export interface CompareOptions extends Omit<TrainConfigInput, "preset"> {
  /** One of `comparisonPresetNames`; its settings apply where none are given. */
  readonly preset?: string;
  /** Folder of the comparison; default: `defaultComparisonFolder`. */
  readonly out?: string;
  /** Continue the comparison in `out`, with its own settings: finished arms are read back, the others go on. */
  readonly resume?: boolean;
  readonly threads?: number;
  readonly backend?: Backend;
  readonly signal?: AbortSignal;
  /** Before each arm's training. */
  readonly onArm?: (arm: { name: string; index: number; count: number }) => void;
  readonly onStep?: (record: MetricsRecord, steps: number) => void;
  readonly onProgress?: OnProgress;
  readonly announce?: (line: string) => void;
  /** The command line to print in the report. */
  readonly command?: string;
}

interface Arm {
  /** Folder of the run. */
  readonly id: string;
  readonly name: string;
  readonly description: string;
  readonly model: Partial<ModelConfig>;
}

/** The three arms of a size. @throws UsageError for one that does not divide into them. */
function armsOf(model: Partial<ModelConfig>): Arm[] {
  const active = model.num_experts_per_tok as number;
  const width = model.moe_intermediate_size as number;
  const kept = width / 4;
  if (!Number.isInteger(active / 2)) {
    throw new UsageError(
      `num_experts_per_tok must be even in a comparison, whose control halves it, not ${quote(active)}`,
    );
  }
  if (!Number.isInteger(kept)) {
    throw new UsageError(
      `moe_intermediate_size must be a multiple of 4 in a comparison, whose MoNE keeps a quarter of it, not ${quote(width)}`,
    );
  }
  return [
    { id: "moe", name: "MoE", description: `Every neuron of the ${active} chosen experts acts.`, model: {} },
    {
      id: "mone",
      name: `MoNE K = ${kept}`,
      description: `Of the ${width} neurons of each chosen expert, the ${kept} of largest gate value act: half of the activated expert parameters.`,
      model: { num_neurons_per_tok: kept },
    },
    {
      id: `moe-top${active / 2}`,
      name: `MoE top-${active / 2}`,
      description: `The control: ${active / 2} experts per token instead of ${active}, also half of the activated expert parameters.`,
      model: { num_experts_per_tok: active / 2 },
    },
  ];
}

/**
 * Trains the three arms and writes `report/index.html` and `report/comparison.json` into the comparison's folder.
 * @throws what `train` throws, and UsageError for an unknown preset; for settings that one arm cannot have, before any
 * of them is trained.
 */
export async function compare(
  options: CompareOptions = {},
): Promise<{ comparison: Comparison; reportPath: string }> {
  const { announce = console.error, signal } = options;
  const given = settingsAmong(options, COMPARE_OPTIONS);
  const remembered = options.resume ? recall(options, given) : undefined;
  const asked = remembered?.preset ?? options.preset ?? "quick";
  if (!(asked in comparisonPresets)) {
    throw new UsageError(
      `Unknown comparison preset "${asked}"; there are ${comparisonPresetNames.join(", ")}.`,
    );
  }
  const backend = options.backend ?? openBackend({ threads: options.threads }, announce);
  try {
    const preset = feasiblePreset(asked, backend, announce);
    const base = comparisonPresets[preset];
    const out = options.out ?? defaultComparisonFolder(preset);
    const { settings, command }: Remembered = remembered ?? {
      preset,
      settings: { ...base, ...given, model: { ...base.model, ...given.model } },
      command: options.command ?? `mone compare --preset ${preset}`,
    };
    const arms = armsOf({ ...presetConfig(settings.preset as string), ...settings.model });
    const inputOf = ({ model }: Arm) => ({ ...settings, model: { ...settings.model, ...model } });
    for (const arm of arms) resolveTrainConfig(inputOf(arm), 1, arm.name); // the vocabulary is not known yet
    if (!remembered) await remember(out, { preset, settings, command });
    const prepared = await prepareData(join(out, "data"), {
      data: settings.data ?? null,
      tokenizer: settings.tokenizer ?? "byte",
      validShare: settings.validShare ?? 0.1,
      signal,
      onProgress: options.onProgress,
      announce,
    });
    const prompt = samplePrompt(prepared);
    const results: ArmResult[] = [];
    for (const [index, arm] of arms.entries()) {
      options.onArm?.({ name: arm.name, index, count: arms.length });
      const run = join(out, arm.id);
      const result = await train({
        ...inputOf(arm),
        out: run,
        resume: options.resume && existsSync(join(run, "config.json")),
        backend,
        prepared,
        signal,
        onStep: options.onStep,
        announce,
      });
      results.push(await armResult(arm, result, prompt, backend, signal));
    }
    const comparison: Comparison = {
      title: `MoE and MoNE side by side: ${preset}`,
      corpus: {
        name: prepared.dataset.name,
        trainTokens: prepared.dataset.train.length,
        validTokens: prepared.dataset.valid.length,
        tokenizer: `${settings.tokenizer ?? "byte"}, ${prepared.tokenizer.vocabSize} tokens`,
      },
      arms: results,
      machine: machine(backend),
      command,
      finishedAt: new Date().toISOString(),
      config: RunFolder.open(join(out, arms[0].id)).config as Record<string, unknown>,
    };
    const reportPath = join(out, "report", "index.html");
    await writeFileAtomic(join(out, "report", "comparison.json"), `${JSON.stringify(comparison, null, 2)}\n`);
    await writeFileAtomic(reportPath, comparisonPage(comparison));
    return { comparison, reportPath };
  } finally {
    if (!options.backend) backend.close();
  }
}

/** What a comparison keeps of its beginning, so that it can be resumed: compare.json in its folder. */
interface Remembered {
  readonly preset: string;
  readonly settings: TrainConfigInput;
  readonly command: string;
}

/** @throws UsageError if there is a comparison in the folder already. */
async function remember(out: string, what: Remembered): Promise<void> {
  const path = join(out, "compare.json");
  if (existsSync(path)) {
    throw new UsageError(
      `${out} holds a comparison already: add --resume to continue it, or choose another --out`,
    );
  }
  await writeFileAtomic(path, `${JSON.stringify(what, null, 2)}\n`);
}

/** @throws UsageError if there is nothing to resume, or for settings that would change what was begun. */
function recall({ out, preset }: CompareOptions, given: TrainConfigInput): Remembered {
  const path = join(out ?? "", "compare.json");
  if (out === undefined || !existsSync(path)) {
    throw new UsageError(
      `there is no comparison to resume in ${out ?? "an unnamed folder"}: give its folder with --out`,
    );
  }
  const remembered = JSON.parse(readFileSync(path, "utf8")) as Remembered;
  const [name] = [
    ...Object.keys(given),
    ...(preset !== undefined && preset !== remembered.preset ? ["preset"] : []),
  ];
  if (name !== undefined) {
    throw new UsageError(`${out} is resumed with the settings it began with: leave out ${name}`);
  }
  return remembered;
}

/** `quick` takes minutes on native kernels, and days without. */
function feasiblePreset(preset: string, backend: Backend, announce: (line: string) => void): string {
  if (preset !== "quick" || !(backend instanceof ReferenceBackend)) return preset;
  announce(
    "On the reference backend the preset quick would take days, so glimpse is used instead: tiny models, few steps.",
  );
  return "glimpse";
}

/** What an arm's run folder and its model say. */
async function armResult(
  { name, description }: Arm,
  { path, checkpoint, validation, parameters, seconds, tokens, tokensPerSecond }: TrainResult,
  prompt: string,
  backend: Backend,
  signal: AbortSignal | undefined,
): Promise<ArmResult> {
  const metrics = RunFolder.open(path).readMetrics() as unknown as MetricsRecord[];
  const model = await loadModel(checkpoint, { backend });
  let text = "";
  try {
    const options = { maxTokens: 160, temperature: 0.7, topP: 0.95, seed: 1, signal };
    for await (const piece of model.generate(prompt, options)) text += piece;
  } finally {
    model.close();
  }
  return {
    name,
    description,
    training: metrics.map(({ step, tokens, loss, tokensPerSecond, expertBalance, neuronBalance }) => ({
      step,
      tokens,
      loss,
      tokensPerSecond,
      expertBalance,
      neuronBalance,
    })),
    validation: metrics
      .filter((record) => record.validLoss !== undefined)
      .map(({ step, validLoss, validBitsPerByte }) => ({
        step,
        loss: validLoss as number,
        bitsPerByte: validBitsPerByte as number,
      })),
    final: { loss: validation.loss, bitsPerByte: validation.bitsPerByte },
    parameters: {
      total: parameters.total,
      activated: parameters.activatedWithGate,
      experts: parameters.experts,
      activatedExpertsWithGate: parameters.activatedExpertsWithGate,
      activatedExpertsWithoutGate: parameters.activatedExpertsWithoutGate,
    },
    tokensPerSecond,
    seconds,
    trainedTokens: tokens,
    expertUse: validation.expertUse ?? { entropy: 1, dead: 0, layers: [] },
    ...(validation.neuronUse && { neuronUse: validation.neuronUse }),
    sample: { prompt, text },
  };
}

/** The first line or so of the held-out text. */
function samplePrompt({ tokenizer, dataset }: PreparedData): string {
  const start = tokenizer.decode(dataset.valid.read(0, Math.min(48, dataset.valid.length)), {
    skipSpecial: true,
  });
  const lineEnd = start.indexOf("\n", 24);
  // A cut inside a character would leave U+FFFD at the end.
  return (lineEnd > 0 ? start.slice(0, lineEnd) : start).replace(/\uFFFD+$/, "");
}

/** Options that say how to run; the others are settings of the runs. */
const COMPARE_OPTIONS = [
  "preset",
  "out",
  "resume",
  "threads",
  "backend",
  "signal",
  "onArm",
  "onStep",
  "onProgress",
  "announce",
  "command",
];

function machine(backend: Backend): Record<string, string> {
  const processors = cpus();
  return {
    Processor: `${processors[0]?.model.trim() ?? arch()}, ${processors.length} cores`,
    Memory: `${Math.round(totalmem() / 2 ** 30)} GiB`,
    Backend: backend.name,
    System: `${platform()} ${arch()}, Node ${process.version}, neuron-experts ${packageVersion}`,
  };
}

/** Where a comparison goes if nobody says: `runs/compare-<preset>-<date and time>`. */
export function defaultComparisonFolder(preset: string): string {
  const time = new Date().toISOString().slice(0, 19).replaceAll(":", "-");
  return join("runs", `compare-${preset}-${time}`);
}
