// Every family of checkpoints against goldens from transformers (docs: test/fixtures/hf): logits, routing, greedy
// continuation, neuron-sparse logits (|act(gate)| and, on the study's way through a model, |act(gate) * up|) and losses, with
// both styles of config.json.

import assert from "node:assert/strict";
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import type { Backend } from "../src/backends/backend.ts";
import { ReferenceBackend } from "../src/backends/reference.ts";
import { openStoredModel } from "../src/checkpoint/loadModel.ts";
import { readModelConfig } from "../src/checkpoint/modelFolder.ts";
import { SafetensorsFile } from "../src/checkpoint/safetensors.ts";
import { Decoder } from "../src/infer/decoder.ts";
import { pooledBalanceLoss, type TextLogits, textLogits } from "../src/infer/logits.ts";
import { expertWidth } from "../src/model/config.ts";
import { resolveNeurons } from "../src/model/neurons.ts";
import type { Transformer } from "../src/model/transformer.ts";
import { batchesOf, forwardBatch, forwardOptions } from "../src/study/evaluate.ts";
import { neuronSetting } from "../src/study/settings.ts";
import { linear } from "../src/tensor/ops.ts";
import { Tape } from "../src/tensor/tape.ts";
import { bestBackend, maxDifference } from "./support/backends.ts";
import { readInt32 } from "./support/golden.ts";

const FAMILIES = ["olmoe", "mixtral", "qwen2_moe", "qwen3_moe", "deepseek_v2", "llama", "qwen3"];
const STYLES = ["config.json", "config.hub-style.json"];
const RATIOS = ["1.0", "0.5", "0.25", "0.125"];
const [PROMPTS, LENGTH, WRITTEN] = [2, 24, 16];

const folder = mkdtempSync(join(tmpdir(), "mone-families-"));
after(() => rmSync(folder, { recursive: true, force: true }));
const fixture = (family: string) => new URL(`fixtures/hf/${family}`, import.meta.url).pathname;

/** A checkpoint with one style of configuration. */
function withStyle(family: string, style: string): string {
  const path = join(folder, `${family}-${style}`);
  mkdirSync(path, { recursive: true });
  copyFileSync(join(fixture(family), style), join(path, "config.json"));
  copyFileSync(join(fixture(family), "model.safetensors"), join(path, "model.safetensors"));
  return path;
}

interface Expected {
  sparse_layers: number[] | null;
  losses: { cross_entropy: number; aux: number | null };
  tolerance: {
    logits_abs: number;
    router_logits_abs?: number;
    expert_weights_abs?: number;
    losses_abs: number;
  };
}

function goldenOf(family: string) {
  const file = SafetensorsFile.open(join(fixture(family), "expected.safetensors"));
  const json = JSON.parse(readFileSync(join(fixture(family), "expected.json"), "utf8")) as Expected;
  const ids = readInt32(file, "input_ids");
  const prompts = Array.from({ length: PROMPTS }, (_, row) =>
    Uint32Array.from(ids.subarray(row * LENGTH, (row + 1) * LENGTH)),
  );
  return { file, prompts, ...json };
}

/** Mean over prompts and positions of -log softmax at the next token. */
function crossEntropy(logits: readonly Float32Array[], prompts: readonly Uint32Array[], V: number): number {
  let sum = 0;
  for (const [p, ids] of prompts.entries()) {
    for (let t = 0; t + 1 < LENGTH; t++) {
      const row = logits[p].subarray(t * V, (t + 1) * V);
      const largest = row.reduce((a, b) => Math.max(a, b));
      sum += Math.log(row.reduce((a, b) => a + Math.exp(b - largest), 0)) + largest - row[ids[t + 1]];
    }
  }
  return sum / (PROMPTS * (LENGTH - 1));
}

function close(actual: ArrayLike<number>, expected: ArrayLike<number>, limit: number, what: string): void {
  assert.equal(actual.length, expected.length, what);
  const error = maxDifference(actual, expected);
  assert.ok(error <= limit, `${what}: off by ${error}, limit ${limit}`);
}

async function greedy(model: Transformer, prompt: Uint32Array): Promise<number[]> {
  const decoder = new Decoder(model);
  const slot = decoder.claim() as number;
  const written: number[] = [];
  let [ids, position] = [prompt, 0];
  while (written.length < WRITTEN) {
    const logits = await decoder.run([{ slot, position, ids }]);
    position += ids.length;
    written.push(logits.indexOf(logits.reduce((a, b) => Math.max(a, b))));
    ids = Uint32Array.of(written[written.length - 1]);
  }
  decoder.close();
  return written;
}

async function checkDense(family: string, model: Transformer): Promise<void> {
  const { file, prompts, losses, tolerance } = goldenOf(family);
  const { vocab_size: V, num_experts: E, num_experts_per_tok: A } = model.config;
  const outputs: TextLogits[] = [];
  for (const ids of prompts) outputs.push(await textLogits(model, ids, { router: true }));
  const joined = <T>(of: (output: (typeof outputs)[number]) => Iterable<T>) =>
    outputs.flatMap((o) => [...of(o)]);
  const logits = outputs.map((output) => output.logits);
  close(
    joined((o) => o.logits),
    file.readFloat32("logits"),
    tolerance.logits_abs,
    "logits",
  );
  const layers = [...file.tensors.keys()].flatMap((name) => name.match(/^router_logits\.(\d+)$/)?.[1] ?? []);
  assert.deepEqual(outputs[0].routing.map(({ layer }) => layer).join(), layers.sort().join());
  for (const [i, layer] of layers.entries()) {
    close(
      joined((o) => o.routing[i].logits),
      file.readFloat32(`router_logits.${layer}`),
      tolerance.router_logits_abs ?? 0,
      `router logits of layer ${layer}`,
    );
    assert.deepEqual(
      joined((o) => o.routing[i].ids),
      [...readInt32(file, `expert_ids.${layer}`)],
    );
    close(
      joined((o) => o.routing[i].weights),
      file.readFloat32(`expert_weights.${layer}`),
      tolerance.expert_weights_abs ?? 0,
      `weights of layer ${layer}`,
    );
  }
  const entropy = crossEntropy(logits, prompts, V);
  assert.ok(Math.abs(entropy - losses.cross_entropy) <= tolerance.losses_abs, `cross entropy ${entropy}`);
  if (losses.aux !== null) {
    const all = outputs.flatMap((o) => o.routing.map((routing) => routing.logits));
    const aux = pooledBalanceLoss(all, E, A);
    assert.ok(Math.abs(aux - losses.aux) <= tolerance.losses_abs, `auxiliary loss ${aux}`);
  }
  file.close();
}

async function checkSparse(family: string, model: Transformer, ratio: string): Promise<void> {
  const { file, prompts, tolerance } = goldenOf(family);
  const kept = resolveNeurons(ratio, model.config);
  const logits: number[] = [];
  for (const ids of prompts) logits.push(...(await textLogits(model, ids, { kept })).logits);
  close(logits, file.readFloat32(`neuron.gate.${ratio}.logits`), tolerance.logits_abs, `share ${ratio}`);
  file.close();
}

/**
 * The study's way through a model, which has no cache: as it is, and with the neurons of two criteria. `gate_up` of the
 * goldens, the largest |act(gate) * up|, is the criterion `oracle`.
 */
async function checkStudy(family: string, model: Transformer): Promise<void> {
  const { file, prompts, tolerance } = goldenOf(family);
  const windows = prompts.map((inputs) => ({ document: 0, start: 0, inputs, targets: inputs, bytes: 0 }));
  const [batch] = batchesOf(windows);
  const settings = [
    ["logits", neuronSetting("gate", expertWidth(model.config))],
    ["neuron.gate.0.25.logits", neuronSetting("gate", resolveNeurons("0.25", model.config) as number)],
    ["neuron.gate_up.0.25.logits", neuronSetting("oracle", resolveNeurons("0.25", model.config) as number)],
  ] as const;
  for (const [name, setting] of settings) {
    const tape = new Tape(model.backend, { recording: false });
    const hidden = forwardBatch(tape, model, batch, forwardOptions(tape, setting, batch, { seed: 0 }));
    const logits = linear(tape, hidden, model.head, false);
    const values = (await model.backend.read(logits.buffer, 0, logits.size)) as Float32Array;
    close(values, file.readFloat32(name), tolerance.logits_abs, `study: ${name}`);
    tape.release();
  }
  file.close();
}

function open(family: string, style: string, backend: Backend): Transformer {
  return openStoredModel(withStyle(family, style), backend, { dtype: "f32" });
}

for (const family of FAMILIES) {
  for (const style of STYLES) {
    test(`${family}, ${style}: logits, routing, losses, kept neurons and greedy ids`, async () => {
      const backend = bestBackend();
      const model = open(family, style, backend);
      await checkDense(family, model);
      for (const ratio of RATIOS) await checkSparse(family, model, ratio);
      await checkStudy(family, model);
      const { file, prompts } = goldenOf(family);
      const ids = [...readInt32(file, "greedy_ids")];
      for (const [p, prompt] of prompts.entries()) {
        assert.deepEqual(await greedy(model, prompt), ids.slice(p * WRITTEN, (p + 1) * WRITTEN));
      }
      file.close();
      model.close();
      assert.equal(backend.bytesInUse, 0, "everything was freed");
      backend.close();
    });
  }

  test(`${family} on the reference: logits, routing, losses and a quarter of the neurons`, async () => {
    const backend = new ReferenceBackend();
    const model = open(family, STYLES[0], backend);
    await checkDense(family, model);
    await checkSparse(family, model, "0.25");
    await checkStudy(family, model);
    model.close();
    backend.close();
  });

  test(`${family}: both styles of configuration say the same`, () => {
    assert.deepEqual(
      ...(STYLES.map((style) => readModelConfig(withStyle(family, style))) as [object, object]),
    );
  });
}
