// A tokenizer.json from the tokenizer in a GGUF file, where that is byte-level BPE: the reverse of what exportGguf.ts writes.
// The file names the rule that splits a text into words (`tokenizer.ggml.pre`); rules here are those of the tokenizers that
// llama.cpp's names come from.

import { quote, UsageError } from "../errors.ts";
import { tokenizerFromJson } from "../text/tokenizer.ts";
import { byteLevelJson, type TokenizerJson } from "../text/tokenizerJson.ts";
import { tokenTypes } from "./ggufNames.ts";
import type { GgufFile } from "./ggufReader.ts";

interface Rule {
  /** Undefined: GPT-2's. */
  readonly pattern?: string;
  readonly nfc?: boolean;
  /** Words that are tokens are taken whole. */
  readonly wholeWords?: boolean;
}

const pattern = (digits: string) =>
  `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|${digits}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`;
const llama3: Rule = { pattern: pattern("\\p{N}{1,3}"), wholeWords: true };

const rules: Readonly<Record<string, Rule>> = {
  "gpt-2": {},
  olmo: { nfc: true },
  "llama-bpe": llama3,
  llama3,
  "llama-v3": llama3,
  dbrx: { pattern: llama3.pattern },
  qwen2: { pattern: pattern("\\p{N}"), nfc: true },
};

/** The tokenizer, or in words why there is none. */
export type GgufTokenizer =
  | { json: TokenizerJson; problem?: undefined }
  | { json?: undefined; problem: string };

/** @param vocabulary rows of the embedding. @throws RunError for damaged keys. */
export function tokenizerOfGguf(file: GgufFile, vocabulary: number): GgufTokenizer {
  const none = (problem: string) => ({ problem });
  const model = file.text("tokenizer.ggml.model");
  if (model === undefined) return none("the file has none");
  if (model !== "gpt2") return none(`that of the file is ${quote(model)}, not byte-level BPE ("gpt2")`);
  const pre = file.text("tokenizer.ggml.pre") ?? "default";
  const rule = Object.hasOwn(rules, pre) ? rules[pre] : undefined;
  if (!rule) return none(`its rule for words, ${quote(pre)}, is not known here`);
  const [tokens, merges] = ["tokens", "merges"].map((key) => file.texts(`tokenizer.ggml.${key}`));
  if (!tokens || !merges) return none("its tokens or merges are missing");
  if (tokens.length > vocabulary) return none(`it has ${tokens.length} tokens for ${vocabulary} embeddings`);
  const types = file.integers("tokenizer.ggml.token_type");
  if (types && types.length !== tokens.length) return none("its tokens and their kinds are not as many");
  const json = jsonOf(tokens, merges, types ?? new Int32Array(tokens.length).fill(tokenTypes.normal), rule);
  if (typeof json === "string") return none(json);
  try {
    tokenizerFromJson(json);
  } catch (error) {
    if (error instanceof UsageError) return none(error.message);
    throw error;
  }
  return { json };
}

/** A text says why there is none. */
function jsonOf(
  tokens: readonly string[],
  merges: readonly string[],
  types: ArrayLike<number>,
  rule: Rule,
): TokenizerJson | string {
  const { normal, control, userDefined, unused } = tokenTypes;
  const vocab = new Map<string, number>();
  const added: { id: number; content: string; special: boolean }[] = [];
  for (const [id, content] of tokens.entries()) {
    const type = types[id];
    if (type === unused) continue;
    if (type === control || type === userDefined) added.push({ id, content, special: type === control });
    else if (type !== normal) return `its token ${quote(content)} is of kind ${type}`;
    else if (vocab.has(content)) return `its token ${quote(content)} is there twice`;
    else vocab.set(content, id);
  }
  const pairs = merges.map((merge) => merge.split(" "));
  const odd = pairs.findIndex((pair) => pair.length !== 2);
  if (odd >= 0) return `its merge ${quote(merges[odd])} is not a pair`;
  const json = byteLevelJson(vocab, pairs as [string, string][], []);
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false };
  const split = { type: "Split", pattern: { Regex: rule.pattern }, behavior: "Isolated", invert: false };
  const plain = { single_word: false, lstrip: false, rstrip: false, normalized: false };
  return {
    ...json,
    added_tokens: added.map(({ id, content, special }) => ({ id, content, ...plain, special })),
    normalizer: rule.nfc ? { type: "NFC" } : null,
    pre_tokenizer: rule.pattern
      ? { type: "Sequence", pretokenizers: [split, byteLevel] }
      : json.pre_tokenizer,
    model: { ...json.model, ignore_merges: rule.wholeWords === true },
  };
}
