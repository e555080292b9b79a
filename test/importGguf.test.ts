// GGUF files become model folders: what was written from a folder comes back value by value, tokenizer included; files of
// other kinds, and damaged ones in thousands of ways, are refused in one sentence.

import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import fc from "fast-check";
import { exportGguf } from "../src/checkpoint/exportGguf.ts";
import { familyPresets } from "../src/checkpoint/familyPresets.ts";
import { encodeGguf, type GgufType, ggufTypes } from "../src/checkpoint/gguf.ts";
import { GgufFile } from "../src/checkpoint/ggufReader.ts";
import { ggmlTypes } from "../src/checkpoint/ggufTypes.ts";
import { importGguf } from "../src/checkpoint/importGguf.ts";
import { inspectGguf } from "../src/checkpoint/inspectGguf.ts";
import { findModelFolder, openStoredModel } from "../src/checkpoint/loadModel.ts";
import { configOfStored, readModelConfig, readTokenizer } from "../src/checkpoint/modelFolder.ts";
import { writeRandomCheckpoint } from "../src/checkpoint/randomCheckpoint.ts";
import { SafetensorsFile } from "../src/checkpoint/safetensors.ts";
import { RunError, UsageError } from "../src/errors.ts";
import { textLogits } from "../src/infer/logits.ts";
import type { ModelConfig } from "../src/model/config.ts";
import { tokenizerFromJson } from "../src/text/tokenizer.ts";
import { bestBackend } from "./support/backends.ts";
import { ggufBytes, type TestGguf, type TestValue, text, u32, u64 } from "./support/ggufBytes.ts";
import { holds } from "./support/holds.ts";

const folder = mkdtempSync(join(tmpdir(), "mone-import-"));
after(() => rmSync(folder, { recursive: true, force: true }));
const backend = bestBackend();
after(() => backend.close());
const at = (name: string) => join(folder, name);

type Changes = Readonly<Record<string, unknown>>;

async function randomModel(name: string, preset: string, dtype: "f32" | "bf16", changes: Changes) {
  const stored = { ...familyPresets[preset], ...changes };
  await writeRandomCheckpoint(at(name), configOfStored(stored, preset), { dtype, seed: 3, stored });
  return at(name);
}

function valuesOf(path: string): Map<string, Float32Array> {
  const file = SafetensorsFile.open(join(path, "model.safetensors"));
  const all = [...file.tensors.keys()].sort().map((name) => [name, file.readFloat32(name)] as const);
  file.close();
  return new Map(all);
}

/** What a model computes; the keys left out are for training, or of layers that it does not have. */
function computed({ initializer_range: _, intermediate_size, ...config }: ModelConfig) {
  return { ...config, intermediate_size: config.num_experts > 0 ? undefined : intermediate_size };
}

/** Q8_0 and back, from the format's description. */
function throughQ8(values: Float32Array): Float32Array {
  const bytes = encodeGguf(values, "Q8_0");
  const view = new DataView(bytes.buffer);
  const scaleAt = (at: number) => {
    const bits = view.getUint16(at, true);
    const [exponent, fraction] = [(bits >> 10) & 31, bits & 1023];
    return exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15);
  };
  return values.map((_, i) => {
    const begin = Math.floor(i / 32) * 34;
    return scaleAt(begin) * view.getInt8(begin + 2 + (i % 32));
  });
}

const stays = (name: string) => /norm\.weight$|\.gate\.weight$/.test(name);
const changes = { rope_theta: 5000, rms_norm_eps: 1e-6 };

for (const family of ["olmoe", "mixtral", "qwen3_moe", "llama", "qwen3"]) {
  for (const [type, dtype] of [
    ["F32", "f32"],
    ["BF16", "bf16"],
    ["Q8_0", "f32"],
  ] as [GgufType, "f32" | "bf16"][]) {
    test(`${family} to GGUF as ${type} and back`, async () => {
      const name = `${family}-${type}`;
      const original = await randomModel(name, `${family}-tiny`, dtype, changes);
      await exportGguf(original, at(`${name}.gguf`), { type });
      const back = at(`${name}-back`);
      const made = await importGguf(at(`${name}.gguf`), back);
      assert.equal(made.family, family);
      assert.deepEqual(computed(readModelConfig(back)), computed(readModelConfig(original)));
      const expected = valuesOf(original);
      if (type === "Q8_0")
        for (const [key, values] of expected) if (!stays(key)) expected.set(key, throughQ8(values));
      assert.deepEqual(valuesOf(back), expected);
      const file = SafetensorsFile.open(join(back, "model.safetensors"));
      for (const { name: key, dtype: found } of file.tensors.values())
        assert.equal(found, type === "BF16" && !stays(key) ? "BF16" : "F32", key);
      file.close();
      const words = "Grüße, 12 345 words\n\n  and 3 more";
      assert.deepEqual(readTokenizer(back).encode(words), readTokenizer(original).encode(words));
      if (type !== "F32") return;
      const logits = [];
      for (const path of [original, back]) {
        const model = openStoredModel(path, backend, { dtype: "f32" });
        logits.push((await textLogits(model, Uint32Array.of(5, 17, 200, 3, 90))).logits);
        model.close();
      }
      assert.deepEqual(logits[1], logits[0]);
    });
  }
}

test("another type on the way: rounded to bf16", async () => {
  const original = await randomModel("rounded", "qwen3-tiny", "bf16", {});
  await exportGguf(original, at("rounded.gguf"), { type: "F32" });
  await importGguf(at("rounded.gguf"), at("rounded-back"), { dtype: "bf16" });
  assert.deepEqual(valuesOf(at("rounded-back")), valuesOf(original));
  const config = JSON.parse(readFileSync(join(at("rounded-back"), "config.json"), "utf8"));
  assert.equal(config.torch_dtype, "bfloat16");
  await assert.rejects(importGguf(at("rounded.gguf"), at("rounded-back")), UsageError);
});

const fixture = JSON.parse(
  readFileSync(new URL("fixtures/tokenizer/tokenizer.json", import.meta.url), "utf8"),
);
const cases = JSON.parse(readFileSync(new URL("fixtures/tokenizer/cases.json", import.meta.url), "utf8"));
const words = (digits: string) =>
  `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|${digits}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`;
const splitBy = (Regex: string) => ({
  type: "Sequence",
  pretokenizers: [
    { type: "Split", pattern: { Regex }, behavior: "Isolated", invert: false },
    { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false },
  ],
});
const tokenizers: Record<string, unknown> = {
  "gpt-2": fixture,
  "llama-bpe": {
    ...fixture,
    pre_tokenizer: splitBy(words("\\p{N}{1,3}")),
    model: { ...fixture.model, ignore_merges: true },
  },
  qwen2: { ...fixture, pre_tokenizer: splitBy(words("\\p{N}")), normalizer: { type: "NFC" } },
};

for (const [pre, json] of Object.entries(tokenizers)) {
  test(`a tokenizer with the rule ${pre} comes back`, async () => {
    const original = await randomModel(`tok-${pre}`, "qwen3_moe-tiny", "bf16", { vocab_size: 1030 });
    writeFileSync(join(original, "tokenizer.json"), JSON.stringify(json));
    await exportGguf(original, at(`tok-${pre}.gguf`), { type: "BF16" });
    const file = GgufFile.open(at(`tok-${pre}.gguf`));
    assert.equal(file.text("tokenizer.ggml.pre"), pre);
    file.close();
    await importGguf(at(`tok-${pre}.gguf`), at(`tok-${pre}-back`));
    const [expected, found] = [tokenizerFromJson(json), readTokenizer(at(`tok-${pre}-back`))];
    assert.equal(found.eosId, expected.eosId);
    const texts = (cases.cases as { text: string }[]).map((one) => one.text);
    for (const one of [...texts, "In 1234567 days, I'LL SEE\r\n\r\n  you<|endoftext|>", "e\u0301"]) {
      assert.deepEqual(found.encode(one), expected.encode(one), JSON.stringify(one));
      assert.equal(found.decode(found.encode(one)), expected.decode(expected.encode(one)));
    }
  });
}

const TINY = { vocab_size: 260, hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2 };
const tiny = { ...TINY, num_key_value_heads: 1, head_dim: 16, num_experts: 2, moe_intermediate_size: 32 };
let base: Buffer;
async function baseBytes(): Promise<Buffer> {
  if (base) return base;
  const path = await randomModel("base", "qwen3_moe-tiny", "bf16", tiny);
  await exportGguf(path, at("base.gguf"), { type: "Q8_0" });
  base = readFileSync(at("base.gguf"));
  return base;
}

/** The bytes of the base with one text in its header replaced by one as long. */
async function replaced(from: string, to: string): Promise<Buffer> {
  assert.equal(from.length, to.length);
  const bytes = Buffer.from(await baseBytes());
  const place = bytes.indexOf(from);
  assert.ok(place > 0, from);
  bytes.write(to, place, "latin1");
  return bytes;
}

test("without a tokenizer that can be written, the folder says so", async () => {
  for (const [from, to, reason] of [
    ["gpt2", "bert", /that of the file is "bert"/],
    ["tokenizer.ggml.model", "tokenizer.ggml.mXdel", /the file has none/],
    ["gpt-2", "phi-9", /"phi-9", is not known here/],
    ["tokenizer.ggml.merges", "tokenizer.ggml.mXrges", /tokens or merges are missing/],
  ] as const) {
    writeFileSync(at("odd.gguf"), await replaced(from, to));
    const lines: string[] = [];
    const target = at(`odd-${to}`);
    const made = await importGguf(at("odd.gguf"), target, { announce: (line) => lines.push(line) });
    assert.equal(made.tokenizer, false);
    holds(!existsSync(join(target, "tokenizer.json")));
    assert.equal(lines.length, 1);
    assert.match(lines[0], reason);
    openStoredModel(target, backend).close();
  }
});

/** A file with such a header, opened and turned into a configuration. */
function open(file: TestGguf | Buffer): void {
  writeFileSync(at("x.gguf"), Buffer.isBuffer(file) ? file : ggufBytes(file));
  GgufFile.open(at("x.gguf")).close();
}

const a = { name: "a", dims: [32], type: 0, offset: 0 };
const data = new Uint8Array(256);
const big = 2n ** 60n;
const list = (item: number, count: number | bigint, more = Buffer.alloc(0)): TestValue => ({
  type: 9,
  raw: Buffer.concat([u32(item), u64(count), more]),
});
const damaged: [string, TestGguf, RegExp][] = [
  ["another magic", { magic: "GGML" }, /does not begin with "GGUF"/],
  ["an old version", { version: 1 }, /of version 1; versions 2 and 3 are known/],
  ["big-endian numbers", { version: 0x03000000 }, /big-endian/],
  ["too many tensors", { tensorCount: big }, /fewer tensors in it than/],
  ["too many keys", { keyCount: big }, /fewer keys in it than/],
  ["a key cut off", { keyCount: 1, data: new Uint8Array(40) }, /a key has no name/],
  [
    "a key twice",
    {
      keys: [
        ["a", { u32: 1 }],
        ["a", { u32: 1 }],
      ],
    },
    /the key "a" is there twice/,
  ],
  ["a value of an unknown type", { keys: [["a", { type: 13, raw: u32(0) }]] }, /"a" has the unknown type 13/],
  ["a truth value of 2", { keys: [["a", { type: 7, raw: Buffer.of(2) }]] }, /neither true nor false/],
  [
    "a text longer than the file",
    { keys: [["a", { type: 8, raw: u64(big) }]] },
    /fewer bytes of the key "a"/,
  ],
  ["a list longer than the file", { keys: [["a", list(0, big)]] }, /fewer entries of the key "a"/],
  ["texts that end early", { keys: [["a", list(8, 2, text("b"))]] }, /no intact GGUF file/],
  ["a list of lists", { keys: [["a", list(9, 1)]] }, /list of lists/],
  ["a list of an unknown type", { keys: [["a", list(77, 1)]] }, /list of the unknown type 77/],
  ["an odd alignment", { keys: [["general.alignment", { u32: 24 }]] }, /alignment is not a power of two/],
  [
    "a text as alignment",
    { keys: [["general.alignment", { text: "x" }]] },
    /alignment is not a power of two/,
  ],
  ["no dimensions", { tensors: [{ ...a, dims: [] }], data }, /"a" has 0 dimensions/],
  ["five dimensions", { tensors: [{ ...a, dims: [1, 1, 1, 1, 1] }], data }, /"a" has 5 dimensions/],
  ["an empty tensor", { tensors: [{ ...a, dims: [0, 4] }], data }, /"a" has no elements/],
  ["a huge size", { tensors: [{ ...a, dims: [2 ** 52, 2 ** 52] }], data }, /impossibly large/],
  ["an unknown type", { tensors: [{ ...a, type: 4 }], data }, /"a" has the unknown type 4/],
  ["rows of part of a block", { tensors: [{ ...a, dims: [16, 2], type: 8 }], data }, /whole blocks of 32/],
  ["an askew tensor", { tensors: [{ ...a, offset: 4 }], data }, /begins at no multiple of 32/],
  ["a tensor beyond the end", { tensors: [{ ...a, offset: 160 }], data }, /beyond the end of the file/],
  ["tensors over each other", { tensors: [a, { ...a, name: "b", offset: 32 }], data }, /"b" overlaps/],
  ["a tensor twice", { tensors: [a, { ...a, offset: 128 }], data }, /tensor "a" is there twice/],
];
for (const [name, file, message] of damaged) {
  test(`a GGUF file with ${name} is refused`, () => {
    assert.throws(
      () => open(file),
      (error: Error) => {
        assert.match(error.message, message);
        return isOurs(error);
      },
    );
  });
}

function isOurs(error: unknown): boolean {
  if (!(error instanceof RunError || error instanceof UsageError)) return false;
  assert.doesNotMatch(error.message, /[\n\r]/);
  assert.ok(error.message.length < 1000, "a message of reasonable length");
  return true;
}

test("files of other kinds and models are refused by name", async () => {
  const refused = async (bytes: Buffer, message: RegExp) => {
    writeFileSync(at("kind.gguf"), bytes);
    await assert.rejects(importGguf(at("kind.gguf"), at("never")), (error: Error) => {
      assert.match(error.message, message);
      return isOurs(error);
    });
    holds(!existsSync(at("never")));
  };
  await refused(await replaced("qwen3moe", "command9"), /architecture "command9" .*is not supported/);
  await refused(
    await replaced("attn_q_norm", "attn_q_nXrm"),
    /there is no tensor "blk\.0\.attn_q_norm\.weight"/,
  );
  await refused(
    await replaced("qwen3moe.block_count", "qwen3moe.block_cXunt"),
    /no key "qwen3moe\.block_count"/,
  );
  // Without a tokenizer that can be written, the texts of tokens are read for the names of special ones only.
  const torn = await replaced("gpt2", "bert");
  const list = "tokenizer.ggml.tokens";
  torn[torn.indexOf(list) + list.length + 4 + 4 + 8 + 8] = 0xff;
  await refused(torn, /the key "tokenizer\.ggml\.tokens" holds text that is not UTF-8/);
  const bytes = Buffer.from(await baseBytes());
  // A quantisation that is known by name only, as large as Q8_0 in 256 elements or less.
  const place = bytes.indexOf("blk.0.attn_q.weight") + "blk.0.attn_q.weight".length + 4 + 16;
  assert.equal(bytes.readUInt32LE(place), 8);
  bytes.writeUInt32LE(2, place);
  await refused(bytes, /has tensors of Q4_0, which are not read: use a file of F32, F16, BF16, Q8_0/);
  const wider = Buffer.from(await baseBytes());
  const key = wider.indexOf("qwen3moe.expert_count") + "qwen3moe.expert_count".length + 4;
  wider.writeUInt32LE(3, key);
  await refused(wider, /ffn_gate_inp\.weight" has shape \[2,32\], its keys ask for \[3,32\]/);
  wider.writeUInt32LE(2 ** 31, key);
  await refused(wider, /2147483648 experts are more than any model has/);
  assert.throws(
    () => findModelFolder(at("kind.gguf")),
    /is a GGUF file: make a model folder of it with mone convert/,
  );
  assert.throws(() => open(Buffer.from("GG")), /no intact GGUF file/);
  assert.throws(() => GgufFile.open(folder), /is not a file/);
  assert.throws(() => GgufFile.open(at("nowhere.gguf")), /there is no such file/);
});

test("a list of more texts than any tokenizer has is refused before it costs memory", () => {
  const count = 2 ** 21 + 1;
  writeFileSync(at("texts.gguf"), ggufBytes({ keys: [["a", list(8, count, Buffer.alloc(8 * count))]] }));
  assert.equal(inspectGguf(at("texts.gguf")).keys.a, `${count} texts`);
  const file = GgufFile.open(at("texts.gguf"));
  assert.throws(() => file.texts("a"), { name: "RunError", message: /has 2097153 texts, more than any/ });
  file.close();
});

test("types that are written are those that are read", () => {
  for (const [name, { code, ...size }] of Object.entries(ggufTypes))
    assert.deepEqual(ggmlTypes.get(code), { name, ...size });
});

test("half precision is read", () => {
  const values = new Uint16Array([0x3c00, 0xc000, 0x0001, 0x7c00]);
  const file = { tensors: [{ ...a, dims: [2, 2], type: 1 }], data: new Uint8Array(values.buffer) };
  writeFileSync(at("half.gguf"), ggufBytes(file));
  const { tensors, version } = inspectGguf(at("half.gguf"));
  assert.equal(version, 3);
  assert.deepEqual(tensors, [{ name: "a", type: "F16", shape: [2, 2], tensors: 1, parameters: 4, bytes: 8 }]);
});

test("a model of half precision keeps its bits", async () => {
  const original = await randomModel("f16", "qwen3-tiny", "bf16", {
    vocab_size: 256,
    initializer_range: 0.5,
  });
  await exportGguf(original, at("f16.gguf"), { type: "BF16" });
  const bytes = readFileSync(at("f16.gguf"));
  // The same bits called halves are other numbers, and stay these.
  for (let place = bytes.indexOf("token_embd"); place < bytes.indexOf("output_norm.weight") + 60; place++) {
    const isType = /\.weight\0?$/.test(bytes.toString("latin1", place - 8, place)) && bytes[place] === 2;
    if (!isType) continue;
    const type = place + 4 + 16;
    if (bytes.readUInt32LE(type) === 30) bytes.writeUInt32LE(1, type);
  }
  writeFileSync(at("f16.gguf"), bytes);
  await importGguf(at("f16.gguf"), at("f16-back"));
  const [from, to] = [original, at("f16-back")].map((path) =>
    SafetensorsFile.open(join(path, "model.safetensors")),
  );
  let halves = 0;
  for (const { name, dtype } of to.tensors.values()) {
    if (dtype !== "F16") continue;
    halves++;
    assert.deepEqual(to.readBytes(name), from.readBytes(name));
  }
  assert.ok(halves > 10, `${halves} tensors of half precision`);
  const config = JSON.parse(readFileSync(join(at("f16-back"), "config.json"), "utf8"));
  assert.equal(config.torch_dtype, "float16");
  for (const file of [from, to]) file.close();
});

test("what is in a file, in brief", async () => {
  await baseBytes();
  const { keys, tensors, parameters } = inspectGguf(at("base.gguf"));
  assert.equal(keys["general.architecture"], "qwen3moe");
  assert.equal(keys["tokenizer.ggml.tokens"], "260 texts");
  assert.equal(keys["tokenizer.ggml.token_type"], "260 numbers");
  const experts = tensors.find(({ name }) => name === "blk.*.ffn_down_exps.weight");
  assert.deepEqual(experts?.shape, [2, 32, 32]);
  assert.equal(experts?.type, "Q8_0");
  assert.equal(
    tensors.reduce((sum, tensor) => sum + tensor.parameters, 0),
    parameters,
  );
});

test("2000 damaged files", async () => {
  const original = await baseBytes();
  const header = original.indexOf("output_norm.weight") + 200;
  const place = fc.oneof(
    { weight: 4, arbitrary: fc.nat(header) },
    { weight: 1, arbitrary: fc.nat(original.length - 1) },
  );
  const number = fc.constantFrom(
    0n,
    1n,
    8n,
    255n,
    2n ** 16n,
    2n ** 31n,
    2n ** 32n - 1n,
    2n ** 53n,
    2n ** 64n - 1n,
  );
  const edit = fc.record({
    at: place,
    how: fc.constantFrom("flip", "number", "insert", "remove", "cut"),
    bit: fc.nat(7),
    number,
    bytes: fc.uint8Array({ minLength: 1, maxLength: 9 }),
  });
  let accepted = 0;
  let imported = 0;
  const property = fc.asyncProperty(fc.array(edit, { minLength: 1, maxLength: 3 }), async (edits) => {
    let bytes: Buffer = Buffer.from(original);
    for (const { at, how, bit, number, bytes: piece } of edits) {
      const begin = Math.min(at, bytes.length);
      if (how === "flip" && begin < bytes.length) bytes[begin] ^= 1 << bit;
      else if (how === "number" && begin + 8 <= bytes.length) bytes.writeBigUInt64LE(number, begin);
      else if (how === "insert")
        bytes = Buffer.concat([bytes.subarray(0, begin), piece, bytes.subarray(begin)]);
      else if (how === "remove")
        bytes = Buffer.concat([bytes.subarray(0, begin), bytes.subarray(begin + piece.length)]);
      else if (how === "cut" && bit === 0) bytes = bytes.subarray(0, begin);
    }
    writeFileSync(at("damaged.gguf"), bytes);
    rmSync(at("damaged"), { recursive: true, force: true });
    try {
      inspectGguf(at("damaged.gguf"));
      accepted++;
      await importGguf(at("damaged.gguf"), at("damaged"));
      imported++;
    } catch (error) {
      if (!isOurs(error)) throw error;
      assert.ok(!existsSync(at("damaged")), "no folder of a file that was refused");
    }
  });
  await fc.assert(property, { numRuns: 2000 });
  assert.ok(accepted > 50 && accepted < 1900 && imported > 10, `${accepted} opened, ${imported} imported`);
});
