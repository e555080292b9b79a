// The study on tiny models: criteria against their definitions, what must be equal to the last bit, resuming.

import assert from "node:assert/strict";
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import type { Backend } from "../src/backends/backend.ts";
import { loadModel, openStoredModel } from "../src/checkpoint/loadModel.ts";
import { saveModel } from "../src/checkpoint/modelFolder.ts";
import { SafetensorsFile } from "../src/checkpoint/safetensors.ts";
import { readNeuronsOption } from "../src/checkpoint/studyFile.ts";
import { UsageError } from "../src/errors.ts";
import { Decoder } from "../src/infer/decoder.ts";
import { randomScore } from "../src/kernels/studyExperts.ts";
import { type ModelConfig, resolveModelConfig } from "../src/model/config.ts";
import { countOfNeurons, countOfPruned, resolveNeurons } from "../src/model/neurons.ts";
import { Transformer } from "../src/model/transformer.ts";
import { gatherActivation, layerStatistics } from "../src/study/activation.ts";
import { calibrate } from "../src/study/calibrate.ts";
import { type Evaluation, Evaluator } from "../src/study/evaluate.ts";
import { planStudy } from "../src/study/plan.ts";
import { neuronSetting, parseCriteria, planSettings, type Setting } from "../src/study/settings.ts";
import { study } from "../src/study/study.ts";
import { readStudyText, type StudyText, type Window } from "../src/study/text.ts";
import { byteTokenizer } from "../src/text/tokenizer.ts";
import { bestBackend } from "./support/backends.ts";
import { holds } from "./support/holds.ts";
import { toyText, writeToyText } from "./support/tinyRun.ts";

const width = 24;
const moe: Partial<ModelConfig> = {
  vocab_size: 256,
  hidden_size: 16,
  num_hidden_layers: 3,
  num_attention_heads: 2,
  num_experts: 4,
  num_experts_per_tok: 2,
  moe_intermediate_size: width,
  max_position_embeddings: 32,
  initializer_range: 0.4,
};
const variants: Record<string, Partial<ModelConfig>> = {
  MoE: moe,
  dense: { ...moe, num_experts: 0, intermediate_size: width },
  "dense first layer, shared expert": {
    ...moe,
    mlp_only_layers: [0],
    intermediate_size: 20,
    shared_expert_intermediate_size: 8,
  },
};

let folder: string;
let backend: Backend;
let text: StudyText;

before(async () => {
  folder = mkdtempSync(join(tmpdir(), "mone-study-"));
  backend = bestBackend();
  for (const [name, config] of Object.entries(variants)) {
    const model = new Transformer(resolveModelConfig(config), backend);
    model.initialise(5);
    await saveModel(join(folder, name), model, byteTokenizer());
    model.close();
  }
  writeToyText(join(folder, "text.txt"), 60);
  text = await readStudyText(corpusOf([toyText(9), toyText(3), toyText(12)]), byteTokenizer(), {
    window: 32,
    tokens: 400,
    calibrationTokens: 100,
  });
});

after(() => {
  backend.close();
  rmSync(folder, { recursive: true, force: true });
});

function corpusOf(documents: string[]) {
  return {
    name: "toys",
    bytes: undefined,
    split: "documents" as const,
    notes: [],
    async *documents() {
      for (const [i, one] of documents.entries()) yield { id: String(i), text: one };
    },
  };
}

const open = (name: string) => openStoredModel(join(folder, name), backend, { dtype: "f32" });
const reference: Setting = { name: "reference", kind: "reference", criterion: "gate", kept: width };
const total = ({ windows }: Evaluation, key: "loss" | "divergence" | "agrees" | "tokens") =>
  windows.reduce((sum, one) => sum + one[key], 0);

async function evaluateAll(name: string, settings: Setting[]): Promise<Evaluation[]> {
  const model = open(name);
  const criteria = settings.map(({ criterion }) => criterion);
  const calibrated = await calibrate(model, text.calibration, criteria);
  const evaluator = new Evaluator(model, text.measured, reference);
  const results: Evaluation[] = [];
  for (const setting of settings) results.push(await evaluator.evaluate(setting, { seed: 3, calibrated }));
  calibrated.close();
  model.close();
  return results;
}

for (const name of Object.keys(variants)) {
  test(`with all neurons every criterion is the model itself, to the last bit: ${name}`, async () => {
    const criteria = ["gate", "oracle", "oracle-norm", "random", "static"] as const;
    const settings = criteria.map((criterion) => neuronSetting(criterion, width));
    const [dense, ...others] = await evaluateAll(name, [reference, ...settings]);
    assert.equal(total(dense, "divergence"), 0);
    assert.equal(total(dense, "agrees"), total(dense, "tokens"));
    for (const other of others) {
      assert.deepEqual(other.windows, dense.windows);
      holds(other.layerErrors.length > 0 && other.layerErrors.every((error) => error === 0));
    }
  });

  test(`fewer neurons, larger errors; the oracle's are least: ${name}`, async () => {
    const kept = 8;
    const criteria = ["gate", "oracle", "oracle-norm", "random", "static", "threshold"] as const;
    const results = await evaluateAll(
      name,
      criteria.map((criterion) => neuronSetting(criterion, kept)),
    );
    const error = (i: number) => Math.hypot(...results[i].layerErrors);
    for (const [i] of criteria.entries()) assert.ok(total(results[i], "divergence") > 0, criteria[i]);
    assert.ok(error(2) <= error(0), "oracle-norm against gate");
    assert.ok(error(1) <= error(0), "oracle against gate");
    const more = await evaluateAll(name, [neuronSetting("gate", 2 * kept)]);
    assert.ok(Math.hypot(...more[0].layerErrors) < error(0), "twice as many neurons");
    assert.ok(error(0) < error(3), "gate against random");
    assert.ok(error(0) < error(4), "gate against static");
    for (const share of results[0].keptShares) holds(Math.abs(share - kept / width) < 1e-12);
    // A threshold keeps about as many.
    for (const share of results[5].keptShares)
      assert.ok(Math.abs(share - kept / width) < 0.12, `kept ${share}`);
  });
}

test("random pruning depends on the token and not on what else is measured", async () => {
  const setting = neuronSetting("random", 10);
  const model = open("MoE");
  const whole = await new Evaluator(model, text.measured, reference).evaluate(setting, { seed: 3 });
  const last = text.measured.length - 1;
  const alone = await new Evaluator(model, [text.measured[last]], reference).evaluate(setting, { seed: 3 });
  const other = await new Evaluator(model, [text.measured[last]], reference).evaluate(setting, { seed: 4 });
  // Other sums of products for few rows: the same to rounding.
  holds(Math.abs(whole.windows[last].loss - alone.windows[0].loss) < 1e-4 * alone.windows[0].loss);
  holds(Math.abs(other.windows[0].loss - alone.windows[0].loss) > 1e-4);
  model.close();
});

test("random ranks are uniform and differ by every argument", () => {
  const base = [1, 2, 3, 4, 5] as const;
  const scores = Array.from({ length: 4000 }, (_, j) => randomScore(1, 2, 3, 4, j));
  const mean = scores.reduce((a, b) => a + b, 0) / scores.length;
  holds(Math.abs(mean - 0.5) < 4 * Math.sqrt(1 / 12 / 4000)); // four standard errors
  for (let i = 0; i < 5; i++) {
    const changed = base.map((value, at) => (at === i ? value + 1 : value)) as [
      number,
      number,
      number,
      number,
      number,
    ];
    assert.notEqual(randomScore(...base), randomScore(...changed));
  }
});

test("static pruning keeps the same neurons for every token: those of largest mean |act(g)|", async () => {
  const model = open("MoE");
  const kept = 6;
  const calibrated = await calibrate(model, text.calibration, ["static"]);
  const means = (await backend.read(calibrated.meanGates[1].buffer)) as Float32Array;
  const order = Array.from({ length: width }, (_, j) => j).sort((a, b) => means[b] - means[a] || a - b);
  const best = new Set(order.slice(0, kept)); // of expert 0
  const gathered = await gatherActivation(model, text.calibration, kept);
  const byHand = gathered[1].sums.subarray(0, width);
  const bestByHand = Array.from({ length: width }, (_, j) => j).sort(
    (a, b) => byHand[b] - byHand[a] || a - b,
  );
  assert.deepEqual(new Set(bestByHand.slice(0, kept)), best);
  calibrated.close();
  model.close();
});

test("a list of K by layer: the same K is the same model, another is not, in forward and decoder alike", async () => {
  const per = (kept: Setting["kept"]): Setting => ({ name: "", kind: "per-layer", criterion: "gate", kept });
  const [one, list, other] = await evaluateAll("MoE", [per(7), per([7, 7, 7]), per([3, 11, 7])]);
  assert.deepEqual(list.windows, one.windows);
  assert.notDeepEqual(other.windows, one.windows);
  const model = open("MoE");
  const logits = async (kept: Setting["kept"]) => {
    const decoder = new Decoder(model, { kept });
    const out = await decoder.run([
      { slot: decoder.claim() as number, position: 0, ids: Uint32Array.of(5, 9) },
    ]);
    decoder.close();
    return [...out];
  };
  assert.deepEqual(await logits([7, 7, 7]), await logits(7));
  assert.notDeepEqual(await logits([3, 11, 7]), await logits(7));
  model.close();
});

test("padding counts neither in layer errors nor in shares kept", async () => {
  for (const name of ["MoE", "dense"]) {
    const model = open(name);
    const setting = neuronSetting("threshold", 8);
    const calibrated = await calibrate(model, text.calibration, ["threshold"]);
    const cut = ({ inputs, targets, ...rest }: Window, length: number): Window => ({
      ...rest,
      inputs: inputs.slice(0, length),
      targets: targets.slice(0, length),
    });
    const whole = text.measured.find(({ inputs }) => inputs.length === 32) as Window;
    const evaluated = (windows: readonly Window[]) =>
      new Evaluator(model, windows, reference).evaluate(setting, { seed: 3, calibrated });
    const [long, short, both] = [
      await evaluated([whole]),
      await evaluated([cut(whole, 2)]),
      await evaluated([whole, cut(whole, 2)]),
    ];
    for (const [layer, share] of both.keptShares.entries()) {
      const mean = (32 * long.keptShares[layer] + 2 * short.keptShares[layer]) / 34;
      assert.ok(Math.abs(share - mean) < 1e-9, `${name}, layer ${layer}: ${share}, not ${mean}`);
      const errors = [long, short, both].map(({ layerErrors }) => layerErrors[layer]);
      holds(errors[2] >= Math.min(...errors.slice(0, 2)) && errors[2] <= Math.max(...errors.slice(0, 2)));
    }
    calibrated.close();
    model.close();
  }
});

test("activation statistics of one layer against a count by hand", async () => {
  const model = open("dense");
  const kept = 6;
  const layers = await gatherActivation(model, text.measured, kept);
  const tokens = text.measured.reduce((sum, { inputs }) => sum + inputs.length, 0);
  assert.equal(layers.length, 3);
  for (const layer of layers) {
    assert.equal(layer.rows[0], tokens);
    assert.equal(
      layer.uses.reduce((a, b) => a + b, 0),
      tokens * kept,
    );
    assert.equal(layer.histograms[0].total, tokens * width);
    assert.equal(layer.pairs, tokens - text.measured.length); // neighbours inside windows
    const statistics = layerStatistics(layer, width, kept);
    holds(statistics.effectiveNeurons >= 1 && statistics.effectiveNeurons <= width);
    holds(Math.abs(statistics.histogram.shares.reduce((a, b) => a + b, 0) - 1) < 1e-9);
    holds((statistics.overlap as number) > 0 && (statistics.overlap as number) <= 1);
    holds(statistics.quantiles.every((value, i, all) => i === 0 || value >= all[i - 1]));
  }
  model.close();
});

test("windows respect documents, do not overlap, and calibration is of other documents", () => {
  const all: Window[] = [...text.calibration, ...text.measured];
  holds(text.calibration.length > 0);
  const measured = new Set(text.measured.map(({ document }) => document));
  holds(text.calibration.every(({ document }) => !measured.has(document)));
  for (const [i, { inputs, targets, document, start }] of all.entries()) {
    assert.deepEqual(targets.slice(0, -1), inputs.slice(1));
    const before = all[i - 1];
    if (before?.document === document) assert.equal(start, before.start + before.inputs.length);
  }
});

test("of a short text in one document most is measured, though the model could see it whole", async () => {
  const data = join(folder, "one.txt");
  writeFileSync(data, toyText(3000));
  const config = resolveModelConfig({ ...moe, max_position_embeddings: 4096 });
  const { text } = await planStudy(config, byteTokenizer(), { data, tokens: 400 });
  const tokensOf = (windows: readonly Window[]) =>
    windows.reduce((sum, { inputs }) => sum + inputs.length, 0);
  assert.equal(tokensOf(text.calibration), 100);
  assert.equal(tokensOf(text.measured), 400);
});

test("as much text is taken as was asked for, whatever its documents and lines are like", async () => {
  const read = async (documents: string[], tokens = 400, window = 32) => {
    const options = { window, tokens, calibrationTokens: tokens / 4 };
    const found = await readStudyText(corpusOf(documents), byteTokenizer(), options);
    const tokensOf = (windows: readonly Window[]) => windows.reduce((sum, one) => sum + one.inputs.length, 0);
    return { ...found, counts: [tokensOf(found.calibration), tokensOf(found.measured)] };
  };
  const letters = (count: number) => "abcdefghij".repeat(count / 10);
  for (const documents of [
    [letters(170), letters(170), letters(170)], // what each could give more was cut off
    Array.from({ length: 10 }, () => letters(60)),
    [letters(5000), letters(10)],
    [letters(20), letters(5000)],
  ]) {
    const [calibration, measured] = (await read(documents)).counts;
    assert.ok(calibration + measured >= 490 && calibration + measured <= 500, `${calibration} + ${measured}`);
    assert.ok(measured >= 200, `${measured} of 400 measured`);
  }
  // One document: its end, though it comes as a list of documents; a line may be longer than what is read.
  const { measured, counts } = await read([`${letters(9000)}END\n`], 400, 100);
  assert.deepEqual(counts, [100, 400]);
  holds(String.fromCharCode(...measured.flatMap(({ targets }) => [...targets])).endsWith("END\n"));
});

test("settings have stable names, without repetition", () => {
  const config = resolveModelConfig(moe);
  const names = planSettings(config, ["gate", "random"], [0, 0.5, 0.51, 0.98], [1]).map(({ name }) => name);
  assert.deepEqual(names, ["reference", "gate-k12", "gate-k1", "random-k12", "random-k1", "experts-1"]);
  assert.throws(() => planSettings(config, ["gate"], [1], []), UsageError);
  assert.throws(() => parseCriteria(["gates"]), UsageError);
  const mone = resolveModelConfig({ ...moe, num_neurons_per_tok: 6 });
  assert.deepEqual(
    planSettings(mone, ["gate"], [0, 0.75, 0.9], []).map(({ name }) => name),
    ["reference", "gate-k24", "gate-k2"],
  );
});

test("--neurons: shares, counts, percentages, lists", () => {
  const config = resolveModelConfig(moe);
  for (const [given, kept] of [
    ["25%", 6],
    ["0.25", 6],
    [0.25, 6],
    ["1", 1],
    [1, 1],
    ["1.0", 24],
    ["100%", 24],
    ["all", 24],
    ["24", 24],
    [
      [1, 2, 24],
      [1, 2, 24],
    ],
  ] as const) {
    assert.deepEqual(resolveNeurons(given, config), kept, String(given));
  }
  for (const wrong of ["0", "25", "0%", "101%", "1.5", "", "x", "-1", [1, 2], [1, 2, 25]]) {
    assert.throws(() => resolveNeurons(wrong, config), UsageError, String(wrong));
  }
  // A pruned share is the nearest count, a kept one is rounded up.
  assert.deepEqual([countOfPruned(0.8, 256), countOfNeurons("20%", 256)], [51, 52]);
  assert.deepEqual([countOfPruned(0, 24), countOfPruned(0.98, 24)], [24, 1]);
  assert.equal(readNeuronsOption("25%"), "25%");
  assert.throws(() => readNeuronsOption(join(folder, "none.json")), UsageError);
  assert.throws(() => readNeuronsOption(join(folder, "MoE", "config.json")), /is not a study/);
});

test("a study, resumed, is the same to the last byte, and its file is applied", async () => {
  const out = join(folder, "out");
  const options = {
    data: join(folder, "text.txt"),
    out,
    shares: [0, 0.5, 0.9],
    tokens: 400,
    tolerance: 0.05,
    backend,
    dtype: "f32",
  } as const;
  const model = join(folder, "MoE");
  const controller = new AbortController();
  await assert.rejects(
    study(model, {
      ...options,
      signal: controller.signal,
      onProgress: (task) => {
        if (task.includes("random-k12")) controller.abort(new Error("enough"));
      },
    }),
    /enough/,
  );
  const result = await study(model, options);
  const file = readFileSync(join(out, "study.json"), "utf8");
  const tasks: string[] = [];
  const again = await study(model, { ...options, onProgress: (task) => tasks.push(task) });
  assert.equal(readFileSync(join(out, "study.json"), "utf8"), file);
  assert.ok(!tasks.some((task) => task.startsWith("setting")), "nothing was measured again");
  assert.deepEqual(again, result);
  const names = new Set(result.settings.map(({ name }) => name));
  for (const name of ["reference", "gate-k12", "threshold-k2", "static-k12", "experts-1", "per-layer-k12"]) {
    assert.ok(names.has(name), name);
  }
  assert.match(result.verdict.text, /of neurons/);
  const html = readFileSync(join(out, "report.html"), "utf8");
  holds(html.includes("<svg") && !html.includes("NaN") && !html.includes("undefined"));
  const loaded = await loadModel(model, { neurons: join(out, "study.json"), backend, dtype: "f32" });
  let written = "";
  for await (const piece of loaded.generate("the cat", { maxTokens: 3, seed: 1 })) written += piece;
  holds(written.length > 0);
  loaded.close();
  await assert.rejects(study(model, { ...options, shares: [0.2] }), /holds a study of another/);
});

test("a loaded model gives the same numbers as its path, stays open, and need not be written about", async () => {
  const options = {
    data: join(folder, "text.txt"),
    criteria: ["gate", "oracle"],
    shares: [0.5, 0.9],
    perLayer: false,
    tokens: 200,
    tolerance: 0.05,
  } as const;
  const path = join(folder, "MoE");
  const byPath = await study(path, { ...options, out: join(folder, "by-path"), backend, dtype: "f32" });
  const loaded = await loadModel(path, { backend, dtype: "f32" });
  const { reportPath, ...result } = await study(loaded, options);
  assert.equal(reportPath, undefined);
  for (const key of ["kept", "settings", "activation", "text", "options", "unit"] as const) {
    assert.deepEqual(result[key], byPath[key], key);
  }
  assert.equal(result.model.path, path);
  // The same study in the same folder: nothing is measured again.
  const tasks: string[] = [];
  const resumed = await study(loaded, {
    ...options,
    out: join(folder, "by-path"),
    onProgress: (task) => tasks.push(task),
  });
  assert.deepEqual(resumed, byPath);
  holds(!tasks.some((task) => task.startsWith("setting")));
  await loaded.generate("the", { maxTokens: 1, seed: 1 }).next();
  loaded.close();
  const lists = await loadModel(path, { backend, dtype: "f32", neurons: [3, 4, 5] });
  await assert.rejects(study(lists, options), UsageError);
  lists.close();
  const trained = new Transformer(resolveModelConfig(moe), backend);
  await assert.rejects(study({ model: trained, tokenizer: byteTokenizer() }, options), UsageError);
  trained.close();
});

test("another tolerance recommends another K, and its speed is measured anew", async () => {
  const options = {
    data: join(folder, "text.txt"),
    out: join(folder, "tolerance"),
    criteria: ["gate"],
    shares: [0, 0.5, 0.9],
    perLayer: false,
    tokens: 200,
    backend,
    dtype: "f32",
  } as const;
  const model = join(folder, "dense");
  const strict = await study(model, { ...options, tolerance: 0.01 });
  const loose = await study(model, { ...options, tolerance: 100 });
  assert.notDeepEqual(loose.kept, strict.kept);
  const recommended = ({ speeds }: typeof strict) => speeds.find(({ name }) => name === "recommended");
  assert.equal(recommended(loose)?.prunedShare, loose.verdict.prunedShare);
  assert.equal(loose.verdict.measuredSpeedup, recommended(loose)?.speedup);
  assert.notDeepEqual(loose.speeds, strict.speeds);
  // What was measured for the first one is still known.
  const again = await study(model, { ...options, tolerance: 0.01 });
  assert.deepEqual(again, strict);
  await assert.rejects(study(model, { ...options, seed: 2 }), /holds a study of another seed: give another/);
  await assert.rejects(study(model, { ...options, criteria: ["oracle"] }), /of another choice of criteria:/);
  // The verdict is about the gate, measured for it where no setting is.
  const { out: _, ...elsewhere } = options;
  const unmeasured = await study(model, {
    ...elsewhere,
    criteria: ["oracle"],
    shares: [0.5],
    tolerance: 1e9,
  });
  assert.equal(unmeasured.kept, 1);
  holds(strict.timing.turns >= 2 && strict.timing.tokens >= 2);
  for (const { tokensPerSecond, least, most } of strict.speeds) {
    holds(least <= tokensPerSecond && tokensPerSecond <= most);
  }
});

test("a model whose numbers are not finite is refused, not found to be perfect", async () => {
  const damaged = join(folder, "damaged");
  cpSync(join(folder, "dense"), damaged, { recursive: true });
  const path = join(damaged, "model.safetensors");
  const file = SafetensorsFile.open(path);
  const place = file.tensors.get("model.norm.weight")?.begin as number;
  file.close();
  const bytes = readFileSync(path);
  bytes.writeFloatLE(Number.NaN, place);
  writeFileSync(path, bytes);
  const options = {
    data: join(folder, "text.txt"),
    tokens: 200,
    perLayer: false,
    backend,
    dtype: "f32",
  } as const;
  await assert.rejects(study(damaged, options), {
    name: "RunError",
    message: /is NaN: the model's weights are damaged/,
  });
});
