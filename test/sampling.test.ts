// Sampling against the definition of its order: sort everything, then cut, then draw.

import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { type SamplingOptions, sampleToken } from "../src/infer/sampling.ts";

function sampleBySorting(logits: Float32Array, options: Required<SamplingOptions>, uniform: number): number {
  let order = [...logits.keys()].sort((a, b) => logits[b] - logits[a] || a - b);
  const best = logits[order[0]];
  if (options.topK > 0) order = order.slice(0, options.topK);
  const weights = order.map((v) => Math.exp((logits[v] - best) / options.temperature));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  let kept = 0;
  let mass = 0;
  while (
    kept < order.length &&
    weights[kept] >= options.minP &&
    (kept === 0 || mass < options.topP * total)
  ) {
    mass += weights[kept++];
  }
  let rest = uniform * mass;
  for (let i = 0; i < kept; i++) {
    rest -= weights[i];
    if (rest < 0) return order[i];
  }
  return order[kept - 1];
}

test("the same number gives the token that sorting all of them would give", () => {
  // Halves, so that there are ties.
  const logits = fc.array(fc.integer({ min: -8, max: 8 }), { minLength: 1, maxLength: 80 });
  const options = fc.record({
    temperature: fc.constantFrom(0.5, 1, 2),
    topK: fc.constantFrom(0, 1, 5, 100),
    topP: fc.constantFrom(1, 0.9, 0.3),
    minP: fc.constantFrom(0, 0.1, 1),
  });
  // Not the ends of the range, where the order of additions may decide.
  const uniform = fc.double({ min: 0.001, max: 0.999, noNaN: true });
  fc.assert(
    fc.property(logits, options, uniform, (halves, sampling, draw) => {
      const values = Float32Array.from(halves, (x) => x / 2);
      assert.equal(sampleToken(values, sampling, draw), sampleBySorting(values, sampling, draw));
    }),
    { numRuns: 2000, seed: 1 },
  );
});

test("temperature 0 is the most likely token, the first of equals", () => {
  const greedy = { temperature: 0, topK: 0, topP: 1, minP: 0 };
  assert.equal(sampleToken(Float32Array.of(1, 3, 2, 3), greedy, 0.99), 1);
});
