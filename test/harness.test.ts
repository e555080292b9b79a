// What lm-evaluation-harness itself said (fixtures/harness/golden.json, versions in it) of a few rows of every task, in the
// layouts of the data sets on the hub, zero-shot and with three examples: the same requests, log-likelihoods, metrics and
// standard errors. The model is made anew from a seed. Not here: small cases by hand (evaluate-tasks.test.ts).

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { familyConfig } from "../src/checkpoint/familyPresets.ts";
import { loadModel } from "../src/checkpoint/loadModel.ts";
import { configOfStored } from "../src/checkpoint/modelFolder.ts";
import { writeRandomCheckpoint } from "../src/checkpoint/randomCheckpoint.ts";
import { evaluateTasks } from "../src/evaluate/evaluate.ts";
import { perplexity } from "../src/evaluate/perplexity.ts";
import { harnessResults } from "../src/evaluate/results.ts";
import type { LanguageModel } from "../src/infer/languageModel.ts";
import { bestBackend } from "./support/backends.ts";

interface Run {
  /** As in the harness's result file: `acc,none`, `acc_stderr,none`... */
  results: Record<string, number | string>;
  samples: {
    answers: ([logLikelihood: number, greedy: boolean] | number)[];
    requests?: string;
    acc?: number;
    acc_norm?: number;
  }[];
}

interface Golden {
  model: { preset: string; set: Record<string, number>; seed: number };
  bootstrap: number;
  tasks: Record<
    string,
    { rows?: { UID?: string; text?: string }[]; train?: object[]; runs: Record<string, Run> }
  >;
}

const url = new URL("fixtures/harness/golden.json", import.meta.url);
const golden = JSON.parse(readFileSync(url, "utf8")) as Golden;
/** Of a log-likelihood, relative to its size: both sides add up f32. */
const LIMIT = 2e-6;

const close = (actual: number, expected: number, limit: number, what: string) =>
  assert.ok(
    Math.abs(actual - expected) <= limit * Math.max(1, Math.abs(expected)),
    `${what}: ${actual}, the harness says ${expected}`,
  );

describe("lm-evaluation-harness says the same", () => {
  const folder = mkdtempSync(join(tmpdir(), "mone-harness-"));
  after(() => rmSync(folder, { recursive: true, force: true }));
  const backend = bestBackend();
  let model: LanguageModel;

  before(async () => {
    const { preset, set, seed } = golden.model;
    const stored = familyConfig(preset, set);
    const path = join(folder, "model");
    await writeRandomCheckpoint(path, configOfStored(stored, preset), { dtype: "f32", seed, stored });
    copyFileSync(
      fileURLToPath(new URL("fixtures/tokenizer/tokenizer.json", import.meta.url)),
      join(path, "tokenizer.json"),
    );
    model = await loadModel(path, { dtype: "f32", backend });
    const lines = (rows: readonly object[]) => rows.map((row) => `${JSON.stringify(row)}\n`).join("");
    for (const [task, { rows, train }] of Object.entries(golden.tasks)) {
      if (rows) writeFileSync(join(folder, `${task}.jsonl`), lines(rows));
      if (train) writeFileSync(join(folder, `${task}.train.jsonl`), lines(train));
    }
    const blimp = Object.entries(golden.tasks).flatMap(([task, { rows }]) =>
      task.startsWith("blimp_") ? (rows ?? []) : [],
    );
    writeFileSync(join(folder, "blimp.jsonl"), lines(blimp));
  });
  after(() => {
    model.close();
    backend.close();
  });

  const evaluated = (task: string, numFewshot: number) =>
    evaluateTasks(model, [task], { files: folder, numFewshot, resamples: golden.bootstrap });

  for (const [task, { runs }] of Object.entries(golden.tasks)) {
    if (task === "docs") continue;
    for (const [shots, run] of Object.entries(runs)) {
      test(`${task}, ${shots} examples`, async () => {
        const results = await evaluated(task, Number(shots));
        const { results: numbers } = harnessResults({ tasks: results, config: {} });
        for (const [metric, expected] of Object.entries(run.results))
          close(Number(numbers[task][metric]), Number(expected), 1e-4, metric);
        for (const [n, { answers, requests, acc, acc_norm }] of run.samples.entries()) {
          const { item, answers: ours, values } = results[0].samples[n];
          const asked = item.requests.map(({ context, continuation }) => [context, continuation]);
          assert.equal(
            createHash("sha256").update(JSON.stringify(asked)).digest("hex").slice(0, 16),
            requests,
            `question ${n}: ${JSON.stringify(asked)}`,
          );
          for (const [i, answer] of answers.entries()) {
            const [logLikelihood, greedy] = answer as [number, boolean];
            close(ours[i].logLikelihood, logLikelihood, LIMIT, `question ${n}, answer ${i}`);
            assert.equal(ours[i].greedy, greedy);
          }
          assert.equal(values.acc, acc);
          assert.equal(values.acc_norm, acc_norm);
        }
      });
    }
  }

  test("perplexity of documents longer than the model's positions", async () => {
    const { rows = [], runs } = golden.tasks.docs;
    const scores: number[] = [];
    async function* documents() {
      for (const [n, { text = "" }] of rows.entries()) yield { id: String(n), text };
    }
    const result = await perplexity(model, documents(), {
      onDocument: (_, __, { logLikelihood }) => scores.push(logLikelihood),
    });
    for (const [n, { answers }] of runs["0"].samples.entries())
      close(scores[n], answers[0] as number, LIMIT, `document ${n}`);
    const { results } = runs["0"];
    close(result.bitsPerByte, Number(results["bits_per_byte,none"]), 1e-6, "bits per byte");
    close(result.bytePerplexity, Number(results["byte_perplexity,none"]), 1e-5, "byte perplexity");
    close(result.wordPerplexity, Number(results["word_perplexity,none"]), 1e-4, "word perplexity");
  });
});
