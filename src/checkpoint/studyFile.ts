// The part of a study's file that other commands read: how many neurons it recommends. src/study writes it.

import { existsSync, readFileSync } from "node:fs";
import { UsageError } from "../errors.ts";
import type { NeuronsOption } from "../model/neurons.ts";

/** What `study.json` begins with. */
export const studyFormat = "neuron-experts study";
export const studyVersion = 1;

/**
 * The value of `--neurons`: text as it is, or what a study's file recommends, if the text names a JSON file.
 * @throws UsageError for a file that is missing, or no study of a version that is known.
 */
export function readNeuronsOption(text: string): NeuronsOption {
  if (!/\.json$/i.test(text)) return text;
  if (!existsSync(text)) throw new UsageError(`there is no study at ${text}: make one with mone study`);
  let study: unknown;
  try {
    study = JSON.parse(readFileSync(text, "utf8"));
  } catch (error) {
    throw new UsageError(`${text} is not JSON, so it is no study`, { cause: error });
  }
  const { format, version, kept } = (study ?? {}) as Record<string, unknown>;
  if (format !== studyFormat) throw new UsageError(`${text} is not a study.json of mone study`);
  if (version !== studyVersion) {
    throw new UsageError(
      `${text} is a study of version ${String(version)}, this program knows ${studyVersion}: make it again`,
    );
  }
  if (typeof kept === "number") return kept;
  if (Array.isArray(kept) && kept.every((count) => typeof count === "number")) return kept;
  throw new UsageError(`${text} recommends no number of neurons: make the study again`);
}
