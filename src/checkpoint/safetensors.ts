// The safetensors file format: 8 bytes header length, a JSON header of names, types, shapes and offsets, then
// the data. Reads single tensors without loading the file and writes with one tensor in memory. The header is
// checked completely before any tensor is allocated: files come from strangers.
// Not here: what the tensors mean. Hosts are little-endian, like the format and every CPU the kernels run on.
import { closeSync, fstatSync } from "node:fs";
import { quote, RunError, UsageError } from "../errors.ts";
import { writeFileAtomic } from "./atomic.ts";
import { allocateFor, openForReading, readFully } from "./readFile.ts";
import { isObject, parseStrictJson } from "./strictJson.ts";

const BYTES_PER_ITEM = {
  F64: 8,
  I64: 8,
  U64: 8,
  C64: 8,
  F32: 4,
  I32: 4,
  U32: 4,
  F16: 2,
  BF16: 2,
  I16: 2,
  U16: 2,
  I8: 1,
  U8: 1,
  BOOL: 1,
  F8_E5M2: 1,
  F8_E4M3: 1,
  F8_E8M0: 1,
} as const;

/** Type of a tensor's items as the format spells it. Those smaller than a byte are not supported. */
export type StoredDType = keyof typeof BYTES_PER_ITEM;

/** Where a tensor lies: bytes `begin` (inclusive) to `end` (exclusive), counted from the start of the file. */
export interface TensorInfo {
  readonly name: string;
  readonly dtype: StoredDType;
  readonly shape: readonly number[];
  readonly begin: number;
  readonly end: number;
}

/** A tensor to write. `data` is called once, when its turn comes, and gives the items in row-major order. */
export interface TensorSource {
  readonly name: string;
  readonly dtype: StoredDType;
  readonly shape: readonly number[];
  data(): ArrayBufferView | Promise<ArrayBufferView>;
}

const LENGTH_BYTES = 8;
const MAX_HEADER_BYTES = 100_000_000;
/** Of a header: `"":{"dtype":"F32","shape":[],"data_offsets":[0,0]},` without some blanks. */
const LEAST_ENTRY_BYTES = 40;
const MAX_NESTING = 3; // header, tensor, shape
const METADATA_KEY = "__metadata__";

/** An open file; tensors are read from disk when asked for. */
export class SafetensorsFile {
  readonly path: string;
  /** In the order of their data. */
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  readonly metadata: Readonly<Record<string, string>>;
  /** Size of the file. */
  readonly bytes: number;
  #descriptor: number | undefined;

  private constructor(path: string, descriptor: number, header: Header) {
    this.path = path;
    this.#descriptor = descriptor;
    this.tensors = header.tensors;
    this.metadata = header.metadata;
    this.bytes = header.bytes;
  }

  /** Opens a file and checks its header. @throws RunError if it cannot be read or is damaged in any way. */
  static open(path: string): SafetensorsFile {
    const descriptor = openForReading(path);
    try {
      return new SafetensorsFile(path, descriptor, readHeader(path, descriptor));
    } catch (error) {
      closeSync(descriptor);
      throw error;
    }
  }

  /** A tensor's bytes, in a buffer of their own. @throws RunError if there is no such tensor. */
  readBytes(name: string): Uint8Array<ArrayBuffer> {
    const { begin, end } = this.#find(name);
    return readExactly(this.path, this.#open(), begin, end - begin);
  }

  /**
   * A tensor's bytes from byte `offset` on, at the beginning of `target`, as many as there are and fit.
   * @returns that part of it.
   */
  readInto(name: string, target: Uint8Array<ArrayBuffer>, offset = 0): Uint8Array<ArrayBuffer> {
    const { begin, end } = this.#find(name);
    const part = target.subarray(0, Math.max(0, end - begin - offset));
    fill(this.path, this.#open(), begin + offset, part);
    return part;
  }

  /** A tensor of floats as f32. @throws RunError if there is no such tensor, or its type is not F64, F32, F16 or BF16. */
  readFloat32(name: string): Float32Array<ArrayBuffer> {
    const { dtype } = this.#find(name);
    switch (dtype) {
      case "F32":
        return new Float32Array(this.readBytes(name).buffer);
      case "F64":
        return new Float32Array(new Float64Array(this.readBytes(name).buffer));
      case "BF16":
        return bfloat16ToFloat32(new Uint16Array(this.readBytes(name).buffer));
      case "F16":
        return float16ToFloat32(new Uint16Array(this.readBytes(name).buffer));
      default:
        throw new RunError(
          `tensor ${quote(name)} of ${this.path} holds ${dtype} where F64, F32, F16 or BF16 was expected`,
        );
    }
  }

  /** Closes the file; closing twice is harmless. */
  close(): void {
    if (this.#descriptor !== undefined) closeSync(this.#descriptor);
    this.#descriptor = undefined;
  }

  /** The descriptor. A file that is written to while it is read would give parts of two models. */
  #open(): number {
    if (this.#descriptor === undefined) throw new Error(`${this.path} was read after it was closed`);
    const { size } = fstatSync(this.#descriptor);
    if (size !== this.bytes) {
      throw damaged(this.path, `it became ${size < this.bytes ? "shorter" : "longer"} while it was read`);
    }
    return this.#descriptor;
  }

  #find(name: string): TensorInfo {
    const info = this.tensors.get(name);
    if (info === undefined) throw new RunError(`${this.path} has no tensor ${quote(name)}`);
    return info;
  }
}

/**
 * Writes a file atomically, one tensor at a time. Data is asked for in order of item size, largest first.
 * @throws UsageError for a name given twice, a bad shape, or data that do not fill it; RunError for a full disk.
 */
export async function writeSafetensors(
  path: string,
  tensors: Iterable<TensorSource>,
  metadata: Readonly<Record<string, string>> = {},
): Promise<void> {
  // Every tensor then begins at a multiple of its item size, and can be mapped into memory as it is.
  const sources = [...tensors].sort((a, b) => BYTES_PER_ITEM[b.dtype] - BYTES_PER_ITEM[a.dtype]);
  const header = encodeHeader(path, sources, metadata);
  await writeFileAtomic(path, fileChunks(path, header, sources));
}

async function* fileChunks(path: string, header: Uint8Array, sources: readonly TensorSource[]) {
  yield header;
  for (const source of sources) {
    const data = await source.data();
    const expected = byteLength(source.dtype, source.shape);
    if (data.byteLength !== expected) {
      throw new UsageError(
        `tensor ${quote(source.name)} for ${path} has ${data.byteLength} bytes of data, but its shape needs ${expected}`,
      );
    }
    yield new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  }
}

/** Length and JSON, padded so that the data begin at a multiple of 8. */
function encodeHeader(
  path: string,
  sources: readonly TensorSource[],
  metadata: Readonly<Record<string, string>>,
): Uint8Array {
  const entries = new Map<string, unknown>();
  if (Object.keys(metadata).length > 0) entries.set(METADATA_KEY, metadata);
  let offset = 0;
  for (const { name, dtype, shape } of sources) {
    if (name === METADATA_KEY || entries.has(name)) {
      throw new UsageError(`tensor name ${quote(name)} for ${path} is reserved or given twice`);
    }
    const bytes = byteLength(dtype, shape);
    if (bytes === undefined)
      throw new UsageError(`tensor ${quote(name)} for ${path} has the shape [${shape}]`);
    entries.set(name, { dtype, shape, data_offsets: [offset, offset + bytes] });
    offset += bytes;
  }
  const json = Buffer.from(JSON.stringify(Object.fromEntries(entries)));
  const paddedLength = Math.ceil(json.length / 8) * 8;
  const header = Buffer.alloc(LENGTH_BYTES + paddedLength, " ");
  header.writeBigUInt64LE(BigInt(paddedLength));
  header.set(json, LENGTH_BYTES);
  return header;
}

interface Header {
  tensors: Map<string, TensorInfo>;
  metadata: Record<string, string>;
  bytes: number;
}

function readHeader(path: string, descriptor: number): Header {
  const status = fstatSync(descriptor);
  if (!status.isFile()) throw new RunError(`${path} is not a file: give the path of a .safetensors file`);
  if (status.size < LENGTH_BYTES) throw damaged(path, `it has only ${status.size} bytes`);
  const lengthBytes = readExactly(path, descriptor, 0, LENGTH_BYTES);
  const length = Number(new DataView(lengthBytes.buffer).getBigUint64(0, true));
  if (length > status.size - LENGTH_BYTES) throw damaged(path, "the header is longer than the file");
  if (length > MAX_HEADER_BYTES) throw damaged(path, `the header is longer than ${MAX_HEADER_BYTES} bytes`);
  const entries = parseHeader(path, readExactly(path, descriptor, LENGTH_BYTES, length));

  const dataBegin = LENGTH_BYTES + length;
  const infos: TensorInfo[] = [];
  let metadata: Record<string, string> = {};
  for (const [name, entry] of Object.entries(entries)) {
    if (name !== METADATA_KEY) infos.push(checkTensor(path, name, entry, dataBegin, status.size));
    else if (isObject(entry) && Object.values(entry).every((value) => typeof value === "string")) {
      metadata = entry as Record<string, string>;
    } else throw damaged(path, `${METADATA_KEY} is not a map of strings`);
  }
  infos.sort((a, b) => a.begin - b.begin || a.end - b.end);
  checkTiling(path, infos, dataBegin, status.size);
  return { tensors: new Map(infos.map((info) => [info.name, info])), metadata, bytes: status.size };
}

function parseHeader(path: string, bytes: Uint8Array): Record<string, unknown> {
  if (bytes.length > 0 && bytes[0] !== 0x7b) throw damaged(path, "the header is not a JSON object");
  const { value, problem } = parseStrictJson(bytes, MAX_NESTING, LEAST_ENTRY_BYTES);
  if (problem !== undefined) throw damaged(path, `the header ${problem}`);
  if (!isObject(value)) throw damaged(path, "the header is not a JSON object");
  return value;
}

/** One header entry, checked on its own; `begin` and `end` count from the start of the file. */
function checkTensor(
  path: string,
  name: string,
  entry: unknown,
  dataBegin: number,
  fileSize: number,
): TensorInfo {
  const bad = (problem: string): RunError => damaged(path, `tensor ${quote(name)} ${problem}`);
  if (!isObject(entry)) throw bad("is not described by an object");
  const { dtype, shape, data_offsets: offsets } = entry;
  if (!isStoredDType(dtype)) throw bad(`has the unknown type ${quote(String(JSON.stringify(dtype)))}`);
  if (!isSizes(shape)) throw bad("has a shape that is not a list of sizes");
  if (!isSizes(offsets) || offsets.length !== 2) throw bad("has data_offsets that are not two positions");
  const begin = dataBegin + offsets[0];
  const end = dataBegin + offsets[1];
  if (begin > end || end > fileSize) throw bad("has data_offsets outside of the file");
  const expected = byteLength(dtype, shape);
  if (expected === undefined) throw bad("has an impossibly large shape");
  if (end - begin !== expected)
    throw bad(`has ${end - begin} bytes, but its type and shape need ${expected}`);
  return { name, dtype, shape, begin, end };
}

/** The tensors, sorted by position, must cover the data exactly: no overlap, no hole, nothing behind the last. */
function checkTiling(path: string, infos: readonly TensorInfo[], dataBegin: number, fileSize: number): void {
  let position = dataBegin;
  for (const { name, begin, end } of infos) {
    if (begin < position) throw damaged(path, `tensor ${quote(name)} overlaps the one before it`);
    if (begin > position) throw damaged(path, `there are unused bytes before tensor ${quote(name)}`);
    position = end;
  }
  if (position !== fileSize)
    throw damaged(path, `there are ${fileSize - position} bytes behind the last tensor`);
}

/** Bytes of a tensor; `undefined` if a size is no natural number or a product leaves the exact integers. */
function byteLength(dtype: StoredDType, shape: readonly number[]): number | undefined {
  if (!isSizes(shape)) return undefined;
  let bytes: number = BYTES_PER_ITEM[dtype];
  for (const size of shape) {
    bytes *= size;
    if (!Number.isSafeInteger(bytes)) return undefined;
  }
  return bytes;
}

function isStoredDType(value: unknown): value is StoredDType {
  return typeof value === "string" && Object.hasOwn(BYTES_PER_ITEM, value);
}

/** JSON has -0, which is no size: other readers refuse it, and it would not equal the product of a shape. */
function isSizes(value: unknown): value is readonly number[] {
  return (
    Array.isArray(value) &&
    value.every((size) => Number.isSafeInteger(size) && size >= 0 && !Object.is(size, -0))
  );
}

function readExactly(
  path: string,
  descriptor: number,
  position: number,
  length: number,
): Uint8Array<ArrayBuffer> {
  const bytes = allocateFor(path, length);
  fill(path, descriptor, position, bytes);
  return bytes;
}

/** Fills `bytes` from the file, from `position` on. */
function fill(path: string, descriptor: number, position: number, bytes: Uint8Array): void {
  if (!readFully(descriptor, position, bytes)) throw damaged(path, "it became shorter while it was read");
}

/** Bits of bf16 as f32. */
export function bfloat16ToFloat32(stored: Uint16Array): Float32Array<ArrayBuffer> {
  const words = new Uint32Array(stored.length);
  for (let i = 0; i < words.length; i++) words[i] = stored[i] << 16;
  return new Float32Array(words.buffer);
}

/** Bits of half precision as f32. */
export function float16ToFloat32(stored: Uint16Array): Float32Array<ArrayBuffer> {
  const words = new Uint32Array(stored.length);
  const floats = new Float32Array(words.buffer);
  for (let i = 0; i < words.length; i++) {
    const magnitude = stored[i] & 0x7fff;
    words[i] = ((stored[i] & 0x8000) << 16) | (magnitude << 13);
    // The exponent's bias differs by 112; scaling also puts subnormal numbers right.
    if (magnitude < 0x7c00) floats[i] *= 2 ** 112;
    else words[i] |= 0x7f800000; // infinities and NaN
  }
  return floats;
}

function damaged(path: string, problem: string): RunError {
  return new RunError(`${path} is no intact safetensors file (${problem}): download or copy it again`);
}
