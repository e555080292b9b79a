// What the generic kernel tests share: the samples as arrays (src/kernels/samples.ts), and a call of the reference.

import type { AnyKernel } from "../../src/kernels/kernel.ts";
import type { AnySample, Arrays } from "../../src/kernels/samples.ts";

export { type AnySample, type Arrays, allKernels, makeArrays } from "../../src/kernels/samples.ts";

export function callReference(kernel: AnyKernel, arrays: Arrays, params: AnySample["params"]): void {
  kernel.reference(arrays as Parameters<AnyKernel["reference"]>[0], params);
}
