// Experiments as a whole: files are checked, runs are shared and survive a kill, the report does not depend on it, and
// every shipped experiment runs in its smoke size.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { planRuns } from "../src/experiment/arms.ts";
import { checkExperiment, readExperiment, sizedExperiment } from "../src/experiment/file.ts";
import { prunableShare, prunedShares } from "../src/experiment/measures/prune.ts";
import { sharedChoice } from "../src/experiment/measures/stability.ts";
import { overhead } from "../src/experiment/overhead/overhead.ts";
import { differenceTable, resultTable, sweepTable } from "../src/experiment/report/tables.ts";
import { type ExperimentOptions, experiment } from "../src/experiment/run.ts";
import { shippedExperiments } from "../src/experiment/shipped/index.ts";
import type { ExperimentSpec } from "../src/experiment/spec.ts";
import { experimentStatus, overheadStatus } from "../src/experiment/status.ts";
import { countParameters } from "../src/model/parameters.ts";
import type { LayerChoice } from "../src/study/choices.ts";
import { resolveTrainConfig } from "../src/train/config.ts";
import { holds } from "./support/holds.ts";
import { timeless } from "./support/timeless.ts";
import { writeToyText } from "./support/tinyRun.ts";

const folder = mkdtempSync(join(tmpdir(), "mone-experiment-"));
after(() => rmSync(folder, { recursive: true, force: true }));
const data = writeToyText(join(folder, "toy.txt"));
const quiet = { data, threads: 1, announce: () => {} };

test("what is wrong with a file is said in one sentence that names the place", () => {
  const arms = [{ name: "a" }, { name: "b" }];
  const cases: [object, RegExp][] = [
    [{ name: "x", arms, seds: [1] }, /unknown key "seds"; did you mean "seeds"\?/],
    [{ name: "x" }, /arms is missing/],
    [{ name: "x y", arms }, /name must be a name of letters/],
    [{ name: "x", arms: [{ name: "a" }, { name: "a" }] }, /arm 2: there is an arm "a" already/],
    [{ name: "x", arms: [{ name: "a", neurons: -1 }] }, /arm 1: neurons must be/],
    [{ name: "x", arms, baseline: "c" }, /baseline: there is no arm "c"; there are a, b/],
    [{ name: "x", arms, seeds: [1, 1] }, /seeds must be a list of different integers/],
    [{ name: "x", arms, measure: ["taste"] }, /measure must be a list of measures \(loss, use/],
    [{ name: "x", arms, sizes: { small: { arms: [] } } }, /size small: unknown key "arms"/],
    [
      { name: "x", arms: [{ name: "a", phases: [{ share: 0.5 }] }] },
      /arm 1: the shares of its phases add up to 0.5/,
    ],
    [{ name: "x", arms: [{ name: "a", phases: [{ neurons: 1 }] }] }, /arm 1, phase 1: share is missing/],
    [
      { name: "x", arms: [{ name: "a", phases: [{ share: 1, neuron: 1 }] }] },
      /phase 1: unknown key "neuron"/,
    ],
  ];
  for (const [content, expected] of cases)
    assert.throws(() => checkExperiment(content, "file.yaml"), expected);
  const times = {
    ...checkExperiment({ name: "x", arms: [{ name: "a", times: { model: { num_experts: 0.3 } } }] }, "f"),
  };
  assert.throws(
    () => planRuns(sizedExperiment(times), 256, "data"),
    /arm a: num_experts = 16 times 0.3 is no whole/,
  );
  assert.throws(() => sizedExperiment(times, "huge"), /has no size "huge"; it has no sizes/);
});

test("YAML, a module and a name are read alike", async () => {
  const yaml = join(folder, "two.yaml");
  writeFileSync(yaml, "name: two\narms:\n  - name: MoE\n  - { name: MoNE, neurons: 0.25 }\n");
  const module = join(folder, "two.mjs");
  writeFileSync(
    module,
    'export default { name: "two", arms: [{ name: "MoE" }, { name: "MoNE", neurons: 0.25 }] };',
  );
  assert.deepEqual(await readExperiment(yaml), await readExperiment(module));
  assert.equal((await readExperiment("half")).arms.length, 4);
  await assert.rejects(readExperiment("halv"), /did you mean half\?/);
  assert.equal(
    (await readExperiment(new URL("../examples/experiments/k.yaml", import.meta.url).pathname)).name,
    "k",
  );
});

test("the arms are what their names say: half, and equal, activated parameters", () => {
  const activated = (name: string) => {
    const sized = sizedExperiment(shippedExperiments.find((one) => one.name === name)!, "small");
    return planRuns(sized, 4096, "data")
      .filter(({ seed }) => seed === 1)
      .map(({ input }) => countParameters(resolveTrainConfig(input, 4096).model).activatedExpertsWithGate);
  };
  const [moe, ...halves] = activated("half");
  for (const count of halves) assert.equal(count, moe / 2);
  assert.deepEqual(new Set(activated("equal")), new Set([moe]));
  const [first, ...finer] = activated("granularity").filter((_, i) => i % 2 === 0);
  for (const count of finer) assert.equal(count, first);
  const dense = sizedExperiment(shippedExperiments.find(({ name }) => name === "dense")!, "small");
  for (const { input } of planRuns(dense, 4096, "data")) assert.equal(input.model!.num_experts, 0);
});

test("runs go seed by seed, and equal configurations have equal hashes", () => {
  const plan = (name: string) =>
    planRuns(sizedExperiment(shippedExperiments.find((one) => one.name === name)!, "smoke"), 257, "data");
  assert.deepEqual(
    plan("half").map(({ seed }) => seed),
    [1, 1, 1, 1, 2, 2, 2, 2],
  );
  const hashes = new Set(plan("half").map(({ hash }) => hash));
  assert.equal(hashes.size, 8);
  assert.equal(plan("equal")[0].hash, plan("half")[0].hash);
  assert.notEqual(
    planRuns(sizedExperiment(shippedExperiments[0], "smoke"), 257, "other")[0].hash,
    plan("half")[0].hash,
  );
});

test("hashes are those of earlier versions, so that their runs are still good", () => {
  // From the version before phases and pruning (002deae).
  const known = [
    ["half", "smoke", "03c475c2692f8b8a"],
    ["half", "small", "ee4d68714f958433"],
    ["equal", "smoke", "f40e5f4189994e91"],
    ["equal", "small", "2fd6e105e6dc3401"],
    ["balance", "smoke", "f23db75d78cb7ee6"],
    ["balance", "small", "99c0e5e34c9bde72"],
    ["ratio", "smoke", "6ab33e8504f9d39d"],
    ["ratio", "small", "a5e951a5018ad158"],
    ["activation", "smoke", "c51247541785e7a1"],
    ["activation", "small", "e66665b35063a346"],
    ["granularity", "smoke", "14fb29de144d4572"],
    ["granularity", "small", "f4513d0dcdd365bb"],
  ] as const;
  for (const [name, size, hash] of known) {
    const sized = sizedExperiment(shippedExperiments.find((one) => one.name === name)!, size);
    const all = planRuns(sized, 4096, "data").map((run) => run.hash);
    assert.equal(createHash("sha256").update(all.join()).digest("hex").slice(0, 16), hash, `${name} ${size}`);
  }
});

test("phases follow each other in weights and data, add up to the run's tokens, and are shared", () => {
  const sized = sizedExperiment(shippedExperiments.find(({ name }) => name === "convert")!, "small");
  const plan = planRuns(sized, 4096, "data").filter(({ seed }) => seed === 1);
  const stepsOf = ({ input }: { input: { steps?: number } }) => input.steps;
  const [scratch, steps, once, continued, moe, pruned] = plan;
  assert.deepEqual([...steps.before!, steps].map(stepsOf), [244, 122, 122]);
  assert.equal(scratch.input.steps, 488);
  assert.equal(steps.input.startSequence, (244 + 122) * 16);
  assert.equal(steps.before![0].hash, once.before![0].hash);
  assert.equal(steps.before![0].hash, continued.before![0].hash);
  assert.equal(new Set([scratch, steps, once, continued, moe].map(({ hash }) => hash)).size, 5);
  assert.equal(pruned.hash, moe.hash);
  assert.deepEqual([moe.prunedTo, pruned.prunedTo], [undefined, 48]);
  assert.equal(steps.input.model!.num_neurons_per_tok, 48);
  // The same settings after another first phase are another run.
  assert.notEqual(once.hash, steps.hash);
  const ratio = planRuns(
    sizedExperiment(shippedExperiments.find(({ name }) => name === "ratio")!, "small"),
    4096,
    "data",
  );
  assert.equal(moe.hash, ratio[0].hash);
  assert.equal(scratch.hash, ratio[2].hash);
});

test("how much can be pruned is found between the measured shares", () => {
  const losses = [
    [100, 2],
    [50, 2.01],
    [25, 2.03],
    [200, 5], // above its own K: does not count
  ] as const;
  holds(Math.abs(prunableShare(losses, 100)! - (1 - 37.5 / 100)) < 1e-12);
  assert.equal(prunableShare(losses.slice(0, 2), 100), undefined);
});

test("interrupted at any moment and resumed, the report is the same; finished runs are not trained again", async () => {
  const size = { size: "smoke", tokens: 512, ...quiet } as const;
  const { report } = await experiment("half", { ...size, root: join(folder, "whole") });
  assert.equal(report.finished, 8);
  const root = join(folder, "cut");
  let steps = 0;
  let resume = false;
  for (let cuts = 0; ; cuts++) {
    const controller = new AbortController();
    const limit = 5 + 3 * cuts;
    let here = 0;
    const options: ExperimentOptions = {
      ...size,
      root,
      resume,
      signal: controller.signal,
      onStep() {
        steps++;
        if (++here === limit) controller.abort(new Error("cut"));
      },
    };
    try {
      const again = await experiment("half", options);
      assert.ok(cuts >= 3, "it was cut several times");
      assert.deepEqual(timeless(again.report), timeless(report));
      break;
    } catch (error) {
      assert.match((error as Error).message, /^cut$/);
      resume = true;
    }
  }
  assert.equal(steps, 8 * 8, "no step was done twice");
  await assert.rejects(experiment("half", { ...size, root }), /add --resume/);
  const more = await experiment("half", {
    ...size,
    root,
    resume: true,
    seeds: [1, 2, 3],
    onStep: () => steps++,
  });
  assert.equal(steps, 12 * 8, "only the new seed was trained");
  assert.equal(more.report.arms[1].differences.loss.count, 3);
});

test("convert: stopped in any phase and resumed, the report is the same, and phases are done once", async () => {
  const size = { size: "smoke", tokens: 512, seeds: [1, 2], ...quiet } as const;
  let steps = 0;
  const { report } = await experiment("convert", {
    ...size,
    root: join(folder, "phases"),
    onStep: () => steps++,
  });
  // Per seed: two whole runs, half a MoE once, and three times the other half.
  const once = steps;
  assert.equal(once, 2 * (8 + 8 + 4 + 3 * 4));
  const root = join(folder, "phases-cut");
  steps = 0;
  for (let cuts = 0; ; cuts++) {
    const controller = new AbortController();
    const limit = 2 + 2 * cuts;
    let here = 0;
    const onStep = () => {
      steps++;
      if (++here === limit) controller.abort(new Error("cut"));
    };
    try {
      const again = await experiment("convert", {
        ...size,
        root,
        resume: cuts > 0,
        signal: controller.signal,
        onStep,
      });
      assert.ok(cuts >= 3, "it was cut several times");
      assert.deepEqual(timeless(again.report), timeless(report));
      break;
    } catch (error) {
      assert.match((error as Error).message, /^cut$/);
    }
  }
  assert.equal(steps, once, "no step was done twice");
  const arm = (name: string) => report.arms.find((one) => one.name === name)!;
  assert.deepEqual(
    arm("MoE, then K = F/2, F/4").curves.validation.map(([step]) => step),
    [2, 4, 6, 8],
    "phases are one curve",
  );
  const pruned = arm("MoE, pruned to K = F/4");
  assert.deepEqual(pruned.curves.training, []);
  assert.notEqual(pruned.estimates.loss.mean, arm("MoE").estimates.loss.mean);
  assert.equal(pruned.parameters.activatedWithGate, arm("MoNE from scratch").parameters.activatedWithGate);
  assert.equal(pruned.cost!.seconds, arm("MoE").cost!.seconds);
});

test("after: with all its neurons a model has the loss of its run, and fewer or random ones give another", async () => {
  const { report, folder: at } = await experiment("after", {
    ...quiet,
    size: "smoke",
    root: join(folder, "after"),
  });
  const [moe, mone] = report.arms;
  for (const [i, { values }] of moe.runs.entries()) {
    assert.equal(values.prune_0, values.loss);
    assert.equal(mone.runs[i].values.prune_75, mone.runs[i].values.loss);
    assert.ok(Math.abs(values["prune-random_0"] - values.loss) < 1e-2, "f32 and bf16 are near each other");
    assert.equal(new Set(prunedShares.map((share) => values[`prune_${share * 100}`])).size, 7, "K = 2 twice");
    assert.notEqual(values["prune-random_75"], values.prune_75);
  }
  assert.deepEqual(
    report.sweeps.map(({ name }) => name),
    ["prune", "prune-random"],
  );
  const tested = prunedShares.map((share) => mone.differences[`prune_${share * 100}`]);
  holds(tested.every(({ count }) => count === 2));
  // Corrected over all settings of the sweep: the smallest of eight p values times eight.
  const least = Math.min(...tested.map(({ p }) => p!));
  holds(Math.abs(Math.min(...tested.map(({ holm }) => holm!)) - Math.min(1, 8 * least)) < 1e-12);
  const page = readFileSync(join(at, "report", "index.html"), "utf8");
  assert.match(page, /Pruned after training, by the gate value/);
  assert.doesNotMatch(page, /NaN|undefined/);
  const table = sweepTable(report, report.sweeps[0]);
  assert.equal(table.rows.length, 2 * prunedShares.length);
  assert.equal(
    resultTable(report).columns.some(({ key }) => key === "prune_50"),
    false,
  );
  assert.match(readFileSync(join(at, "report", "differences.csv"), "utf8"), /50 % pruned at random/);
});

test("overhead: smoke size, resumed from what is measured, with its report", async () => {
  const root = join(folder, "overhead");
  const { report, folder: at } = await overhead({ root, size: "smoke", threads: 1, announce: () => {} });
  assert.deepEqual(
    report.rows.map(({ work, width }) => `${work} ${width}`),
    [
      "training step 32",
      "training step 64",
      "decoding, 1 sequence 32",
      "decoding, 2 sequences 32",
      "decoding, 1 sequence 64",
      "decoding, 2 sequences 64",
    ],
  );
  for (const { ratios, difference } of report.rows) {
    assert.equal(ratios.length, 2);
    holds(ratios.every((ratio) => ratio > 0));
    holds(Math.abs(difference.mean - ((ratios[0] + ratios[1]) / 2 - 1)) < 1e-12);
  }
  const page = readFileSync(join(at, "report", "index.html"), "utf8");
  assert.match(page, /its figures mean nothing/);
  assert.doesNotMatch(page, /NaN|undefined/);
  assert.deepEqual(overheadStatus(root), [
    { folder: at, title: "What choosing neurons costs and gains, by size of model", measured: 4, of: 4 },
  ]);
  assert.deepEqual(experimentStatus(root), []);
  await assert.rejects(overhead({ root, size: "smoke" }), /add --resume/);
  await assert.rejects(overhead({ root, size: "huge" }), /there are smoke, small/);
  // Nothing is measured again: the numbers are the same.
  assert.deepEqual((await overhead({ root, size: "smoke", resume: true })).report, report);
});

test("every shipped experiment runs in its smoke size, sharing runs, and reports in every form", async () => {
  const root = join(folder, "smoke");
  for (const { name, arms } of shippedExperiments) {
    const { report, folder: at } = await experiment(name, { ...quiet, size: "smoke", root });
    assert.equal(report.finished, arms.length * 2, name);
    for (const file of ["index.html", "report.md", "report.json", "differences.csv", "runs.csv"]) {
      assert.ok(existsSync(join(at, "report", file)), `${name}: ${file}`);
    }
    assert.deepEqual(
      JSON.parse(readFileSync(join(at, "report", "report.json"), "utf8")),
      JSON.parse(JSON.stringify(report)),
    );
    // A pruned arm's curve is that of the run it is.
    const withCurves = report.arms.filter(({ curves }) => curves.validation.length > 0);
    checkPlots(join(at, "report"), withCurves.length);
    // Arms that share runs or phases do not count, and two arms know no more than their pairs.
    const { loss } = report.spreads;
    assert.equal(loss?.arms, ["after", "convert"].includes(name) ? undefined : arms.length, name);
    const differences = report.arms.flatMap((arm) => arm.differences.loss ?? []);
    for (const { alone, halfWidth } of differences) {
      assert.equal(alone !== undefined, loss?.used === true, name);
      if (alone) assert.notEqual(alone.halfWidth, halfWidth);
    }
    const { columns } = differenceTable(report);
    assert.equal(
      columns.some(({ key }) => key === "low_alone"),
      loss?.used === true,
    );
    const { note = "" } = columns.find(({ key }) => key === "low") ?? {};
    assert.match(note, loss?.used ? /of \d+ arms together/ : /spread of these pairs/);
  }
  const planned = shippedExperiments.reduce((sum, { arms }) => sum + arms.length * 2, 0);
  assert.ok(readdirSync(join(root, "runs")).length < planned, "the plain MoE is shared");
  assert.equal(experimentStatus(root).length, shippedExperiments.length);
  holds(experimentStatus(root).every(({ runs }) => runs.every(({ state }) => state === "finished")));
});

/** The plots of report.md exist, are all there are, show so many arms, and no two lines of one plot look alike. */
function checkPlots(at: string, arms: number): void {
  const images = readFileSync(join(at, "report.md"), "utf8").matchAll(/!\[[^\]]+\]\((plots\/([^)]+))\)/g);
  const drawn = [...images].map(([, path, name]) => ({ name, svg: readFileSync(join(at, path), "utf8") }));
  assert.deepEqual(drawn.map(({ name }) => name).sort(), readdirSync(join(at, "plots")).sort());
  holds(drawn.some(({ name }) => name === "differences.svg"));
  const shown = new Set<string>();
  for (const { name, svg } of drawn) {
    assert.match(svg, /^<\?xml .*\n<svg xmlns="[^"]+" class="plot"[\s\S]*<\/svg>\n$/, name);
    assert.doesNotMatch(svg, /NaN|undefined/, name);
    if (!name.startsWith("validation")) continue;
    const lines = [...svg.matchAll(/<path class="line solid (c\d)"/g)].map(([, colour]) => colour);
    assert.equal(new Set(lines).size, lines.length, `${at}: ${name} has two lines of one colour`);
    for (const [, arm] of svg.matchAll(/<text x="24">([^<]+)<\/text>/g)) shown.add(arm);
  }
  assert.equal(shown.size, arms);
}

test("what two models choose alike: experts by token, then neurons in those", () => {
  // 3 tokens, 2 of 3 experts, 40 neurons (2 words). Token 2 goes elsewhere in the second model.
  const a: LayerChoice = {
    layer: 0,
    keep: Uint32Array.of(0b111, 0, 0b1, 1, 0b11, 0, 0b110, 0b10, 0b1, 0, 0xffffffff, 0xff),
    offsets: Uint32Array.of(0, 2, 5, 6),
    slots: Uint32Array.of(0, 2, 1, 3, 4, 5),
    active: 2,
  };
  const b: LayerChoice = {
    layer: 0,
    keep: Uint32Array.of(0b101, 0, 0b1, 1, 0b10, 0b1, 0b111, 0b10, 0b1, 0, 0b1, 0),
    offsets: Uint32Array.of(0, 3, 5, 6),
    slots: Uint32Array.of(0, 2, 4, 1, 3, 5),
    active: 2,
  };
  // Expert 0: tokens 0 (2 alike) and 1 (2 alike); expert 1: tokens 0 (2) and 1 (none), not 2; expert 2: token 2 (1).
  assert.deepEqual(sharedChoice(a, b, 3, 40), { routed: 5, rows: 6, kept: 7 });
  assert.deepEqual(sharedChoice(a, a, 3, 40), { routed: 6, rows: 6, kept: 3 + 2 + 2 + 3 + 1 + 40 });
});

test("stability: of kept sets and routing between the last two checkpoints", async () => {
  const arms = [
    { name: "MoE", neurons: 1 },
    { name: "MoNE", neurons: 0.25 },
    { name: "MoNE, still", neurons: 0.25, change: { learningRate: 1e-12, warmup: 0 } },
  ];
  const spec: ExperimentSpec = {
    name: "stable",
    title: "Stable",
    question: "?",
    baseline: "MoE",
    arms,
    measure: ["stability"],
    sizes: { smoke: shippedExperiments[0].sizes!.smoke },
  };
  const options = { ...quiet, root: join(folder, "stable"), size: "smoke", tokens: 2048 };
  const { report } = await experiment(spec, options);
  const [moe, mone, still] = report.arms.map(({ runs }) => runs[0].values);
  assert.equal(moe.kept_overlap, undefined);
  holds(moe.routing_overlap > 0.5 && moe.routing_overlap <= 1);
  assert.ok(mone.kept_overlap > 0.25 && mone.kept_overlap < 1, `${mone.kept_overlap}`);
  assert.equal(still.kept_overlap, 1);
  assert.equal(still.routing_overlap, 1);

  // 32 steps, a checkpoint every 4 of them: the last but one is of step 28, wherever the run was stopped or at its best.
  const controller = new AbortController();
  const cutRoot = join(folder, "stable-cut");
  const cut: ExperimentOptions = { ...options, root: cutRoot, signal: controller.signal };
  const onStep = ({ step }: { step: number }) => step === 30 && controller.abort(new Error("cut"));
  await assert.rejects(experiment(spec, { ...cut, onStep }), /^Error: cut$/);
  const again = await experiment(spec, { ...cut, signal: undefined, resume: true });
  assert.deepEqual(timeless(again.report), timeless(report));
  for (const { hash } of report.arms.flatMap(({ runs }) => runs)) {
    assert.ok(existsSync(join(cutRoot, "runs", hash, "checkpoints", "step-28")), hash);
  }
});
