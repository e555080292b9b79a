// Every gradient rule against central finite differences, in double precision: the reference implementations
// run on Float64Array here, so a correct rule agrees to about 1e-8.

import assert from "node:assert/strict";
import { test } from "node:test";
import type { AnyKernel, GradientContext } from "../src/kernels/kernel.ts";
import { RandomStream } from "../src/random.ts";
import { type AnySample, type Arrays, allKernels, callReference, makeArrays } from "./support/kernelCases.ts";

const STEP = 1e-5;
const TOLERANCE = 1e-6;
/** Elements of one input that are perturbed. */
const PROBES = 12;

type Ref = Arrays[string];

/** Runs a kernel's gradient rule on arrays; accumulates into random starting values to check that too. */
function runRule(
  kernel: AnyKernel,
  sample: AnySample,
  values: Arrays,
  outputGrads: Arrays,
  accumulate: 0 | 1,
): Arrays {
  const gradient = kernel.gradient!;
  const targets: Arrays = {};
  for (const name of gradient.wrt)
    targets[name] = new Float64Array(values[name].length).fill(accumulate ? 0.25 : 99);
  const context: GradientContext<Ref, AnyKernel["buffers"], AnyKernel["params"]> = {
    params: sample.params,
    value: (name) => values[name],
    grad: (name) => outputGrads[name],
    flows: () => 1,
    target: (name) => targets[name],
    accumulate: () => accumulate,
    passOn: (output, input) => {
      const target = targets[input];
      for (let i = 0; i < target.length; i++)
        target[i] = (accumulate ? target[i] : 0) + outputGrads[output][i];
    },
    scratch: (length) => new Float64Array(length).fill(77),
    run: (other, buffers, params) =>
      other.reference(buffers as Parameters<typeof other.reference>[0], params),
  };
  gradient.rule(context);
  if (accumulate)
    for (const name of gradient.wrt) targets[name] = targets[name].map((v) => v - 0.25) as Float64Array;
  return targets;
}

for (const kernel of allKernels.filter((k) => k.gradient)) {
  test(`finite differences: ${kernel.name}`, () => {
    const gradient = kernel.gradient!;
    let checked = 0;
    for (const sample of kernel.samples()) {
      if (sample.large || sample.kink || sample.params.bf16 === 1) continue;
      const inputs = makeArrays(kernel, sample, "f64");
      const outputGrads: Arrays = {};
      for (const name of gradient.of) {
        outputGrads[name] = new Float64Array(inputs[name].length);
        new RandomStream(2, name).fillNormal(outputGrads[name] as Float64Array);
      }
      const evaluate = (perturbed?: { name: string; index: number; by: number }) => {
        const arrays: Arrays = Object.fromEntries(Object.entries(inputs).map(([k, v]) => [k, v.slice()]));
        if (perturbed) arrays[perturbed.name][perturbed.index] += perturbed.by;
        callReference(kernel, arrays, sample.params);
        return arrays;
      };
      const objective = (arrays: Arrays) => {
        let total = 0;
        for (const name of gradient.of)
          for (let i = 0; i < arrays[name].length; i++) total += arrays[name][i] * outputGrads[name][i];
        return total;
      };
      const values = evaluate();
      for (const accumulate of [0, 1] as const) {
        const analytic = runRule(kernel, sample, values, outputGrads, accumulate);
        for (const name of gradient.wrt) {
          const stream = new RandomStream(3, name);
          for (let probe = 0; probe < PROBES && inputs[name].length > 0; probe++) {
            const index = stream.integer(probe, inputs[name].length);
            const up = objective(evaluate({ name, index, by: STEP }));
            const down = objective(evaluate({ name, index, by: -STEP }));
            const numeric = (up - down) / (2 * STEP);
            const error = Math.abs(numeric - analytic[name][index]) / Math.max(1, Math.abs(numeric));
            assert.ok(
              error < TOLERANCE,
              `${sample.name}: d/d${name}[${index}] is ${analytic[name][index]}, finite difference ${numeric}`,
            );
            checked++;
          }
        }
      }
    }
    assert.ok(checked > 0, "no sample was small enough to check");
  });
}
