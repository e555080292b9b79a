// Finds numbers in weights that are not finite: one NaN makes every later number NaN, and the text noise. It costs one
// pass over the whole file, so it is done when asked for (`mone inspect --check-values`) and not at each loading: models
// that are mapped into memory open without being read.

import type { StoredDType } from "./safetensors.ts";
import type { TensorFiles } from "./tensorFiles.ts";

/** The first number of a tensor that is not finite. */
export interface NonFinite {
  readonly tensor: string;
  readonly file: string;
  /** Position in the tensor in each of its dimensions, from 0. */
  readonly index: readonly number[];
  readonly value: number;
  /** How many numbers of the tensor are not finite. */
  readonly count: number;
}

/** Read at once: a multiple of every item size, small beside a model. */
const PIECE_BYTES = 2 ** 22;

/**
 * An item's bits are not finite where all bits of `mask` are set (which for these formats means an exponent of ones; in
 * F8_E4M3, which has no infinities, and F8_E8M0 it is the single NaN). Integers are always finite.
 */
const FORMATS: Partial<
  Record<StoredDType, { array: typeof Uint8Array | typeof Uint16Array | typeof Uint32Array; mask: number }>
> = {
  F32: { array: Uint32Array, mask: 0x7f800000 },
  C64: { array: Uint32Array, mask: 0x7f800000 },
  BF16: { array: Uint16Array, mask: 0x7f80 },
  F16: { array: Uint16Array, mask: 0x7c00 },
  F8_E5M2: { array: Uint8Array, mask: 0x7c },
  F8_E4M3: { array: Uint8Array, mask: 0x7f },
  F8_E8M0: { array: Uint8Array, mask: 0xff },
};

/**
 * Reads all tensors of floats, a piece at a time.
 * @param onProgress told bytes of all. @returns the tensors that have such numbers, in the order of the files.
 * @throws RunError if a file cannot be read.
 */
export function findNonFinite(
  files: TensorFiles,
  onProgress?: (done: number, total: number) => void,
): NonFinite[] {
  const found: NonFinite[] = [];
  const buffer = new Uint8Array(PIECE_BYTES);
  let done = 0;
  for (const { name, dtype, shape, begin, end, file } of files.tensors.values()) {
    let first: { at: number; value: number } | undefined;
    let count = 0;
    for (let offset = 0; isFloat(dtype) && offset < end - begin; offset += PIECE_BYTES) {
      const bytes = files.readInto(name, buffer, offset);
      scan(dtype, bytes, (i, value) => {
        first ??= { at: offset / itemBytes(dtype) + i, value };
        count++;
      });
      onProgress?.(done + Math.min(end - begin, offset + PIECE_BYTES), files.bytes);
    }
    done += end - begin;
    if (!first) continue;
    // A complex number is two items.
    const at = dtype === "C64" ? Math.floor(first.at / 2) : first.at;
    found.push({ tensor: name, file, index: position(at, shape), value: first.value, count });
  }
  return found;
}

/** One line for people, e.g. `model.norm.weight[3] is NaN (2 numbers of this tensor are not finite)`. */
export function describeNonFinite({ tensor, index, value, count }: NonFinite): string {
  const others = count === 1 ? "" : ` (${count} numbers of this tensor are not finite)`;
  return `${tensor}[${index.join(", ")}] is ${value}${others}`;
}

function isFloat(dtype: StoredDType): boolean {
  return dtype === "F64" || FORMATS[dtype] !== undefined;
}

function itemBytes(dtype: StoredDType): number {
  return FORMATS[dtype]?.array.BYTES_PER_ELEMENT ?? 8;
}

function scan(dtype: StoredDType, bytes: Uint8Array<ArrayBuffer>, hit: (i: number, value: number) => void) {
  const format = FORMATS[dtype];
  if (!format) {
    new Float64Array(bytes.buffer, 0, bytes.length / 8).forEach((value, i) => {
      if (!Number.isFinite(value)) hit(i, value);
    });
    return;
  }
  const { array, mask } = format;
  const words = new array(bytes.buffer, 0, bytes.length / array.BYTES_PER_ELEMENT);
  const sign = 2 ** (8 * array.BYTES_PER_ELEMENT - 1);
  const infinity = dtype === "F8_E4M3" || dtype === "F8_E8M0" ? -1 : mask;
  for (let i = 0; i < words.length; i++) {
    if ((words[i] & mask) !== mask) continue;
    const magnitude = words[i] % sign;
    if (magnitude !== infinity) hit(i, Number.NaN);
    else hit(i, words[i] < sign ? Number.POSITIVE_INFINITY : Number.NEGATIVE_INFINITY);
  }
}

function position(at: number, shape: readonly number[]): number[] {
  const index: number[] = [];
  let rest = at;
  for (const size of [...shape].reverse()) {
    index.unshift(rest % size);
    rest = Math.floor(rest / size);
  }
  return index;
}
