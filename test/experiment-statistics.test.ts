// The statistics of experiments against known answers, and against what they promise: simulated arms with and without an
// effect give wrong verdicts as rarely as 95 % intervals say.

import assert from "node:assert/strict";
import { test } from "node:test";
import {
  estimate,
  holm,
  pairedDifference,
  pairedPower,
  seedsNeeded,
  tQuantile,
  tTwoSided,
} from "../src/experiment/statistics.ts";
import { RandomStream } from "../src/random.ts";

const near = (actual: number, expected: number, tolerance: number) =>
  assert.ok(Math.abs(actual - expected) <= tolerance, `${actual} is not ${expected} +- ${tolerance}`);

test("t quantiles are those of printed tables", () => {
  // Two-sided 95 %: any statistics textbook, e.g. NIST/SEMATECH e-Handbook 1.3.6.7.2.
  for (const [degrees, quantile] of [
    [1, 12.706],
    [2, 4.303],
    [4, 2.776],
    [9, 2.262],
    [30, 2.042],
    [100, 1.984],
  ]) {
    near(tQuantile(degrees), quantile, 5e-4);
  }
  near(tQuantile(5, 0.99), 4.032, 5e-4);
  near(tTwoSided(1, 1), 0.5, 1e-12); // Cauchy: arctan(1) / (pi / 2)
  near(tTwoSided(2, 2), 1 - 2 / Math.sqrt(6), 1e-12); // closed form: 1 - t / sqrt(2 + t^2)
});

test("mean, interval and paired difference of Student's sleep data", () => {
  // Student 1908: extra sleep under two drugs, ten patients. t = -4.0621, p = 0.00283, interval -2.4599 to -0.7001.
  const first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0, 2];
  const second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4];
  const difference = pairedDifference(first, second, { better: "lower", margin: 0.01 });
  near(difference.mean, -1.58, 1e-12);
  near(difference.mean - difference.halfWidth!, -2.4598858, 1e-6);
  near(difference.mean + difference.halfWidth!, -0.7001142, 1e-6);
  near(difference.p!, 0.00283289, 1e-7);
  assert.equal(difference.verdict, "better");
  assert.equal(pairedDifference(first, second, { better: "higher", margin: 0.01 }).verdict, "worse");
  assert.deepEqual(estimate([3]), { count: 1, mean: 3 });
});

test("the verdict in words", () => {
  const verdict = (values: number[], margin: number) =>
    pairedDifference(
      values.map((value) => 4 + value),
      values.map(() => 4),
      { better: "lower", margin },
    ).verdict;
  assert.equal(verdict([0.1], 0.01), "one seed says nothing");
  assert.equal(verdict([0.01, -0.01, 0.002], 0.02), "no difference seen");
  assert.equal(verdict([0.01, -0.01, 0.002], 0.001), "too few seeds to say");
  assert.equal(verdict([0.1, 0.11, 0.105], 0.01), "worse");
  assert.equal(verdict([0, 0, 0], 0.01), "no difference seen");
});

test("Holm's correction on a worked example", () => {
  // 0.01 * 4, max(0.02 * 3), max(0.03 * 2), max(0.04 * 1)
  const corrected = holm([0.04, 0.01, 0.03, 0.02]);
  [0.06, 0.04, 0.06, 0.06].forEach((expected, i) => {
    near(corrected[i], expected, 1e-12);
  });
  assert.deepEqual(holm([]), []);
});

test("seeds that a difference needs are those of G*Power", () => {
  // Paired, two-sided, alpha 0.05, power 0.8: effects 0.2, 0.5, 0.8, 1.0 need 199, 34, 15, 10 pairs.
  for (const [effect, seeds] of [
    [0.2, 199],
    [0.5, 34],
    [0.8, 15],
    [1, 10],
  ]) {
    assert.equal(seedsNeeded(effect, 1), seeds);
    assert.equal(seedsNeeded(-effect * 3, 3), seeds);
  }
  near(pairedPower(34, 0.5), 0.8078, 1e-3);
  near(pairedPower(5, 0), 0.05, 1e-5);
  assert.equal(seedsNeeded(0.001, 1), undefined);
  assert.throws(() => seedsNeeded(0, 1), /No number of seeds/);
});

const TRIALS = 10_000;

/** Losses of `arms` arms: a seed moves all of them together, each run has noise of its own, arm i an effect. */
function simulate(trial: number, seeds: number, effects: readonly number[]): number[][] {
  const noise = new Float64Array(seeds * (effects.length + 1));
  new RandomStream(7, `trial/${trial}`).fillNormal(noise);
  return effects.map((effect, arm) =>
    Array.from(
      { length: seeds },
      (_, s) => 3 + 0.05 * noise[s] + 0.01 * noise[seeds * (arm + 1) + s] + effect,
    ),
  );
}

/** Share of trials in which something holds, with 4 standard errors of a share near `expected`. */
function rate(seeds: number, effects: readonly number[], holds: (arms: number[][]) => boolean): number {
  let count = 0;
  for (let trial = 0; trial < TRIALS; trial++) if (holds(simulate(trial, seeds, effects))) count++;
  return count / TRIALS;
}
const slack = (share: number) => 4 * Math.sqrt((share * (1 - share)) / TRIALS);
const options = { better: "lower", margin: 0.005 } as const;

for (const seeds of [2, 3, 8]) {
  test(`without an effect, ${seeds} seeds say better or worse in 5 % of experiments`, () => {
    const alarms = rate(seeds, [0, 0], ([a, b]) =>
      ["better", "worse"].includes(pairedDifference(b, a, options).verdict),
    );
    near(alarms, 0.05, slack(0.05));
  });
}

test("with an effect, the interval covers it in 95 %, it is seen as often as the power says, hardly ever reversed", () => {
  const effect = -0.02; // noise of a difference: 0.01 * sqrt(2)
  const covered = rate(5, [0, effect], ([a, b]) => {
    const { mean, halfWidth } = pairedDifference(b, a, options);
    return Math.abs(mean - effect) <= halfWidth!;
  });
  near(covered, 0.95, slack(0.05));
  const power = pairedPower(5, effect / (0.01 * Math.SQRT2));
  const seen = rate(5, [0, effect], ([a, b]) => pairedDifference(b, a, options).verdict === "better");
  near(seen, power, slack(power));
  const reversed = rate(5, [0, effect], ([a, b]) => pairedDifference(b, a, options).verdict === "worse");
  assert.ok(reversed < 0.001, `reversed in ${reversed}`);
});

test("a true difference beyond the margin is called none in at most 2.5 %", () => {
  const margin = 0.005 * 3;
  const missed = rate(
    5,
    [0, margin * 1.001],
    ([a, b]) => pairedDifference(b, a, options).verdict === "no difference seen",
  );
  assert.ok(missed <= 0.025 + slack(0.025), `missed in ${missed}`);
});

test("Holm keeps false alarms of ten arms against one baseline below 5 %", () => {
  const alarms = rate(5, new Array(11).fill(0), ([reference, ...arms]) => {
    const pValues = arms.map((arm) => pairedDifference(arm, reference, options).p!);
    return holm(pValues).some((p) => p <= 0.05);
  });
  assert.ok(alarms <= 0.05 + slack(0.05), `alarms in ${alarms}`);
});
