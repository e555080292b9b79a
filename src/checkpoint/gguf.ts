// Writes the GGUF file format (version 3), which llama.cpp reads: key-values, descriptions of tensors, aligned data. One
// tensor is in memory at a time. Numbers are little-endian, like every host the kernels run on.
// Not here: what the tensors of a model are called (ggufNames.ts), and reading (ggufReader.ts).

import { roundToEven } from "../kernels/encode.ts";
import { toBf16s } from "../kernels/kernel.ts";
import { writeFileAtomic } from "./atomic.ts";

/** Types of tensors that can be written: code in the file, elements of a block, bytes of a block. */
export const ggufTypes = {
  F32: { code: 0, block: 1, bytes: 4 },
  Q8_0: { code: 8, block: 32, bytes: 34 },
  BF16: { code: 30, block: 1, bytes: 2 },
} as const;
export type GgufType = keyof typeof ggufTypes;

/** A value of the header. Numbers say their type; a list is of strings or of i32. */
export type GgufValue =
  | string
  | boolean
  | { readonly u32: number }
  | { readonly f32: number }
  | { readonly strings: readonly string[] }
  | { readonly i32s: readonly number[] };

export interface GgufTensor {
  readonly name: string;
  /** Outermost first, as everywhere in this project; the file has them the other way round. */
  readonly shape: readonly number[];
  readonly type: GgufType;
  /** The encoded elements in row-major order, in pieces of any length. */
  data(): Iterable<Uint8Array>;
}

const VERSION = 3;
const ALIGNMENT = 32;
const codes = { u32: 4, i32: 5, f32: 6, bool: 7, string: 8, array: 9 } as const;

/** Bytes that a tensor takes in the file. @throws Error if rows are not whole blocks. */
export function ggufBytes({ name, shape, type }: Pick<GgufTensor, "name" | "shape" | "type">): number {
  const { block, bytes } = ggufTypes[type];
  if (shape[shape.length - 1] % block !== 0) {
    throw new Error(`${name}: rows of ${shape[shape.length - 1]} are not whole blocks of ${block}`);
  }
  return (shape.reduce((a, b) => a * b, 1) / block) * bytes;
}

/**
 * Writes a file: all of it, or none.
 * @throws RunError when the disk is full; Error if a tensor gives another number of bytes than it takes.
 */
export async function writeGguf(
  path: string,
  metadata: Readonly<Record<string, GgufValue>>,
  tensors: readonly GgufTensor[],
): Promise<void> {
  await writeFileAtomic(path, pieces(metadata, tensors));
}

async function* pieces(
  metadata: Readonly<Record<string, GgufValue>>,
  tensors: readonly GgufTensor[],
): AsyncGenerator<Uint8Array> {
  const header = headerOf(metadata, tensors);
  yield header;
  yield padding(header.length);
  for (const tensor of tensors) {
    let written = 0;
    for (const piece of tensor.data()) {
      written += piece.length;
      yield piece;
    }
    const expected = ggufBytes(tensor);
    if (written !== expected) throw new Error(`${tensor.name} gave ${written} bytes, and takes ${expected}`);
    yield padding(written);
  }
}

/** Zeros up to the next place that data may begin at. */
function padding(length: number): Uint8Array {
  return new Uint8Array(aligned(length) - length);
}

function aligned(length: number): number {
  return Math.ceil(length / ALIGNMENT) * ALIGNMENT;
}

function headerOf(metadata: Readonly<Record<string, GgufValue>>, tensors: readonly GgufTensor[]): Uint8Array {
  const out = new ByteWriter();
  out.bytes(new TextEncoder().encode("GGUF"));
  out.u32(VERSION);
  out.u64(tensors.length);
  const entries = Object.entries(metadata);
  out.u64(entries.length);
  for (const [key, value] of entries) {
    out.string(key);
    writeValue(out, value);
  }
  let offset = 0;
  for (const tensor of tensors) {
    out.string(tensor.name);
    out.u32(tensor.shape.length);
    for (const size of tensor.shape.toReversed()) out.u64(size);
    out.u32(ggufTypes[tensor.type].code);
    out.u64(offset);
    offset += aligned(ggufBytes(tensor));
  }
  return out.result();
}

function writeValue(out: ByteWriter, value: GgufValue): void {
  if (typeof value === "string") {
    out.u32(codes.string);
    out.string(value);
  } else if (typeof value === "boolean") {
    out.u32(codes.bool);
    out.bytes(Uint8Array.of(value ? 1 : 0));
  } else if ("u32" in value) {
    out.u32(codes.u32);
    out.u32(value.u32);
  } else if ("f32" in value) {
    out.u32(codes.f32);
    out.bytes(new Uint8Array(Float32Array.of(value.f32).buffer));
  } else if ("strings" in value) {
    out.u32(codes.array);
    out.u32(codes.string);
    out.u64(value.strings.length);
    for (const text of value.strings) out.string(text);
  } else {
    out.u32(codes.array);
    out.u32(codes.i32);
    out.u64(value.i32s.length);
    out.bytes(new Uint8Array(Int32Array.from(value.i32s).buffer));
  }
}

/** Bytes one after the other. */
class ByteWriter {
  readonly #parts: Uint8Array[] = [];
  readonly #encoder = new TextEncoder();

  bytes(part: Uint8Array): void {
    this.#parts.push(part);
  }

  u32(value: number): void {
    this.bytes(new Uint8Array(Uint32Array.of(value).buffer));
  }

  u64(value: number): void {
    this.bytes(new Uint8Array(BigUint64Array.of(BigInt(value)).buffer));
  }

  string(text: string): void {
    const encoded = this.#encoder.encode(text);
    this.u64(encoded.length);
    this.bytes(encoded);
  }

  result(): Uint8Array {
    const all = new Uint8Array(this.#parts.reduce((sum, { length }) => sum + length, 0));
    let at = 0;
    for (const part of this.#parts) {
      all.set(part, at);
      at += part.length;
    }
    return all;
  }
}

/** Values in the form of a type; of Q8_0 whole blocks. */
export function encodeGguf(values: Float32Array, type: GgufType): Uint8Array {
  if (type === "F32") return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  if (type === "BF16") return new Uint8Array(toBf16s(values).buffer);
  return quantizeQ8(values);
}

/** Q8_0: of each 32 values a scale as half precision, largest |x| / 127, and 32 signed bytes. */
function quantizeQ8(values: Float32Array): Uint8Array {
  const { block, bytes } = ggufTypes.Q8_0;
  const blocks = values.length / block;
  if (!Number.isInteger(blocks)) throw new Error(`${values.length} values are not whole blocks of ${block}`);
  const out = new Uint8Array(blocks * bytes);
  for (let b = 0; b < blocks; b++) {
    let largest = 0;
    for (let i = 0; i < block; i++) largest = Math.max(largest, Math.abs(values[b * block + i]));
    const scale = toF16(largest / 127);
    out[b * bytes] = scale & 0xff;
    out[b * bytes + 1] = scale >>> 8;
    const inverse = largest > 0 ? 127 / largest : 0;
    for (let i = 0; i < block; i++) out[b * bytes + 2 + i] = Math.round(values[b * block + i] * inverse);
  }
  return out;
}

/** The bits of the nearest half-precision number (ties to even); what is too large becomes infinity. */
export function toF16(value: number): number {
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
  const size = Math.abs(value);
  if (Number.isNaN(value)) return 0x7e00;
  if (size >= 65520) return sign | 0x7c00;
  // Numbers of one exponent are 2^(exponent - 10) apart; below 2^-14 they are as far apart as at 2^-14.
  const exponent = size < 2 ** -14 ? -14 : Math.floor(Math.log2(size));
  const units = roundToEven(size / 2 ** (exponent - 10));
  // 1024 units are the smallest normal number of an exponent; a carry into the next exponent adds itself.
  return sign | (units + (exponent + 14) * 1024);
}
