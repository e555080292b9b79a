// The number of threads must not show in any result: every kernel with float outputs, on its samples of real size
// (on the small ones where it has no others), gives the same bits with 1, 2, 3 and 5 threads. Nor must a row of a
// matrix product show how many other rows were multiplied with it.

import assert from "node:assert/strict";
import { test } from "node:test";
import type { HostArray } from "../src/backends/backend.ts";
import { cpuLevels, openBackend } from "../src/backends/cpu.ts";
import { accessOf, dtypeOf } from "../src/kernels/kernel.ts";
import { linear } from "../src/kernels/linear.ts";
import { type AnySample, allKernels, makeArrays } from "./support/kernelCases.ts";

type Kernel = (typeof allKernels)[number];

/** The written f32 buffers as integers, so that equality is equality of bits. */
async function outputBits(
  kernel: Kernel,
  arrays: ReturnType<typeof makeArrays>,
  params: AnySample["params"],
  threads: number,
): Promise<Record<string, Uint32Array>> {
  const backend = openBackend({ threads });
  const buffers = Object.fromEntries(
    Object.entries(arrays).map(([name, array]) => {
      const buffer = backend.allocate(dtypeOf(kernel.buffers[name]), array.length);
      backend.write(buffer, array as HostArray);
      return [name, buffer];
    }),
  );
  backend.run(kernel, buffers, params);
  const bits: Record<string, Uint32Array> = {};
  for (const name of floatOutputs(kernel))
    bits[name] = new Uint32Array((await backend.read(buffers[name])).buffer);
  backend.close();
  return bits;
}

function floatOutputs(kernel: Kernel): string[] {
  return Object.entries(kernel.buffers)
    .filter(([, decl]) => dtypeOf(decl) === "f32" && accessOf(decl) !== "in")
    .map(([name]) => name);
}

const skip = cpuLevels().length === 0 && "the native addon is not built";

for (const kernel of allKernels.filter((k) => floatOutputs(k).length > 0)) {
  test(`same bits for any number of threads: ${kernel.name}`, { skip }, async () => {
    const large = kernel.samples().filter((sample) => sample.large);
    for (const sample of large.length > 0 ? large : kernel.samples()) {
      const arrays = makeArrays(kernel, sample, "f32");
      const expected = await outputBits(kernel, arrays, sample.params, 1);
      for (const threads of [2, 3, 5]) {
        const actual = await outputBits(kernel, arrays, sample.params, threads);
        for (const name in expected) {
          const at = actual[name].findIndex((bits, i) => bits !== expected[name][i]);
          assert.equal(at, -1, `${sample.name}: ${name}[${at}] differs between 1 and ${threads} threads`);
        }
      }
    }
  });
}

for (const level of cpuLevels({ emulated: true })) {
  test(`a row's bits do not depend on the other rows: ${level}`, async () => {
    const backend = openBackend({ level, threads: 2 });
    const [n, k, rows] = [70, 600, 150];
    const shape = { m: rows, n, k, accumulate: 0 };
    const arrays = makeArrays(
      linear as unknown as Kernel,
      { name: "rows", params: { ...shape, bf16: 0 } },
      "f32",
    );
    const [x, w, y] = ["x", "w", "y"].map((name) => {
      const buffer = backend.allocate("f32", arrays[name].length);
      backend.write(buffer, arrays[name] as Float32Array);
      return buffer;
    });
    for (const bf16 of [0, 1]) {
      backend.run(linear, { x, w, y }, { ...shape, bf16 });
      const expected = await backend.read(y);
      for (const m of [1, 2, 5, 13, 16, 17, 40, 113]) {
        backend.run(linear, { x, w, y }, { ...shape, m, bf16 });
        assert.deepEqual(
          await backend.read(y, 0, m * n),
          expected.slice(0, m * n),
          `${m} rows, bf16 ${bf16}`,
        );
      }
    }
    backend.close();
  });
}
