// Checkpoints of bytes: the same model to the last bit as the original loaded with int8, read or mapped; what cannot be done
// with one is refused, and so are damaged ones, each in one sentence.

import assert from "node:assert/strict";
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { convertCheckpoint } from "../src/checkpoint/convert.ts";
import { exportGguf } from "../src/checkpoint/exportGguf.ts";
import { inspectModel } from "../src/checkpoint/inspect.ts";
import { openStoredModel } from "../src/checkpoint/loadModel.ts";
import { readModelConfig } from "../src/checkpoint/modelFolder.ts";
import { SafetensorsFile, type TensorSource, writeSafetensors } from "../src/checkpoint/safetensors.ts";
import { RunError, UsageError } from "../src/errors.ts";
import { textLogits } from "../src/infer/logits.ts";
import { expertWidth } from "../src/model/config.ts";
import { countParameters } from "../src/model/parameters.ts";
import { bestBackend } from "./support/backends.ts";
import { holds } from "./support/holds.ts";

const folder = mkdtempSync(join(tmpdir(), "mone-int8-"));
after(() => rmSync(folder, { recursive: true, force: true }));
const fixture = (family: string) => new URL(`fixtures/hf/${family}`, import.meta.url).pathname;
const backend = bestBackend();
after(() => backend.close());
const ids = Uint32Array.of(5, 17, 200, 3, 90, 41, 7, 11, 12, 13, 250, 299);

/** Logits with all and with a quarter of the neurons, and the memory that the weights took. */
async function logitsOf(path: string, options: Parameters<typeof openStoredModel>[2]) {
  const before = backend.bytesInUse;
  const model = openStoredModel(path, backend, options);
  try {
    const bytes = backend.bytesInUse - before;
    const quarter = Math.ceil(expertWidth(model.config) / 4);
    const dense = await textLogits(model, ids);
    const sparse = await textLogits(model, ids, { kept: quarter });
    return { bytes, logits: [dense.logits, sparse.logits] };
  } finally {
    model.close();
  }
}

const made = new Map<string, string>();
async function int8Of(family: string): Promise<string> {
  const path = made.get(family) ?? join(folder, family);
  if (!made.has(family)) await convertCheckpoint(fixture(family), path, { dtype: "int8" });
  made.set(family, path);
  return path;
}

for (const family of ["olmoe", "mixtral", "qwen2_moe", "qwen3_moe", "deepseek_v2", "llama", "qwen3"]) {
  test(`${family} as bytes on disk is ${family} loaded with int8, bit for bit`, async () => {
    const path = await int8Of(family);
    const expected = await logitsOf(fixture(family), { dtype: "int8" });
    const read = await logitsOf(path, {});
    const mapped = await logitsOf(path, { dtype: "int8", largeBytes: 1 });
    assert.deepEqual(read.logits, expected.logits);
    assert.deepEqual(mapped.logits, expected.logits);
    if (backend.map) {
      // Scales, norms and the table of angles are all that is copied.
      const rows = countParameters(readModelConfig(path)).total;
      assert.ok(mapped.bytes < read.bytes - rows / 2, `${mapped.bytes} bytes in place, ${read.bytes} copied`);
    }
    assert.deepEqual(inspectModel(path).dtypes, ["F32", "I8"]);
    const file = SafetensorsFile.open(join(path, "model.safetensors"));
    const plain = [...file.tensors.values()].filter(({ dtype }) => dtype !== "I8");
    holds(plain.every(({ name }) => /norm\.weight$|bias$|gate\.weight$|_scale$/.test(name)));
    file.close();
  });
}

test("other software is told by a name that it cannot know", async () => {
  const { quantization_config: found, ...rest } = JSON.parse(
    readFileSync(join(await int8Of("qwen3_moe"), "config.json"), "utf8"),
  );
  assert.equal(found.quant_method, "mone_int8");
  assert.deepEqual(rest, JSON.parse(readFileSync(join(fixture("qwen3_moe"), "config.json"), "utf8")));
});

test("fewer neurons are still a matter of the configuration", async () => {
  const path = join(folder, "fewer");
  await convertCheckpoint(await int8Of("qwen3_moe"), path, { neurons: 0.25 });
  assert.equal(readModelConfig(path).num_neurons_per_tok, expertWidth(readModelConfig(path)) / 4);
  const [dense] = (await logitsOf(path, {})).logits;
  assert.deepEqual(dense, (await logitsOf(fixture("qwen3_moe"), { dtype: "int8" })).logits[1]);
});

const isSentence = (error: Error) =>
  (error instanceof UsageError || error instanceof RunError) && !error.message.includes("\n");

test("what cannot be done with bytes is refused", async () => {
  const path = await int8Of("qwen3_moe");
  const target = join(folder, "never");
  const refused = (attempt: () => unknown) =>
    assert.rejects(
      async () => attempt(),
      (error: Error) => {
        assert.match(error.message, /holds int8 weights, which cannot be/);
        return isSentence(error);
      },
    );
  for (const dtype of ["f32", "bf16", "int8"] as const)
    await refused(() => convertCheckpoint(path, target, { dtype }));
  await refused(() => convertCheckpoint(path, target, { experts: "fused" }));
  await refused(() => exportGguf(path, join(folder, "x.gguf"), { type: "BF16" }));
  for (const dtype of ["f32", "bf16"] as const)
    await refused(() => openStoredModel(path, backend, { dtype }));
  const both = { dtype: "int8", experts: "fused" } as const;
  await assert.rejects(convertCheckpoint(fixture("olmoe"), target, both), UsageError);
});

const AT = "model.layers.0.self_attn.q_proj.weight";
const DOWN = "model.layers.1.mlp.experts.2.down_proj.weight_t";
const damages: [string, (source: TensorSource) => TensorSource | undefined, RegExp][] = [
  [
    "without scales",
    (source) => (source.name === `${AT}_scale` ? undefined : source),
    /has no tensor ".*q_proj\.weight_scale", the scales of .*q_proj\.weight: convert or download/,
  ],
  [
    "with too few scales",
    (source) =>
      source.name === `${DOWN}_scale` ? { ...source, shape: [3], data: () => new Float32Array(3) } : source,
    /down_proj\.weight_t_scale, the scales of .*, has shape \[3\], not \[\d+\]/,
  ],
  [
    "with scales of another type",
    (source) =>
      source.name === `${AT}_scale`
        ? { ...source, dtype: "BF16", data: () => new Uint16Array(source.shape[0]) }
        : source,
    /q_proj\.weight_scale holds BF16, not F32/,
  ],
  [
    "with a matrix of floats",
    (source) =>
      source.name === DOWN
        ? { ...source, dtype: "F32", data: () => new Float32Array(source.shape[0] * source.shape[1]) }
        : source,
    /down_proj\.weight_t holds F32, not I8/,
  ],
  [
    "without a matrix",
    (source) => (source.name === DOWN ? undefined : source),
    /has no tensor ".*down_proj\.weight_t"/,
  ],
  [
    "with a matrix the other way round",
    (source) => (source.name === DOWN ? { ...source, shape: [...source.shape].reverse() } : source),
    /down_proj\.weight_t, which its config\.json asks for, has shape/,
  ],
  [
    "with bytes for a norm",
    (source) =>
      source.name === "model.norm.weight"
        ? { ...source, dtype: "I8", data: () => new Int8Array(source.shape[0]) }
        : source,
    /"model\.norm\.weight" .* holds I8/,
  ],
];

for (const [name, change, message] of damages) {
  test(`an int8 checkpoint ${name} is refused`, async () => {
    const from = await int8Of("qwen3_moe");
    const path = join(folder, name);
    mkdirSync(path);
    copyFileSync(join(from, "config.json"), join(path, "config.json"));
    const file = SafetensorsFile.open(join(from, "model.safetensors"));
    const sources = [...file.tensors.values()].flatMap((info) => {
      const changed = change({ ...info, data: () => file.readBytes(info.name) });
      return changed ? [changed] : [];
    });
    await writeSafetensors(join(path, "model.safetensors"), sources);
    file.close();
    for (const largeBytes of [1, 2 ** 30]) {
      assert.throws(
        () => openStoredModel(path, backend, { largeBytes }),
        (error: Error) => {
          assert.match(error.message, message);
          return isSentence(error);
        },
      );
    }
    assert.equal(backend.bytesInUse, 0, "nothing is left behind");
  });
}

test("other quantisations, and later versions of this one, are refused by name", () => {
  const path = join(folder, "unknown");
  mkdirSync(path);
  const config = JSON.parse(readFileSync(join(fixture("qwen3_moe"), "config.json"), "utf8"));
  for (const [quantization_config, message] of [
    [{ quant_method: "fp8" }, /quantization_config "fp8" is not supported/],
    [{ quant_method: "mone_int8", version: 2 }, /quantization_config of version 2 is not supported/],
    ["gptq", /quantization_config "gptq" is not supported/],
    [{}, /quantization_config undefined is not supported/],
  ] as const) {
    writeFileSync(join(path, "config.json"), JSON.stringify({ ...config, quantization_config }));
    assert.throws(() => readModelConfig(path), { name: "UsageError", message });
  }
});
