// The text of a study: documents as windows of tokens. A window is full length but for the last of a document, windows do
// not overlap, and none reaches over the end of a document. Some windows calibrate (thresholds, ranks, allocation), the
// others are measured; no document does both, unless the text is a single one or one has most of it.

import { UsageError } from "../errors.ts";
import type { Corpus } from "../text/corpus.ts";
import type { Tokenizer } from "../text/tokenizer.ts";

export interface Window {
  /** Number of the document in the text. */
  readonly document: number;
  /** Of the window's first token among all tokens of the text that is used: names tokens for `random`. */
  readonly start: number;
  readonly inputs: Uint32Array;
  /** Inputs one later. */
  readonly targets: Uint32Array;
  /** Bytes of text that the targets stand for. */
  readonly bytes: number;
}

export interface StudyText {
  readonly name: string;
  readonly calibration: readonly Window[];
  readonly measured: readonly Window[];
}

/** Documents that are read at least, if there are so many. */
const DOCUMENTS = 40;
/** A token is seldom longer than this on average; what is too much is cut off. */
const CHARACTERS = 8;
/** What is measured is less than this of what it should be: then documents are divided. */
const LEAST_MEASURED = 0.5;

export interface TextOptions {
  /** Length of windows. */
  readonly window: number;
  /** Tokens to measure on, and to calibrate on, about. */
  readonly tokens: number;
  readonly calibrationTokens: number;
}

/**
 * Reads as much of the text as is needed: beginnings of documents, of a text that is one document its end (what training
 * holds out).
 * @throws UsageError if that is less than two windows.
 */
export async function readStudyText(
  corpus: Corpus,
  tokenizer: Tokenizer,
  options: TextOptions,
): Promise<StudyText> {
  const wanted = options.tokens + options.calibrationTokens;
  const beginnings = corpus.split === "tail" ? undefined : await beginningsOf(corpus, tokenizer, options);
  const documents = beginnings ?? [await endOf(corpus, tokenizer, wanted)];
  const windows: Window[] = [];
  let start = 0;
  for (const [document, ids] of documents.entries()) {
    windows.push(...windowsOf(ids, document, start, options.window, tokenizer));
    start += ids.length;
  }
  const split = calibrationWindows(windows, options);
  const text = { name: corpus.name, calibration: windows.slice(0, split), measured: windows.slice(split) };
  if (text.calibration.length === 0 || text.measured.length === 0) {
    throw new UsageError(
      `${corpus.name} gives ${windows.length} window${windows.length === 1 ? "" : "s"} of ${options.window} tokens, but a study needs two: give more text.`,
    );
  }
  return text;
}

/** How many of the first windows calibrate: a share of the tokens, whole documents where that leaves enough. */
function calibrationWindows(windows: readonly Window[], { tokens, calibrationTokens }: TextOptions): number {
  const total = windows.reduce((sum, { inputs }) => sum + inputs.length, 0);
  const wanted = (total * calibrationTokens) / (tokens + calibrationTokens);
  let count = 0;
  let sum = 0;
  while (count < windows.length - 1 && sum < wanted) sum += windows[count++].inputs.length;
  let whole = count;
  let calibrating = sum;
  const last = windows[count - 1]?.document;
  while (windows[whole]?.document === last) calibrating += windows[whole++].inputs.length;
  return total - calibrating < LEAST_MEASURED * (total - wanted) ? count : whole;
}

/** Tokens of the last part of a text, beginning at a line if lines are short. */
async function endOf(corpus: Corpus, tokenizer: Tokenizer, tokens: number): Promise<Uint32Array> {
  const characters = CHARACTERS * tokens;
  let text = "";
  for await (const part of corpus.documents()) text = (text + part.text).slice(-characters);
  const line = text.length < characters ? 0 : text.indexOf("\n") + 1;
  const ids = tokenizer.encode(text.slice(line < characters / 8 ? line : 0));
  return ids.length <= tokens ? ids : ids.slice(-tokens - 1);
}

/**
 * The beginnings of documents from the first on; undefined where there is one only. No document gives more than a share of
 * what is wanted as long as there are enough of them, so that a long one does not stand for all.
 */
async function beginningsOf(
  corpus: Corpus,
  tokenizer: Tokenizer,
  options: TextOptions,
): Promise<Uint32Array[] | undefined> {
  const wanted = options.tokens + options.calibrationTokens;
  let most = Math.max(options.window, Math.ceil(wanted / DOCUMENTS));
  const texts: string[] = [];
  let documents: Uint32Array[] = [];
  let total = 0;
  /** Whether some document could give more. */
  let isCut = false;
  const cut = (text: string) => {
    const ids = tokenizer.encode(text.slice(0, CHARACTERS * most));
    const count = Math.min(ids.length, most + 1, wanted - total + 1);
    isCut ||= count < ids.length || text.length > CHARACTERS * most;
    if (count < 2) return;
    documents.push(ids.slice(0, count));
    total += count - 1;
  };
  let isOne = true;
  let id: string | undefined;
  let text = "";
  for await (const part of corpus.documents()) {
    if (id !== undefined && part.id !== id) {
      isOne = false;
      texts.push(text);
      cut(text);
      text = "";
    }
    if (total >= wanted) break;
    id = part.id;
    if (text.length < CHARACTERS * wanted) text += part.text;
  }
  if (isOne) return undefined;
  if (text !== "" && total < wanted) {
    texts.push(text);
    cut(text);
  }
  // Too few documents: each gives more.
  while (total < wanted && isCut) {
    most *= 2;
    documents = [];
    total = 0;
    isCut = false;
    for (const one of texts) if (total < wanted) cut(one);
  }
  return documents;
}

function windowsOf(
  ids: Uint32Array,
  document: number,
  start: number,
  length: number,
  tokenizer: Tokenizer,
): Window[] {
  const windows: Window[] = [];
  for (let at = 0; at + 1 < ids.length; at += length) {
    const inputs = ids.slice(at, Math.min(at + length, ids.length - 1));
    const targets = ids.slice(at + 1, at + 1 + inputs.length);
    let bytes = 0;
    for (const id of targets) if (id !== tokenizer.eosId) bytes += tokenizer.bytesOf(id).length;
    windows.push({ document, start: start + at, inputs, targets, bytes });
  }
  return windows;
}
