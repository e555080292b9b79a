// Attention with bf16 products against the reference, which rounds its inputs but not the probabilities between the
// two products: so results differ by roundings of 2^-9 of them, and the parity test in f32 precision leaves these out.

import assert from "node:assert/strict";
import { test } from "node:test";
import { cpuLevels, openBackend } from "../src/backends/cpu.ts";
import { accessOf } from "../src/kernels/kernel.ts";
import { maxAbs, maxDifference } from "./support/backends.ts";
import { allKernels, callReference, makeArrays } from "./support/kernelCases.ts";

/**
 * Of the largest element. An output is a mean of values with weights off by 2^-9 each; a gradient a sum of up to 150
 * products of either sign with factors off by that, whose errors partly cancel.
 */
const TOLERANCE = 2 ** -8;

const levels = cpuLevels({ emulated: true });
if (levels.length === 0) test("native kernels", { skip: "the native addon is not built" }, () => {});

for (const level of levels) {
  for (const kernel of allKernels.filter(({ name }) => name === "attention" || name === "attentionGrad")) {
    test(`bf16 products: ${kernel.name}, ${level}`, async () => {
      const backend = openBackend({ level, threads: 2 });
      for (const { large, ...f32 } of kernel.samples()) {
        if (large) continue;
        const sample = { ...f32, params: { ...f32.params, bf16: 1 } };
        const expected = makeArrays(kernel, sample, "f32");
        const buffers = Object.fromEntries(
          Object.entries(expected).map(([name, array]) => {
            const buffer = backend.allocate("f32", array.length);
            backend.write(buffer, array as Float32Array);
            return [name, buffer];
          }),
        );
        backend.run(kernel, buffers, sample.params);
        callReference(kernel, expected, sample.params);
        for (const [name, decl] of Object.entries(kernel.buffers)) {
          if (accessOf(decl) === "in") continue;
          const actual = await backend.read(buffers[name]);
          const error = maxDifference(actual, expected[name]) / maxAbs(expected[name]);
          assert.ok(error < TOLERANCE, `${sample.name}: ${name} is off by ${error.toExponential(2)}`);
        }
      }
      backend.close();
    });
  }
}
