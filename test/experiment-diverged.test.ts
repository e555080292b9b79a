// An arm that cannot be trained: named, left out, not tried again, and no obstacle to the others.

import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { experiment } from "../src/experiment/run.ts";
import { experimentStatus } from "../src/experiment/status.ts";
import { tinyExperiment } from "./support/tinyExperiment.ts";
import { writeToyText } from "./support/tinyRun.ts";

const folder = mkdtempSync(join(tmpdir(), "mone-experiment-diverged-"));
after(() => rmSync(folder, { recursive: true, force: true }));

const arms = [
  { name: "MoE", neurons: 1 },
  { name: "wild", neurons: 1, change: { learningRate: 1e30, clip: 0 } },
  { name: "wild, pruned", neurons: 1, change: { learningRate: 1e30, clip: 0 }, prunedTo: 0.5 },
  {
    name: "wild, then calm",
    phases: [
      { share: 0.5, neurons: 1, change: { learningRate: 1e30, clip: 0 } },
      { share: 0.5, neurons: 1 },
    ],
  },
  { name: "MoNE", neurons: 0.25 },
];
const spec = tinyExperiment(writeToyText(join(folder, "toy.txt")), { arms });

test("a run that diverges is left out and named; the others are compared, and nothing is tried twice", async () => {
  const root = join(folder, "root");
  const announced: string[] = [];
  let steps = 0;
  const run = (resume: boolean) =>
    experiment(spec, {
      root,
      threads: 1,
      resume,
      announce: (line) => announced.push(line),
      onStep: () => steps++,
    });
  const { report, reportPath } = await run(false);
  assert.equal(report.finished, 4, "MoE and MoNE with two seeds");
  assert.deepEqual(
    report.diverged.map(({ arm, seed }) => `${arm} ${seed}`),
    ["wild 1", "wild, pruned 1", "wild, then calm 1", "wild 2", "wild, pruned 2", "wild, then calm 2"],
  );
  for (const { reason } of report.diverged) assert.match(reason, /^(loss|gradient norm) \S+ at step \d+$/);
  assert.equal(announced.filter((line) => /^wild.* diverged .* and is left out$/.test(line)).length, 6);
  const markdown = readFileSync(join(reportPath, "..", "report.md"), "utf8");
  assert.match(markdown, /Diverged: wild, seed 1 \((loss|gradient norm) /);
  assert.doesNotMatch(markdown, /Not finished|nothing to compare/);
  assert.doesNotMatch(markdown, new RegExp(folder), "no paths of this machine");
  assert.deepEqual(
    experimentStatus(root)[0].runs.map(({ state }) => state),
    [1, 2].flatMap(() => ["finished", "diverged", "diverged", "diverged", "finished"]),
  );

  steps = 0;
  const again = await run(true);
  assert.equal(steps, 0);
  assert.deepEqual(again.report, report);
  assert.deepEqual(
    readdirSync(join(root, "runs")).filter((name) => name.endsWith(".lock")),
    [],
  );
});
