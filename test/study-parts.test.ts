// The parts of a study that need no model: bootstrap, allocation, histograms, evenness, timing by turns.

import assert from "node:assert/strict";
import { test } from "node:test";
import { resolveModelConfig } from "../src/model/config.ts";
import type { Transformer } from "../src/model/transformer.ts";
import { RandomStream } from "../src/random.ts";
import { allocateGreedily } from "../src/study/allocation.ts";
import { bootstrap } from "../src/study/bootstrap.ts";
import { evenness } from "../src/study/evenness.ts";
import { GateHistogram } from "../src/study/histogram.ts";
import type { SettingResult, SpeedResult } from "../src/study/result.ts";
import { searchKept } from "../src/study/search.ts";
import { timeByTurns } from "../src/study/turns.ts";
import { verdictOf } from "../src/study/verdict.ts";
import { useOf } from "../src/train/usage.ts";
import { holds } from "./support/holds.ts";

test("bootstrap intervals of a mean cover the truth about as often as they say", () => {
  const trials = 200;
  const units = 50;
  let covered = 0;
  for (let trial = 0; trial < trials; trial++) {
    const values = new Float64Array(units);
    new RandomStream(trial, "coverage").fillNormal(values);
    const mean = (weights: Uint32Array) =>
      values.reduce((sum, value, i) => sum + weights[i] * value, 0) / units;
    const { low, high } = bootstrap(units, mean, { seed: 7, resamples: 400 });
    if (low <= 0 && high >= 0) covered++;
  }
  // 95 % less what the percentile method loses with 50 units (about 1 %), within three standard errors of 200 trials.
  assert.ok(covered / trials > 0.89 && covered / trials < 0.99, `covered ${covered / trials}`);
});

test("bootstrap: the same seed, the same interval; one unit, no width", () => {
  const values = [3, 1, 4, 1, 5, 9, 2, 6];
  const mean = (weights: Uint32Array) => values.reduce((sum, value, i) => sum + weights[i] * value, 0) / 8;
  assert.deepEqual(bootstrap(8, mean, { seed: 2 }), bootstrap(8, mean, { seed: 2 }));
  assert.notDeepEqual(bootstrap(8, mean, { seed: 2 }), bootstrap(8, mean, { seed: 3 }));
  assert.deepEqual(
    bootstrap(1, (weights) => 5 * weights[0]),
    { low: 5, high: 5 },
  );
});

test("the search ends at the least K within the tolerance, whatever was measured before", async () => {
  for (const least of [1, 2, 37, 191, 192]) {
    /** Perplexity's ratio rises as K falls, and passes the tolerance below `least`. */
    const ratio = (kept: number) => 1 + (0.01 * least) / kept;
    for (const grid of [[], [96], [173, 96, 10], [1]]) {
      const results = grid.map((kept) => ({
        name: `gate-k${kept}`,
        kind: "neurons" as const,
        criterion: "gate" as const,
        ratio: ratio(kept),
      }));
      const others = [
        { name: "static-k5", kind: "neurons", criterion: "static", ratio: 1 },
        { name: "given-1", kind: "per-layer", criterion: "gate", ratio: 1 },
      ] as const;
      let passes = 0;
      const run = async (kept: number) => {
        passes++;
        return { ratio: ratio(kept) };
      };
      const found = await searchKept(192, [...results, ...others], "neurons", 0.01, run);
      assert.equal(found, least, `after ${grid}`);
      assert.ok(passes <= 9, `${passes} passes`);
    }
  }
});

test("greedy allocation meets its budget and beats one K where layers differ", () => {
  const counts = [100, 80, 60, 40, 20, 10];
  const costs = [
    [0, 0.1, 0.2, 0.4, 0.9, 2], // matters
    [0, 0, 0, 0.001, 0.002, 0.01], // hardly matters
    [0, 0.05, 0.1, 0.2, 0.5, 1],
  ];
  const costOf = (kept: readonly number[]) =>
    kept.reduce((sum, count, layer) => {
      // Straight between the counts that are known.
      const i = counts.findIndex((one) => one <= count);
      if (counts[i] === count) return sum + costs[layer][i];
      const share = (counts[i - 1] - count) / (counts[i - 1] - counts[i]);
      return sum + costs[layer][i - 1] + share * (costs[layer][i] - costs[layer][i - 1]);
    }, 0);
  for (const mean of [80, 60, 50, 40, 20, 10]) {
    const kept = allocateGreedily(counts, costs, mean);
    assert.equal(
      kept.reduce((a, b) => a + b, 0),
      3 * mean,
      `mean ${mean}: ${kept}`,
    );
    assert.ok(costOf(kept) <= costOf([mean, mean, mean]) + 1e-12, `mean ${mean}`);
  }
  holds(costOf(allocateGreedily(counts, costs, 60)) < 0.5 * costOf([60, 60, 60]));
});

test("greedy allocation looks beyond one dear step", () => {
  // From 100 to 80 everything of layer 0 is paid for; the rest is free.
  const kept = allocateGreedily(
    [100, 80, 20],
    [
      [0, 0.3, 0.3],
      [0, 0.2, 0.8],
    ],
    60,
  );
  assert.deepEqual(kept, [20, 100]);
});

test("histograms: quantiles and shares of a uniform distribution", () => {
  const histogram = new GateHistogram();
  histogram.add(Float32Array.from({ length: 10000 }, (_, i) => (i % 2 ? 1 : -1) * ((i + 0.5) / 10000)));
  for (const share of [0.01, 0.1, 0.5, 0.9, 0.99]) {
    assert.ok(Math.abs(histogram.quantile(share) - share) < 0.02 * share + 1e-4, `quantile ${share}`);
    assert.ok(Math.abs(histogram.below(share) - share) < 0.02 * share + 1e-4, `below ${share}`);
  }
  const { first, shares } = histogram.octaves();
  holds(Math.abs(shares[-1 - first] - 0.5) < 1e-3); // from 1/2 to 1
  const edges = new GateHistogram();
  edges.add(Float32Array.of(0, 1e-30, 1e30));
  assert.equal(edges.total, 3);
});

test("evenness of counts", () => {
  const even = evenness([5, 5, 5, 5]);
  holds(Math.abs(even.entropy - 1) < 1e-12 && Math.abs(even.gini) < 1e-12 && even.maxOverMean === 1);
  const one = evenness([0, 0, 0, 8]);
  holds(one.entropy === 0 && Math.abs(one.gini - 0.75) < 1e-12 && one.maxOverMean === 4);
});

test("the entropy of counts is one rule in training and in studies, at its edges too", () => {
  const cases: [number[], number][] = [
    [[0, 0, 0], 0],
    [[0], 0],
    [[], 0],
    [[7], 1],
    [[0, 8], 0],
    [[1, 1], 1],
  ];
  for (const [counts, entropy] of cases) {
    const found = [useOf(counts).entropy, evenness(counts).entropy];
    assert.deepEqual(found, [entropy, entropy], `counts ${counts}`);
  }
  assert.deepEqual(evenness([0, 0]), { entropy: 0, gini: 0, maxOverMean: 1 });
});

/** Runners on a clock of their own, by the milliseconds of a token at a time. */
function runnersOf(tokens: readonly ((at: number) => number)[]) {
  let clock = 0;
  const runners = tokens.map((of) => ({
    restart: () => {},
    step: async () => {
      clock += of(clock);
    },
  }));
  return { runners, now: () => clock };
}

test("fast models are timed in seven whole turns", async () => {
  const { runners, now } = runnersOf([() => 1, () => 0.5]);
  const { turns, tokens, speeds } = await timeByTurns(runners, { now });
  assert.deepEqual([turns, tokens], [7, 112]);
  assert.deepEqual(speeds, [new Array(7).fill(1000), new Array(7).fill(2000)]);
});

test("slower models get shorter turns, still slower ones fewer, in about a minute", async () => {
  for (const [count, milliseconds, expected] of [
    [4, 50, [7, 36]],
    [10, 300, [2, 7]],
    [12, 700, [2, 2]],
  ] as const) {
    const { runners, now } = runnersOf(Array.from({ length: count }, () => () => milliseconds));
    const { turns, tokens, speeds } = await timeByTurns(runners, { now, seconds: 60 });
    assert.deepEqual([turns, tokens], expected, `${count} of ${milliseconds} ms`);
    assert.ok(now() < 70_000, `${count} of ${milliseconds} ms took ${now()} ms`);
    for (const each of speeds.flat()) holds(Math.abs(each - 1000 / milliseconds) < 1e-9);
  }
});

test("a machine that becomes slower cuts the turns off, not below two", async () => {
  const { runners, now } = runnersOf([(at) => (at < 20_000 ? 50 : 200), () => 50]);
  const { turns, tokens, speeds } = await timeByTurns(runners, { now, seconds: 60 });
  assert.ok(turns >= 2 && turns < 7, `${turns} turns`);
  assert.ok(now() < 90_000, `${now()} ms`);
  assert.deepEqual(
    speeds.map(({ length }) => length),
    [turns, turns],
  );
  holds(tokens > 2);
});

test("a verdict says when the speeds that it quotes are unsteady", () => {
  const config = resolveModelConfig({ vocab_size: 32, moe_intermediate_size: 64 }, "test");
  const model = { config, head: { dtype: "f32" } } as unknown as Transformer;
  const interval = { low: 1, high: 1.01 };
  const setting = { name: "gate-k16", ratio: 1.005, ratioInterval: interval } as SettingResult;
  const speed = (name: string, least: number, most: number) =>
    ({
      name,
      least,
      most,
      tokensPerSecond: (least + most) / 2,
      speedup: name === "recommended" ? 1.25 : 1,
    }) as SpeedResult;
  const textOf = (speeds: SpeedResult[]) => verdictOf(model, 16, [setting], speeds, 0.01).text;
  const steady = textOf([speed("reference", 90, 110), speed("recommended", 100, 140)]);
  assert.match(steady, /Drop up to 75 % of neurons.*\(measured 1\.25x\)\.$/);
  assert.match(
    textOf([speed("reference", 50, 110), speed("recommended", 100, 140)]),
    /1\.25x, but turns .* quiet/,
  );
  assert.match(
    textOf([speed("reference", 90, 110), speed("recommended", 10, 140)]),
    /1\.25x, but turns .* quiet/,
  );
});
