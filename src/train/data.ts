// From a run's configuration to tokens: opens the text, makes or loads the tokenizer, tokenises into a folder.

import { existsSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { writeFileAtomic } from "../checkpoint/atomic.ts";
import { UsageError } from "../errors.ts";
import { type Corpus, openCorpus } from "../text/corpus.ts";
import type { TokenDataset } from "../text/dataset.ts";
import type { OnProgress } from "../text/progress.ts";
import { openTokens, tokenizeCorpus } from "../text/shards.ts";
import { byteTokenizer, type Tokenizer, tokenizerFromJson } from "../text/tokenizer.ts";
import { trainTokenizer } from "../text/trainTokenizer.ts";

export interface PreparedData {
  readonly tokenizer: Tokenizer;
  readonly dataset: TokenDataset;
}

export interface PrepareOptions {
  readonly data: string | null;
  /** `byte`, `bpe:N`, or the path of a tokenizer.json. */
  readonly tokenizer: string;
  readonly validShare: number;
  /** Hash of a dataset that was prepared there before: if it is still whole, the text is not read again. */
  readonly known?: string;
  readonly signal?: AbortSignal;
  readonly onProgress?: OnProgress;
  /** Told what the user should know about the text. */
  readonly announce?: (line: string) => void;
}

/**
 * Prepares data in `folder`, which is for this text and tokenizer alone: a second call finds the work done.
 * @throws UsageError for a text or tokenizer that cannot be used.
 */
export async function prepareData(folder: string, options: PrepareOptions): Promise<PreparedData> {
  const { signal, onProgress, announce, validShare, known } = options;
  const [savedPath, tokens] = [join(folder, "tokenizer.json"), join(folder, "tokens")];
  const before = known === undefined ? undefined : openTokens(tokens, known);
  if (before && (existsSync(savedPath) || !isTrained(options.tokenizer))) {
    return { tokenizer: savedTokenizer(options.tokenizer, savedPath), dataset: before };
  }
  const corpus = await openCorpus(options.data ?? undefined, { signal, onProgress });
  for (const note of corpus.notes) announce?.(note);
  const isNew = isTrained(options.tokenizer) && !existsSync(savedPath);
  const tokenizer = await makeTokenizer(options.tokenizer, corpus, savedPath, options);
  const dataset = await tokenizeCorpus(corpus, tokenizer, tokens, {
    validShare,
    signal,
    onProgress,
  });
  // Of another text than the one that it was to be: no later call shall take it for that one's.
  if (known !== undefined && dataset.hash !== known && isNew) rmSync(savedPath);
  return { tokenizer, dataset };
}

async function makeTokenizer(
  spec: string,
  corpus: Corpus,
  savedPath: string,
  { signal, onProgress, announce }: PrepareOptions,
): Promise<Tokenizer> {
  if (!isTrained(spec) || existsSync(savedPath)) return savedTokenizer(spec, savedPath);
  const vocabSize = Number(spec.slice("bpe:".length));
  const tokenizer = await trainTokenizer(corpus, vocabSize, { signal, onProgress });
  if (tokenizer.vocabSize < vocabSize) {
    announce?.(`The text has pairs for a vocabulary of ${tokenizer.vocabSize} only, not ${vocabSize}.`);
  }
  await writeFileAtomic(savedPath, JSON.stringify(tokenizer));
  return tokenizer;
}

const isTrained = (spec: string) => /^bpe:\d+$/.test(spec);

/** A tokenizer that need not be trained, or was. */
function savedTokenizer(spec: string, savedPath: string): Tokenizer {
  if (spec === "byte") return byteTokenizer();
  return readTokenizerFile(isTrained(spec) ? savedPath : spec);
}

/** @throws UsageError if there is no such file, or it is not a tokenizer.json of byte-level BPE. */
export function readTokenizerFile(path: string): Tokenizer {
  if (!existsSync(path)) {
    throw new UsageError(`Tokenizer "${path}" is neither byte, nor bpe:N, nor a file: give one of these.`);
  }
  let json: unknown;
  try {
    json = JSON.parse(readFileSync(path, "utf8"));
  } catch (error) {
    throw new UsageError(`${path} is not JSON, so it cannot be a tokenizer.json.`, { cause: error });
  }
  return tokenizerFromJson(json);
}
