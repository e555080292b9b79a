// One tokenised corpus for all runs, in a folder named after what it was made from. Held out: a share of the text, or a
// text of its own; of it only the first `heldOutTokens`, so that a validation does not cost more than training.

import { createHash } from "node:crypto";
import { existsSync, readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { writeFileAtomic } from "../checkpoint/atomic.ts";
import { whenFree } from "../checkpoint/lock.ts";
import { openCorpus } from "../text/corpus.ts";
import { checkRange, type TokenSplit } from "../text/dataset.ts";
import type { OnProgress } from "../text/progress.ts";
import { tokenizeCorpus } from "../text/shards.ts";
import { type PreparedData, prepareData } from "../train/data.ts";
import { RunFolder } from "../train/runFolder.ts";
import type { Experiment } from "./spec.ts";

export interface ExperimentDataOptions {
  readonly signal?: AbortSignal;
  readonly onProgress?: OnProgress;
  readonly announce?: (line: string) => void;
}

/** Prepares it below `root`, or finds it there. @throws UsageError for text or tokenizer that cannot be used. */
export async function experimentData(
  root: string,
  { data, validData, validShare, heldOutTokens, tokenizer }: Experiment,
  options: ExperimentDataOptions,
): Promise<PreparedData> {
  const source = {
    data: identity(data),
    validData: identity(validData),
    validShare,
    tokenizer: identity(tokenizer),
  };
  const key = createHash("sha256").update(JSON.stringify(source)).digest("hex").slice(0, 16);
  const folder = join(root, "data", key);
  if (!existsSync(join(folder, "config.json"))) {
    await writeFileAtomic(join(folder, "config.json"), `${JSON.stringify(source, null, 2)}\n`);
  }
  const unlock = await whenFree(() => RunFolder.open(folder).lock(), {
    signal: options.signal,
    onWait: (holder) => options.announce?.(`waiting for ${holder}, which prepares the text`),
  });
  try {
    const prepared = await prepareData(folder, { ...options, data, tokenizer, validShare });
    const { dataset } = prepared;
    if (validData === null) return limited(prepared, dataset.valid, heldOutTokens, dataset.hash);
    const corpus = await openCorpus(validData, options);
    const held = await tokenizeCorpus(corpus, prepared.tokenizer, join(folder, "valid"), {
      ...options,
      validShare: 0,
    });
    return limited(prepared, held.train, heldOutTokens, `${dataset.hash}+${held.hash}`);
  } finally {
    unlock();
  }
}

function limited(prepared: PreparedData, valid: TokenSplit, most: number, hash: string): PreparedData {
  const length = Math.min(valid.length, most);
  const start: TokenSplit = {
    length,
    textBytes: (valid.textBytes * length) / valid.length,
    read(at, count) {
      checkRange(at, count, length);
      return valid.read(at, count);
    },
  };
  return { ...prepared, dataset: { ...prepared.dataset, valid: start, hash: `${hash}:${length}` } };
}

/** A source, and for files what tells that they have changed: sizes and times. */
function identity(source: string | null): unknown {
  if (source === null || !existsSync(source)) return source;
  const about = (path: string) => {
    const { size, mtimeMs } = statSync(path);
    return [path, size, mtimeMs];
  };
  if (!statSync(source).isDirectory()) return about(source);
  return readdirSync(source, { recursive: true, encoding: "utf8" })
    .sort()
    .map((path) => about(join(source, path)));
}
