// The text of a study: documents as windows of tokens. A window is full length but for the last of a document, windows do
// not overlap, and none reaches over the end of a document. Some windows calibrate (thresholds, ranks, allocation), the
// others are measured; no document does both, unless the text is a single one.

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
  const documents =
    corpus.split === "tail"
      ? [await endOf(corpus, tokenizer, wanted)]
      : await beginningsOf(corpus, tokenizer, options);
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

/** How many of the first windows calibrate: a share of the tokens, whole documents where there are several. */
function calibrationWindows(windows: readonly Window[], { tokens, calibrationTokens }: TextOptions): number {
  const total = windows.reduce((sum, { inputs }) => sum + inputs.length, 0);
  const wanted = (total * calibrationTokens) / (tokens + calibrationTokens);
  let count = 0;
  let sum = 0;
  while (count < windows.length - 1 && sum < wanted) sum += windows[count++].inputs.length;
  const last = windows[count - 1]?.document;
  const isOne = windows[windows.length - 1]?.document === last;
  while (!isOne && windows[count].document === last) count++;
  return count;
}

/** Tokens of the last part of a text, beginning at a line. */
async function endOf(corpus: Corpus, tokenizer: Tokenizer, tokens: number): Promise<Uint32Array> {
  const characters = CHARACTERS * tokens;
  let text = "";
  for await (const part of corpus.documents()) text = (text + part.text).slice(-characters);
  const line = text.length < characters ? 0 : text.indexOf("\n") + 1;
  const ids = tokenizer.encode(text.slice(line));
  return ids.length <= tokens ? ids : ids.slice(-tokens - 1);
}

/**
 * The beginnings of documents from the first on. No document gives more than a share of what is wanted as long as there are
 * enough of them, so that a long one does not stand for all.
 */
async function beginningsOf(
  corpus: Corpus,
  tokenizer: Tokenizer,
  options: TextOptions,
): Promise<Uint32Array[]> {
  const wanted = options.tokens + options.calibrationTokens;
  let most = Math.max(options.window, Math.ceil(wanted / DOCUMENTS));
  const texts: string[] = [];
  let documents: Uint32Array[] = [];
  let total = 0;
  const cut = (text: string) => {
    const ids = tokenizer.encode(text.slice(0, CHARACTERS * most)).slice(0, most + 1);
    if (ids.length < 2) return;
    documents.push(ids);
    total += ids.length - 1;
  };
  let id: string | undefined;
  let text = "";
  for await (const part of corpus.documents()) {
    if (id !== undefined && part.id !== id) {
      texts.push(text);
      cut(text);
      text = "";
    }
    if (total >= wanted) break;
    id = part.id;
    if (text.length < CHARACTERS * wanted) text += part.text;
  }
  if (text !== "") {
    texts.push(text);
    cut(text);
  }
  // Too few documents: each gives more.
  while (total < wanted && texts.some((one) => one.length > CHARACTERS * most)) {
    most *= 2;
    documents = [];
    total = 0;
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
