// Cuts text into the pieces that byte-pair merges never cross, as the `pre_tokenizer` of a tokenizer.json says:
// ByteLevel (GPT-2's pattern), Split with a pattern, Digits, or a Sequence of these. The patterns are written for
// Oniguruma, whose white space and case rules differ a little from JavaScript's, hence the translation below.

import { UsageError } from "../errors.ts";

/** How text is cut before merging. */
export interface PreTokenizer {
  /** Put a space before text that does not begin with one. */
  readonly addPrefixSpace: boolean;
  /** Calls `visit` with every piece of `text`, in order; together they are the text. */
  split(text: string, visit: (piece: string) => void): void;
}

const GPT2_PATTERN = "'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/** Unicode White_Space, which has U+0085 and lacks the U+FEFF of JavaScript's `\s`; the inside of a class. */
const WHITE_SPACE = "\\t-\\r \\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";

/** Builds the pre-tokeniser; a UsageError names what is not supported. */
export function preTokenizer(config: unknown): PreTokenizer {
  const patterns: RegExp[] = [];
  let addPrefixSpace = false;
  let byteLevel = false;
  for (const step of flatten(config)) {
    if (step.type === "ByteLevel") {
      byteLevel = true;
      addPrefixSpace ||= step.add_prefix_space === true;
      if (step.use_regex !== false) patterns.push(translate(GPT2_PATTERN));
    } else if (step.type === "Split") {
      patterns.push(splitPattern(step));
    } else if (step.type === "Digits") {
      patterns.push(step.individual_digits === true ? /\p{N}/gu : /\p{N}+/gu);
    } else {
      throw unsupported(`the pre-tokeniser ${JSON.stringify(step.type)}`);
    }
  }
  if (!byteLevel) throw unsupported("a pre-tokeniser without a ByteLevel step");
  return { addPrefixSpace, split: (text, visit) => splitBy(patterns, 0, text, visit) };
}

type Step = Record<string, unknown>;

function flatten(config: unknown): Step[] {
  if (typeof config !== "object" || config === null) return [];
  const step = config as Step;
  if (step.type !== "Sequence") return [step];
  return Array.isArray(step.pretokenizers) ? step.pretokenizers.flatMap(flatten) : [];
}

function splitPattern(step: Step): RegExp {
  const pattern = (step.pattern ?? {}) as Step;
  if (step.behavior !== "Isolated" || step.invert === true) {
    throw unsupported(`a Split pre-tokeniser that is not "Isolated" (${JSON.stringify(step.behavior)})`);
  }
  if (typeof pattern.Regex === "string") return translate(pattern.Regex);
  if (typeof pattern.String === "string") return new RegExp(escapeRegExp(pattern.String), "gu");
  throw unsupported("a Split pre-tokeniser without a pattern");
}

/** Matches of the patterns and the text between them are pieces; each pattern cuts the pieces of the one before. */
function splitBy(
  patterns: readonly RegExp[],
  level: number,
  text: string,
  visit: (piece: string) => void,
): void {
  if (level === patterns.length) {
    visit(text);
    return;
  }
  const pattern = patterns[level];
  let done = 0;
  while (done < text.length) {
    pattern.lastIndex = done;
    const match = pattern.exec(text);
    if (match === null || match[0] === "") break;
    if (match.index > done) splitBy(patterns, level + 1, text.slice(done, match.index), visit);
    splitBy(patterns, level + 1, match[0], visit);
    done = match.index + match[0].length;
  }
  if (done < text.length) splitBy(patterns, level + 1, text.slice(done), visit);
}

/** `text` as a literal inside a regular expression with the `u` flag. */
export function escapeRegExp(text: string): string {
  return text.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&");
}

/** An Oniguruma pattern as a JavaScript one: `\s`, `\S` and groups that ignore case are spelled out. */
function translate(pattern: string): RegExp {
  let source = "";
  let inClass = false;
  let depth = 0;
  let foldDepth = 0; // the depth of the `(?i:` group we are in; 0 outside
  for (let i = 0; i < pattern.length; i++) {
    const character = pattern[i];
    if (character === "\\") {
      const escaped = pattern[++i];
      if (escaped === "s") source += inClass ? WHITE_SPACE : `[${WHITE_SPACE}]`;
      else if (escaped === "S" && !inClass) source += `[^${WHITE_SPACE}]`;
      else if (escaped === "p" || escaped === "P") {
        const end = pattern.indexOf("}", i);
        source += pattern.slice(i - 1, end + 1);
        i = end;
      } else if (escaped === undefined || "SdDwWbBhH".includes(escaped)) {
        throw unsupported(`the pattern ${JSON.stringify(pattern)}`);
      } else source += `\\${escaped}`;
      continue;
    }
    if (character === "[") inClass = true;
    else if (character === "]") inClass = false;
    else if (character === "(" && !inClass) {
      depth++;
      if (pattern.startsWith("(?i:", i)) {
        foldDepth ||= depth;
        source += "(?:";
        i += 3;
        continue;
      }
    } else if (character === ")" && !inClass) {
      if (depth === foldDepth) foldDepth = 0;
      depth--;
    } else if (foldDepth > 0 && /[a-z]/i.test(character)) {
      const cases = foldedCases(character);
      source += inClass ? cases : `[${cases}]`;
      continue;
    }
    source += character;
  }
  try {
    return new RegExp(source, "gu");
  } catch {
    throw unsupported(`the pattern ${JSON.stringify(pattern)}`);
  }
}

/** All characters that are `letter` when case is ignored; two ASCII letters have a third form. */
function foldedCases(letter: string): string {
  const lower = letter.toLowerCase();
  const third = lower === "s" ? "\\u017f" : lower === "k" ? "\\u212a" : "";
  return lower + lower.toUpperCase() + third;
}

function unsupported(what: string): UsageError {
  return new UsageError(
    `tokenizer.json has ${what}, which is not supported; use a byte-level BPE tokenizer.`,
  );
}
