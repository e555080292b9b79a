// Model folders as strangers may make them: shards, index and configuration damaged in more than 10,000 ways. Each
// opens and reads, or is refused in one sentence by an error of our own. safetensors.test.ts has the format's details.

import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { after, beforeEach, test } from "node:test";
import fc from "fast-check";
import { readModelConfig } from "../src/checkpoint/modelFolder.ts";
import { describeNonFinite, findNonFinite } from "../src/checkpoint/nonFinite.ts";
import {
  SafetensorsFile,
  type StoredDType,
  type TensorSource,
  writeSafetensors,
} from "../src/checkpoint/safetensors.ts";
import { TensorFiles } from "../src/checkpoint/tensorFiles.ts";
import { RunError, UsageError } from "../src/errors.ts";

const root = mkdtempSync(join(tmpdir(), "mone-hostile-"));
after(() => rmSync(root, { recursive: true, force: true }));
const folder = join(root, "model");
const at = (name: string) => join(folder, name);

const SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"] as const;
const INDEX = "model.safetensors.index.json";
const tensor = (name: string, dtype: StoredDType, items: ArrayBufferView, shape: number[]): TensorSource => ({
  ...{ name, dtype, shape },
  data: () => items,
});
const first = [
  tensor("a.weight", "F32", new Float32Array([1, 2, 3, 4]), [2, 2]),
  tensor("a.bias", "BF16", new Uint16Array([0x3f80, 0x4000]), [2]),
];
const second = [
  tensor("b.weight", "F16", new Uint16Array([0x3c00, 0x4000, 0x4200]), [3]),
  tensor("b.flags", "U8", new Uint8Array([1, 0]), [2]),
];
const weightMap: Record<string, string> = {
  "a.weight": SHARDS[0],
  "a.bias": SHARDS[0],
  "b.weight": SHARDS[1],
  "b.flags": SHARDS[1],
};
const index = { metadata: { total_size: 28 }, weight_map: weightMap };
const config = JSON.parse(
  readFileSync(new URL("fixtures/hf/qwen3_moe/config.json", import.meta.url), "utf8"),
) as Record<string, unknown>;

beforeEach(async () => {
  rmSync(root, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  await writeSafetensors(at(SHARDS[0]), first);
  await writeSafetensors(at(SHARDS[1]), second);
  await writeSafetensors(join(root, "secret.safetensors"), second);
  writeFileSync(at(INDEX), JSON.stringify(index));
});

/** Opens and reads everything. */
function readAll(): number {
  const files = TensorFiles.open(folder);
  try {
    for (const { name, file, begin, end } of files.tensors.values()) {
      assert.equal(dirname(file), folder);
      assert.equal(files.readBytes(name).length, end - begin);
    }
    findNonFinite(files);
    return files.tensors.size;
  } finally {
    files.close();
  }
}

/** Whether it works; what is thrown must be one sentence of ours. */
function works(attempt: () => unknown): boolean {
  try {
    attempt();
    return true;
  } catch (error) {
    if (!(error instanceof RunError || error instanceof UsageError)) throw error;
    assert.doesNotMatch(error.message, /[\n\r]/);
    assert.ok(error.message.length < 1000, "a message of reasonable length");
    return false;
  }
}

test("shards are one thing", () => {
  const files = TensorFiles.open(folder);
  assert.deepEqual([...files.tensors.keys()].sort(), Object.keys(weightMap).sort());
  assert.deepEqual(files.readFloat32("a.bias"), new Float32Array([1, 2]));
  assert.deepEqual(files.readFloat32("b.weight"), new Float32Array([1, 2, 3]));
  assert.deepEqual(files.readBytes("b.flags"), new Uint8Array([1, 0]));
  assert.equal(files.tensors.get("b.flags")?.file, at(SHARDS[1]));
  assert.throws(() => files.readBytes("c"), { name: "RunError", message: /index\.json has no tensor "c"/ });
  files.close();
});

test("shards may be links into a cache, as those of downloads are", () => {
  mkdirSync(join(root, "blobs"));
  for (const shard of SHARDS) {
    writeFileSync(join(root, "blobs", shard), readFileSync(at(shard)));
    rmSync(at(shard));
    symlinkSync(join("..", "blobs", shard), at(shard));
  }
  assert.equal(readAll(), 4);
});

const refused: [string, unknown, RegExp][] = [
  [
    "a path",
    { ...weightMap, "b.flags": "../secret.safetensors" },
    /"b\.flags" in "\.\.\/secret.*of this folder/,
  ],
  [
    "an absolute path",
    { ...weightMap, "b.flags": "/tmp/x.safetensors" },
    /"b\.flags" in "\/tmp.*of this folder/,
  ],
  ["a Windows path", { ...weightMap, "b.flags": "..\\x.safetensors" }, /"b\.flags".*of this folder/],
  ["another kind of file", { ...weightMap, "b.flags": "config.json" }, /"b\.flags".*no \.safetensors file/],
  ["a number as file", { ...weightMap, "b.flags": 3 }, /gives 3 as the file of tensor "b\.flags"/],
  [
    "a missing shard",
    { ...weightMap, "b.flags": "c.safetensors" },
    /c\.safetensors is missing, which .*index/,
  ],
  [
    "a tensor that is nowhere",
    { ...weightMap, c: SHARDS[0] },
    /00001-of.* holds tensor "c", but it is not there/,
  ],
  [
    "a tensor in another shard",
    { ...weightMap, "b.flags": SHARDS[0] },
    /"b\.flags", but it is in .*00002-of/,
  ],
  ["no map", undefined, /no weight_map/],
  ["a list", [], /no weight_map/],
  ["nothing", {}, /lists no tensors/],
];
for (const [name, map, expected] of refused) {
  test(`an index with ${name} is refused`, () => {
    writeFileSync(at(INDEX), JSON.stringify({ weight_map: map }));
    assert.throws(readAll, { name: "RunError", message: expected });
  });
}

test("other damage to a set of shards is refused by name", async () => {
  const { "b.flags": _, ...without } = weightMap;
  writeFileSync(at(INDEX), JSON.stringify({ weight_map: without }));
  assert.throws(readAll, {
    name: "RunError",
    message: /00002-of.* holds tensor "b\.flags", which .* does not list/,
  });
  writeFileSync(at(INDEX), `{"weight_map":{"a.bias":"${SHARDS[0]}","a.bias":"${SHARDS[1]}"}}`);
  assert.throws(readAll, { name: "RunError", message: /index\.json has the key "a\.bias" twice/ });
  writeFileSync(at(INDEX), "{");
  assert.throws(readAll, { name: "RunError", message: /index\.json is not JSON/ });
  writeFileSync(at(INDEX), JSON.stringify(index));
  await writeSafetensors(at(SHARDS[1]), [...second, first[0]]);
  assert.throws(readAll, { name: "RunError", message: /"a\.weight" is in both .*00001.* and .*00002/ });
  rmSync(at(SHARDS[1]));
  mkdirSync(at(SHARDS[1]));
  assert.throws(readAll, { name: "RunError", message: /00002.* is not a file/ });
  rmSync(at(INDEX));
  mkdirSync(at(INDEX));
  assert.throws(readAll, { name: "RunError", message: /index\.json is not a file/ });
});

/** An edit that makes one file from another: at a share of its length. */
interface Edit {
  at: number;
  remove: number;
  insert: Uint8Array;
}

const PIECES = [
  "0",
  "-1",
  "1e9",
  "{",
  "}",
  "[",
  "]",
  ",",
  '"',
  ":",
  " ",
  "\n",
  "null",
  '"a.weight":',
  "../",
  "\\",
];
const edit = fc.record({
  at: fc.double({ min: 0, max: 1, noNaN: true }),
  remove: fc.oneof({ weight: 4, arbitrary: fc.nat(4) }, { weight: 1, arbitrary: fc.nat(400) }),
  insert: fc.oneof(
    fc.uint8Array({ maxLength: 4 }),
    fc.constantFrom(...PIECES).map((text) => Buffer.from(text)),
  ),
});
const edits = fc.array(edit, { minLength: 1, maxLength: 3 });

function damage(original: Buffer, list: readonly Edit[]): Buffer {
  let bytes = original;
  for (const { at, remove, insert } of list) {
    const begin = Math.floor(at * bytes.length);
    bytes = Buffer.concat([bytes.subarray(0, begin), insert, bytes.subarray(begin + remove)]);
  }
  return bytes;
}

test("4000 damaged shards", () => {
  const originals = SHARDS.map((shard) => readFileSync(at(shard)));
  const kind = fc.constantFrom("edit", "flip", "cut", "splice", "repair");
  let accepted = 0;
  const property = fc.property(fc.nat(1), kind, edits, (which, how, list) => {
    const original = originals[which];
    const place = Math.floor(list[0].at * original.length);
    let bytes: Buffer = Buffer.from(original);
    if (how === "flip")
      for (const { at, remove } of list) bytes[Math.floor(at * (bytes.length - 1))] ^= 1 << (remove & 7);
    else if (how === "cut") bytes = bytes.subarray(0, place);
    else if (how === "splice")
      bytes = Buffer.concat([bytes.subarray(0, place), originals[1 - which].subarray(place)]);
    else bytes = damage(bytes, list);
    if (how === "repair" && bytes.length > 30) {
      // With the right header length again, more of the damage gets past the first check.
      const length = Number(original.readBigUInt64LE()) + bytes.length - original.length;
      if (length > 0) bytes.writeBigUInt64LE(BigInt(length));
    }
    writeFileSync(at(SHARDS[which]), bytes);
    if (works(readAll)) accepted++;
    writeFileSync(at(SHARDS[which]), original);
  });
  fc.assert(property, { numRuns: 4000 });
  assert.ok(accepted > 10 && accepted < 3000, `${accepted} of 4000 accepted`); // both outcomes were tried
});

test("3000 damaged indexes, none of which leads out of the folder", () => {
  const names = fc.constantFrom(
    ...SHARDS,
    "../secret.safetensors",
    join(root, "secret.safetensors"),
    ".safetensors",
    "",
  );
  const value = fc.oneof(
    names,
    fc.jsonValue(),
    fc.string().map((text) => `${text}.safetensors`),
  );
  const keys = fc.oneof(fc.constantFrom(...Object.keys(weightMap), "__proto__", "constructor"), fc.string());
  const text = fc.oneof(
    fc
      .dictionary(keys, value, { maxKeys: 3 })
      .map((more) => JSON.stringify({ weight_map: { ...weightMap, ...more } })),
    fc.jsonValue().map((json) => JSON.stringify({ ...index, weight_map: json })),
    fc.json(),
    edits.map((list) => damage(Buffer.from(JSON.stringify(index)), list)),
    fc.constantFrom(...['{"weight_map":', "["].map((piece) => piece.repeat(20_000))),
  );
  let accepted = 0;
  const property = fc.property(text, (content) => {
    writeFileSync(at(INDEX), content);
    if (works(readAll)) accepted++;
  });
  fc.assert(property, { numRuns: 3000 });
  assert.ok(accepted > 10 && accepted < 1500, `${accepted} of 3000 accepted`);
});

test("4000 damaged configurations", () => {
  const number = fc.constantFrom(-1, 0, 0.5, 1, 7, 2 ** 31, 2 ** 53, 1e308);
  const hostile = fc.constantFrom<unknown>(
    { toString: 1 },
    [{ toString: 1, valueOf: 1 }],
    { toJSON: 1 },
    "two\nlines",
    "toString",
    "x".repeat(5000),
    [[[[]]]],
    null,
  );
  const value = fc.oneof(number, hostile, fc.jsonValue(), fc.boolean());
  const keys = [
    ...Object.keys(config),
    "neuron_aux_loss",
    "mlp_only_layers",
    "rope_scaling",
    "rope_parameters",
  ];
  const text = fc.oneof(
    {
      weight: 3,
      arbitrary: fc
        .dictionary(fc.constantFrom(...keys, "num_neurons_per_tok", "qk_norm"), value, { maxKeys: 3 })
        .map((more) => JSON.stringify({ ...config, ...more })),
    },
    { weight: 1, arbitrary: edits.map((list) => damage(Buffer.from(JSON.stringify(config)), list)) },
    { weight: 1, arbitrary: fc.json() },
    {
      weight: 1,
      arbitrary: fc
        .constantFrom(...keys)
        .map(
          (key) => `${JSON.stringify(config).slice(0, -1)},"${key}x":${"[".repeat(9000)}${"]".repeat(9000)}}`,
        ),
    },
  );
  let accepted = 0;
  const property = fc.property(text, (content) => {
    writeFileSync(at("config.json"), content);
    if (works(() => readModelConfig(folder))) accepted++;
  });
  fc.assert(property, { numRuns: 4000 });
  assert.ok(accepted > 10 && accepted < 3500, `${accepted} of 4000 accepted`);
});

test("numbers that are not finite are named", async () => {
  const { NaN: nan, POSITIVE_INFINITY: inf } = Number;
  const large = new Float32Array(2 ** 20 + 8); // more than is read at once
  large[2 ** 20 + 5] = -inf;
  const tensors = [
    tensor("f64", "F64", new Float64Array([1, nan]), [2]),
    tensor("large", "F32", large, [2, 2 ** 19 + 4]),
    tensor("f32", "F32", new Float32Array([0, 3e38, nan, inf]), [2, 2]),
    tensor("bf16", "BF16", new Uint16Array([0x7f7f, 0xff80]), [2, 1]),
    tensor("f16", "F16", new Uint16Array([0x7bff, 0x7c01]), [2]),
    tensor("e5m2", "F8_E5M2", new Uint8Array([0x7b, 0x7c]), [2]),
    tensor("e4m3", "F8_E4M3", new Uint8Array([0x7e, 0xff]), [2]),
    tensor("fine", "F32", new Float32Array([-1, 1e-45]), [2]),
    tensor("integers", "I32", new Int32Array([-1]), [1]),
    tensor("scalar", "F32", new Float32Array([nan]), []),
  ];
  await writeSafetensors(at("model.safetensors"), tensors);
  const files = TensorFiles.open(folder);
  const lines = findNonFinite(files).map(describeNonFinite);
  files.close();
  assert.deepEqual(lines.sort(), [
    "bf16[1, 0] is -Infinity",
    "e4m3[1] is NaN",
    "e5m2[1] is Infinity",
    "f16[1] is NaN",
    "f32[1, 0] is NaN (2 numbers of this tensor are not finite)",
    "f64[1] is NaN",
    `large[1, ${2 ** 19 + 1}] is -Infinity`,
    "scalar[] is NaN",
  ]);
});

test("a header of tiny entries is refused before it costs memory", () => {
  const entries = Array.from({ length: 400_000 }, (_, i) => `"${i.toString(36)}":1`);
  const header = Buffer.from(`{${entries.join(",")}}`);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(header.length));
  writeFileSync(at("tiny.safetensors"), Buffer.concat([length, header]));
  assert.throws(
    () => SafetensorsFile.open(at("tiny.safetensors")),
    /the header has entries that are too short/,
  );
});
