// One matrix from the form in which weights come (f32 or bf16) to the form in which inference stores it.

import type { Backend, DeviceBuffer } from "../backends/backend.ts";
import { copy } from "../kernels/elementwise.ts";
import {
  copyBf16,
  decodeBf16,
  encodeBf16,
  encodeInt8,
  transposeBf16,
  transposeF32,
} from "../kernels/encode.ts";

export interface EncodeTarget {
  /** [rows, width] in its own type. */
  readonly to: DeviceBuffer;
  /** One per row if `to` holds bytes, else empty. */
  readonly scales: DeviceBuffer;
  readonly rows: number;
  readonly width: number;
  /** It comes as [width, rows]. */
  readonly transposed?: boolean;
}

/** Writes a matrix of f32 or bf16 into `to`. */
export function encodeWeights(
  backend: Backend,
  from: DeviceBuffer,
  { to, scales, rows, width, transposed }: EncodeTarget,
): void {
  const n = rows * width;
  const scratch: DeviceBuffer[] = [];
  const into = (dtype: "f32" | "bf16", last: boolean) => {
    if (last) return to;
    scratch.push(backend.allocate(dtype, n));
    return scratch[scratch.length - 1];
  };
  let x = from;
  if (transposed) {
    const y = into(x.dtype as "f32" | "bf16", x.dtype === to.dtype);
    const transpose = x.dtype === "bf16" ? transposeBf16 : transposeF32;
    backend.run(transpose, { x, y }, { groups: 1, rows: width, columns: rows });
    x = y;
  }
  if (x.dtype === "bf16" && to.dtype !== "bf16") {
    const y = into("f32", to.dtype === "f32");
    backend.run(decodeBf16, { x, y }, { n });
    x = y;
  }
  if (x !== to) {
    if (to.dtype === "i8") backend.run(encodeInt8, { x, y: to, scales }, { rows, width });
    else if (x.dtype === "bf16") backend.run(copyBf16, { x, y: to }, { n });
    else if (to.dtype === "bf16") backend.run(encodeBf16, { x, y: to }, { n });
    else backend.run(copy, { x, y: to }, { n, accumulate: 0 });
  }
  for (const buffer of scratch) backend.free(buffer);
}
