// From texts to what a model is asked: a context and its continuation as tokens, and the windows of a long text.
// Semantics: EleutherAI's lm-evaluation-harness (lm_eval/api/model.py, models/huggingface.py, utils.py). Not here:
// asking the model (logLikelihood.ts).

import { startIds } from "../infer/languageModel.ts";
import type { Tokenizer } from "../text/tokenizer.ts";

/** How likely is `continuation` after `context`? Both are tokens, and neither is empty. */
export interface TokenRequest {
  readonly context: Uint32Array;
  readonly continuation: Uint32Array;
}

/** The characters that Python's str.isspace and \s know, as a class of a regular expression. */
const SPACE = "[\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]";
const TRAILING_SPACE = new RegExp(`${SPACE}+$`);
const SPACES = new RegExp(`${SPACE}+`);

/**
 * Tokens of a continuation after its context. White space at the context's end belongs to the continuation; both are
 * encoded together, and what the context alone does not have is the continuation. An empty context is the last of
 * `start`: what a text without a beginning follows (`LanguageModel.startIds`).
 */
export function encodePair(
  tokenizer: Tokenizer,
  context: string,
  continuation: string,
  start: Uint32Array = startIds(tokenizer),
): TokenRequest {
  if (context === "") return { context: start.slice(-1), continuation: tokenizer.encode(continuation) };
  const space = context.match(TRAILING_SPACE)?.[0] ?? "";
  const trimmed = context.slice(0, context.length - space.length);
  const whole = tokenizer.encode(context + continuation);
  const contextIds = tokenizer.encode(trimmed);
  return { context: contextIds, continuation: whole.slice(contextIds.length) };
}

/**
 * The windows in which all tokens of a text are asked about, each of them once. The first window begins with `prefix`;
 * later ones ask about `stride` tokens and show as many before them as fit.
 * @param maxLength positions of a window. @param stride 1 to maxLength; the default, maxLength, shows one token only
 *   before each window but the last, which is moved left to be full.
 */
export function rollingWindows(
  ids: Uint32Array,
  prefix: number,
  maxLength: number,
  stride = maxLength,
): TokenRequest[] {
  const windows: TokenRequest[] = [];
  if (ids.length === 0) return windows;
  const first = Math.min(maxLength, ids.length);
  windows.push({ context: Uint32Array.of(prefix), continuation: ids.slice(0, first) });
  for (let done = first; done < ids.length; ) {
    const end = Math.min(ids.length, done + stride);
    // The last token is not shown, so a window of maxLength positions begins one token earlier.
    const context = ids.slice(end - maxLength - 1, done);
    windows.push({ context, continuation: ids.slice(done, end) });
    done = end;
  }
  return windows;
}

/** Words as the harness counts them: pieces between runs of white space, empty ones at both ends included. */
export function countWords(text: string): number {
  return text.split(SPACES).length;
}

/** Length in Unicode characters, as Python's `len`. */
export function countCharacters(text: string): number {
  let count = 0;
  for (const _ of text) count++;
  return count;
}

/** Length in UTF-8. */
export function countBytes(text: string): number {
  return new TextEncoder().encode(text).length;
}
