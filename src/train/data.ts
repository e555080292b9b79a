// From a run's configuration to tokens: opens the text, makes or loads the tokenizer, tokenises into a folder.

import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { writeFileAtomic } from "../checkpoint/atomic.ts";
import { UsageError } from "../errors.ts";
import { type Corpus, openCorpus } from "../text/corpus.ts";
import type { TokenDataset } from "../text/dataset.ts";
import type { OnProgress } from "../text/progress.ts";
import { tokenizeCorpus } from "../text/shards.ts";
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
  readonly signal?: AbortSignal;
  readonly onProgress?: OnProgress;
  /** Told what the user should know about the text. */
  readonly announce?: (line: string) => void;
}

/**
 * Prepares data in `folder`; a second call with the same text and tokenizer finds the work done.
 * @throws UsageError for a text or tokenizer that cannot be used.
 */
export async function prepareData(folder: string, options: PrepareOptions): Promise<PreparedData> {
  const { signal, onProgress, announce, validShare } = options;
  const corpus = await openCorpus(options.data ?? undefined, { signal, onProgress });
  for (const note of corpus.notes) announce?.(note);
  const tokenizer = await makeTokenizer(options.tokenizer, corpus, join(folder, "tokenizer.json"), options);
  const dataset = await tokenizeCorpus(corpus, tokenizer, join(folder, "tokens"), {
    validShare,
    signal,
    onProgress,
  });
  return { tokenizer, dataset };
}

async function makeTokenizer(
  spec: string,
  corpus: Corpus,
  savedPath: string,
  { signal, onProgress, announce }: PrepareOptions,
): Promise<Tokenizer> {
  if (spec === "byte") return byteTokenizer();
  const bpe = spec.match(/^bpe:(\d+)$/);
  if (!bpe) return readTokenizerFile(spec);
  if (existsSync(savedPath)) return readTokenizerFile(savedPath);
  const vocabSize = Number(bpe[1]);
  const tokenizer = await trainTokenizer(corpus, vocabSize, { signal, onProgress });
  if (tokenizer.vocabSize < vocabSize) {
    announce?.(`The text has pairs for a vocabulary of ${tokenizer.vocabSize} only, not ${vocabSize}.`);
  }
  await writeFileAtomic(savedPath, JSON.stringify(tokenizer));
  return tokenizer;
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
