// Checkpoints in other forms: what is written must be the same model, read back by this project, by a reader of GGUF, or
// (where it is installed) by transformers.

import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { configText } from "../src/checkpoint/configText.ts";
import { convertCheckpoint } from "../src/checkpoint/convert.ts";
import { networkTensor } from "../src/checkpoint/expertLayout.ts";
import { exportGguf } from "../src/checkpoint/exportGguf.ts";
import { familyConfig, familyPresets } from "../src/checkpoint/familyPresets.ts";
import { openStoredModel } from "../src/checkpoint/loadModel.ts";
import { configOfStored, readModelConfig } from "../src/checkpoint/modelFolder.ts";
import { PYTHON_FILE } from "../src/checkpoint/pythonFile.ts";
import { writeRandomCheckpoint } from "../src/checkpoint/randomCheckpoint.ts";
import { SafetensorsFile, writeSafetensors } from "../src/checkpoint/safetensors.ts";
import { UsageError } from "../src/errors.ts";
import { textLogits } from "../src/infer/logits.ts";
import { expertWidth } from "../src/model/config.ts";
import { countParameters } from "../src/model/parameters.ts";
import { pruneCheckpoint, writePruned } from "../src/study/prune.ts";
import { bestBackend, maxDifference } from "./support/backends.ts";
import { holds } from "./support/holds.ts";
import { readGguf } from "./support/readGguf.ts";
import { writeToyText } from "./support/tinyRun.ts";

const folder = mkdtempSync(join(tmpdir(), "mone-convert-"));
after(() => rmSync(folder, { recursive: true, force: true }));
const fixture = (family: string) => new URL(`fixtures/hf/${family}`, import.meta.url).pathname;
const MOE = ["olmoe", "mixtral", "qwen2_moe", "qwen3_moe", "deepseek_v2"];
const backend = bestBackend();
const ids = Uint32Array.of(5, 17, 200, 3, 90, 41, 7);

async function logitsOf(path: string): Promise<Float32Array> {
  const model = openStoredModel(path, backend, { dtype: "f32" });
  try {
    return (await textLogits(model, ids)).logits;
  } finally {
    model.close();
  }
}

function tensorsOf(path: string) {
  const file = SafetensorsFile.open(join(path, "model.safetensors"));
  const all = [...file.tensors.values()].map(
    ({ name, dtype, shape }) => [name, { dtype, shape, bytes: file.readBytes(name) }] as const,
  );
  file.close();
  return new Map(all);
}

for (const family of MOE) {
  test(`${family}: experts fused and taken apart again`, async () => {
    const [fused, apart] = [`${family}-fused`, `${family}-apart`].map((name) => join(folder, name));
    await convertCheckpoint(fixture(family), fused, { experts: "fused" });
    holds([...tensorsOf(fused).keys()].some((name) => name.endsWith(".mlp.experts.gate_up_proj")));
    assert.deepEqual(await logitsOf(fused), await logitsOf(fixture(family)));
    await convertCheckpoint(fused, apart, { experts: "apart" });
    assert.deepEqual(new Map([...tensorsOf(apart)].sort()), new Map([...tensorsOf(fixture(family))].sort()));
  });
}

test("another type: values are rounded, and back again they stay", async () => {
  const [halves, back] = ["halves", "back"].map((name) => join(folder, name));
  await convertCheckpoint(fixture("olmoe"), halves, { dtype: "bf16" });
  await convertCheckpoint(halves, back, { dtype: "f32", experts: "fused" });
  holds([...tensorsOf(halves).values()].every(({ dtype }) => dtype === "BF16"));
  assert.deepEqual(await logitsOf(back), await logitsOf(halves));
  const difference = maxDifference(await logitsOf(halves), await logitsOf(fixture("olmoe")));
  assert.ok(difference > 0 && difference < 1, String(difference));
  const config = JSON.parse(readFileSync(join(halves, "config.json"), "utf8"));
  assert.equal(config.torch_dtype ?? config.dtype, "bfloat16");
});

test("fewer neurons: in the configuration, for this project and for transformers", async () => {
  const sparse = join(folder, "sparse");
  const made = await convertCheckpoint(fixture("qwen3_moe"), sparse, { neurons: 0.25 });
  assert.equal(made.kept, Math.ceil(made.width / 4));
  assert.equal(readModelConfig(sparse).num_neurons_per_tok, made.kept);
  const model = openStoredModel(fixture("qwen3_moe"), backend, { dtype: "f32" });
  const expected = await textLogits(model, ids, { kept: made.kept });
  model.close();
  assert.deepEqual(await logitsOf(sparse), expected.logits);
  const { auto_map } = JSON.parse(readFileSync(join(sparse, "config.json"), "utf8"));
  assert.deepEqual(auto_map, { AutoModelForCausalLM: "modeling_mone.MoneForCausalLM" });
  // All of them again: nothing of ours is left.
  const all = join(folder, "all-neurons");
  await convertCheckpoint(sparse, all, { neurons: "all" });
  holds(!existsSync(join(all, PYTHON_FILE)));
  const config = JSON.parse(readFileSync(join(all, "config.json"), "utf8"));
  assert.deepEqual([config.auto_map, config.num_neurons_per_tok], [undefined, undefined]);
});

const python = process.env.MONE_PYTHON ?? "python3";
const can = (module: string) => spawnSync(python, ["-c", `import ${module}`]).status === 0;

test("the Python file keeps what this project keeps", {
  skip: !can("torch") && "PyTorch is not installed",
}, async () => {
  const sparse = join(folder, "python");
  await convertCheckpoint(fixture("qwen3_moe"), sparse, { neurons: 3 });
  // Without transformers the file's activation alone: its base class is put in its place.
  const program = `
import sys, types, torch
module = types.ModuleType("transformers")
module.Qwen3MoeForCausalLM = torch.nn.Module
sys.modules["transformers"] = module
sys.path.insert(0, ${JSON.stringify(sparse)})
from modeling_mone import KeepLargest
kept = KeepLargest(torch.nn.Identity(), 3)(torch.tensor([[1.0, -2.0, 2.0, 2.0, 0.5], [0.0, 0.0, -1.0, 0.0, 0.0]]))
print(kept.tolist())`;
  const out = execFileSync(python, ["-c", program], { encoding: "utf8" });
  assert.deepEqual(JSON.parse(out), [
    [0, -2, 2, 2, 0],
    [0, 0, -1, 0, 0],
  ]);
});

test("numbers of a configuration keep the point they were written with", async () => {
  // transformers 5 refuses a whole number where it wants another.
  for (const [family, line] of [
    ["deepseek_v2", /"attention_dropout": 0\.0,\n/],
    ["mixtral", /"router_jitter_noise": 0\.0,\n/],
  ] as const) {
    const path = join(folder, `${family}-point`);
    await convertCheckpoint(fixture(family), path, { neurons: 0.5 });
    assert.match(readFileSync(join(path, "config.json"), "utf8"), line);
  }
  const original = '{ "factor": 4.0, "rope_theta": 1e4, "layers": 2, "text": "a: 3.0" }';
  const config = { ...JSON.parse(original), nested: { factor: 8 }, router_aux_loss_coef: 0, negative: -1 };
  const text = configText(config, original);
  assert.deepEqual(JSON.parse(text), config);
  assert.deepEqual(
    [...text.matchAll(/"(\w+)": -?\d+\.0(,|$)/gm)].map(([, key]) => key),
    ["factor", "rope_theta", "factor", "router_aux_loss_coef"],
  );
});

test("a target that holds something, and one that cannot be", async () => {
  const taken = join(folder, "taken");
  mkdirSync(taken);
  writeFileSync(join(taken, "x"), "");
  await assert.rejects(convertCheckpoint(fixture("olmoe"), taken, {}), UsageError);
  await assert.rejects(convertCheckpoint(fixture("olmoe"), join(folder, "n"), { neurons: 1e6 }), UsageError);
});

/** A fixture with the tokenizer of another, as fixtures have none. */
function withTokenizer(family: string): string {
  const path = join(folder, `${family}-tokenized`);
  mkdirSync(path);
  for (const name of ["config.json", "model.safetensors"])
    copyFileSync(join(fixture(family), name), join(path, name));
  const bytes = Object.fromEntries(
    Array.from({ length: 256 }, (_, i) => [String.fromCodePoint(0x4e00 + i), i]),
  );
  const tokenizer = {
    added_tokens: [],
    pre_tokenizer: null,
    model: { type: "BPE", vocab: bytes, merges: [] },
  };
  writeFileSync(join(path, "tokenizer.json"), JSON.stringify(tokenizer));
  return path;
}

for (const [family, architecture] of [
  ["qwen3_moe", "qwen3moe"],
  ["qwen3", "qwen3"],
  ["olmoe", "olmoe"],
] as const) {
  test(`${family} as GGUF: every value in its place`, async () => {
    const path = join(folder, `${family}.gguf`);
    const result = await exportGguf(withTokenizer(family), path, { type: "F32" });
    assert.equal(result.architecture, architecture);
    const { metadata, tensors, bytes, start } = readGguf(path);
    const config = readModelConfig(fixture(family));
    assert.equal(metadata.get(`${architecture}.block_count`), config.num_hidden_layers);
    assert.equal((metadata.get("tokenizer.ggml.tokens") as string[]).length, config.vocab_size);
    const read = (name: string) => {
      const found = tensors.find((tensor) => tensor.name === name);
      assert.ok(found, name);
      const size = found.dims.reduce((a, b) => a * b, 1);
      return Array.from({ length: size }, (_, i) => bytes.readFloatLE(start + found.offset + 4 * i));
    };
    const file = SafetensorsFile.open(join(fixture(family), "model.safetensors"));
    const stored = (name: string) => [...file.readFloat32(name)];
    assert.deepEqual(read("blk.1.attn_q.weight"), stored("model.layers.1.self_attn.q_proj.weight"));
    assert.deepEqual(read("blk.0.attn_k_norm.weight"), stored("model.layers.0.self_attn.k_norm.weight"));
    if (config.num_experts > 0) {
      const downs = Array.from({ length: config.num_experts }, (_, e) =>
        stored(`model.layers.1.mlp.experts.${e}.down_proj.weight`),
      ).flat();
      assert.deepEqual(read("blk.1.ffn_down_exps.weight"), downs);
    } else {
      assert.deepEqual(read("blk.1.ffn_gate.weight"), stored("model.layers.1.mlp.gate_proj.weight"));
    }
    file.close();
  });
}

test("what GGUF cannot say is refused", async () => {
  for (const family of ["deepseek_v2", "qwen2_moe"]) {
    await assert.rejects(
      exportGguf(withTokenizer(family), join(folder, "x.gguf"), { type: "F32" }),
      (error: Error) => error instanceof UsageError && !error.message.includes("\n"),
    );
  }
});

for (const family of [...MOE.filter((name) => name !== "deepseek_v2"), "qwen3"]) {
  test(`${family}: neurons removed for good are neurons whose gate is zero`, async () => {
    const [pruned, zeroed, fused] = ["pruned", "zeroed", "fused2"].map((name) =>
      join(folder, `${family}-${name}`),
    );
    const config = readModelConfig(fixture(family));
    const width = expertWidth(config);
    const stays = (layer: number, expert: number, j: number) => (j + layer + expert) % 3 !== 0;
    const counts = [0, 1, 2].map((first) =>
      Array.from({ length: width }, (_, j) => j).filter((j) => (j + first) % 3),
    );
    const least = Math.min(...counts.map(({ length }) => length));
    const staying = (layer: number, expert: number) =>
      Uint32Array.from(
        Array.from({ length: width }, (_, j) => j)
          .filter((j) => stays(layer, expert, j))
          .slice(0, least),
      );
    await writePruned(fixture(family), pruned, staying, { width: least });
    assert.equal(expertWidth(readModelConfig(pruned)), least);
    // The whole model, with the gates of what was removed set to zero.
    const sources = [...tensorsOf(fixture(family))].map(([name, { dtype, shape, bytes }]) => {
      const network = networkTensor(name, config.num_experts === 0);
      if (network?.which === "gate") {
        const keep = new Set(staying(network.layer, network.expert ?? 0));
        for (let j = 0; j < width; j++)
          if (!keep.has(j)) bytes.fill(0, (j * bytes.length) / width, ((j + 1) * bytes.length) / width);
      }
      return { name, dtype, shape, data: () => bytes };
    });
    mkdirSync(zeroed);
    copyFileSync(join(fixture(family), "config.json"), join(zeroed, "config.json"));
    await writeSafetensors(join(zeroed, "model.safetensors"), sources);
    const expected = await logitsOf(zeroed);
    holds(maxDifference(await logitsOf(pruned), expected) < 1e-4);
    if (config.num_experts === 0) return;
    await convertCheckpoint(fixture(family), fused, { experts: "fused" });
    const both = join(folder, `${family}-both`);
    await writePruned(fused, both, staying, { width: least });
    assert.deepEqual(await logitsOf(both), await logitsOf(pruned));
  });
}

test("pruned widths are multiples of 8, and K comes along with its Python file", async () => {
  const [whole, sparse, pruned] = ["whole", "whole-k", "whole-k-pruned"].map((name) => join(folder, name));
  const stored = familyConfig("qwen3_moe-tiny", {});
  await writeRandomCheckpoint(whole, configOfStored(stored, "tiny"), { dtype: "f32", seed: 3, stored });
  await convertCheckpoint(whole, sparse, { neurons: 5 });
  const data = writeToyText(join(folder, "toy.txt"));
  const options = { data, tokens: 512, announce: () => {} };
  const { before, width } = await pruneCheckpoint(sparse, pruned, { ...options, share: 0.4 });
  assert.deepEqual([before, width], [32, 16]);
  const config = JSON.parse(readFileSync(join(pruned, "config.json"), "utf8"));
  assert.deepEqual([config.moe_intermediate_size, config.num_neurons_per_tok], [16, 5]);
  holds(config.auto_map && existsSync(join(pruned, PYTHON_FILE)));
  const narrow = join(folder, "narrow");
  assert.equal((await pruneCheckpoint(whole, narrow, { ...options, share: 0.01 })).width, 24);
  holds(!existsSync(join(narrow, PYTHON_FILE)));
  const few = await pruneCheckpoint(whole, join(folder, "few"), { ...options, share: 0.9 });
  assert.equal(few.width, 3);
  await assert.rejects(pruneCheckpoint(whole, join(folder, "none"), { ...options, share: 1 }), UsageError);
});

for (const preset of Object.keys(familyPresets).filter((name) => name.endsWith("-tiny"))) {
  test(`${preset}: a random checkpoint opens and gives numbers`, async () => {
    const path = join(folder, preset);
    const stored = familyConfig(preset, { rope_theta: 5000 });
    await writeRandomCheckpoint(path, configOfStored(stored, preset), { dtype: "bf16", seed: 1, stored });
    assert.equal(readModelConfig(path).rope_theta, 5000);
    const logits = await logitsOf(path);
    holds(logits.every(Number.isFinite) && new Set(logits).size > 100);
  });
}

test("published sizes are what they are called", () => {
  const billions = (preset: string) =>
    countParameters(configOfStored(familyConfig(preset, {}), preset)).total / 1e9;
  const sizes = ["olmoe-1b-7b", "qwen1.5-moe-a2.7b", "qwen3-30b-a3b", "deepseek-v2-lite"].map(billions);
  assert.deepEqual(
    sizes.map((size) => size.toFixed(1)),
    ["6.9", "14.3", "30.5", "15.7"],
  );
  assert.throws(() => familyConfig("olmoe-tiny", { num_expert: 3 }), /did you mean "num_experts"/);
});

after(() => backend.close());
