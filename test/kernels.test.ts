// Every kernel x sample x instruction level that this machine has, against the reference implementation.

import assert from "node:assert/strict";
import { test } from "node:test";
import type { HostArray } from "../src/backends/backend.ts";
import { cpuLevels, openBackend } from "../src/backends/cpu.ts";
import { accessOf, dtypeOf } from "../src/kernels/kernel.ts";
import { allKernels, callReference, makeArrays } from "./support/kernelCases.ts";

// Sums of products in another order: 1e-5 of the output's root mean square holds for inner lengths here.
const TOLERANCE = 1e-5;

function largestError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  let square = 0;
  let worst = 0;
  for (let i = 0; i < expected.length; i++) {
    square += expected[i] ** 2;
    const difference = Math.abs(actual[i] - expected[i]);
    worst = Number.isNaN(difference) ? Number.POSITIVE_INFINITY : Math.max(worst, difference);
  }
  const scale = Math.max(Math.sqrt(square / Math.max(1, expected.length)), 1e-3);
  // An element may be larger than the root mean square; its own size then is the measure.
  let relative = 0;
  if (worst > 0) {
    for (let i = 0; i < expected.length; i++) {
      const difference = Math.abs(actual[i] - expected[i]);
      relative = Math.max(relative, difference / Math.max(scale, Math.abs(expected[i])));
    }
  }
  return worst === Number.POSITIVE_INFINITY ? worst : relative;
}

const levels = cpuLevels({ emulated: true });
if (levels.length === 0) test("native kernels", { skip: "the native addon is not built" }, () => {});

for (const level of levels) {
  for (const threads of level === levels[0] ? [2, 1] : [2]) {
    test(`parity with the reference: ${level}, ${threads} thread(s)`, async (t) => {
      for (const kernel of allKernels) {
        await t.test(kernel.name, async () => {
          for (const sample of kernel.samples()) {
            if (sample.large) continue;
            const expected = makeArrays(kernel, sample, "f32");
            const backend = openBackend({ level, threads });
            const buffers = Object.fromEntries(
              Object.entries(expected).map(([name, array]) => {
                const buffer = backend.allocate(dtypeOf(kernel.buffers[name]), array.length);
                backend.write(buffer, array as HostArray);
                return [name, buffer];
              }),
            );
            backend.run(kernel, buffers, sample.params);
            callReference(kernel, expected, sample.params);
            for (const [name, decl] of Object.entries(kernel.buffers)) {
              const actual = await backend.read(buffers[name]);
              const error = largestError(actual, expected[name]);
              const limit = accessOf(decl) === "in" || dtypeOf(decl) !== "f32" ? 0 : TOLERANCE;
              assert.ok(
                error <= limit,
                `${sample.name}: ${name} is off by ${error.toExponential(2)} (limit ${limit})`,
              );
            }
            backend.close();
          }
        });
      }
    });
  }
}
