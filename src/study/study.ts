// `study`: how sparse the experts of a checkpoint are on a text. Stages, each of which is remembered in the folder as soon as
// it is done (parts.ts): the model as it is, every setting, activation statistics, the largest share within the tolerance,
// allocation over layers, decoding speed. Then study.json, tables and the page.

import { createHash, type Hash } from "node:crypto";
import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { cpus } from "node:os";
import { join } from "node:path";
import type { Backend } from "../backends/backend.ts";
import { openBackend } from "../backends/cpu.ts";
import { writeFileAtomic } from "../checkpoint/atomic.ts";
import { findModelFolder, openStoredModel } from "../checkpoint/loadModel.ts";
import { readModelConfig, readTokenizer } from "../checkpoint/modelFolder.ts";
import { studyFormat, studyVersion } from "../checkpoint/studyFile.ts";
import { TensorFiles } from "../checkpoint/tensorFiles.ts";
import { UsageError } from "../errors.ts";
import type { WeightFormat } from "../infer/storedWeights.ts";
import { expertWidth, keptNeurons } from "../model/config.ts";
import type { Transformer } from "../model/transformer.ts";
import { openCorpus } from "../text/corpus.ts";
import { packageVersion } from "../version.ts";
import { gatherActivation, layerStatistics } from "./activation.ts";
import { layerCosts, perLayerSetting } from "./allocate.ts";
import { calibrate } from "./calibrate.ts";
import { type Evaluation, Evaluator } from "./evaluate.ts";
import { studyPage } from "./page.ts";
import { StudyParts } from "./parts.ts";
import { type SettingResult, type StudyResult, settingResult, unitsOf } from "./result.ts";
import {
  criteria as allCriteria,
  type Criterion,
  defaultShares,
  GIVEN,
  givenSetting,
  keptCounts,
  neuronSetting,
  planSettings,
  type Setting,
} from "./settings.ts";
import { speedsOf, timedSettings } from "./speeds.ts";
import { studyCsv } from "./tables.ts";
import { readStudyText, type StudyText } from "./text.ts";
import { verdictOf } from "./verdict.ts";

export interface StudyOptions {
  /** A file, folder, address or known text, as for training. */
  readonly data?: string;
  /** Folder of the results; a study that was interrupted there goes on. */
  readonly out: string;
  /** Default: all. */
  readonly criteria?: readonly Criterion[];
  /** Shares of neurons to prune. Default: 0, 10, ... 90, 95, 98 %. */
  readonly shares?: readonly number[];
  /** Lists of K by layer to measure as well, such as another study recommends. */
  readonly keptByLayer?: readonly (readonly number[])[];
  /** Numbers of experts per token to compare with. Default: all smaller than the model's, but for the largest models. */
  readonly experts?: readonly number[];
  /** Tokens to measure on. Default 16384. */
  readonly tokens?: number;
  /** Tokens to calibrate on. Default: a quarter of `tokens`. */
  readonly calibrationTokens?: number;
  /** Rise of perplexity that the verdict allows. Default 0.01. */
  readonly tolerance?: number;
  readonly seed?: number;
  readonly dtype?: "auto" | WeightFormat;
  readonly threads?: number;
  readonly backend?: Backend;
  /** Leave out K per layer, which costs a pass over the calibration text for each layer and some shares. */
  readonly perLayer?: boolean;
  readonly signal?: AbortSignal;
  /** Told what is being done, and how much of it is, from 0 to 1. */
  readonly onProgress?: (task: string, share: number) => void;
  readonly announce?: (line: string) => void;
}

/** Where the verdict's search ends: this many passes at most. */
const SEARCH_STEPS = 5;
/** Mean pruned shares at which K per layer is compared with one K. */
const perLayerShares: readonly number[] = [0.5, 0.7, 0.8, 0.9, 0.95];

/**
 * Studies a checkpoint on a text, and writes study.json, CSV tables and report.html into `out`.
 * @throws UsageError for a model, text, option or folder that cannot be used.
 */
export async function study(
  path: string,
  options: StudyOptions,
): Promise<StudyResult & { reportPath: string }> {
  const { out, seed = 1, tolerance = 0.01, tokens = 16384, signal, onProgress } = options;
  const folder = findModelFolder(path);
  const config = readModelConfig(folder);
  const tokenizer = readTokenizer(folder);
  const wanted = options.criteria ?? allCriteria;
  const shares = options.shares ?? defaultShares;
  if (!(tolerance > 0)) throw new UsageError(`the tolerance must be above 0, not ${tolerance}`);
  const window = Math.min(config.max_position_embeddings, tokens);
  const corpus = await openCorpus(options.data, { signal });
  for (const note of corpus.notes) options.announce?.(note);
  onProgress?.("reading text", 0);
  const text = await readStudyText(corpus, tokenizer, {
    window,
    tokens,
    calibrationTokens: options.calibrationTokens ?? Math.ceil(tokens / 4),
  });
  const experts = options.experts ?? fewerExperts(config.num_experts > 0 ? config.num_experts_per_tok : 0);
  if (experts.some((n) => !Number.isInteger(n) || n < 1 || n > config.num_experts)) {
    throw new UsageError(
      `experts per token are numbers from 1 to ${config.num_experts}, not ${experts.join(", ")}`,
    );
  }
  const settings = [
    ...planSettings(config, wanted, shares, experts),
    ...(options.keptByLayer ?? []).map((list, i) => givenSetting(config, list, i + 1)),
  ];
  const ownBackend = options.backend
    ? undefined
    : openBackend({ threads: options.threads }, options.announce);
  const backend = options.backend ?? (ownBackend as Backend);
  let model: Transformer | undefined;
  try {
    model = openStoredModel(folder, backend, {
      dtype: options.dtype,
      onProgress: (done, total) => onProgress?.("loading weights", done / total),
    });
    const dtype = model.head.dtype;
    const inputs = {
      checkpoint: fingerprintOf(folder),
      config,
      text: hashOf(text),
      window,
      wanted,
      shares,
      keptByLayer: options.keptByLayer ?? [],
      seed,
      dtype,
      packageVersion,
    };
    const parts = await StudyParts.open(out, inputs);
    const result = await measure(model, text, parts, { ...options, seed, tolerance, shares }, settings);
    const complete: StudyResult = {
      format: studyFormat,
      version: studyVersion,
      ...result,
      model: { path, config, dtype },
      text: describe(text, window),
      options: { seed, tolerance, shares },
      packageVersion,
      createdAt: await parts.once("created", async () => new Date().toISOString()),
    };
    const reportPath = join(out, "report.html");
    await writeFileAtomic(join(out, "study.json"), `${JSON.stringify(complete, null, 1)}\n`);
    for (const [name, csv] of studyCsv(complete)) await writeFileAtomic(join(out, name), csv);
    await writeFileAtomic(reportPath, studyPage(complete, join(out, "study.json")));
    return { ...complete, reportPath };
  } finally {
    model?.close();
    ownBackend?.close();
  }
}

type Measured = Pick<
  StudyResult,
  "kept" | "verdict" | "unit" | "settings" | "activation" | "allocation" | "speeds" | "timing" | "machine"
>;

async function measure(
  model: Transformer,
  text: StudyText,
  parts: StudyParts,
  options: StudyOptions & Pick<StudyResult["options"], "seed" | "tolerance" | "shares">,
  settings: readonly Setting[],
): Promise<Measured> {
  const { config } = model;
  const { seed, tolerance, signal, onProgress } = options;
  const within = (task: string) => (done: number, total: number) => onProgress?.(task, done / total);
  const [reference] = settings;
  const evaluator = new Evaluator(model, text.measured, reference);
  const calibrated = await calibrate(
    model,
    text.calibration,
    settings.map(({ criterion }) => criterion),
    {
      signal,
      onTokens: within("calibrating"),
    },
  );
  try {
    const { of: units, ...unit } = unitsOf(text.measured.map(({ document }) => document));
    const results = new Map<string, SettingResult>();
    let referenceSums: Evaluation["windows"] = [];
    const run = async (setting: Setting, task: string): Promise<SettingResult> => {
      const known = results.get(setting.name);
      if (known) return known;
      const evaluation = await parts.once(setting.name, () =>
        evaluator.evaluate(setting, {
          seed,
          calibrated,
          signal,
          onTokens: within(`${task}: ${setting.name}`),
        }),
      );
      if (setting === reference) referenceSums = evaluation.windows;
      const result = settingResult(config, setting, evaluation, referenceSums, units, seed);
      results.set(setting.name, result);
      return result;
    };
    for (const [i, setting] of settings.entries())
      await run(setting, `setting ${i + 1} of ${settings.length}`);
    const width = expertWidth(config);
    const statisticsKept = Math.min(keptNeurons(config), Math.max(1, Math.round(width / 4)));
    const activation = await parts.once("activation", async () => {
      const gathered = await gatherActivation(model, text.measured, statisticsKept, {
        signal,
        onTokens: within("activation statistics"),
      });
      return {
        kept: statisticsKept,
        layers: gathered.map((one) => layerStatistics(one, width, statisticsKept)),
      };
    });
    const own = keptNeurons(config);
    const byGate = (mean: number) => run(neuronSetting("gate", mean), "looking for the limit");
    const best = await searchKept(own, results.values(), "neurons", tolerance, byGate);
    let kept: StudyResult["kept"] = best;
    let allocation: StudyResult["allocation"];
    if (options.perLayer !== false && activation.layers.length > 1) {
      const layers = activation.layers.map(({ layer }) => layer);
      const costs = await layerCosts(model, text.calibration, layers, parts, { seed, signal, onProgress });
      allocation = costs;
      const byLayer = (mean: number) => run(perLayerSetting(config, layers, costs, mean), "K per layer");
      for (const mean of keptCounts(config, perLayerShares).filter((count) => count < own)) {
        await byLayer(mean);
        await byGate(mean);
      }
      // K per layer is recommended where it drops more, or the same with less harm.
      const bestByLayer = await searchKept(own, results.values(), "per-layer", tolerance, byLayer);
      const uniform = results.get(`gate-k${best}`);
      const mean = Math.min(best, bestByLayer);
      if (mean < own) {
        const result = await byLayer(mean);
        const isBetter = mean < best || result.ratio < (uniform?.ratio ?? 1);
        if (result.ratio <= 1 + tolerance && isBetter) kept = result.kept;
      }
    }
    const all = [...results.values()];
    // Depends on the tolerance by what is recommended, on the numbers of experts, and on where it is measured.
    const timed = timedSettings(config, kept, all);
    const machine = `${cpus()[0]?.model.trim()}; ${model.backend.name}`;
    onProgress?.("measuring decoding speed", 0);
    const { speeds, timing } = await parts.once("speeds", () => speedsOf(model, timed, { signal }), {
      timed,
      machine,
    });
    return {
      kept,
      verdict: verdictOf(model, kept, all, speeds, tolerance),
      unit,
      settings: all,
      activation,
      allocation,
      speeds,
      timing,
      machine,
    };
  } finally {
    calibrated.close();
  }
}

/**
 * The smallest mean K within the tolerance: between the last one measured that is and the first one that is not.
 * @param own the K of the model as it is. @param run measures another one.
 */
async function searchKept(
  own: number,
  results: Iterable<SettingResult>,
  kind: "neurons" | "per-layer",
  tolerance: number,
  run: (kept: number) => Promise<SettingResult>,
): Promise<number> {
  const isWithin = ({ ratio }: SettingResult) => ratio <= 1 + tolerance;
  const grid = [...results]
    .filter((one) => one.kind === kind && one.criterion === "gate" && !one.name.startsWith(GIVEN))
    .map((one) => ({ kept: Number(one.name.slice(one.name.lastIndexOf("k") + 1)), fits: isWithin(one) }))
    .filter(({ kept }) => kept < own)
    .sort((a, b) => b.kept - a.kept);
  let high = own;
  let low = 0;
  for (const { kept, fits } of grid) {
    if (!fits) {
      low = kept;
      break;
    }
    high = kept;
  }
  for (let step = 0; step < SEARCH_STEPS && low > 0 && high - low > 1; step++) {
    const middle = Math.round((low + high) / 2);
    if (isWithin(await run(middle))) high = middle;
    else low = middle;
  }
  return high;
}

/** Every smaller number, or about six of them. */
function fewerExperts(active: number): number[] {
  const step = Math.max(1, Math.ceil((active - 1) / 6));
  const numbers: number[] = [];
  for (let n = active - 1; n >= 1; n -= step) numbers.push(n);
  return numbers;
}

function describe(text: StudyText, window: number): StudyResult["text"] {
  const sum = (windows: StudyText["measured"], of: (w: StudyText["measured"][number]) => number) =>
    windows.reduce((total, one) => total + of(one), 0);
  return {
    name: text.name,
    tokens: sum(text.measured, ({ inputs }) => inputs.length),
    bytes: sum(text.measured, ({ bytes }) => bytes),
    windows: text.measured.length,
    documents: new Set(text.measured.map(({ document }) => document)).size,
    calibrationTokens: sum(text.calibration, ({ inputs }) => inputs.length),
    window,
  };
}

function hashOf({ calibration, measured }: StudyText): string {
  const hash = createHash("sha256");
  for (const windows of [calibration, measured]) {
    for (const { document, inputs, targets } of windows) {
      hash.update(`${document},${inputs.length};`);
      hash.update(inputs);
      hash.update(targets);
    }
    hash.update("|");
  }
  return hash.digest("hex");
}

/** Of the files' lengths and samples all over them: weights differ everywhere, and large files would take long to read. */
function fingerprintOf(folder: string): string {
  const opened = TensorFiles.open(folder);
  opened.close();
  const hash = createHash("sha256");
  for (const { path } of opened.files) hashSamples(hash, path);
  return hash.digest("hex");
}

function hashSamples(hash: Hash, path: string): void {
  const file = openSync(path, "r");
  try {
    const { size } = fstatSync(file);
    hash.update(String(size));
    const sample = new Uint8Array(4096);
    const samples = 256;
    for (let i = 0; i < samples; i++) {
      const count = readSync(file, sample, 0, sample.length, Math.floor((size * i) / samples));
      hash.update(sample.subarray(0, count));
    }
  } finally {
    closeSync(file);
  }
}
