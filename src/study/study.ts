// `study`: how sparse the experts of a model are on a text. Plans (plan.ts), measures in stages (measure.ts), then writes
// study.json, tables and the page.

import { join } from "node:path";
import { openBackend } from "../backends/cpu.ts";
import { writeFileAtomic } from "../checkpoint/atomic.ts";
import { fingerprintOf } from "../checkpoint/fingerprint.ts";
import { findModelFolder, openStoredModel } from "../checkpoint/loadModel.ts";
import { readModelConfig, readTokenizer } from "../checkpoint/modelFolder.ts";
import { studyFormat, studyVersion } from "../checkpoint/studyFile.ts";
import { UsageError } from "../errors.ts";
import type { Kept } from "../model/neurons.ts";
import type { Transformer } from "../model/transformer.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import { packageVersion } from "../version.ts";
import { measure } from "./measure.ts";
import { studyPage } from "./page.ts";
import { StudyParts } from "./parts.ts";
import { planStudy, type StudyOptions, type StudyPlan } from "./plan.ts";
import type { StudyResult } from "./result.ts";
import { studyCsv } from "./tables.ts";
import type { StudyText } from "./text.ts";

/** A model that is open already; what `loadModel` gives is one. */
export interface StudiedModel {
  readonly model: Transformer;
  readonly tokenizer: Tokenizer;
  /** Where it was loaded from. Without it a study that was interrupted begins anew. */
  readonly folder?: string;
  /** K of each layer that it was loaded with, which a study does not take for the model's own. */
  readonly kept?: Kept;
}

/** The result, and where the page is if there is one. */
export type FinishedStudy = StudyResult & { readonly reportPath?: string };

/**
 * Studies a model on a text, and writes study.json, CSV tables and report.html into `out`, if that is given.
 * @param model the path of a model folder or run folder, or a loaded model, which stays open.
 * @throws UsageError for a model, text, option or folder that cannot be used.
 */
export async function study(
  model: string | StudiedModel,
  options: StudyOptions = {},
): Promise<FinishedStudy> {
  if (typeof model === "object") {
    if (typeof model.kept === "object") {
      throw new UsageError(
        "the model was loaded with neurons by layer: load it without, and give the list as keptByLayer",
      );
    }
    if (model.model.parameters.size > 0) {
      throw new UsageError("a model in training cannot be studied: save it, and study what was saved");
    }
    const plan = await planStudy(model.model.config, model.tokenizer, options);
    return run(model, model.folder, plan, options);
  }
  const { threads, dtype, announce, onProgress } = options;
  const folder = findModelFolder(model);
  const tokenizer = readTokenizer(folder);
  // Before weights are loaded: what is wrong with a text or an option is said at once.
  const plan = await planStudy(readModelConfig(folder), tokenizer, options);
  const backend = options.backend ?? openBackend({ threads }, announce);
  let opened: Transformer | undefined;
  try {
    opened = openStoredModel(folder, backend, {
      dtype,
      announce,
      onProgress: (done, total) => onProgress?.("loading weights", done / total),
    });
    return await run({ model: opened, tokenizer, folder }, model, plan, options);
  } finally {
    opened?.close();
    if (!options.backend) backend.close();
  }
}

/** @param path what the report calls the model. */
async function run(
  { model, folder }: StudiedModel,
  path: string | undefined,
  plan: StudyPlan,
  options: StudyOptions,
): Promise<FinishedStudy> {
  const { out } = options;
  const { config } = model;
  const { text, seed, tolerance } = plan;
  const { window, shares } = plan.inputs;
  const dtype = model.head.dtype;
  const parts =
    out === undefined || folder === undefined
      ? StudyParts.inMemory()
      : await StudyParts.open(out, {
          checkpoint: fingerprintOf(folder),
          config,
          ...plan.inputs,
          seed,
          dtype,
          packageVersion,
        });
  const result: StudyResult = {
    format: studyFormat,
    version: studyVersion,
    ...(await measure(model, plan, parts, options)),
    model: { path, config, dtype },
    text: describe(text, window),
    options: { seed, tolerance, shares },
    packageVersion,
    createdAt: await parts.once("created", async () => new Date().toISOString()),
  };
  if (out === undefined) return result;
  const reportPath = join(out, "report.html");
  await writeFileAtomic(join(out, "study.json"), `${JSON.stringify(result, null, 1)}\n`);
  for (const [name, csv] of studyCsv(result)) await writeFileAtomic(join(out, name), csv);
  await writeFileAtomic(reportPath, studyPage(result, join(out, "study.json")));
  return { ...result, reportPath };
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
