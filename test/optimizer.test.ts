// AdamW and learning rates against PyTorch and transformers (test/fixtures/train/optimizer.json).

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { Parameter } from "../src/tensor/tensor.ts";
import { AdamW } from "../src/train/optimizer.ts";
import { cosineRate } from "../src/train/schedule.ts";
import { allBackends, maxDifference } from "./support/backends.ts";
import { holds } from "./support/holds.ts";

interface State {
  lr: number;
  param: number[][];
  exp_avg: number[][];
  exp_avg_sq: number[][];
}

const golden = JSON.parse(readFileSync(new URL("fixtures/train/optimizer.json", import.meta.url), "utf8"));

for (const { name, open } of allBackends) {
  for (const key of ["constant_lr", "scheduled_lr"]) {
    test(`AdamW, ${key}, on ${name}`, async () => {
      const { start, grads, betas, eps, weight_decay } = golden.adamw;
      const backend = open();
      const parameter = new Parameter("p", backend.allocate("f32", 12), [3, 4], true);
      // The golden run with a schedule starts, with new moments, where the one with a constant rate ended.
      const first: number[][] = key === "constant_lr" ? start : golden.adamw.constant_lr.float32.at(-1).param;
      backend.write(parameter.buffer, Float32Array.from(first.flat()));
      const optimizer = new AdamW(backend, [parameter], {
        beta1: betas[0],
        beta2: betas[1],
        epsilon: eps,
        weightDecay: weight_decay,
        clip: 0,
      });
      const states: State[] = golden.adamw[key].float32;
      for (const [step, state] of states.entries()) {
        backend.write(parameter.gradientTensor(backend).buffer, Float32Array.from(grads[step].flat()));
        parameter.hasGradient = true;
        optimizer.update(state.lr);
        const [{ m, v }] = optimizer.moments;
        const read = (buffer: typeof m.buffer) => backend.read(buffer, 0, 12);
        const wanted = [state.param, state.exp_avg, state.exp_avg_sq];
        const actual = [await read(parameter.buffer), await read(m.buffer), await read(v.buffer)];
        for (const [i, values] of actual.entries()) {
          const error = maxDifference(values, wanted[i].flat());
          assert.ok(error < 1e-6, `step ${step}, tensor ${i}: off by ${error}`);
        }
      }
      backend.close();
    });
  }

  test(`gradients are clipped by their global norm, on ${name}`, async () => {
    const backend = open();
    const parameters = [3, 5].map((n) => new Parameter(`p${n}`, backend.allocate("f32", n), [n], false));
    for (const parameter of parameters) {
      backend.write(parameter.buffer, new Float32Array(parameter.size));
      backend.write(parameter.gradientTensor(backend).buffer, new Float32Array(parameter.size).fill(2));
      parameter.hasGradient = true;
    }
    const options = { beta1: 0, beta2: 0.5, epsilon: 1e-8, weightDecay: 0, clip: 0.5 };
    const optimizer = new AdamW(backend, parameters, options);
    optimizer.update(1);
    holds(Math.abs((await optimizer.gradientNorm()) - Math.sqrt(8 * 4)) < 1e-5);
    const m = await backend.read(optimizer.moments[0].m.buffer, 0, 3);
    assert.ok(
      Math.abs(m[0] - (2 * 0.5) / Math.sqrt(32)) < 1e-6,
      "beta1 = 0: the moment is the clipped gradient",
    );
    backend.close();
  });
}

test("the cosine schedule", () => {
  const { base_lr, warmup_steps, total_steps, one_based_clamped } = golden.cosine;
  const schedule = { base: base_lr, warmup: warmup_steps, total: total_steps };
  const { lr, min_ratio } = one_based_clamped;
  for (const [t, wanted] of (lr as number[]).entries()) {
    const actual = cosineRate(t, { ...schedule, minRatio: min_ratio });
    assert.ok(
      Math.abs(actual - wanted) <= 1e-9 * Math.max(wanted, 1e-6),
      `step ${t}: ${actual}, not ${wanted}`,
    );
  }
});
