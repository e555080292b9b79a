// The safetensors reader against files written by others, against itself, and against thousands of damaged
// files: each of them is read correctly or refused with a RunError. Expected values are computed here with
// DataView and JSON.parse, not with the reader's own functions.
import assert from "node:assert/strict";
import {
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, describe, test } from "node:test";
import fc from "fast-check";
import {
  SafetensorsFile,
  type StoredDType,
  type TensorSource,
  writeSafetensors,
} from "../src/checkpoint/safetensors.ts";
import { RunError, UsageError } from "../src/errors.ts";
import { holds } from "./support/holds.ts";

const folder = mkdtempSync(join(tmpdir(), "safetensors-test-"));
after(() => rmSync(folder, { recursive: true }));
const path = join(folder, "test.safetensors");

const ITEM_BYTES: Record<StoredDType, number> = {
  ...{ F64: 8, I64: 8, U64: 8, C64: 8, F32: 4, I32: 4, U32: 4, F16: 2, BF16: 2, I16: 2, U16: 2 },
  ...{ I8: 1, U8: 1, BOOL: 1, F8_E5M2: 1, F8_E4M3: 1, F8_E8M0: 1 },
};

/** A file's bytes for any header text, right or wrong. */
function fileBytes(header: string | Uint8Array, data: Uint8Array): Buffer {
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(Buffer.from(header).length));
  return Buffer.concat([length, Buffer.from(header), data]);
}

/** Runs `use` on the file with these bytes. */
function withFile<T>(bytes: Uint8Array, use: (file: SafetensorsFile) => T): T {
  writeFileSync(path, bytes);
  const file = SafetensorsFile.open(path);
  try {
    return use(file);
  } finally {
    file.close();
  }
}

/** A file with one tensor `x`, from its raw items. */
function oneTensor(dtype: StoredDType, items: ArrayBufferView): Buffer {
  const data = new Uint8Array(items.buffer, items.byteOffset, items.byteLength);
  const shape = [data.length / ITEM_BYTES[dtype]];
  return fileBytes(JSON.stringify({ x: { dtype, shape, data_offsets: [0, data.length] } }), data);
}

interface SomeTensor {
  name: string;
  dtype: StoredDType;
  shape: number[];
  bytes: Uint8Array;
}

const someTensor: fc.Arbitrary<SomeTensor> = fc
  .record({
    name: fc.oneof(
      fc.string(),
      fc.constantFrom("__proto__", "constructor", "7", "a\u0000b", "\u00e9\u{1f600}"),
    ),
    dtype: fc.constantFrom(...(Object.keys(ITEM_BYTES) as StoredDType[])),
    shape: fc.array(fc.nat(4), { maxLength: 3 }),
  })
  .chain((tensor) => {
    const length = tensor.shape.reduce((a, b) => a * b, ITEM_BYTES[tensor.dtype]);
    return fc.uint8Array({ minLength: length, maxLength: length }).map((bytes) => ({ ...tensor, bytes }));
  });

describe("writing and reading", () => {
  test("any tensors and metadata come back as they were, each aligned to its item size", async () => {
    const tensors = fc.uniqueArray(someTensor, { selector: ({ name }) => name, maxLength: 6 });
    const metadata = fc.dictionary(fc.string(), fc.string(), { maxKeys: 3 });
    const property = fc.asyncProperty(tensors, metadata, async (written, words) => {
      await writeSafetensors(
        path,
        written.map((tensor) => ({ ...tensor, data: () => tensor.bytes })),
        words,
      );
      const raw = readFileSync(path);
      const dataBegin = 8 + Number(raw.readBigUInt64LE());
      assert.equal(dataBegin % 8, 0);
      assert.equal(Object.keys(JSON.parse(raw.toString("utf8", 8, dataBegin))).length > 0, raw.length > 16);
      withFile(raw, (file) => {
        assert.equal(file.tensors.size, written.length);
        assert.deepEqual({ ...file.metadata }, { ...words });
        for (const { name, dtype, shape, bytes } of written) {
          const info = file.tensors.get(name);
          assert.equal(info?.dtype, dtype);
          assert.deepEqual(info?.shape, shape);
          assert.equal((info?.begin ?? 1) % ITEM_BYTES[dtype], 0);
          assert.deepEqual(file.readBytes(name), bytes);
        }
      });
    });
    await fc.assert(property, { numRuns: 200, examples: [[[], {}]] });
  });

  test("the writer asks for a tensor only when the ones before it are in the file", async () => {
    const sizes: number[] = [];
    const written = (): number => {
      const temporary = readdirSync(folder).find((name) => name.includes(".tmp-"));
      return temporary === undefined ? 0 : statSync(join(folder, temporary)).size;
    };
    const source = (name: string): TensorSource => ({
      name,
      dtype: "F32",
      shape: [1000, 300],
      data: async () => {
        sizes.push(written());
        return new Float32Array(300_000);
      },
    });
    await writeSafetensors(path, ["a", "b", "c"].map(source));
    const [first, second, third] = sizes;
    assert.deepEqual([second - first, third - second], [1_200_000, 1_200_000]);
    assert.equal(statSync(path).size, third + 1_200_000);
  });

  test("a failure leaves the old file and nothing beside it", async () => {
    writeFileSync(path, "old");
    const good: TensorSource = { name: "a", dtype: "U8", shape: [2], data: () => new Uint8Array(2) };
    const failing: Array<[TensorSource[], RegExp | object]> = [
      [[good, { ...good, name: "b", data: () => Promise.reject(new TypeError("no")) }], TypeError],
      [
        [good, { ...good, name: "b", shape: [3] }],
        { name: "UsageError", message: /"b".* 2 bytes .* needs 3/ },
      ],
      [[good, good], { name: "UsageError", message: /"a".*twice/ }],
      [[{ ...good, name: "__metadata__" }], { name: "UsageError", message: /reserved/ }],
      [[{ ...good, shape: [-2, -1] }], UsageError],
      [[{ ...good, shape: [2 ** 27, 2 ** 27] }], UsageError],
    ];
    for (const [sources, expected] of failing) {
      await assert.rejects(writeSafetensors(path, sources), expected);
      assert.equal(readFileSync(path, "utf8"), "old");
      assert.deepEqual(readdirSync(folder), ["test.safetensors"]);
    }
  });
});

describe("conversions", () => {
  test("every F16", () => {
    const stored = Uint16Array.from({ length: 65536 }, (_, i) => i);
    const values = withFile(oneTensor("F16", stored), (file) => file.readFloat32("x"));
    for (const [bits, value] of values.entries()) {
      const sign = bits >> 15 ? -1 : 1;
      const exponent = (bits >> 10) & 31;
      const fraction = (bits & 1023) / 1024;
      let expected = sign * (1 + fraction) * 2 ** (exponent - 15);
      if (exponent === 0) expected = sign * fraction * 2 ** -14;
      if (exponent === 31) expected = fraction > 0 ? Number.NaN : sign * Number.POSITIVE_INFINITY;
      if (!Object.is(value, expected))
        assert.fail(`F16 ${bits.toString(16)} gives ${value}, not ${expected}`);
    }
  });

  test("every BF16 is the upper half of an F32", () => {
    const stored = Uint16Array.from({ length: 65536 }, (_, i) => i);
    const values = withFile(oneTensor("BF16", stored), (file) => file.readFloat32("x"));
    assert.deepEqual(
      new Uint32Array(values.buffer),
      new Uint32Array(stored).map((bits) => bits * 65536),
    );
  });

  test("F64 and F32", () => {
    const values = [0, -0, 1 / 3, -1e300, 1e-300, Number.NaN];
    for (const [dtype, stored] of [
      ["F64", new Float64Array(values)],
      ["F32", new Float32Array(values)],
    ] as const) {
      assert.deepEqual(
        withFile(oneTensor(dtype, stored), (file) => file.readFloat32("x")),
        new Float32Array(values.map(Math.fround)),
      );
    }
  });

  test("what cannot be given is refused by name", () => {
    const refusals: Array<[StoredDType, (file: SafetensorsFile) => unknown, object]> = [
      ["I32", (file) => file.readFloat32("x"), { name: "RunError", message: /"x".*I32/ }],
      ["F32", (file) => file.readBytes("y"), { name: "RunError", message: /no tensor "y"/ }],
    ];
    for (const [dtype, read, expected] of refusals) {
      assert.throws(() => withFile(oneTensor(dtype, new Int32Array(1)), read), expected);
    }
    const file = withFile(oneTensor("F32", new Float32Array(1)), (open) => open);
    assert.throws(() => file.readBytes("x"), /after it was closed/);
  });
});

test("files written by the Python library", () => {
  const fixtures = join(import.meta.dirname, "fixtures", "train");
  const names = readdirSync(fixtures).filter((name) => name.endsWith(".safetensors"));
  holds(names.length > 0);
  for (const name of names) {
    const raw = readFileSync(join(fixtures, name));
    const dataBegin = 8 + Number(raw.readBigUInt64LE());
    const { __metadata__, ...entries } = JSON.parse(raw.toString("utf8", 8, dataBegin));
    withFile(raw, (file) => {
      assert.deepEqual([...file.tensors.keys()].sort(), Object.keys(entries).sort());
      assert.deepEqual({ ...file.metadata }, { ...__metadata__ });
      for (const [tensor, { dtype, data_offsets }] of Object.entries<{
        dtype: string;
        data_offsets: number[];
      }>(entries)) {
        const bytes = raw.subarray(dataBegin + data_offsets[0], dataBegin + data_offsets[1]);
        if (dtype !== "F32") assert.deepEqual(Buffer.from(file.readBytes(tensor)), bytes);
        else
          file.readFloat32(tensor).forEach((value, i) => void assert.equal(value, bytes.readFloatLE(4 * i)));
      }
    });
  }
});

describe("damaged files", () => {
  const entry = (fields: object = {}): object => ({
    dtype: "F32",
    shape: [2],
    data_offsets: [0, 8],
    ...fields,
  });
  const data = new Uint8Array(8);
  const withEntry = (fields: object, bytes = data): Buffer =>
    fileBytes(JSON.stringify({ w: entry(fields) }), bytes);
  const lengthOnly = (length: bigint): Buffer => {
    const bytes = fileBytes("{}", data);
    bytes.writeBigUInt64LE(length);
    return bytes;
  };
  const json = JSON.stringify(entry());

  const cases: Array<[string, Uint8Array, RegExp]> = [
    ["empty file", new Uint8Array(0), /only 0 bytes/],
    ["seven bytes", new Uint8Array(7), /only 7 bytes/],
    ["header longer than the file", lengthOnly(11n), /header is longer than the file/],
    ["header length 2^64 - 1", lengthOnly(2n ** 64n - 1n), /header is longer than the file/],
    ["empty header", fileBytes("", new Uint8Array(0)), /not JSON/],
    ["not JSON", fileBytes('{"w": ', data), /not JSON/],
    ["unclosed name", fileBytes('{"w', data), /not JSON/],
    ["bad escape in a name", fileBytes('{"\\q": 1}', data), /not JSON/],
    ["not UTF-8", fileBytes(Buffer.from(`{"\xff":${json}}`, "latin1"), data), /not JSON/],
    ["byte order mark", fileBytes(`\ufeff{"w":${json}}`, data), /not a JSON object/],
    ["a list", fileBytes("[]", new Uint8Array(0)), /not a JSON object/],
    ["null", fileBytes("null", new Uint8Array(0)), /not a JSON object/],
    ["name twice", fileBytes(`{"w":${json},"w":${json}}`, data), /key "w" twice/],
    ["name twice, escaped", fileBytes(`{"w":${json}, "\\u0077" :${json}}`, data), /key "w" twice/],
    ["field twice", fileBytes(`{"w":{"shape":[1],${json.slice(1)}}`, data), /key "shape" twice/],
    ["metadata twice", fileBytes(`{"__metadata__":{"a":"b","a":"c"},"w":${json}}`, data), /key "a" twice/],
    ["nested lists", fileBytes(`{"a":${"[".repeat(100_000)}`, data), /nested too deeply/],
    ["blank before the object", fileBytes(` {"w":${json}}`, data), /not a JSON object/],
    ["nested objects", fileBytes('{"a":'.repeat(100_000), data), /nested too deeply/],
    ["metadata not strings", fileBytes(`{"__metadata__":{"a":1},"w":${json}}`, data), /map of strings/],
    ["metadata a list", fileBytes(`{"__metadata__":["a"],"w":${json}}`, data), /map of strings/],
    ["entry a number", fileBytes('{"w":3}', data), /"w" is not described/],
    ["entry a list", fileBytes('{"w":[]}', data), /"w" is not described/],
    ["unknown type", withEntry({ dtype: "F31" }), /"w" has the unknown type.*F31/],
    ["inherited type", withEntry({ dtype: "toString" }), /"w" has the unknown type/],
    ["no type", withEntry({ dtype: undefined }), /"w" has the unknown type/],
    ["negative size", withEntry({ shape: [-2] }), /"w" has a shape/],
    ["negative sizes", withEntry({ shape: [-2, -1] }), /"w" has a shape/],
    ["fractional size", withEntry({ shape: [0.5, 4] }), /"w" has a shape/],
    ["size as text", withEntry({ shape: ["2"] }), /"w" has a shape/],
    ["no shape", withEntry({ shape: undefined }), /"w" has a shape/],
    [
      "infinite size",
      fileBytes('{"w":{"dtype":"F32","shape":[1e999],"data_offsets":[0,8]}}', data),
      /"w" has a shape/,
    ],
    ["huge size", withEntry({ shape: [2 ** 52] }), /"w" has an impossibly large shape/],
    ["product wraps to 2 in 64 bits", withEntry({ shape: [2 ** 32, 2 ** 32, 2] }), /impossibly large shape/],
    ["product beyond 2^53, then zero", withEntry({ shape: [2 ** 40, 2 ** 40, 0] }), /impossibly large shape/],
    ["no offsets", withEntry({ data_offsets: undefined }), /"w" has data_offsets that/],
    ["one offset", withEntry({ data_offsets: [0] }), /"w" has data_offsets that/],
    ["three offsets", withEntry({ data_offsets: [0, 8, 8] }), /"w" has data_offsets that/],
    ["negative offset", withEntry({ data_offsets: [-8, 0] }), /"w" has data_offsets that/],
    ["fractional offset", withEntry({ data_offsets: [0.5, 8.5] }), /"w" has data_offsets that/],
    ["offsets swapped", withEntry({ data_offsets: [8, 0] }), /"w" has data_offsets outside/],
    ["offset behind the end", withEntry({ data_offsets: [8, 16] }), /"w" has data_offsets outside/],
    ["type does not fit", withEntry({ dtype: "F64" }), /"w" has 8 bytes, but .* need 16/],
    ["shape does not fit", withEntry({ shape: [3] }), /"w" has 8 bytes, but .* need 12/],
    ["trailing bytes", withEntry({}, new Uint8Array(9)), /1 bytes behind the last/],
    ["data without tensors", fileBytes("{}", data), /8 bytes behind the last/],
    ["hole", withEntry({ data_offsets: [1, 9] }, new Uint8Array(9)), /unused bytes before tensor "w"/],
    ["overlap", fileBytes(JSON.stringify({ v: entry(), w: entry() }), data), /tensor "w" overlaps/],
  ];
  for (const [name, bytes, message] of cases) {
    test(name, () => {
      const open = () => withFile(bytes, () => undefined);
      assert.throws(open, (error: unknown) => {
        assert.ok(error instanceof RunError, String(error));
        assert.match(error.message, message);
        holds(error.message.includes(path) && !error.message.includes("\n"));
        return true;
      });
    });
  }

  test("header above 100 MB", () => {
    writeFileSync(path, lengthOnly(100_000_001n));
    truncateSync(path, 100_000_100);
    assert.throws(() => SafetensorsFile.open(path), {
      name: "RunError",
      message: /longer than 100000000 bytes/,
    });
  });

  test("a tensor larger than the memory", (t) => {
    const bytes = 2 ** 43;
    writeFileSync(
      path,
      fileBytes(JSON.stringify({ w: entry({ shape: [bytes / 4], data_offsets: [0, bytes] }) }), data),
    );
    try {
      truncateSync(path, statSync(path).size - data.length + bytes);
    } catch (error) {
      return t.skip(`no sparse files of 8 TiB in ${folder}: ${error}`);
    }
    const file = SafetensorsFile.open(path);
    assert.throws(() => file.readFloat32("w"), { name: "RunError", message: /no memory for a tensor/ });
    file.close();
  });

  test("a file that is cut while it is open", () => {
    const read = () =>
      withFile(withEntry({}), (file) => {
        truncateSync(path, statSync(path).size - 1);
        return file.readBytes("w");
      });
    assert.throws(read, { name: "RunError", message: /became shorter/ });
  });

  test("a file that grows while it is open", () => {
    const read = () =>
      withFile(withEntry({}), (file) => {
        truncateSync(path, statSync(path).size + 1);
        return file.readFloat32("w");
      });
    assert.throws(read, { name: "RunError", message: /became longer/ });
  });

  test("no file, and a folder", () => {
    assert.throws(() => SafetensorsFile.open(join(folder, "none")), {
      name: "RunError",
      message: /no such file/,
    });
    assert.throws(() => SafetensorsFile.open(folder), { name: "RunError", message: /not a file/ });
  });
});

describe("random damage: a correct read or a RunError", () => {
  const data = Uint8Array.from({ length: 22 }, (_, i) => 17 * i);
  const header = {
    __metadata__: { format: "pt" },
    "layer.weight": { dtype: "F32", shape: [2, 2], data_offsets: [0, 16] },
    bias: { dtype: "BF16", shape: [2], data_offsets: [16, 20] },
    empty: { dtype: "F64", shape: [3, 0], data_offsets: [20, 20] },
    flags: { dtype: "U8", shape: [2], data_offsets: [20, 22] },
  };
  const original = fileBytes(JSON.stringify(header), data);

  /** Opens and reads everything; returns whether the file was accepted. Accepted means: consistent, by our own count. */
  function check(bytes: Uint8Array): boolean {
    try {
      withFile(bytes, (file) => {
        const raw = Buffer.from(bytes);
        let position = 8 + Number(raw.readBigUInt64LE());
        const entries = JSON.parse(raw.toString("utf8", 8, position));
        for (const [name, { dtype, shape, begin, end }] of file.tensors) {
          assert.equal(begin, position);
          assert.equal(
            end - begin,
            shape.reduce((a, b) => a * b, ITEM_BYTES[dtype]),
          );
          assert.deepEqual([entries[name].dtype, entries[name].shape], [dtype, shape]);
          assert.deepEqual(Buffer.from(file.readBytes(name)), raw.subarray(begin, end));
          position = end;
        }
        assert.equal(position, raw.length);
      });
      return true;
    } catch (error) {
      if (error instanceof RunError) return false;
      throw error;
    }
  }

  test("bytes replaced, inserted, deleted; file cut or extended", () => {
    const edit = fc.record({
      at: fc.nat(original.length),
      remove: fc.oneof(fc.nat(3), fc.nat(original.length)),
      insert: fc.oneof(
        fc.uint8Array({ maxLength: 4 }),
        fc
          .constantFrom("0", "9", "-", ".5", "e3", "{", "}", "[", "]", ",", '"', '"a":', " ")
          .map((s) => Buffer.from(s)),
      ),
    });
    let accepted = 0;
    const property = fc.property(
      fc.array(edit, { minLength: 1, maxLength: 3 }),
      fc.boolean(),
      (edits, repair) => {
        let bytes: Buffer = original;
        for (const { at, remove, insert } of edits) {
          bytes = Buffer.concat([bytes.subarray(0, at), insert, bytes.subarray(at + remove)]);
        }
        // With the right header length again, more of the damage gets past the first check.
        const headerLength = bytes.length - 8 - data.length;
        if (repair && headerLength > 0) bytes.writeBigUInt64LE(BigInt(headerLength));
        if (check(bytes)) accepted++;
      },
    );
    fc.assert(property, {
      numRuns: 4000,
      examples: [
        [[{ at: 0, remove: 0, insert: new Uint8Array(0) }], false],
        [[{ at: 198, remove: 2, insert: Buffer.from("-") }], true], // a size of -0
      ],
    });
    assert.ok(accepted > 10 && accepted < 2000, `${accepted} of 4000 accepted`); // both outcomes were tried
  });

  test("header values replaced", () => {
    const number = fc.oneof(
      fc.nat(24),
      fc.constantFrom(-1, 0.5, 2 ** 31, 2 ** 32, 2 ** 53, 2 ** 63, 2 ** 64, 1e308, 16, 20, 22),
    );
    const value = fc.oneof(
      number,
      fc.array(number, { maxLength: 3 }),
      fc.constantFrom(...Object.keys(ITEM_BYTES)),
      fc.jsonValue(),
    );
    const field = fc.oneof(
      { weight: 9, arbitrary: fc.constantFrom("dtype", "shape", "data_offsets") },
      { weight: 1, arbitrary: fc.string() },
    );
    const edit = fc.tuple(fc.constantFrom(...Object.keys(header)), field, value);
    let accepted = 0;
    const property = fc.property(fc.array(edit, { minLength: 1, maxLength: 2 }), (edits) => {
      const copy: Record<string, Record<string, unknown>> = structuredClone(header);
      for (const [name, key, replacement] of edits) copy[name][key] = replacement;
      if (check(fileBytes(JSON.stringify(copy), data))) accepted++;
    });
    fc.assert(property, { numRuns: 4000 });
    assert.ok(accepted > 10 && accepted < 2000, `${accepted} of 4000 accepted`);
  });
});
