// What no golden of transformers turns on, against a model computed once more in plain loops (support/plainModel.ts): clipped
// queries, latent queries, groups of experts, windows by layer, scaled rotations, biases, K of each form of a router. For
// each, the plain model without it differs by much more than the tolerance, so that the test would see its absence.

import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import type { Stored } from "../src/checkpoint/families.ts";
import { familyPresets } from "../src/checkpoint/familyPresets.ts";
import { openStoredModel } from "../src/checkpoint/loadModel.ts";
import { configOfStored, storedParts } from "../src/checkpoint/modelFolder.ts";
import { writeSafetensors } from "../src/checkpoint/safetensors.ts";
import { familyName } from "../src/checkpoint/tensorNames.ts";
import { Decoder } from "../src/infer/decoder.ts";
import { textLogits } from "../src/infer/logits.ts";
import { expertWidth } from "../src/model/config.ts";
import { parameterSpecs } from "../src/model/parameters.ts";
import type { Transformer } from "../src/model/transformer.ts";
import { RandomStream } from "../src/random.ts";
import { batchesOf, forwardBatch, forwardOptions } from "../src/study/evaluate.ts";
import { neuronSetting } from "../src/study/settings.ts";
import { linear } from "../src/tensor/ops.ts";
import { Tape } from "../src/tensor/tape.ts";
import { sizeOf } from "../src/tensor/tensor.ts";
import { bestBackend, maxAbs, maxDifference } from "./support/backends.ts";
import { plainLogits, readPlainModel } from "./support/plainModel.ts";

const folder = mkdtempSync(join(tmpdir(), "mone-variants-"));
after(() => rmSync(folder, { recursive: true, force: true }));
const backend = bestBackend();
after(() => backend.close());

const ids = Uint32Array.from({ length: 24 }, (_, i) => (i * 89 + 7) % 320);
/** Sums of some hundred products of f32, through three layers. */
const TOLERANCE = 1e-5;
const MATTERS = 1e-2;

/** A model whose weights are all random, norms and biases too. */
async function write(name: string, stored: Stored): Promise<string> {
  const path = join(folder, name);
  mkdirSync(path);
  writeFileSync(join(path, "config.json"), JSON.stringify(stored));
  const sources = parameterSpecs(configOfStored(stored, name)).flatMap((spec) =>
    storedParts(spec).map((part) => {
      const values = new Float32Array(sizeOf(part.shape));
      // Biases and norms as large as what they meet, routers sure of themselves.
      const deviation = part.shape.length === 1 ? 0.3 : spec.name.endsWith("mlp.gate.weight") ? 0.4 : 0.15;
      new RandomStream(4, part.name).fillNormal(values, deviation);
      if (spec.init === "ones") for (let i = 0; i < values.length; i++) values[i] += 1;
      const own = familyName(part.name, String(stored.model_type));
      return { name: own, dtype: "F32" as const, shape: part.shape, data: () => values };
    }),
  );
  await writeSafetensors(join(path, "model.safetensors"), sources);
  return path;
}

/** As the study computes them, without a cache. */
async function studyLogits(model: Transformer): Promise<Float32Array> {
  const [batch] = batchesOf([{ document: 0, start: 0, inputs: ids, targets: ids, bytes: 0 }]);
  const tape = new Tape(backend, { recording: false });
  const setting = neuronSetting("gate", expertWidth(model.config));
  const hidden = forwardBatch(tape, model, batch, forwardOptions(tape, setting, batch, { seed: 0 }));
  const logits = linear(tape, hidden, model.head, false);
  const values = (await backend.read(logits.buffer, 0, logits.size)) as Float32Array;
  tape.release();
  return values;
}

/** A prompt, then token by token. */
async function stepLogits(model: Transformer, prompt: number): Promise<Float32Array[]> {
  const decoder = new Decoder(model);
  const slot = decoder.claim() as number;
  const all: Float32Array[] = [];
  for (let position = 0; position < ids.length; ) {
    const end = position === 0 ? prompt : position + 1;
    const logits = await decoder.run([{ slot, position, ids: ids.subarray(position, end) }]);
    all.push(Float32Array.from(logits));
    position = end;
  }
  decoder.close();
  return all;
}

const layers = { num_hidden_layers: 3 };
const windows = { use_sliding_window: true, sliding_window: 5, max_position_embeddings: 64 };
const kinds = ["full_attention", "sliding_attention", "sliding_attention"];
const deepseek = { ...layers, q_lora_rank: 24, first_k_dense_replace: 1, n_shared_experts: 2 };
const yarn = {
  rope_type: "yarn",
  factor: 8,
  original_max_position_embeddings: 8,
  beta_fast: 4,
  beta_slow: 1,
  mscale: 0.7,
  mscale_all_dim: 0.9,
};
const llama3 = {
  rope_type: "llama3",
  factor: 8,
  low_freq_factor: 1,
  high_freq_factor: 4,
  original_max_position_embeddings: 64,
};

/** Name, preset, what is turned on, and the same without it. */
const cases: [string, string, Stored, Stored][] = [
  ["clip_qkv", "olmoe-tiny", { ...layers, clip_qkv: 0.4 }, { clip_qkv: null }],
  ["norm_topk_prob of olmoe", "olmoe-tiny", { norm_topk_prob: true }, { norm_topk_prob: false }],
  ["a window in every layer of mixtral", "mixtral-tiny", { sliding_window: 4 }, { sliding_window: null }],
  [
    "windows of qwen2_moe by rule",
    "qwen2_moe-tiny",
    { ...layers, ...windows, max_window_layers: 2 },
    { use_sliding_window: false },
  ],
  [
    "windows of qwen2_moe by list",
    "qwen2_moe-tiny",
    { ...layers, ...windows, layer_types: kinds },
    { layer_types: null },
  ],
  [
    "dense layers of qwen2_moe by step and list",
    "qwen2_moe-tiny",
    { num_hidden_layers: 4, decoder_sparse_step: 2, mlp_only_layers: [3] },
    {},
  ],
  [
    "windows of qwen3 by rule",
    "qwen3-tiny",
    { ...layers, ...windows, max_window_layers: 1 },
    { max_window_layers: 2 },
  ],
  [
    "windows of qwen3 by list",
    "qwen3-tiny",
    { ...layers, ...windows, layer_types: kinds },
    { layer_types: null },
  ],
  ["a window of qwen3_moe", "qwen3_moe-tiny", windows, { use_sliding_window: false }],
  ["biases of qwen3_moe", "qwen3_moe-tiny", { attention_bias: true }, {}],
  [
    "queries through a low rank",
    "deepseek_v2-tiny",
    { ...deepseek, rms_norm_eps: 1e-3 },
    { rms_norm_eps: 1e-6 },
  ],
  ["biases of latent attention", "deepseek_v2-tiny", { ...deepseek, attention_bias: true }, {}],
  [
    "groups of experts",
    "deepseek_v2-tiny",
    {
      ...deepseek,
      topk_method: "group_limited_greedy",
      n_group: 4,
      topk_group: 1,
      routed_scaling_factor: 1.5,
    },
    { topk_method: "greedy" },
  ],
  [
    "yarn with latent attention",
    "deepseek_v2-tiny",
    { ...deepseek, rope_scaling: yarn },
    { rope_scaling: null },
  ],
  ["rotations of llama3", "llama-tiny", { ...layers, rope_scaling: llama3 }, { rope_scaling: null }],
  [
    "rotations of llama3 in the newer keys",
    "llama-tiny",
    { ...layers, rope_parameters: { ...llama3, rope_theta: 300 } },
    { rope_parameters: { rope_theta: 300 } },
  ],
  [
    "linear rotations",
    "llama-tiny",
    { rope_scaling: { rope_type: "linear", factor: 4 } },
    { rope_scaling: null },
  ],
  [
    "all biases of llama, tied",
    "llama-tiny",
    { attention_bias: true, mlp_bias: true, tie_word_embeddings: true },
    {},
  ],
];

for (const [name, preset, changes, without] of cases) {
  test(`${name}: as computed once more`, async () => {
    const stored = { rms_norm_eps: 1e-6, rope_theta: 10000, ...familyPresets[preset], ...changes };
    const path = await write(name, stored);
    const plain = readPlainModel(path);
    const expected = Float32Array.from(plainLogits(plain, ids).flat());
    const largest = maxAbs(expected);
    const model = openStoredModel(path, backend, { dtype: "f32" });
    const off = (found: ArrayLike<number>, rows = expected) => maxDifference(found, rows) / largest;
    const { logits } = await textLogits(model, ids);
    assert.ok(off(logits) < TOLERANCE, `off by ${off(logits)} of the largest logit`);
    const studied = await studyLogits(model);
    assert.ok(off(studied) < TOLERANCE, `study: off by ${off(studied)}`);
    const V = model.config.vocab_size;
    for (const prompt of [1, 17]) {
      for (const [i, row] of (await stepLogits(model, prompt)).entries()) {
        const at = (prompt - 1 + i) * V;
        const error = off(row, expected.subarray(at, at + V));
        assert.ok(error < TOLERANCE, `prompt of ${prompt}, step ${i}: off by ${error}`);
      }
    }
    model.close();
    if (Object.keys(without).length === 0) return;
    const other = plainLogits({ ...plain, config: { ...plain.config, ...without } }, ids).flat();
    assert.ok(off(other) > MATTERS, `without it only ${off(other)} apart`);
  });
}
