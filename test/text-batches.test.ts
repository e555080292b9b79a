// Datasets and batches: what training and evaluation are fed, its order, and the tokenised corpus on disk.

import assert from "node:assert/strict";
import { mkdtemp, readdir, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import fc from "fast-check";
import { BatchSampler, validationBatches } from "../src/text/batches.ts";
import { trainBpe } from "../src/text/bpeTraining.ts";
import type { Corpus } from "../src/text/corpus.ts";
import { type TokenSplit, tokenDatasetFromMemory } from "../src/text/dataset.ts";
import { tokenizeCorpus } from "../src/text/shards.ts";
import type { DocumentPart } from "../src/text/textFiles.ts";
import { byteTokenizer, tokenizerFromJson } from "../src/text/tokenizer.ts";
import { holds } from "./support/holds.ts";

/** A split whose tokens are 0, 1, 2, ...: a sequence shows where it was taken. */
function counting(length: number): TokenSplit {
  const ids = Array.from({ length }, (_, i) => i);
  return tokenDatasetFromMemory(ids, [], { vocabSize: length }).train;
}

function range(start: number, length: number): number[] {
  return Array.from({ length }, (_, i) => start + i);
}

describe("BatchSampler", () => {
  test("visits every window once an epoch, on a new grid and in a new order each time", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 9 }),
        fc.integer({ min: 1, max: 400 }),
        fc.nat(),
        (seqLen, extra, seed) => {
          const sampler = new BatchSampler(counting(seqLen + extra), { seqLen, seed });
          for (let epoch = 0; epoch < 3; epoch++) {
            const starts = range(epoch * sampler.windows, sampler.windows).map((index) => {
              const sequence = [...sampler.sequence(index)];
              assert.deepEqual(sequence, range(sequence[0], seqLen + 1));
              return sequence[0];
            });
            starts.sort((a, b) => a - b);
            assert.deepEqual(
              starts,
              range(0, sampler.windows).map((window) => starts[0] + window * seqLen),
            );
          }
        },
      ),
      { numRuns: 50 },
    );
  });

  test("uses nearly all of the text, shuffles it, and shifts the grid", () => {
    const sampler = new BatchSampler(counting(1001), { seqLen: 10, seed: 7 });
    assert.equal(sampler.windows, 99);
    const starts = range(0, 4 * 99).map((index) => sampler.sequence(index)[0]);
    const offsets = range(0, 4).map((epoch) => starts[epoch * 99] % 10);
    holds(new Set(offsets).size > 1);
    const order = (epoch: number) =>
      starts.slice(epoch * 99, (epoch + 1) * 99).map((start) => Math.floor(start / 10));
    assert.notDeepEqual(order(0), order(1));
    // In order, or by a simple rule, neighbours would always be equally far apart.
    holds(new Set(order(0).map((window, i, all) => window - (all[i - 1] ?? 0))).size > 40);
  });

  test("is a function of seed and index, whatever was asked before", () => {
    const split = counting(500);
    const [a, b] = [0, 1].map(() => new BatchSampler(split, { seqLen: 8, seed: 3 }));
    for (let i = 0; i < 100; i++) a.sequence(i);
    assert.deepEqual(a.sequence(1234), b.sequence(1234));
    const other = new BatchSampler(split, { seqLen: 8, seed: 4 });
    assert.notDeepEqual(
      range(0, 20).map((i) => other.sequence(i)[0]),
      range(0, 20).map((i) => a.sequence(i)[0]),
    );
  });

  test("batches rows of inputs and of targets one later", () => {
    const sampler = new BatchSampler(counting(100), { seqLen: 4, seed: 1 });
    const { inputs, targets, count } = sampler.batch(5, 3);
    assert.equal(count, 3);
    for (let row = 0; row < 3; row++) {
      const sequence = sampler.sequence(5 + row);
      assert.deepEqual(inputs.slice(4 * row, 4 * row + 4), sequence.slice(0, 4));
      assert.deepEqual(targets.slice(4 * row, 4 * row + 4), sequence.slice(1));
    }
  });

  test("says when the text is too short", () => {
    new BatchSampler(counting(9), { seqLen: 8, seed: 0 });
    assert.throws(() => new BatchSampler(counting(8), { seqLen: 8, seed: 0 }), {
      name: "UsageError",
      message: /training part has 8 tokens, but one sequence needs 9: give more text or lower --seq-len/,
    });
  });
});

describe("validationBatches", () => {
  const all = (length: number, maxTokens?: number) =>
    [...validationBatches(counting(length), { seqLen: 4, batch: 3, maxTokens })].map(
      ({ inputs, targets, count }) => {
        assert.equal(inputs.length, 4 * count);
        assert.deepEqual(
          [...targets],
          [...inputs].map((id) => id + 1),
        );
        return [...inputs];
      },
    );

  test("goes through the text once, side by side", () => {
    assert.deepEqual(all(21), [range(0, 12), range(12, 8)]);
    assert.deepEqual(all(20), [range(0, 12), range(12, 4)]);
    assert.deepEqual(all(21, 11), [range(0, 8)]);
    assert.deepEqual(all(21, 1), [range(0, 4)]);
  });

  test("says when the text is too short", () => {
    assert.throws(() => all(4), { name: "UsageError", message: /validation part has 4 tokens, .* needs 5/ });
  });
});

describe("tokenDatasetFromMemory", () => {
  test("reads ranges, refuses others, and has a hash of its content", () => {
    const { train, valid, hash } = tokenDatasetFromMemory([1, 2, 3], [4], {
      vocabSize: 5,
      trainTextBytes: 7,
    });
    assert.deepEqual([...train.read(1, 2)], [2, 3]);
    assert.deepEqual([train.textBytes, valid.textBytes], [7, 1]);
    assert.throws(() => train.read(2, 2), RangeError);
    assert.throws(() => train.read(-1, 1), RangeError);
    assert.notEqual(hash, tokenDatasetFromMemory([1, 2], [3, 4], { vocabSize: 5 }).hash);
  });
});

describe("tokenizeCorpus", () => {
  let dir: string;
  before(async () => {
    dir = await mkdtemp(join(tmpdir(), "text-batches-"));
  });
  after(() => rm(dir, { recursive: true }));

  function corpusOf(parts: readonly (readonly [id: string, text: string])[], split: Corpus["split"]): Corpus {
    return {
      name: "test",
      bytes: undefined,
      split,
      notes: [],
      async *documents(): AsyncGenerator<DocumentPart> {
        for (const [id, text] of parts) yield { id, text };
      },
    };
  }
  const everything = (split: TokenSplit) => split.read(0, split.length);

  test("cuts a text at nine tenths of its bytes, and not inside a character", async () => {
    const tokenizer = byteTokenizer();
    const ascii = `${"0123456789".repeat(3)}abcde`; // 35 bytes: floor(31.5) = 31
    const data = await tokenizeCorpus(
      corpusOf(
        [
          ["a", ascii.slice(0, 20)],
          ["a", ascii.slice(20)],
        ],
        "tail",
      ),
      tokenizer,
      join(dir, "tail"),
    );
    assert.equal(tokenizer.decode(everything(data.train)), ascii.slice(0, 31));
    assert.equal(tokenizer.decode(everything(data.valid)), ascii.slice(31));
    assert.deepEqual([data.train.textBytes, data.valid.textBytes], [31, 4]);

    const wide = "\u20ac".repeat(10); // with "ab" 32 bytes: half is 16, but a character ends at 15
    const half = await tokenizeCorpus(corpusOf([["a", `${wide}ab`]], "tail"), tokenizer, join(dir, "wide"), {
      validShare: 0.5,
    });
    assert.equal(tokenizer.decode(everything(half.train)), "\u20ac".repeat(5));
  });

  test("holds out whole documents of about the share, each ended by the end-of-text token", async () => {
    const documents = range(0, 200).map(
      (i) => [`d${i}`, `document ${i}, ${"word ".repeat(i % 17)}.`] as const,
    );
    const tokenizer = trainBpe(
      documents.map(([, text]) => text),
      { vocabSize: 300 },
    );
    const folder = join(dir, "documents");
    const data = await tokenizeCorpus(corpusOf(documents, "documents"), tokenizer, folder);
    const texts = (split: TokenSplit) =>
      tokenizer.decode(everything(split)).split("<|endoftext|>").slice(0, -1);
    const [train, valid] = [texts(data.train), texts(data.valid)];
    assert.deepEqual([...train, ...valid].sort(), documents.map(([, text]) => text).sort());
    const share = data.valid.textBytes / (data.train.textBytes + data.valid.textBytes);
    assert.ok(share > 0.08 && share <= 0.1, `share ${share}`);

    // The order of the documents does not decide who is held out.
    const turned = await tokenizeCorpus(
      corpusOf([...documents].reverse(), "documents"),
      tokenizer,
      join(dir, "turned"),
    );
    assert.deepEqual(texts(turned.valid).sort(), valid.sort());
    assert.notEqual(turned.hash, data.hash);
  });

  test("holds something out of few documents, and the end of a single one", async () => {
    const tokenizer = byteTokenizer();
    const two = await tokenizeCorpus(
      corpusOf(
        [
          ["a", "aaaaaaa"],
          ["b", "bbb"],
        ],
        "documents",
      ),
      tokenizer,
      join(dir, "two"),
    );
    assert.equal(tokenizer.decode(everything(two.valid)), "bbb");
    const one = await tokenizeCorpus(
      corpusOf([["a", "0123456789"]], "documents"),
      tokenizer,
      join(dir, "one"),
    );
    assert.equal(tokenizer.decode(everything(one.valid)), "9");
    await assert.rejects(tokenizeCorpus(corpusOf([], "documents"), tokenizer, join(dir, "none")), {
      name: "UsageError",
    });
  });

  test("reads across files, and uses 32 bits for large vocabularies", async () => {
    const text = range(0, 300)
      .map((i) => String.fromCharCode(33 + (i % 90)))
      .join("");
    const large = { ...byteTokenizer().toJSON() };
    large.added_tokens = [
      {
        id: 70_000,
        content: "!#",
        special: true,
        lstrip: false,
        rstrip: false,
        single_word: false,
        normalized: false,
      },
    ];
    for (const [name, tokenizer, bytes] of [
      ["small", byteTokenizer(), 2],
      ["large", tokenizerFromJson(large), 4],
    ] as const) {
      const folder = join(dir, name);
      const data = await tokenizeCorpus(corpusOf([["a", text]], "tail"), tokenizer, folder, {
        shardBytes: 64,
      });
      const files = (await readdir(folder)).filter((file) => file.startsWith("train"));
      assert.equal(files.length, Math.ceil((data.train.length * bytes) / 64));
      const expected = tokenizer.encode(text.slice(0, 270));
      assert.deepEqual(everything(data.train), expected);
      assert.deepEqual(data.train.read(30, 100), expected.slice(30, 130));
      assert.throws(() => data.train.read(200, 71), RangeError);
    }
  });

  test("writes nothing where the same is there already, and everything where it is not", async () => {
    const folder = join(dir, "again");
    const corpus = corpusOf([["a", "some text that is long enough"]], "tail");
    const first = await tokenizeCorpus(corpus, byteTokenizer(), folder);
    const tasks = new Set<string>();
    const onProgress = ({ task }: { task: string }) => tasks.add(task);
    const again = await tokenizeCorpus(corpus, byteTokenizer(), folder, { onProgress });
    assert.equal(again.hash, first.hash);
    assert.deepEqual([...tasks], ["reading the text"]);

    await truncate(join(folder, "train-00000.bin"), 4);
    const repaired = await tokenizeCorpus(corpus, byteTokenizer(), folder);
    assert.equal(everything(repaired.train).length, 26);

    await writeFile(join(folder, "mine.txt"), "not to be deleted");
    const other = await tokenizeCorpus(corpus, byteTokenizer(), folder, { validShare: 0.5 });
    assert.equal(other.train.length, 14);
    assert.equal(await readFile(join(folder, "mine.txt"), "utf8"), "not to be deleted");
  });

  test("leaves no index behind when it is stopped", async () => {
    const folder = join(dir, "stopped");
    const corpus = corpusOf(
      [
        ["a", "one"],
        ["b", "two"],
        ["c", "three"],
      ],
      "documents",
    );
    const controller = new AbortController();
    const onProgress = ({ task }: { task: string }) => task === "tokenising" && controller.abort();
    await assert.rejects(
      tokenizeCorpus(corpus, byteTokenizer(), folder, { signal: controller.signal, onProgress }),
      {
        name: "AbortError",
      },
    );
    holds(!(await readdir(folder)).includes("index.json"));
    assert.equal((await tokenizeCorpus(corpus, byteTokenizer(), folder)).train.textBytes, 8);
  });
});
