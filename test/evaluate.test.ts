// Evaluation against a straightforward computation: every request by itself, whole, without a cache; logarithms in
// double precision on the host. Not here: prompts and metrics (evaluate-tasks.test.ts), the command (cli.test.ts), and
// the kernel (kernels.test.ts).

import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { gzipSync } from "node:zlib";
import type { Backend } from "../src/backends/backend.ts";
import { SafetensorsFile } from "../src/checkpoint/safetensors.ts";
import { UsageError } from "../src/errors.ts";
import { evaluateTasks } from "../src/evaluate/evaluate.ts";
import { logLikelihoods } from "../src/evaluate/logLikelihood.ts";
import { perplexity } from "../src/evaluate/perplexity.ts";
import { RequestLog } from "../src/evaluate/requestLog.ts";
import { harnessResults, sampleLines } from "../src/evaluate/results.ts";
import type { Row } from "../src/evaluate/task.ts";
import { encodePair, rollingWindows, type TokenRequest } from "../src/evaluate/tokens.ts";
import type { DecoderOptions } from "../src/infer/decoder.ts";
import { LanguageModel } from "../src/infer/languageModel.ts";
import { attendWithin } from "../src/model/attention.ts";
import { linear } from "../src/tensor/ops.ts";
import { Tape } from "../src/tensor/tape.ts";
import { byteTokenizer } from "../src/text/tokenizer.ts";
import { bestBackend } from "./support/backends.ts";
import { openModel, readInt32 } from "./support/golden.ts";
import { holds } from "./support/holds.ts";

const fixture = (path: string) => new URL(`fixtures/${path}`, import.meta.url).pathname;
const folder = mkdtempSync(join(tmpdir(), "mone-evaluate-"));
let backend: Backend;
let model: LanguageModel;
before(() => {
  backend = bestBackend();
  model = new LanguageModel(openModel(fixture("hf/qwen3_moe"), backend), byteTokenizer());
});
after(() => {
  model.close();
  backend.close();
  rmSync(folder, { recursive: true, force: true });
});

/** The arbiter: one request, one forward pass over all of it. */
async function straightforward({ context, continuation }: TokenRequest, maxLength = 128) {
  const { config } = model;
  const input = [...context, ...continuation].slice(-(maxLength + 1)).slice(0, -1);
  const tape = new Tape(backend, { recording: false });
  const column = (values: number[]) => tape.constant(Uint32Array.from(values), [values.length]);
  const attend = attendWithin(config, 1, input.length);
  const options = { attend, bf16: false, balance: false };
  const { hidden } = model.model.forward(tape, column(input), column([...input.keys()]), options);
  const all = linear(tape, hidden, model.model.head, false);
  const logits = (await backend.read(all.buffer, 0, all.size)) as Float32Array;
  tape.release();
  let logLikelihood = 0;
  let greedy = true;
  for (const [n, target] of continuation.entries()) {
    const at = (input.length - continuation.length + n) * config.vocab_size;
    const row = logits.slice(at, at + config.vocab_size);
    const sum = row.reduce((total, logit) => total + Math.exp(logit), 0);
    logLikelihood += row[target] - Math.log(sum);
    if (row.some((logit) => logit > row[target])) greedy = false;
  }
  return { logLikelihood, greedy };
}

/** Two ways to the same f32 numbers differ by rounding: about 1e-6 a token here. What is promised is 1e-4. */
const LIMIT = 5e-5;

async function assertStraightforward(
  groups: TokenRequest[][],
  options: { batch?: number; maxLength?: number } = {},
) {
  const answers = await logLikelihoods(model, groups, options);
  for (const [g, group] of groups.entries()) {
    assert.equal(answers[g].length, group.length);
    for (const [n, request] of group.entries()) {
      const expected = await straightforward(request, options.maxLength);
      const error = Math.abs(answers[g][n].logLikelihood - expected.logLikelihood);
      assert.ok(error <= LIMIT, `request ${g}.${n} is off by ${error}`);
      assert.equal(answers[g][n].greedy, expected.greedy, `request ${g}.${n}`);
    }
  }
}

async function* oneDocument(text: string) {
  yield { id: "0", text };
}

const pair = (context: string, continuation: string) => encodePair(model.tokenizer, context, continuation);

describe("log-likelihoods", () => {
  const groups = [
    ["a dog", "an old cat", "a"].map((choice) => pair("Question: who barks?\nAnswer:", ` ${choice}`)),
    [
      pair("The trophy does not fit because the trophy", " is big."),
      pair("The trophy does not fit because the case", " is big."),
    ],
    [pair("", " Who sat?"), pair("", " Who sat")],
    [pair("Alone", " in its group")],
    [pair("xyz", " one context"), pair("abc", " and another")],
  ];

  for (const batch of [1, 2, 16]) {
    test(`${batch} groups at a time are what each request gives alone`, () =>
      assertStraightforward(groups, { batch }));
  }

  test("what groups begin with alike is computed once a slot, to the same bits", async () => {
    const examples = "Q: one?\nA: two\n\nQ: three?\nA: four\n\nQ: five?\nA: six\n\nQ: seven?\nA: eight\n\n";
    const questions = Array.from({ length: 9 }, (_, n) =>
      ["yes", "no"].map((choice) => pair(`${examples}Q: is it ${n * n * 7}?\nA:`, ` ${choice}`)),
    );
    // Between them some that begin otherwise, and one whose answer begins inside the examples.
    const mixed = [...questions.slice(0, 5), ...groups, ...questions.slice(5), [pair("Q: one?", "\nA: two")]];
    await assertStraightforward(mixed, { batch: 2 });
    const alone = await Promise.all(mixed.map((group) => logLikelihoods(model, [group])));
    assert.deepEqual(
      await logLikelihoods(model, mixed, { batch: 3 }),
      alone.map(([answers]) => answers),
    );
    let rows = 0;
    const counting = {
      config: model.config,
      model: model.model,
      decoder(options: DecoderOptions) {
        const decoder = model.decoder(options);
        const score = decoder.score.bind(decoder);
        decoder.score = (entries) => {
          for (const { ids } of entries) rows += ids.length;
          return score(entries);
        };
        return decoder;
      },
    };
    const rowsOf = async (list: TokenRequest[][]) => {
      rows = 0;
      await logLikelihoods(counting as unknown as LanguageModel, list, { batch: 2 });
      return rows;
    };
    let apart = 0;
    for (const question of questions) apart += await rowsOf([question]);
    // Two slots compute the block of examples, seven groups find it there.
    assert.equal(apart - (await rowsOf(questions)), 7 * 64);
  });

  test("they are those of transformers", async () => {
    const golden = SafetensorsFile.open(fixture("hf/qwen3_moe/expected.safetensors"));
    const ids = Uint32Array.from(readInt32(golden, "input_ids"));
    const logits = golden.readFloat32("neuron.gate.1.0.logits");
    const vocab = model.config.vocab_size;
    // Both prompts of 24 tokens, each cut in two places.
    const groups = [0, 24].map((first) =>
      [1, 15].map((cut) => ({
        context: ids.slice(first, first + cut),
        continuation: ids.slice(first + cut, first + 24),
      })),
    );
    const answers = await logLikelihoods(model, groups);
    for (const [g, group] of groups.entries()) {
      for (const [n, { context, continuation }] of group.entries()) {
        let expected = 0;
        for (const [i, target] of continuation.entries()) {
          const at = (24 * g + context.length + i - 1) * vocab;
          const row = logits.slice(at, at + vocab);
          expected += row[target] - Math.log(row.reduce((sum, logit) => sum + Math.exp(logit), 0));
        }
        // What a user is promised; that package's own rounding is in it.
        assert.ok(Math.abs(answers[g][n].logLikelihood - expected) <= 1e-4, `${g}.${n}: ${expected}`);
      }
    }
  });

  test("contexts that are too long lose their beginning", async () => {
    const long = "it was a bright cold day in April ".repeat(8);
    await assertStraightforward([
      [pair(long, " and"), pair(long, " and the clocks were")],
      [pair("short", " one")],
    ]);
    await assertStraightforward([[pair(long, " and"), pair(long, " and the")]], { maxLength: 20 });
  });

  test("a continuation longer than the model's positions is asked about in pieces", async () => {
    const { context, continuation } = pair("It was", " a bright cold day");
    const answers = await logLikelihoods(model, [[pair("It was", " a day"), { context, continuation }]], {
      maxLength: 10,
    });
    let expected = 0;
    for (let begin = 0; begin < continuation.length; begin += 5) {
      const before = Uint32Array.from([...context, ...continuation.subarray(0, begin)]);
      const piece = { context: before, continuation: continuation.slice(begin, begin + 5) };
      expected += (await straightforward(piece, 10)).logLikelihood;
    }
    holds(Math.abs(answers[0][1].logLikelihood - expected) <= LIMIT);
  });

  test("the greedy continuation is greedy", async () => {
    const context = pair("The sun", " ").context;
    let ids = [...context];
    const decoder = model.decoder();
    const written: number[] = [];
    for (let position = 0; written.length < 6; position += 0) {
      const logits = await decoder.run([{ slot: 0, position, ids: Uint32Array.from(ids) }]);
      written.push(logits.indexOf(logits.reduce((a, b) => Math.max(a, b))));
      ids = [...context, ...written];
    }
    decoder.close();
    const wrong = Uint32Array.from([...written.slice(0, 5), (written[5] + 1) % 256]);
    const request = { context, continuation: Uint32Array.from(written) };
    const [[right, other]] = await logLikelihoods(model, [[request, { context, continuation: wrong }]]);
    assert.deepEqual([right.greedy, other.greedy], [true, false]);
  });

  test("what cannot be scored is refused", async () => {
    const empty = { context: Uint32Array.of(1), continuation: new Uint32Array(0) };
    await assert.rejects(logLikelihoods(model, [[empty]]), UsageError);
  });
});

describe("evaluations", () => {
  const rows: Record<string, Row[]> = {
    arc_easy: [
      { query: "Question: What barks?", choices: ["a dog", "a stone", "rain"], gold: 0 },
      { query: "Question: What is wet?", choices: ["sand", "rain"], gold: 1 },
      { query: "Question: What is old?", choices: ["the sun", "this"], gold: 0 },
    ],
    blimp: [
      { sentence_good: "Who sat?", sentence_bad: "Who sit?", UID: "two" },
      { sentence_good: "She sits.", sentence_bad: "She sit.", UID: "one" },
      { sentence_good: "He sits.", sentence_bad: "He sit.", UID: "one" },
      { sentence_good: "They sit.", sentence_bad: "They sits.", UID: "two" },
    ],
    lambada_openai: [
      { context: "one two three", continuation: "four" },
      { context: "red green", continuation: "blue" },
    ],
  };
  before(() => {
    for (const [task, list] of Object.entries(rows)) {
      const lines = list.map((row) => `${JSON.stringify(row)}\n`).join("");
      writeFileSync(join(folder, `${task}.jsonl.gz`), gzipSync(lines));
    }
    writeFileSync(
      join(folder, "hellaswag_val_full.txt"),
      "Sit: he\n1\na.\nb.\nc.\nd.\nRun: she\n0\na.\nb.\nc.\nd.\n",
    );
  });
  const tasks = Object.keys(rows);
  const evaluated = (names: readonly string[], more = {}) =>
    evaluateTasks(model, names, { files: folder, resamples: 1000, ...more });

  test("tasks give what their requests give alone", async () => {
    const results = await evaluated(tasks);
    const names = ["arc_easy", "blimp_one", "blimp_two", "lambada_openai"];
    assert.deepEqual(
      results.map(({ name }) => name),
      names,
    );
    for (const { samples } of results) {
      for (const { item, answers } of samples) {
        for (const [n, { context, continuation }] of item.requests.entries()) {
          const { logLikelihood, greedy } = await straightforward(pair(context, continuation));
          holds(Math.abs(answers[n].logLikelihood - logLikelihood) <= LIMIT);
          assert.equal(answers[n].greedy, greedy);
        }
      }
    }
    const [arc, , , lambada] = results;
    const right = arc.samples.filter(({ item, answers }) =>
      answers.every(({ logLikelihood }) => logLikelihood <= answers[item.gold].logLikelihood),
    );
    assert.equal(arc.metrics.acc?.value, right.length / 3);
    const sums = lambada.samples.map(({ answers }) => answers[0].logLikelihood);
    holds(
      Math.abs((lambada.metrics.perplexity?.value as number) - Math.exp(-(sums[0] + sums[1]) / 2)) < 1e-6,
    );

    const started = new LanguageModel(model.model, model.tokenizer, { defaults: { startToken: "Q" } });
    const [{ samples }] = await evaluateTasks(started, ["blimp_one"], { files: folder, limit: 1 });
    const begins = { context: Uint32Array.of(81), continuation: model.tokenizer.encode(" Who sat?") };
    assert.deepEqual(encodePair(model.tokenizer, "", " Who sat?", started.startIds), begins);
    const [{ continuation: sentence }] = samples[0].item.requests;
    const wanted = await straightforward(encodePair(model.tokenizer, "", sentence, started.startIds));
    holds(Math.abs(samples[0].answers[0].logLikelihood - wanted.logLikelihood) <= LIMIT);

    const endless = {
      name: "one word",
      settings: {},
      perplexity: await perplexity(model, oneDocument("x".repeat(600))),
    };
    holds(endless.perplexity.wordPerplexity > Number.MAX_VALUE);
    const { results: read } = JSON.parse(
      JSON.stringify(harnessResults({ perplexities: [endless], config: {} })),
    );
    assert.equal(read["one word"]["word_perplexity,none"], "Infinity");
    holds(read["one word"]["bits_per_byte,none"] > 0);

    const file = harnessResults({ tasks: results, config: { model: "mone" } });
    assert.deepEqual(Object.keys(file.results), [
      "arc_easy",
      "blimp",
      "blimp_one",
      "blimp_two",
      "lambada_openai",
    ]);
    assert.deepEqual([file.versions.blimp, file.versions.blimp_one], [2, 1]);
    assert.deepEqual(file.group_subtasks, { arc_easy: [], blimp: names.slice(1, 3), lambada_openai: [] });
    const blimp = (file.groups as typeof file.results).blimp;
    const errors = names.slice(1, 3).map((name) => file.results[name]["acc_stderr,none"] as number);
    holds(Math.abs((blimp["acc_stderr,none"] as number) - Math.hypot(...errors) / 2) < 1e-12);
    const parts = names.slice(1, 3).map((name) => file.results[name]["acc,none"] as number);
    assert.equal(blimp["acc,none"], (parts[0] + parts[1]) / 2);
    assert.equal(file.results.arc_easy["acc,none"], right.length / 3);
    holds("acc_norm_stderr,none" in file.results.arc_easy);
    assert.deepEqual(file["n-samples"].arc_easy, { original: 3, effective: 3 });
    assert.deepEqual(file.higher_is_better.lambada_openai, { perplexity: false, acc: true });
    const [sample] = sampleLines(arc)
      .split("\n")
      .map((line) => line && JSON.parse(line));
    assert.deepEqual(sample.arguments.gen_args_1, {
      arg_0: "Question: What barks?\nAnswer:",
      arg_1: " a stone",
    });
    assert.equal(Number(sample.filtered_resps[0][0]), arc.samples[0].answers[0].logLikelihood);
  });

  test("limits, parts of groups, lines of text, and tasks of one's own", async () => {
    writeFileSync(
      join(folder, "own.yaml"),
      "task: lambada_openai\noutput: completion\nmetrics: [acc]\n" +
        'layouts:\n  - has: [context]\n    context: "Say: {{context}}"\n    target: " {{continuation}}"\n',
    );
    const [one, hellaswag, own] = await evaluated(["blimp_one", "hellaswag", join(folder, "own.yaml")], {
      limit: 1,
    });
    assert.deepEqual([one.name, one.samples.length, one.questions], ["blimp_one", 1, 2]);
    assert.equal(one.metrics.acc?.standardError, undefined);
    assert.deepEqual(hellaswag.samples[0].item.requests[1], { context: "Sit: he", continuation: " b." });
    assert.equal(own.samples[0].item.requests[0].context, "Say: one two three");
    await assert.rejects(evaluated(["blimp_three"]), /there are one, two/);
    await assert.rejects(evaluated(["piqa"]), /no file for the task piqa/);
  });

  test("examples stand before the question", async () => {
    const [arc] = await evaluated(["arc_easy"], { numFewshot: 1, sampler: "first_n", limit: 2 });
    assert.match(
      arc.samples[1].item.requests[0].context,
      /^Question: What barks\?\nAnswer: a dog\n\nQuestion: What is wet/,
    );
  });

  test("answers on disk are not asked for again", async () => {
    const path = join(folder, "log");
    const begun = new RequestLog(path, "same", true);
    const first = await evaluated(tasks, { log: begun });
    assert.throws(() => new RequestLog(path, "same", true), /in use by process/);
    begun.close();
    // Stopped while a line was written.
    const text = readFileSync(path, "utf8");
    writeFileSync(path, text.slice(0, -20));
    const log = new RequestLog(path, "same", true);
    assert.equal(log.size, 7 + 8 + 2 - 1);
    let asked = 0;
    const add = log.add.bind(log);
    log.add = (requests, answers) => {
      asked += requests.length;
      add(requests, answers);
    };
    const again = await evaluated(tasks, { log });
    assert.equal(asked, first.at(-1)?.samples[0].item.requests.length, "the group whose line was cut off");
    for (const [n, { metrics }] of first.entries()) {
      const found = again[n].metrics;
      for (const [metric, { value }] of Object.entries(metrics)) {
        const difference = Math.abs((found[metric as "acc"]?.value as number) - value);
        assert.ok(difference <= 1e-4 * value, `${again[n].name} ${metric}`);
      }
    }
    log.close();
    const whole = new RequestLog(path, "same", true);
    assert.equal(whole.size, 7 + 8 + 2);
    whole.close();
    assert.throws(
      () => new RequestLog(path, "another model", true),
      /answers of another model or other options/,
    );
    assert.throws(() => new RequestLog(path, "same", false), /was stopped: add --resume to go on/);
    const infinite = new RequestLog(path, "same", true);
    const request = { context: Uint32Array.of(1), continuation: Uint32Array.of(2) };
    infinite.add([request], [{ logLikelihood: Number.NEGATIVE_INFINITY, greedy: false }]);
    infinite.close();
    const read = new RequestLog(path, "same", true);
    assert.equal(read.get(request)?.logLikelihood, Number.NEGATIVE_INFINITY, "JSON has no such number");
    read.remove();
    holds(!existsSync(path) && !existsSync(`${path}.lock`));
  });

  test("perplexity is by document, each token once", async () => {
    const texts = ["The first document. ".repeat(15), "Short.", "\u00e9t\u00e9"];
    async function* documents() {
      yield { id: "0", text: texts[0].slice(0, 40) };
      yield { id: "0", text: texts[0].slice(40) };
      yield { id: "1", text: texts[1] };
      yield { id: "2", text: texts[2] };
    }
    for (const stride of [undefined, 16]) {
      const found = await perplexity(model, documents(), { maxLength: 50, stride });
      let sum = 0;
      for (const text of texts) {
        const windows = rollingWindows(model.tokenizer.encode(text), 10, 50, stride);
        for (const window of windows) sum += (await straightforward(window, 50)).logLikelihood;
      }
      assert.ok(
        Math.abs(found.logLikelihood - sum) <= 1e-5 * -sum,
        `${found.logLikelihood} instead of ${sum}`,
      );
      const { bytes, words, tokens, documents: count } = found;
      assert.deepEqual([bytes, words, tokens, count], [300 + 6 + 5, 46 + 1 + 1, 311, 3]);
      holds(Math.abs(found.bitsPerByte - -sum / 311 / Math.LN2) < 1e-5);
      holds(Math.abs(Math.log(found.wordPerplexity) - -sum / 48) < 1e-4);
    }
    const first = await perplexity(model, documents(), { limit: 1 });
    assert.equal(first.bytes, 300);
    await assert.rejects(perplexity(model, documents(), { maxLength: 50, stride: 51 }), UsageError);
  });
});
