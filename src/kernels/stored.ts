// Weights as they are stored for inference: f32, bf16, or signed bytes with a scale per row. What the kernels that
// read them share (storedLinear.ts, neuronExperts.ts): reading an element, rounding what meets it, samples.
// Rows of x that meet bf16 or bytes are rounded to bf16; products are exact, sums are f32; a row's scale multiplies
// its sum. So hardware that multiplies pairs of bf16 and hardware that does not give the same results.

import { type ArrayOf, fromBf16, roundToBf16 } from "./kernel.ts";

export type WeightType = "f32" | "bf16" | "i8";

/** How names of kernels end. */
export const suffixOf = { f32: "F32", bf16: "Bf16", i8: "Int8" } as const;

export type StoredArray = ArrayOf<WeightType>;

/** The stored number at an index, before its scale. */
export function readerOf(type: WeightType, stored: StoredArray): (index: number) => number {
  return type === "bf16" ? (i) => fromBf16(stored[i]) : (i) => stored[i];
}

/** What a kernel makes of a value that meets stored weights. */
export function roundFor(type: WeightType): (value: number) => number {
  return type === "f32" ? (value) => value : roundToBf16;
}

/** Elements of a scale array with one scale per row; only bytes have any. */
export const scalesFor = (type: WeightType, rows: number) => (type === "i8" ? rows : 0);

/** The scale of a row. */
export function scaleOf(type: WeightType, scales: ArrayLike<number>, row: number): number {
  return type === "i8" ? scales[row] : 1;
}
