// Numbers from the forms in which GGUF files hold them: F32, halves, and Q8_0 (gguf.ts has its writing).

import { ggufTypes } from "./gguf.ts";
import type { GgmlType } from "./ggufTypes.ts";
import { bfloat16ToFloat32, float16ToFloat32 } from "./safetensors.ts";

export const readableTypes = ["F32", "F16", "BF16", "Q8_0"] as const;

export function isReadable({ name }: GgmlType): boolean {
  return (readableTypes as readonly string[]).includes(name);
}

/** f32, or bits of halves that are as they were. */
export type GgufValues =
  | { readonly type: "F32"; readonly values: Float32Array }
  | { readonly type: "F16" | "BF16"; readonly values: Uint16Array };

/** Whole blocks of a type that is readable. */
export function decodeGguf({ buffer, byteLength }: Uint8Array<ArrayBuffer>, { name }: GgmlType): GgufValues {
  switch (name) {
    case "F32":
      return { type: "F32", values: new Float32Array(buffer) };
    case "F16":
    case "BF16":
      return { type: name, values: new Uint16Array(buffer) };
    case "Q8_0":
      return { type: "F32", values: dequantizeQ8(buffer, byteLength) };
    default:
      throw new Error(`${name} is not read`);
  }
}

/** As f32. */
export function widen(found: GgufValues): Float32Array {
  if (found.type === "F32") return found.values;
  return found.type === "F16" ? float16ToFloat32(found.values) : bfloat16ToFloat32(found.values);
}

/** Blocks of a scale of half precision and 32 signed bytes; products are exact in f32. */
function dequantizeQ8(buffer: ArrayBuffer, length: number): Float32Array {
  const { block, bytes } = ggufTypes.Q8_0;
  const blocks = length / bytes;
  const view = new DataView(buffer);
  const halves = new Uint16Array(blocks);
  for (let b = 0; b < blocks; b++) halves[b] = view.getUint16(b * bytes, true);
  const scales = float16ToFloat32(halves);
  const stored = new Int8Array(buffer);
  const values = new Float32Array(blocks * block);
  for (let b = 0; b < blocks; b++)
    for (let i = 0; i < block; i++) values[b * block + i] = scales[b] * stored[b * bytes + 2 + i];
  return values;
}
