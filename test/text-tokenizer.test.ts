// Tokenizers against the golden file (made by Hugging Face's tokenizers), properties over random Unicode, and the
// training of merges. Not here: corpora and batches.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, test } from "node:test";
import fc from "fast-check";
import { trainBpe } from "../src/text/bpeTraining.ts";
import { bytesToCharacters } from "../src/text/byteLevel.ts";
import { preTokenizer } from "../src/text/preTokenizer.ts";
import type { Progress } from "../src/text/progress.ts";
import { byteTokenizer, StreamDecoder, type Tokenizer, tokenizerFromJson } from "../src/text/tokenizer.ts";
import type { TokenizerJson } from "../src/text/tokenizerJson.ts";
import { holds } from "./support/holds.ts";

interface Golden {
  cases: { text: string; ids: number[]; decoded: string; decoded_skip_special?: string; pieces?: string[] }[];
  decode_only: { ids: number[]; decoded: string }[];
}

function fixture(name: string): unknown {
  return JSON.parse(readFileSync(new URL(`fixtures/tokenizer/${name}`, import.meta.url), "utf8"));
}

const golden = fixture("cases.json") as Golden;
const goldenJson = fixture("tokenizer.json") as TokenizerJson;
const tokenizer = tokenizerFromJson(goldenJson);

/** A changed copy of the golden file. */
function changed(change: (json: TokenizerJson) => void): TokenizerJson {
  const json = structuredClone(goldenJson);
  change(json);
  return json;
}

function pieces(config: unknown, text: string): string[] {
  const found: string[] = [];
  preTokenizer(config).split(text, (piece) => found.push(piece));
  return found;
}

describe("golden tokenizer", () => {
  test("encodes, decodes and splits every case", () => {
    assert.equal(golden.cases.length, 260);
    for (const { text, ids, decoded, decoded_skip_special = decoded, pieces: expected } of golden.cases) {
      assert.deepEqual([...tokenizer.encode(text)], ids, JSON.stringify(text));
      assert.equal(tokenizer.decode(ids), decoded);
      assert.equal(tokenizer.decode(ids, { skipSpecial: true }), decoded_skip_special);
      if (expected !== undefined) {
        const found = pieces({ type: "ByteLevel" }, text).map((piece) =>
          bytesToCharacters(Buffer.from(piece)),
        );
        assert.deepEqual(found, expected);
      }
    }
  });

  test("decodes ids that are cut inside characters", () => {
    assert.equal(golden.decode_only.length, 36);
    for (const { ids, decoded } of golden.decode_only) assert.equal(tokenizer.decode(ids), decoded);
  });

  test("knows its size and its special tokens", () => {
    assert.equal(tokenizer.vocabSize, 1024);
    assert.equal(tokenizer.eosId, 0);
    assert.equal(Buffer.from(tokenizer.bytesOf(1)).toString(), "<|pad|>");
    assert.throws(() => tokenizer.decode([1024]), { name: "UsageError", message: /1024 is outside/ });
  });

  test("reads merges written as strings, and what it writes itself", () => {
    const strings = changed((json) => {
      json.model.merges = json.model.merges.map((merge) =>
        typeof merge === "string" ? merge : merge.join(" "),
      );
    });
    for (const json of [strings, JSON.parse(JSON.stringify(tokenizer))]) {
      const other = tokenizerFromJson(json);
      for (const { text, ids } of golden.cases) assert.deepEqual([...other.encode(text)], ids);
    }
  });

  test("puts a space before text where the file says so", () => {
    const prefixed = tokenizerFromJson(
      changed((json) => {
        json.pre_tokenizer = { type: "ByteLevel", add_prefix_space: true, use_regex: true };
      }),
    );
    assert.deepEqual(prefixed.encode("the king"), tokenizer.encode(" the king"));
    assert.deepEqual(prefixed.encode(" the king"), tokenizer.encode(" the king"));
    assert.deepEqual(prefixed.encode("a<|pad|>b"), tokenizer.encode(" a<|pad|> b"));
    assert.equal(prefixed.encode("").length, 0);
  });

  test("merges a word of 200,000 characters quickly", () => {
    const start = performance.now();
    const ids = tokenizer.encode("the".repeat(70_000));
    assert.equal(tokenizer.decode(ids), "the".repeat(70_000));
    assert.ok(performance.now() - start < 5000, "merging long words must not be quadratic");
  });
});

describe("tokenizer.json", () => {
  test("applies NFC, takes whole words and reads Split patterns", () => {
    const split = { Regex: "(?i:'s|'t)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|\\s+(?!\\S)|\\s+" };
    const sequence = {
      type: "Sequence",
      pretokenizers: [
        { type: "Split", pattern: split, behavior: "Isolated", invert: false },
        { type: "ByteLevel", add_prefix_space: false, use_regex: false },
      ],
    };
    // U+0085 is white space for the pattern, U+FEFF is not; "'S" is a suffix though the pattern has "'s".
    assert.deepEqual(pieces(sequence, "It'S 12345 \u0085x!\ufeff?"), [
      "It",
      "'S",
      " ",
      "123",
      "45",
      " ",
      "\u0085x",
      "!\ufeff?",
    ]);

    const nfc = changed((json) => {
      json.normalizer = { type: "Sequence", normalizers: [{ type: "NFC" }] };
      json.pre_tokenizer = sequence;
    });
    assert.deepEqual(tokenizerFromJson(nfc).encode("e\u0301"), tokenizer.encode("\u00e9"));

    const whole = changed((json) => {
      json.model.ignore_merges = true;
      json.model.merges = [];
    });
    assert.deepEqual([...tokenizerFromJson(whole).encode(" the")], [goldenJson.model.vocab["\u0120the"]]);
  });

  test("says what it cannot read", () => {
    const broken: [unknown, RegExp][] = [
      [null, /no model/],
      [{ model: { type: "Unigram", vocab: [] } }, /"Unigram"/],
      [{ model: { type: "WordPiece", vocab: {} } }, /"WordPiece"/],
      [changed((json) => Object.assign(json.model, { byte_fallback: true })), /byte fallback/],
      [changed((json) => Object.assign(json.model, { end_of_word_suffix: "</w>" })), /end_of_word_suffix/],
      [changed((json) => Object.assign(json, { pre_tokenizer: { type: "Metaspace" } })), /"Metaspace"/],
      [changed((json) => Object.assign(json, { pre_tokenizer: null })), /no byte-level pre-tokeniser/],
      [changed((json) => Object.assign(json, { normalizer: { type: "Lowercase" } })), /Lowercase/],
      [changed((json) => Object.assign(json.added_tokens[0], { lstrip: true })), /lstrip/],
      [changed((json) => delete json.model.vocab["\u0120"]), /no token for byte 32/],
      [
        changed((json) => json.model.merges.push(["\u0120the", "\u0120the"])),
        /merge .* is not in its vocabulary/,
      ],
      [changed((json) => json.model.merges.push("a b c")), /merges are not pairs/],
    ];
    for (const [json, message] of broken) {
      assert.throws(() => tokenizerFromJson(json), { name: "UsageError", message });
    }
  });
});

describe("properties", () => {
  const anyText = fc.string({
    unit: fc.oneof(fc.constantFrom("a", " ", "\n", "<|pad|>", "\ufeff"), fc.string()),
  });
  const unicode = fc.oneof(anyText, fc.string({ unit: "binary" }));
  const tokenizers: [string, Tokenizer][] = [
    ["bytes", byteTokenizer()],
    ["golden", tokenizer],
  ];
  for (const [name, each] of tokenizers) {
    test(`${name}: any text survives the way there and back`, () => {
      fc.assert(fc.property(unicode, (text) => each.decode(each.encode(text)) === text));
    });

    test(`${name}: decoding as the ids come gives the same text, never half a character`, () => {
      const ids = fc.array(fc.nat(each.vocabSize - 1));
      fc.assert(
        fc.property(
          fc.oneof(
            ids,
            unicode.map((text) => [...each.encode(text)]),
          ),
          (list) => {
            const stream = new StreamDecoder(each);
            const parts = [...list.map((id) => stream.push(id)), stream.end()];
            assert.equal(parts.join(""), each.decode(list));
            // Neither half of a surrogate pair stands alone.
            for (const part of parts) assert.doesNotMatch(part, /\p{Surrogate}/u);
          },
        ),
      );
    });
  }

  test("byte ids are the bytes, in the file too", () => {
    const bytes = byteTokenizer();
    assert.equal(bytes.eosId, undefined);
    assert.equal(bytes.vocabSize, 256);
    assert.deepEqual([...bytes.encode("a\u00e9<|endoftext|>").slice(0, 4)], [0x61, 0xc3, 0xa9, 0x3c]);
    assert.equal(bytes.toJSON().model.vocab["\u0120"], 32);
  });
});

describe("trainBpe", () => {
  const text = "the cat sat on the mat; the rat sat on the cat. ".repeat(20);

  test("learns the most frequent pair first and takes the lowest ids on a tie", () => {
    // "xy" occurs four times, "ab" and "cd" three times each; punctuation keeps the words apart.
    const { merges, vocab } = trainBpe(["xy,cd;ab:xy.cd-ab/xy+cd=ab(xy"], { vocabSize: 260 }).toJSON().model;
    assert.deepEqual(merges, ["x y", "a b", "c d"]);
    assert.equal(vocab.xy, 257);
  });

  test("is the same twice, and its file gives the same ids", () => {
    const [a, b] = [trainBpe([text], { vocabSize: 268 }), trainBpe([text], { vocabSize: 268 })];
    assert.equal(JSON.stringify(a), JSON.stringify(b));
    assert.equal(a.vocabSize, 268);
    assert.equal(a.eosId, 0);
    const ids = tokenizerFromJson(JSON.parse(JSON.stringify(a))).encode(text);
    assert.deepEqual(ids, a.encode(text));
    assert.equal(a.decode(ids), text);
    holds(ids.length < text.length / 2);
  });

  test("agrees with counting everything anew at each step", () => {
    const word = fc.string({ unit: fc.constantFrom("a", "b", "c"), maxLength: 12 });
    fc.assert(
      fc.property(fc.array(word, { minLength: 1, maxLength: 8 }), (words) => {
        const trained = trainBpe([words.join(" ")], { vocabSize: 275, specialTokens: [] }).toJSON().model;
        assert.deepEqual(trained.merges, slowMerges(words, trained.merges.length));
      }),
      { numRuns: 60 },
    );
  });

  test("learns nothing from special tokens and says when the text has no pairs left", () => {
    const reports: Progress[] = [];
    const small = trainBpe(["<|endoftext|><|endoftext|>abab"], {
      vocabSize: 300,
      onProgress: (p) => reports.push(p),
    });
    assert.deepEqual(small.toJSON().model.merges, ["a b"]);
    assert.equal(small.vocabSize, 258);
    assert.match(reports.at(-1)?.note ?? "", /258 tokens, not 300/);
  });

  test("refuses a vocabulary without room for the bytes, and stops when told to", () => {
    assert.throws(() => trainBpe([text], { vocabSize: 256 }), { name: "UsageError", message: /from 257/ });
    const controller = new AbortController();
    const onProgress = () => controller.abort();
    assert.throws(() => trainBpe([text], { vocabSize: 280, onProgress, signal: controller.signal }), {
      name: "AbortError",
    });
  });
});

/** The definition, spelled out: count all pairs, merge the best everywhere, again. */
function slowMerges(words: readonly string[], count: number): string[] {
  const ids = new Map(
    Object.entries(trainBpe([], { vocabSize: 256, specialTokens: [] }).toJSON().model.vocab),
  );
  let tokens = pieces({ type: "ByteLevel" }, words.join(" ")).map((piece) => [
    ...bytesToCharacters(Buffer.from(piece)),
  ]);
  const merges: string[] = [];
  while (merges.length < count) {
    const counts = new Map<string, number>();
    for (const word of tokens) {
      for (let i = 0; i + 1 < word.length; i++) {
        const pair = `${word[i]} ${word[i + 1]}`;
        counts.set(pair, (counts.get(pair) ?? 0) + 1);
      }
    }
    const key = (pair: string) => pair.split(" ").map((token) => ids.get(token)!);
    const [[best]] = [...counts].sort(([pairA, countA], [pairB, countB]) => {
      const [a, b] = [key(pairA), key(pairB)];
      return countB - countA || a[0] - b[0] || a[1] - b[1];
    });
    merges.push(best);
    const [left, right] = best.split(" ");
    if (!ids.has(left + right)) ids.set(left + right, ids.size);
    tokens = tokens.map((word) => {
      const merged: string[] = [];
      for (let i = 0; i < word.length; i++) {
        const whole = word[i] === left && word[i + 1] === right;
        merged.push(whole ? left + right : word[i]);
        if (whole) i++;
      }
      return merged;
    });
  }
  return merges;
}
