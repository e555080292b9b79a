// Perplexity and bits per byte of texts: every document by itself, in windows, each token asked about once, as
// lm-evaluation-harness's rolling log-likelihood. Not here: training's own validation (train/validate.ts), which takes a
// stream of tokens without documents.

import { UsageError } from "../errors.ts";
import type { LanguageModel } from "../infer/languageModel.ts";
import type { DocumentPart } from "../text/textFiles.ts";
import { checkMaxLength } from "./logLikelihood.ts";
import { askLogged, type RequestLog } from "./requestLog.ts";
import { countBytes, countWords, rollingWindows, type TokenRequest } from "./tokens.ts";

/** Totals over documents. */
export interface TextScore {
  readonly documents: number;
  readonly tokens: number;
  /** Pieces between white space. */
  readonly words: number;
  /** Of UTF-8. */
  readonly bytes: number;
  /** In nats, of all tokens. */
  readonly logLikelihood: number;
}

export interface Perplexity extends TextScore {
  /** e to the mean negative log-likelihood per token, word and byte. */
  readonly tokenPerplexity: number;
  readonly wordPerplexity: number;
  readonly bytePerplexity: number;
  readonly bitsPerByte: number;
}

export interface PerplexityOptions {
  /** Windows at a time. Default 16. */
  readonly batch?: number;
  /** Positions of a window; default: all that the model was made for. */
  readonly maxLength?: number;
  /** Tokens by which windows move, from 1 to maxLength; fewer show more of what came before. Default: maxLength. */
  readonly stride?: number;
  /** Stop after so many documents. */
  readonly limit?: number;
  readonly log?: RequestLog;
  readonly signal?: AbortSignal;
  /** Told what is known after each group of documents. */
  readonly onProgress?: (soFar: Perplexity) => void;
  /** Told of each document, in order. */
  readonly onDocument?: (id: string, text: string, score: TextScore) => void;
}

/** Tokens that are collected before the model is asked: enough for full batches, little enough to tell of progress. */
const TOKENS_AT_ONCE = 1 << 16;

/**
 * @param documents in parts, as a corpus gives them: neighbours with the same id are one document.
 * @throws UsageError if there is no text, or for windows that the model does not have.
 */
export async function perplexity(
  model: LanguageModel,
  documents: AsyncIterable<DocumentPart>,
  options: PerplexityOptions = {},
): Promise<Perplexity> {
  const { tokenizer } = model;
  const maxLength = checkMaxLength(options.maxLength, model.config.max_position_embeddings);
  const stride = checkWindow(maxLength, options.stride);
  const prefix = model.startIds[0];
  let total: TextScore = { documents: 0, tokens: 0, words: 0, bytes: 0, logLikelihood: 0 };
  let waiting: { id: string; text: string; tokens: number; windows: TokenRequest[] }[] = [];
  const ask = async () => {
    const groups = waiting.flatMap(({ windows }) => windows.map((window) => [window]));
    const answers = await askLogged(model, groups, { ...options, maxLength });
    let next = 0;
    for (const { id, text, tokens, windows } of waiting) {
      let logLikelihood = 0;
      for (const [answer] of answers.slice(next, next + windows.length))
        logLikelihood += answer.logLikelihood;
      next += windows.length;
      const score = { documents: 1, tokens, words: countWords(text), bytes: countBytes(text), logLikelihood };
      options.onDocument?.(id, text, score);
      total = sum(total, score);
    }
    waiting = [];
    options.onProgress?.(perplexityOf(total));
  };
  let open = 0;
  let count = 0;
  for await (const { id, text } of wholeDocuments(documents)) {
    if (count++ === options.limit) break;
    const ids = tokenizer.encode(text);
    waiting.push({ id, text, tokens: ids.length, windows: rollingWindows(ids, prefix, maxLength, stride) });
    open += ids.length;
    if (open < TOKENS_AT_ONCE) continue;
    await ask();
    open = 0;
  }
  if (waiting.length > 0) await ask();
  if (total.tokens === 0) throw new UsageError("there is no text to evaluate");
  return perplexityOf(total);
}

/** @returns the stride. @throws UsageError if windows of a length cannot move so far. */
export function checkWindow(maxLength: number, stride = maxLength): number {
  if (Number.isInteger(stride) && stride >= 1 && stride <= maxLength) return stride;
  throw new UsageError(`the stride must be from 1 to the ${maxLength} positions of a window`);
}

function perplexityOf(score: TextScore): Perplexity {
  const { logLikelihood, tokens, words, bytes } = score;
  return {
    ...score,
    tokenPerplexity: Math.exp(-logLikelihood / tokens),
    wordPerplexity: Math.exp(-logLikelihood / words),
    bytePerplexity: Math.exp(-logLikelihood / bytes),
    bitsPerByte: -logLikelihood / bytes / Math.LN2,
  };
}

function sum(a: TextScore, b: TextScore): TextScore {
  return {
    documents: a.documents + b.documents,
    tokens: a.tokens + b.tokens,
    words: a.words + b.words,
    bytes: a.bytes + b.bytes,
    logLikelihood: a.logLikelihood + b.logLikelihood,
  };
}

async function* wholeDocuments(parts: AsyncIterable<DocumentPart>): AsyncGenerator<DocumentPart> {
  let whole: { id: string; text: string } | undefined;
  for await (const { id, text } of parts) {
    if (whole?.id === id) {
      whole.text += text;
      continue;
    }
    if (whole) yield whole;
    whole = { id, text };
  }
  if (whole) yield whole;
}
