// Every kernel x sample x instruction level that this machine has, against the reference implementation; and nothing is
// written past the end of a buffer, nor does what lies there show in a result.

import assert from "node:assert/strict";
import { test } from "node:test";
import type { HostArray } from "../src/backends/backend.ts";
import { cpuLevels, openBackend } from "../src/backends/cpu.ts";
import { accessOf, arrayTypes, type BufferDecl, dtypeOf } from "../src/kernels/kernel.ts";
import { allKernels, callReference, makeArrays } from "./support/kernelCases.ts";

// Sums of products in another order: 1e-5 of the output's root mean square holds for inner lengths here.
const TOLERANCE = 1e-5;

/** Elements behind the end of each buffer: more than any kernel has in a register. */
const GUARD = 64;

/** What lies behind the end of a buffer: what only is read there would be seen in results if it were used. */
function guardOf(decl: BufferDecl): HostArray {
  const dtype = dtypeOf(decl);
  const onlyRead = accessOf(decl) === "in" && dtype === "f32";
  return new arrayTypes[dtype](GUARD).fill(onlyRead ? Number.NaN : 93);
}

function largestError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  let square = 0;
  let worst = 0;
  let finite = 0;
  for (let i = 0; i < expected.length; i++) {
    // NaN and infinities must be where they are expected.
    if (!Number.isFinite(expected[i]) && Object.is(actual[i], expected[i])) continue;
    finite++;
    square += expected[i] ** 2;
    const difference = Math.abs(actual[i] - expected[i]);
    worst = Number.isFinite(difference) ? Math.max(worst, difference) : Number.POSITIVE_INFINITY;
  }
  const scale = Math.max(Math.sqrt(square / Math.max(1, finite)), 1e-3);
  // An element may be larger than the root mean square; its own size then is the measure.
  let relative = 0;
  if (worst > 0) {
    for (let i = 0; i < expected.length; i++) {
      if (!Number.isFinite(expected[i])) continue;
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
                const decl = kernel.buffers[name];
                const buffer = backend.allocate(dtypeOf(decl), array.length + GUARD);
                backend.write(buffer, array as HostArray);
                backend.write(buffer, guardOf(decl), array.length);
                return [name, buffer];
              }),
            );
            backend.run(kernel, buffers, sample.params);
            callReference(kernel, expected, sample.params);
            for (const [name, decl] of Object.entries(kernel.buffers)) {
              const length = expected[name].length;
              const actual = await backend.read(buffers[name], 0, length);
              const behind = await backend.read(buffers[name], length, GUARD);
              assert.deepEqual(behind, guardOf(decl), `${sample.name}: ${name} is written past its end`);
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
