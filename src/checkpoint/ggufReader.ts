// Reads the GGUF file format (versions 2 and 3): key-values, descriptions of tensors, aligned data. The header is checked
// completely before anything is allocated that a number in it asks for: files come from strangers. Texts and lists stay on
// disk until they are asked for. Not here: what keys and tensors mean (ggufConfig.ts), writing (gguf.ts).
// The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md

import { closeSync, fstatSync } from "node:fs";
import { quote, RunError } from "../errors.ts";
import { sizeOf } from "../tensor/tensor.ts";
import { GgufCursor } from "./ggufCursor.ts";
import { type GgmlType, ggmlTypes } from "./ggufTypes.ts";
import { allocateFor, openForReading, readFully } from "./readFile.ts";

/** Where a tensor lies: bytes `begin` (inclusive) to `end` (exclusive), counted from the start of the file. */
export interface GgufTensorInfo {
  readonly name: string;
  readonly type: GgmlType;
  /** Outermost first, as everywhere in this project. */
  readonly shape: readonly number[];
  readonly begin: number;
  readonly end: number;
}

/** A text or list that is still in the file. */
interface Place {
  readonly kind: "text" | "texts" | "numbers";
  /** Code of the items' type. */
  readonly item: number;
  readonly count: number;
  readonly begin: number;
  readonly end: number;
}
export type GgufEntry = number | bigint | boolean | Place;

/** Codes of types of values. */
const codes = { bool: 7, string: 8, array: 9 } as const;
/** Bytes of a number, by the code of its type: u8 i8 u16 i16 u32 i32 f32, bool, then u64 i64 f64. */
const numberBytes: Readonly<Record<number, number>> = {
  0: 1,
  1: 1,
  2: 2,
  3: 2,
  4: 4,
  5: 4,
  6: 4,
  7: 1,
  10: 8,
  11: 8,
  12: 8,
};

/** Models have dozens of keys and hundreds of tensors; an entry costs more memory than it takes in the file. */
const MOST_ENTRIES = 100_000;
const MOST_TEXTS = 2 ** 21;
const MOST_NAME_BYTES = 65_535;
/** Of ggml. */
const MOST_DIMENSIONS = 4;
const MOST_ALIGNMENT = 2 ** 20;

/** An open file; tensors are read from disk when asked for. */
export class GgufFile {
  readonly path: string;
  readonly bytes: number;
  readonly version: number;
  /** By key; see `number`, `text`... */
  readonly entries: ReadonlyMap<string, GgufEntry>;
  /** In the order of their data. */
  readonly tensors: ReadonlyMap<string, GgufTensorInfo>;
  #descriptor: number | undefined;

  private constructor(path: string, descriptor: number, header: Header) {
    this.path = path;
    this.#descriptor = descriptor;
    this.bytes = header.bytes;
    this.version = header.version;
    this.entries = header.entries;
    this.tensors = header.tensors;
  }

  /** Opens a file and checks its header. @throws RunError if it cannot be read or is damaged. */
  static open(path: string): GgufFile {
    const descriptor = openForReading(path);
    try {
      return new GgufFile(path, descriptor, readHeader(path, descriptor));
    } catch (error) {
      closeSync(descriptor);
      throw error;
    }
  }

  /** A number; undefined if there is no such key. @throws RunError for a value of another kind. */
  number(key: string): number | undefined {
    const value = this.entries.get(key);
    if (value === undefined || typeof value === "number") return value;
    if (typeof value === "bigint" && Number.isSafeInteger(Number(value))) return Number(value);
    throw this.#wrong(key, "a number");
  }

  /** As `number`. */
  text(key: string): string | undefined {
    const place = this.#place(key, "text", "a text");
    return place && this.#decode(key, this.#bytes(place.begin, place.end));
  }

  /** As `number`. */
  texts(key: string): string[] | undefined {
    const place = this.#place(key, "texts", "a list of texts");
    if (!place) return undefined;
    // A short text costs several times its bytes in memory.
    if (place.count > MOST_TEXTS)
      throw damagedGguf(this.path, `the key ${quote(key)} has ${place.count} texts, more than any tokenizer`);
    const bytes = this.#bytes(place.begin, place.end);
    const view = new DataView(bytes.buffer);
    let at = 0;
    return Array.from({ length: place.count }, () => {
      const length = Number(view.getBigUint64(at, true)); // checked when the file was opened
      at += 8 + length;
      return this.#decode(key, bytes.subarray(at - length, at));
    });
  }

  /** A list of i32 or u32. As `number`. */
  integers(key: string): Int32Array | Uint32Array | undefined {
    const place = this.#place(key, "numbers", "a list of integers");
    if (!place) return undefined;
    if (place.item !== 4 && place.item !== 5) throw this.#wrong(key, "a list of integers of 32 bits");
    const { buffer } = this.#bytes(place.begin, place.end);
    return place.item === 4 ? new Uint32Array(buffer) : new Int32Array(buffer);
  }

  /**
   * The encoded bytes of elements `first` to `first + count`, which must be whole blocks, of a tensor.
   * @throws RunError if there is no such tensor or the file became shorter.
   */
  read(name: string, first: number, count: number): Uint8Array<ArrayBuffer> {
    const info = this.tensors.get(name);
    if (!info) throw new RunError(`${this.path} has no tensor ${quote(name)}`);
    const { block, bytes } = info.type;
    const [from, to] = [first, first + count].map((element) => info.begin + (element / block) * bytes);
    if (!Number.isInteger(from) || !Number.isInteger(to) || to > info.end)
      throw new Error(`elements ${first} to ${first + count} are not whole blocks of ${name}`);
    return this.#bytes(from, to);
  }

  /** Closes the file; closing twice is harmless. */
  close(): void {
    if (this.#descriptor !== undefined) closeSync(this.#descriptor);
    this.#descriptor = undefined;
  }

  #place(key: string, kind: Place["kind"], words: string): Place | undefined {
    const value = this.entries.get(key);
    if (value === undefined || (typeof value === "object" && value.kind === kind)) return value;
    throw this.#wrong(key, words);
  }

  #wrong(key: string, words: string): RunError {
    return damagedGguf(this.path, `the key ${quote(key)} is not ${words}`);
  }

  #bytes(begin: number, end: number): Uint8Array<ArrayBuffer> {
    if (this.#descriptor === undefined) throw new Error(`${this.path} was read after it was closed`);
    const bytes = allocateFor(this.path, end - begin);
    if (!readFully(this.#descriptor, begin, bytes))
      throw damagedGguf(this.path, "it became shorter while it was read");
    return bytes;
  }

  #decode(key: string, bytes: Uint8Array): string {
    try {
      return utf8.decode(bytes);
    } catch {
      throw damagedGguf(this.path, `the key ${quote(key)} holds text that is not UTF-8`);
    }
  }
}

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** @param problem in words that fit into brackets. */
export function damagedGguf(path: string, problem: string): RunError {
  return new RunError(`${path} is no intact GGUF file (${problem}): download or copy it again`);
}

interface Header {
  bytes: number;
  version: number;
  entries: Map<string, GgufEntry>;
  tensors: Map<string, GgufTensorInfo>;
}

function readHeader(path: string, descriptor: number): Header {
  const status = fstatSync(descriptor);
  if (!status.isFile()) throw new RunError(`${path} is not a file: give the path of a .gguf file`);
  const bad = (problem: string) => damagedGguf(path, problem);
  const cursor = new GgufCursor(descriptor, status.size, bad);
  if (cursor.ascii(4) !== "GGUF") throw bad('it does not begin with "GGUF"');
  const version = cursor.u32();
  if (version > 0 && version % 2 ** 16 === 0)
    throw bad("its numbers are big-endian, which no machine that runs this project reads");
  if (version !== 2 && version !== 3) throw bad(`it is of version ${version}; versions 2 and 3 are known`);
  const tensorCount = cursor.count("tensors", 24, MOST_ENTRIES);
  const keyCount = cursor.count("keys", 13, MOST_ENTRIES);
  const entries = new Map<string, GgufEntry>();
  for (let i = 0; i < keyCount; i++) {
    const key = readName(cursor, "a key", bad);
    if (entries.has(key)) throw bad(`the key ${quote(key)} is there twice`);
    entries.set(key, readEntry(cursor, key, bad));
  }
  const found = entries.get("general.alignment") ?? 32;
  if (
    typeof found !== "number" ||
    found < 1 ||
    found > MOST_ALIGNMENT ||
    2 ** Math.round(Math.log2(found)) !== found
  )
    throw bad("general.alignment is not a power of two");
  const described: Described[] = [];
  const names = new Set<string>();
  for (let i = 0; i < tensorCount; i++) {
    const tensor = readTensor(cursor, bad);
    if (names.has(tensor.name)) throw bad(`tensor ${quote(tensor.name)} is there twice`);
    names.add(tensor.name);
    if (tensor.offset % found !== 0)
      throw bad(`tensor ${quote(tensor.name)} begins at no multiple of ${found}`);
    described.push(tensor);
  }
  const start = Math.ceil(cursor.position / found) * found;
  return { bytes: status.size, version, entries, tensors: placed(described, start, status.size, bad) };
}

type Bad = (problem: string) => RunError;

interface Described {
  readonly name: string;
  readonly type: GgmlType;
  readonly shape: readonly number[];
  readonly offset: number;
  readonly length: number;
}

function readName(cursor: GgufCursor, what: string, bad: Bad): string {
  const length = cursor.count(`bytes of the name of ${what}`, 1, MOST_NAME_BYTES);
  if (length === 0) throw bad(`${what} has no name`);
  try {
    return utf8.decode(cursor.bytes(length));
  } catch {
    throw bad(`the name of ${what} is not UTF-8`);
  }
}

function readEntry(cursor: GgufCursor, key: string, bad: Bad): GgufEntry {
  const type = cursor.u32();
  const what = `the key ${quote(key)}`;
  if (type === codes.string) {
    const count = cursor.count(`bytes of ${what}`, 1);
    const begin = cursor.position;
    cursor.skip(count);
    return { kind: "text", item: type, count, begin, end: cursor.position };
  }
  if (type !== codes.array) {
    if (numberBytes[type] === undefined) throw bad(`${what} has the unknown type ${type}`);
    return cursor.scalar(type, what);
  }
  const item = cursor.u32();
  if (item === codes.array) throw bad(`${what} is a list of lists, which no model needs`);
  const size = item === codes.string ? 8 : numberBytes[item];
  if (size === undefined) throw bad(`${what} is a list of the unknown type ${item}`);
  const count = cursor.count(`entries of ${what}`, size);
  const begin = cursor.position;
  if (item !== codes.string) cursor.skip(count * size);
  else for (let i = 0; i < count; i++) cursor.skip(cursor.count(`bytes of an entry of ${what}`, 1));
  return { kind: item === codes.string ? "texts" : "numbers", item, count, begin, end: cursor.position };
}

function readTensor(cursor: GgufCursor, bad: Bad): Described {
  const name = readName(cursor, "a tensor", bad);
  const what = `tensor ${quote(name)}`;
  const dimensions = cursor.u32();
  if (dimensions < 1 || dimensions > MOST_DIMENSIONS) throw bad(`${what} has ${dimensions} dimensions`);
  const shape = Array.from({ length: dimensions }, () => cursor.u64(`a size of ${what}`)).reverse();
  const code = cursor.u32();
  const offset = cursor.u64(`the offset of ${what}`);
  const type = ggmlTypes.get(code);
  if (!type) throw bad(`${what} has the unknown type ${code}`);
  const elements = sizeOf(shape);
  if (shape.includes(0)) throw bad(`${what} has no elements`);
  if (!Number.isSafeInteger(elements * type.bytes)) throw bad(`${what} has an impossibly large shape`);
  if (shape[dimensions - 1] % type.block !== 0)
    throw bad(`${what} has rows of ${shape[dimensions - 1]}, which are not whole blocks of ${type.block}`);
  return { name, type, shape, offset, length: (elements / type.block) * type.bytes };
}

/** Tensors in the order of their data, which must lie in the file and not over each other. */
function placed(
  described: Described[],
  start: number,
  fileSize: number,
  bad: Bad,
): Map<string, GgufTensorInfo> {
  described.sort((a, b) => a.offset - b.offset);
  const tensors = new Map<string, GgufTensorInfo>();
  let position = start;
  for (const { name, type, shape, offset, length } of described) {
    const begin = start + offset;
    if (begin < position) throw bad(`tensor ${quote(name)} overlaps the one before it`);
    position = begin + length;
    if (position > fileSize) throw bad(`tensor ${quote(name)} reaches beyond the end of the file`);
    tensors.set(name, { name, type, shape, begin, end: position });
  }
  return tensors;
}
