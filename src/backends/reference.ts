// The reference backend: every kernel by its own reference implementation, in plain TypeScript. It is the arbiter
// in tests, and what runs where the native kernels cannot be built. Hundreds of times slower than those.

import { kernelNames } from "../kernels/catalogue.ts";
import type { AnyKernel } from "../kernels/kernel.ts";
import type { SupportTable } from "./backend.ts";
import { type HostArrays, HostBackend, type ProgramStep } from "./hostBackend.ts";

export class ReferenceBackend extends HostBackend {
  readonly name = "reference (plain TypeScript, one thread)";
  readonly nativeBf16 = false;
  readonly support = Object.fromEntries(kernelNames.map((name) => [name, "reference"])) as SupportTable;

  constructor() {
    super((bytes) => new ArrayBuffer(bytes));
  }

  protected override execute(
    kernel: AnyKernel,
    arrays: HostArrays,
    params: Readonly<Record<string, number>>,
  ): void {
    kernel.reference(arrays as Parameters<typeof kernel.reference>[0], params);
  }

  protected override compile(steps: readonly ProgramStep[]): () => void {
    return () => {
      for (const step of steps) {
        if ("kernel" in step) this.execute(step.kernel, step.arrays, step.params);
        else step.to.set(step.from);
      }
    };
  }
}
