// The statistics of experiments against known answers, and against what they promise: simulated arms with and without an
// effect give wrong verdicts as rarely as 95 % intervals say.

import assert from "node:assert/strict";
import { test } from "node:test";
import type { Difference } from "../src/experiment/report/compareArms.ts";
import { verdictInWords } from "../src/experiment/report/tables.ts";
import { tQuantile, tTwoSided } from "../src/experiment/statistics/distributions.ts";
import {
  estimate,
  holm,
  pairedDifference,
  pairedPower,
  seedsNeeded,
} from "../src/experiment/statistics/paired.ts";
import { leastAlike, spreadOf } from "../src/experiment/statistics/spread.ts";
import { RandomStream } from "../src/random.ts";
import { holds } from "./support/holds.ts";

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

/** The arms' values as `spreadOf` takes them. */
const bySeed = (arms: readonly (readonly number[])[]) =>
  arms.map((values) => new Map(values.map((value, seed) => [seed, value])));

test("the spread of several arms is the residual mean square of a textbook's randomised blocks", () => {
  // Penicillin yield, 4 treatments in 5 blends (Box, Hunter and Hunter, Statistics for Experimenters, 4.2): residual mean
  // square 18.83 with 12 degrees of freedom.
  const yields = [
    [89, 84, 81, 87, 79],
    [88, 77, 87, 92, 81],
    [97, 92, 87, 89, 80],
    [94, 79, 85, 84, 88],
  ];
  const spread = spreadOf(bySeed(yields))!;
  assert.equal(spread.degrees, 12);
  assert.equal(spread.arms, 4);
  near(spread.deviation ** 2, 226 / 12, 1e-9);
  holds(spread.pAlike > 0.1 && spread.pAlike <= 1);
  const { mean, halfWidth, p, alone } = pairedDifference(yields[2], yields[0], { ...options, spread });
  near(mean, 5, 1e-12);
  near(halfWidth!, 2.178813 * Math.sqrt((2 * 226) / 12 / 5), 1e-5);
  near(p!, tTwoSided(5 / Math.sqrt((2 * 226) / 12 / 5), 12), 1e-12);
  const pairs = pairedDifference(yields[2], yields[0], options);
  assert.deepEqual(alone, { halfWidth: pairs.halfWidth, p: pairs.p });
});

test("with values missing, the spread is that of the least squares fit", () => {
  // Two arms over three seeds and a third over two of them: residuals by hand, from the normal equations.
  const arms = [
    new Map([
      [1, 1],
      [2, 2],
      [3, 6],
    ]),
    new Map([
      [1, 2],
      [2, 5],
      [3, 5],
    ]),
    new Map([
      [1, 4],
      [2, 3],
    ]),
  ];
  const spread = spreadOf(arms)!;
  assert.equal(spread.degrees, 8 - 3 - 3 + 1);
  near(spread.deviation ** 2 * spread.degrees, leastSquares(arms), 1e-9);
  // What fits exactly changes nothing: a seed of one arm, an arm of one seed.
  const more = [...arms.map((of) => new Map(of)), new Map([[1, 9]])];
  more[0].set(4, 100);
  const same = spreadOf(more)!;
  near(same.deviation, spread.deviation, 1e-9);
  assert.equal(same.degrees, spread.degrees);
  // Arms that share no seed with the others are a fit of their own.
  const apart = [...arms, ...arms.map((of) => new Map([...of].map(([seed, value]) => [seed + 10, value])))];
  assert.equal(spreadOf(apart)!.degrees, 6);
});

/** Residual sum of squares of value = arm + seed, by gradient descent: slow and plain. */
function leastSquares(arms: readonly ReadonlyMap<number, number>[]): number {
  const ofArm = arms.map(() => 0);
  const ofSeed = new Map<number, number>();
  const cells = arms.flatMap((of, arm) => [...of].map(([seed, value]) => ({ arm, seed, value })));
  const error = ({ arm, seed, value }: (typeof cells)[number]) =>
    value - ofArm[arm] - (ofSeed.get(seed) ?? 0);
  for (let step = 0; step < 20_000; step++) {
    const errors = cells.map(error);
    cells.forEach(({ arm, seed }, i) => {
      ofArm[arm] += 0.05 * errors[i];
      ofSeed.set(seed, (ofSeed.get(seed) ?? 0) + 0.05 * errors[i]);
    });
  }
  return cells.reduce((sum, cell) => sum + error(cell) ** 2, 0);
}

test("two arms, or no two seeds in common, have no spread beyond pairs", () => {
  const three = [
    [1, 2, 3],
    [2, 2, 4],
    [3, 1, 2],
  ];
  assert.equal(spreadOf(bySeed(three.slice(0, 2))), undefined);
  assert.equal(spreadOf(bySeed(three.map((values) => values.slice(0, 1)))), undefined);
  assert.equal(spreadOf([]), undefined);
});

test("by the spread of five arms, three seeds say better or worse in 5 % without an effect, and see one far oftener", () => {
  const verdictOf = (arms: number[][]) => {
    const spread = spreadOf(bySeed(arms))!;
    const isUsed = spread.pAlike >= leastAlike;
    return pairedDifference(arms[1], arms[0], { ...options, spread: isUsed ? spread : undefined }).verdict;
  };
  const alarms = rate(3, [0, 0, 0, 0, 0], (arms) => ["better", "worse"].includes(verdictOf(arms)));
  near(alarms, 0.05, slack(0.05));
  const effect = -0.02;
  const share = effect / (0.01 * Math.SQRT2);
  const power = pairedPower(3, share, { arms: 5 });
  assert.ok(power > 1.8 * pairedPower(3, share), "the reason for all this");
  const seen = rate(3, [0, effect, 0, 0, 0], (arms) => verdictOf(arms) === "better");
  // A few of them go by pairs alone, since one in twenty sets of equal arms looks unequal.
  assert.ok(seen <= power + slack(power) && seen >= power - 0.05, `${seen} of ${power}`);
});

test("arms that scatter alike are refused in 5 %, one that scatters ten times as much nearly always", () => {
  const refused = (factor: number) =>
    rate(3, [0, 0, 0, 0, 0], ([first, ...others]) => {
      const mean = first.reduce((sum, value) => sum + value, 0) / first.length;
      const wild = first.map((value) => mean + factor * (value - mean));
      return spreadOf(bySeed([factor === 1 ? first : wild, ...others]))!.pAlike < leastAlike;
    });
  // Simulated limits: as exact as their 4,000 trials.
  near(refused(1), 0.05, slack(0.05) + 4 * Math.sqrt(0.05 / 4000));
  assert.ok(refused(10) > 0.7, `${refused(10)}`);
});

test("families of arms that follow the seeds each in their own way are no arms that scatter alike", () => {
  const noise = new Float64Array(8 * 4);
  new RandomStream(7, "families").fillNormal(noise);
  const follows = [1, -2, 0.5, 0.5];
  const arms = Array.from({ length: 8 }, (_, arm) =>
    follows.map((seed, s) => 4 + (arm < 4 ? 1 : -1) * seed + 0.05 * noise[arm * 4 + s]),
  );
  holds(spreadOf(bySeed(arms))!.pAlike < leastAlike);
});

test("a difference that is seen, and smaller than what counts as none, says both", () => {
  const difference: Difference = {
    ...{ against: "MoE", seeds: [1, 2, 3], count: 3, mean: 0.003, halfWidth: 0.002, margin: 0.01 },
    verdict: "worse",
  };
  assert.equal(verdictInWords(difference), "worse, by less than 0.0100");
  assert.equal(verdictInWords({ ...difference, margin: 0.0049 }), "worse");
  assert.equal(
    verdictInWords({ ...difference, mean: -0.003, verdict: "better", holm: 0.2 }),
    "better, by less than 0.0100, but not after Holm's correction",
  );
  assert.equal(
    verdictInWords({ ...difference, verdict: "no difference seen" }),
    "no difference seen (within 0.0100)",
  );
});
