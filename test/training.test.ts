// Training as a whole: it learns, it is a pure function of its configuration, and nothing that stops it loses work.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { loadModel } from "../src/checkpoint/loadModel.ts";
import { SafetensorsFile } from "../src/checkpoint/safetensors.ts";
import { RunError, UsageError } from "../src/errors.ts";
import { resolveModelConfig } from "../src/model/config.ts";
import { Transformer } from "../src/model/transformer.ts";
import type { ArmResult } from "../src/report/comparison.ts";
import { Tape } from "../src/tensor/tape.ts";
import { tokenDatasetFromMemory } from "../src/text/dataset.ts";
import { byteTokenizer } from "../src/text/tokenizer.ts";
import { compare } from "../src/train/compare.ts";
import { type MetricsRecord, type TrainOptions, train } from "../src/train/loop.ts";
import { AdamW } from "../src/train/optimizer.ts";
import { RunFolder } from "../src/train/runFolder.ts";
import { forwardLoss, trainStep } from "../src/train/step.ts";
import { bestBackend } from "./support/backends.ts";
import { holds } from "./support/holds.ts";
import { tinyRun, toyText, writeToyText } from "./support/tinyRun.ts";

const folder = mkdtempSync(join(tmpdir(), "mone-training-"));
after(() => rmSync(folder, { recursive: true, force: true }));
const toy = writeToyText(join(folder, "toy.txt"));

let runs = 0;
const newRun = (changes: TrainOptions = {}): TrainOptions => ({
  ...tinyRun,
  data: toy,
  out: join(folder, `run-${runs++}`),
  threads: 2,
  announce: () => {},
  ...changes,
});

/** Metrics without what depends on the clock. */
function timeless(path: string): object[] {
  return RunFolder.open(path)
    .readMetrics()
    .map(({ seconds, tokensPerSecond, ...record }) => record);
}

/** All weights of a run's newest checkpoint. */
function weights(path: string): string {
  const { path: checkpoint } = RunFolder.open(path).checkpoints().at(-1)!;
  return readFileSync(join(checkpoint, "model.safetensors")).toString("base64");
}

test("a MoNE overfits one batch to a loss below 0.01", async () => {
  const backend = bestBackend();
  const config = resolveModelConfig({
    ...tinyRun.model,
    hidden_size: 64,
    num_attention_heads: 4,
    moe_intermediate_size: 64,
    num_neurons_per_tok: 16,
    max_position_embeddings: 32,
  });
  for (const dtype of ["f32", "bf16"]) {
    const model = new Transformer(config, backend);
    model.initialise(1);
    const options = { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weightDecay: 0, clip: 1 };
    const optimizer = new AdamW(backend, model.parameters.values(), options);
    const ids = byteTokenizer()
      .encode(toyText(20))
      .subarray(0, 4 * 33);
    const rows = [0, 1, 2, 3].map((row) => ids.subarray(33 * row, 33 * row + 33));
    const batch = {
      inputs: Uint32Array.from(rows.flatMap((row) => [...row.subarray(0, 32)])),
      targets: Uint32Array.from(rows.flatMap((row) => [...row.subarray(1)])),
      count: 4,
    };
    let loss = Number.POSITIVE_INFINITY;
    let step = 0;
    for (; step < 400 && loss >= 0.01; step++) {
      ({ loss } = await trainStep(model, optimizer, [batch], { learningRate: 3e-3, bf16: dtype === "bf16" }));
    }
    assert.ok(loss < 0.01, `${dtype}: loss ${loss} after ${step} steps`);
    optimizer.close();
    model.close();
  }
  assert.equal(backend.bytesInUse, 0, "every intermediate was freed");
  backend.close();
});

test("micro-batches add up to the batch they were cut from", async () => {
  const losses = [];
  for (const [batch, accumulation] of [
    [4, 1],
    [2, 2],
    [1, 4],
  ]) {
    const model = { ...tinyRun.model, router_aux_loss_coef: 0, neuron_aux_loss_coef: 0 };
    const options = newRun({ batch, accumulation, steps: 6, dtype: "f32", model });
    losses.push((await train(options)).validation.loss);
  }
  for (const loss of losses) assert.ok(Math.abs(loss - losses[0]) < 1e-4, `${losses}`);
});

test("recomputing the layers changes no bit, and takes less memory", async () => {
  for (const dtype of ["f32", "bf16"]) {
    const model = { ...tinyRun.model, num_hidden_layers: 3, shared_expert_intermediate_size: 16 };
    const plain = newRun({ dtype, model, accumulation: 2, steps: 6 });
    const again = newRun({ dtype, model, accumulation: 2, steps: 6, recompute: true });
    await train(plain);
    await train(again);
    assert.deepEqual(timeless(again.out!), timeless(plain.out!));
    assert.equal(weights(again.out!), weights(plain.out!), "weights after six steps");
  }
  const dense = { ...tinyRun.model, num_experts: 0, num_neurons_per_tok: 8 };
  const [plain, again] = [false, true].map((recompute) => newRun({ model: dense, steps: 6, recompute }));
  await train(plain);
  await train(again);
  assert.deepEqual(timeless(again.out!), timeless(plain.out!), "a dense model that drops neurons");

  const backend = bestBackend();
  const model = new Transformer(
    resolveModelConfig({ ...tinyRun.model, max_position_embeddings: 32 }),
    backend,
  );
  model.initialise(1);
  const held = [false, true].map((recompute) => {
    const tape = new Tape(backend, { recording: true });
    const ids = Uint32Array.from({ length: 128 }, (_, i) => i);
    const before = backend.bytesInUse;
    const batch = { inputs: ids, targets: ids, count: 4 };
    forwardLoss(tape, model, batch, { bf16: false, balance: true, recompute });
    const bytes = backend.bytesInUse - before;
    tape.release();
    assert.equal(backend.bytesInUse, before);
    return bytes;
  });
  assert.ok(held[1] < held[0] / 3, `${held}`);
  model.close();
  backend.close();
});

test("a dense model that drops neurons: their use is measured, and its balance loss evens it out", async () => {
  const dense = { ...tinyRun.model, num_experts: 0, intermediate_size: 64, num_neurons_per_tok: 4 };
  const [off, on] = await Promise.all(
    [0, 0.3].map((neuron_aux_loss_coef) =>
      train(newRun({ model: { ...dense, neuron_aux_loss_coef }, steps: 40 })),
    ),
  );
  assert.equal(on.validation.expertUse, undefined);
  const [without, balanced] = [off, on].map(({ validation }) => validation.neuronUse!);
  assert.equal(balanced.layers.length, 2);
  assert.ok(balanced.dead < 0.1 && without.dead > 0.5, `${without.dead} -> ${balanced.dead}`);
  assert.ok(balanced.entropy > without.entropy + 0.1, `${without.entropy} -> ${balanced.entropy}`);
  const every = await train(newRun({ model: { ...dense, num_neurons_per_tok: null }, steps: 1 }));
  assert.equal(every.validation.neuronUse, undefined, "where every neuron acts there is nothing to count");
});

test("a run goes on with the text that it was begun with, also where that has changed", async () => {
  const data = join(folder, "changing.txt");
  const stop = async () => {
    writeToyText(data);
    const options = newRun({ data, tokenizer: "bpe:300" });
    const controller = new AbortController();
    const onStep = ({ step }: { step: number }) => step === 7 && controller.abort(new Error("enough"));
    await assert.rejects(train({ ...options, signal: controller.signal, onStep }), /enough/);
    return options;
  };
  const whole = newRun({ data: writeToyText(data), tokenizer: "bpe:300" });
  const { validation } = await train(whole);
  const { out } = await stop();
  rmSync(data);
  assert.deepEqual((await train({ out, resume: true })).validation, validation, "its own tokens");

  const other = await stop();
  rmSync(join(other.out!, "data"), { recursive: true });
  writeToyText(data, 500);
  await assert.rejects(train({ out: other.out, resume: true }), {
    name: "UsageError",
    message: /the text is not the one that .* was begun with: bring that back to .*changing\.txt/,
  });
  writeToyText(data);
  assert.deepEqual((await train({ out: other.out, resume: true })).validation, validation, "made again");
});

test("the same seed gives the same run, another seed another one, and any number of threads the same", async () => {
  const first = newRun();
  const second = newRun({ threads: 1 });
  const other = newRun({ seed: 2 });
  const a = await train(first);
  const b = await train(second);
  await train(other);
  assert.equal(a.validation.loss, b.validation.loss);
  assert.deepEqual(timeless(first.out!), timeless(second.out!));
  assert.equal(weights(first.out!), weights(second.out!));
  assert.notDeepEqual(timeless(first.out!), timeless(other.out!));
  const metrics = RunFolder.open(first.out!).readMetrics() as unknown as MetricsRecord[];
  assert.equal(metrics.length, 24);
  assert.ok(metrics[23].loss < metrics[0].loss - 1, "it learns");
  holds(Math.abs((metrics[0].expertBalance ?? 0) - 1) < 0.5);
  holds((metrics[0].neuronBalance ?? 0) > 0.9);
});

test("an aborted run saves, and resumes to the same end; a finished one can be resumed too", async () => {
  const whole = newRun();
  const { validation } = await train(whole);
  const stopped = newRun();
  const controller = new AbortController();
  await assert.rejects(
    train({
      ...stopped,
      signal: controller.signal,
      onStep: ({ step }) => step === 10 && controller.abort(new Error("stop")),
    }),
    /stop/,
  );
  assert.equal(RunFolder.open(stopped.out!).checkpoints().at(-1)!.step, 10);
  const { out, announce, threads } = stopped;
  const resumed = await train({ out, announce, threads, resume: true });
  assert.equal(resumed.validation.loss, validation.loss);
  assert.deepEqual(timeless(out!), timeless(whole.out!));
  assert.equal(weights(out!), weights(whole.out!));
  const again = await train({ out, announce, threads, resume: true });
  assert.equal(again.validation.loss, validation.loss);
  await assert.rejects(train({ out, announce, resume: true, learningRate: 1 }), UsageError);
});

test("kill -9 at 20 random moments: the run resumes to the same end, bit for bit", {
  timeout: 240_000,
}, async () => {
  const whole = newRun();
  const { validation } = await train(whole);
  const out = join(folder, "killed");
  const script = new URL("support/trainOnce.ts", import.meta.url).pathname;
  const launch = (resume: boolean) =>
    spawn(process.execPath, ["--import", "tsx", script, out, ...(resume ? ["resume"] : [])], {
      env: { ...process.env, TOY_TEXT: toy },
      stdio: ["ignore", "pipe", "pipe"],
    });
  let finals = 0;
  let state = 99;
  for (let kill = 0; kill < 20; kill++) {
    if (kill % 5 === 0) rmSync(out, { recursive: true, force: true });
    const started = readdirSync(folder).includes("killed") && readdirSync(out).includes("config.json");
    const child = launch(started);
    const exited = new Promise((resolve) => child.on("exit", resolve));
    let output = "";
    child.stdout.on("data", (chunk) => {
      output += chunk;
    });
    // The start of a process takes longer than the whole run: the clock starts with the first step.
    await Promise.race([new Promise((resolve) => child.stdout.once("data", resolve)), exited]);
    state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff;
    await Promise.race([new Promise((resolve) => setTimeout(resolve, (state >> 8) % 160)), exited]);
    child.kill("SIGKILL");
    await exited;
    if (output.includes("final")) finals++;
  }
  assert.ok(finals < 15, `only ${20 - finals} of 20 kills hit a running process`);
  const { announce, threads } = whole;
  const resumed = await train({ out, announce, threads, resume: true });
  assert.equal(resumed.validation.loss, validation.loss);
  assert.deepEqual(timeless(out), timeless(whole.out!));
  assert.equal(weights(out), weights(whole.out!));
});

test("a run starts from another one's weights, with fewer neurons and further on in the data", async () => {
  const model = { ...tinyRun.model, num_neurons_per_tok: null };
  const first = newRun({ model, steps: 8 });
  const { validation } = await train(first);
  const next = { startFrom: first.out, startSequence: 8 * 4, learningRate: 0, weightDecay: 0, warmup: 0 };
  const still = newRun({ ...next, model, steps: 2 });
  assert.equal((await train(still)).validation.loss, validation.loss, "nothing was learnt, nothing changed");
  // The ninth step of one run and the first of a run that skips what eight steps saw meet the same batch.
  const whole = newRun({ model, steps: 9, learningRate: 0, weightDecay: 0, warmup: 0 });
  const skipping = newRun({ ...next, startFrom: undefined, model, steps: 1 });
  for (const run of [whole, skipping]) await train(run);
  const lastLoss = (run: TrainOptions) => RunFolder.open(run.out!).readMetrics().at(-1)!.loss;
  assert.equal(lastLoss(skipping), lastLoss(whole));

  const fewer = newRun({ startFrom: first.out, startSequence: 8 * 4, steps: 16 });
  const controller = new AbortController();
  const stop = ({ step }: MetricsRecord) => step === 5 && controller.abort(new Error("stop"));
  await assert.rejects(train({ ...fewer, signal: controller.signal, onStep: stop }), /stop/);
  const { out, announce, threads } = fewer;
  const resumed = await train({ out, announce, threads, resume: true });
  assert.ok(resumed.validation.neuronUse, "it is a MoNE now");
  const uninterrupted = newRun({ startFrom: first.out, startSequence: 8 * 4, steps: 16 });
  assert.equal((await train(uninterrupted)).validation.loss, resumed.validation.loss);

  const wrong = newRun({ startFrom: first.out, tokenizer: "bpe:260" });
  await assert.rejects(train(wrong), /has another tokenizer than this run/);
  const wider = newRun({ startFrom: first.out, model: { ...model, moe_intermediate_size: 64 } });
  await assert.rejects(train(wider), /has shape \[32,32\], but config.json asks for \[64,32\]/);
  for (const { out } of [wrong, wider]) assert.ok(!existsSync(out!), "no folder is left");
});

test("a loss that is not finite stops the run and says where", async () => {
  const options = newRun({ learningRate: 1e20, warmup: 0, clip: 0, checkpointEvery: 1 });
  await assert.rejects(train(options), (error: Error) => {
    holds(error instanceof RunError);
    assert.match(
      error.message,
      /Step \d+ of .* gave loss (NaN|Infinity|-Infinity|[\d.e+]+).*batch from sequence \d+ on.*last good checkpoint is .*step-\d+/,
    );
    return true;
  });
});

test("bad input leaves no folder behind and says what is wrong", async () => {
  const cases: [TrainOptions, RegExp][] = [
    [{ data: join(folder, "missing.txt") }, /missing\.txt/],
    [{ startFrom: join(folder, "no-model") }, /there is no model at .*no-model/],
    [
      { model: { ...tinyRun.model, num_neurons_per_tok: 33 } },
      /num_neurons_per_tok must be an integer from 1 to the expert width 32/,
    ],
    [{ model: { ...tinyRun.model, num_neurons_per_tok: 0 } }, /num_neurons_per_tok must be/],
    [
      { model: { ...tinyRun.model, num_experts_per_tok: 5 } },
      /num_experts_per_tok 5 is more than num_experts 4/,
    ],
    [{ model: { ...tinyRun.model, num_attention_heads: 3 } }, /does not divide into 3 heads/],
    [{ model: { ...tinyRun.model, vocab_size: 100 } }, /vocab_size 100 is smaller than the tokenizer's 256/],
    [{ seqLen: 4000 }, /validation part has \d+ tokens, but one sequence needs 4001/],
    [{ seqLen: 100_000 }, /one sequence needs 100001/],
    [{ learningrate: 1 } as TrainOptions, /unknown key "learningrate"; did you mean "learningRate"/],
    [
      { model: { num_expert: 1 } as TrainOptions["model"] },
      /unknown key "num_expert"; did you mean "num_experts"/,
    ],
  ];
  for (const [changes, message] of cases) {
    const options = newRun(changes);
    await assert.rejects(train(options), (error: Error) => {
      assert.ok(error instanceof UsageError, `${error.stack}`);
      assert.match(error.message, message);
      return true;
    });
    assert.ok(!readdirSync(folder).includes(options.out!.split("/").at(-1)!), "no folder is left");
  }
});

test("a trained run writes text, the same for the same seed; a damaged checkpoint is refused", async () => {
  const options = newRun({ steps: 40, checkpointEvery: 40 });
  const { checkpoint } = await train(options);
  const model = await loadModel(options.out!, { announce: () => {} });
  const write = async (seed: number) => {
    let text = "";
    for await (const piece of model.generate("the cat", { maxTokens: 20, seed })) text += piece;
    return text;
  };
  assert.equal(await write(1), await write(1));
  assert.notEqual(await write(1), await write(2));
  const sparse = await loadModel(options.out!, { neurons: 0.125, announce: () => {} });
  assert.equal(sparse.config.num_neurons_per_tok, 4);
  sparse.close();
  model.close();

  const path = join(checkpoint, "model.safetensors");
  const file = SafetensorsFile.open(path);
  assert.ok(
    file.tensors.has("model.layers.0.mlp.experts.3.down_proj.weight"),
    "expert by expert, as in qwen3_moe",
  );
  file.close();
  const bytes = readFileSync(path);
  writeFileSync(path, bytes.subarray(0, bytes.length - 100));
  await assert.rejects(loadModel(checkpoint, { announce: () => {} }), RunError);
  await assert.rejects(train({ out: options.out, resume: true, announce: () => {} }), RunError);
});

test("a comparison trains three arms alike, and resumes with the settings it began with", async () => {
  const settings = {
    preset: "glimpse",
    data: toy,
    validShare: 0.1,
    steps: 6,
    threads: 2,
    announce: () => {},
  };
  const whole = await compare({ ...settings, out: join(folder, "comparison") });
  const [moe, mone, control] = whole.comparison.arms;
  assert.deepEqual([moe.name, mone.name, control.name], ["MoE", "MoNE K = 8", "MoE top-2"]);
  assert.equal(
    moe.training[0].loss.toFixed(2),
    mone.training[0].loss.toFixed(2),
    "same seed, same first batch",
  );
  assert.equal(mone.parameters.total, moe.parameters.total);
  assert.equal(mone.parameters.activatedExpertsWithGate, moe.parameters.activatedExpertsWithGate / 2);
  assert.equal(control.parameters.activatedExpertsWithGate, moe.parameters.activatedExpertsWithGate / 2);
  holds(mone.neuronUse && !moe.neuronUse);
  const page = readFileSync(whole.reportPath, "utf8");
  for (const { name } of whole.comparison.arms) holds(page.includes(name));

  const out = join(folder, "stopped-comparison");
  const controller = new AbortController();
  let arms = 0;
  const onArm = () => ++arms === 2 && controller.abort(new Error("stop"));
  await assert.rejects(compare({ ...settings, out, signal: controller.signal, onArm }), /stop/);
  await assert.rejects(compare({ ...settings, out }), /holds a comparison already: add --resume/);
  await assert.rejects(compare({ out, resume: true, steps: 7, announce: () => {} }), /leave out steps/);
  const resumed = await compare({ out, resume: true, threads: 2, announce: () => {} });
  const losses = (arms: ArmResult[]) => arms.map(({ final }) => final.loss);
  assert.deepEqual(losses(resumed.comparison.arms), losses(whole.comparison.arms));
});

test("a comparison checks all arms before it begins", async () => {
  const out = join(folder, "no-comparison");
  const backend = bestBackend();
  for (const [model, message] of [
    [{ num_experts_per_tok: 3 }, /^num_experts_per_tok must be even in a comparison, .* not 3$/],
    [{ moe_intermediate_size: 30 }, /^moe_intermediate_size must be a multiple of 4 in .* not 30$/],
    [{ num_experts_per_tok: 0 }, /^MoE, model: num_experts_per_tok must be an integer of at least 1, not 0$/],
  ] as const) {
    const attempt = compare({ preset: "glimpse", data: toy, out, model, backend, announce: () => {} });
    await assert.rejects(attempt, { name: "UsageError", message });
    assert.ok(!existsSync(out), "nothing is written");
  }
  backend.close();
});

test("a dataset in memory trains without a file", async () => {
  const tokenizer = byteTokenizer();
  const ids = tokenizer.encode(toyText(300));
  const dataset = tokenDatasetFromMemory(ids.subarray(0, 6000), ids.subarray(6000), { vocabSize: 256 });
  const options = newRun({ steps: 3, prepared: { tokenizer, dataset } });
  assert.equal((await train(options)).steps, 3);
});
