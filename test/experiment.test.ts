// Experiments as a whole: files are checked, runs are shared and survive a kill, the report does not depend on it, and
// every shipped experiment runs in its smoke size.

import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { planRuns } from "../src/experiment/arms.ts";
import { checkExperiment, readExperiment, sizedExperiment } from "../src/experiment/file.ts";
import type { ExperimentReport } from "../src/experiment/report.ts";
import { type ExperimentOptions, experiment, experimentStatus } from "../src/experiment/run.ts";
import { shippedExperiments } from "../src/experiment/shipped/index.ts";
import { countParameters } from "../src/model/parameters.ts";
import { resolveTrainConfig } from "../src/train/config.ts";
import { writeToyText } from "./support/tinyRun.ts";

const folder = mkdtempSync(join(tmpdir(), "mone-experiment-"));
after(() => rmSync(folder, { recursive: true, force: true }));
const data = writeToyText(join(folder, "toy.txt"));
const quiet = { data, threads: 1, announce: () => {} };

/** Without what depends on the clock. */
function timeless(report: ExperimentReport): object {
  const { finishedAt: _at, ...rest } = report;
  return { ...rest, arms: rest.arms.map(({ cost: _cost, ...arm }) => arm) };
}

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
  }
  const planned = shippedExperiments.reduce((sum, { arms }) => sum + arms.length * 2, 0);
  assert.ok(readdirSync(join(root, "runs")).length < planned, "the plain MoE is shared");
  assert.equal(experimentStatus(root).length, shippedExperiments.length);
  assert.ok(experimentStatus(root).every(({ runs }) => runs.every(({ state }) => state === "finished")));
});
