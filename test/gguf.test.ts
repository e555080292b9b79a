// GGUF files: half precision and blocks of bytes against values worked out by hand, and a file read back by a small reader
// of its own.

import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { encodeGguf, toF16, writeGguf } from "../src/checkpoint/gguf.ts";
import { writeRandomGguf } from "../src/checkpoint/randomGguf.ts";
import { UsageError } from "../src/errors.ts";
import { resolveModelConfig } from "../src/model/config.ts";
import { holds } from "./support/holds.ts";
import { readGguf } from "./support/readGguf.ts";

const folder = mkdtempSync(join(tmpdir(), "mone-gguf-test-"));
after(() => rmSync(folder, { recursive: true, force: true }));

test("half precision rounds to the nearest, ties to even", () => {
  const cases: [number, number][] = [
    [0, 0],
    [-0, 0x8000],
    [1, 0x3c00],
    [-2, 0xc000],
    [65504, 0x7bff],
    [65519, 0x7bff],
    [65520, 0x7c00],
    [Number.POSITIVE_INFINITY, 0x7c00],
    [2 ** -14, 0x0400],
    [2 ** -24, 0x0001],
    [2 ** -25, 0x0000],
    [1.5 * 2 ** -24, 0x0002],
    [1 + 2 ** -11, 0x3c00],
    [1 + 3 * 2 ** -11, 0x3c02],
    [2047.75 / 1024, 0x4000],
    [Number.NaN, 0x7e00],
  ];
  for (const [value, bits] of cases) assert.equal(toF16(value), bits, String(value));
});

test("q8_0 keeps 32 values as a scale and bytes", () => {
  const values = Float32Array.from({ length: 64 }, (_, i) => (i < 32 ? (i - 16) / 8 : 0));
  const encoded = encodeGguf(values, "Q8_0");
  assert.equal(encoded.length, 68);
  assert.equal(encoded[0] | (encoded[1] << 8), toF16(2 / 127));
  const stored = new Int8Array(encoded.buffer, 2, 32);
  assert.deepEqual([stored[0], stored[16], stored[24], stored[31]], [-127, 0, 64, 119]); // 63.5 and 119.06
  holds(encoded.subarray(34).every((byte) => byte === 0));
});

test("bf16 are the upper halves", () => {
  const encoded = encodeGguf(Float32Array.of(1, -2.5), "BF16");
  assert.deepEqual([...encoded], [0x80, 0x3f, 0x20, 0xc0]);
});

test("a file holds its values and tensors", async () => {
  const path = join(folder, "a.gguf");
  await writeGguf(
    path,
    {
      text: "é",
      flag: true,
      count: { u32: 7 },
      rate: { f32: 0.5 },
      words: { strings: ["a", "bc"] },
      ids: { i32s: [-1, 2] },
    },
    [
      { name: "a", shape: [3], type: "F32", data: () => [encodeGguf(Float32Array.of(1, 2, 3), "F32")] },
      {
        name: "b",
        shape: [2, 32],
        type: "Q8_0",
        data: () => [encodeGguf(new Float32Array(64).fill(1), "Q8_0")],
      },
    ],
  );
  const { bytes, metadata, tensors, start } = readGguf(path);
  assert.deepEqual(Object.fromEntries(metadata), {
    text: "é",
    flag: true,
    count: 7,
    rate: 0.5,
    words: ["a", "bc"],
    ids: [-1, 2],
  });
  assert.deepEqual(tensors, [
    { name: "a", dims: [3], type: 0, offset: 0 },
    { name: "b", dims: [32, 2], type: 8, offset: 32 },
  ]);
  assert.deepEqual(
    [0, 4, 8].map((at) => bytes.readFloatLE(start + at)),
    [1, 2, 3],
  );
  assert.equal(bytes.readInt8(start + 32 + 2), 127);
  assert.equal(bytes.length, start + 32 + 96); // 68 bytes, padded
});

test("a tensor that gives too little is an error, and leaves no file", async () => {
  const path = join(folder, "short.gguf");
  const short = { name: "a", shape: [3], type: "F32", data: () => [new Uint8Array(4)] } as const;
  await assert.rejects(writeGguf(path, {}, [short]), /a gave 4 bytes, and takes 12/);
  assert.throws(() => readFileSync(path));
});

test("a random model has every tensor that llama.cpp asks of qwen3moe", async () => {
  const config = resolveModelConfig({
    vocab_size: 320,
    hidden_size: 64,
    num_hidden_layers: 2,
    num_attention_heads: 2,
    num_experts: 4,
    num_experts_per_tok: 2,
    moe_intermediate_size: 32,
  });
  for (const [type, code] of [
    ["BF16", 30],
    ["Q8_0", 8],
  ] as const) {
    const path = join(folder, `${type}.gguf`);
    await writeRandomGguf(path, config, { type });
    const { metadata, tensors, bytes, start } = readGguf(path);
    assert.equal(metadata.get("general.architecture"), "qwen3moe");
    assert.equal(metadata.get("qwen3moe.expert_used_count"), 2);
    assert.equal((metadata.get("tokenizer.ggml.tokens") as string[]).length, 320);
    assert.equal(new Set(metadata.get("tokenizer.ggml.tokens") as string[]).size, 320);
    assert.equal(tensors.length, 2 + 2 * 12);
    const experts = tensors.find(({ name }) => name === "blk.1.ffn_down_exps.weight");
    assert.deepEqual([experts?.dims, experts?.type], [[32, 64, 4], code]);
    const last = tensors[tensors.length - 1];
    const elements = last.dims.reduce((a, b) => a * b, 1);
    const size = type === "BF16" ? 2 * elements : (elements / 32) * 34;
    assert.equal(bytes.length, start + last.offset + Math.ceil(size / 32) * 32);
  }
  const small = resolveModelConfig({ ...config, vocab_size: 256 });
  await assert.rejects(writeRandomGguf(join(folder, "x"), small, { type: "BF16" }), UsageError);
  const dense = resolveModelConfig({ ...config, num_experts: 0 });
  await assert.rejects(writeRandomGguf(join(folder, "x"), dense, { type: "BF16" }), UsageError);
});
