// Runs taken over from reports: what comes out is what computing would have given, nothing is trained for it, and a report
// that does not have enough, is from before records, or is no report is told from one that will do.

import assert from "node:assert/strict";
import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { UsageError } from "../src/errors.ts";
import type { ExperimentReport } from "../src/experiment/report/report.ts";
import { reportInWords } from "../src/experiment/report/tables.ts";
import { readReport } from "../src/experiment/reuse.ts";
import { type ExperimentOptions, experiment } from "../src/experiment/run.ts";
import { experimentStatus } from "../src/experiment/status.ts";
import { holds } from "./support/holds.ts";
import { timeless } from "./support/timeless.ts";
import { tinyExperiment } from "./support/tinyExperiment.ts";
import { writeToyText } from "./support/tinyRun.ts";

const folder = mkdtempSync(join(tmpdir(), "mone-experiment-reuse-"));
after(() => rmSync(folder, { recursive: true, force: true }));
const at = (...path: string[]) => join(folder, ...path);

const tiny = tinyExperiment(writeToyText(at("toy.txt"))) as {
  base: object;
  arms: object[];
};

interface Ran {
  report: ExperimentReport;
  reportPath: string;
  /** report.json. */
  json: string;
  announced: string[];
  /** "arm seed" of what was taken from a report. */
  taken: string[];
  steps: number;
}

async function run(root: string, options: ExperimentOptions = {}, spec: object = tiny): Promise<Ran> {
  const announced: string[] = [];
  const taken: string[] = [];
  let steps = 0;
  const { report, reportPath } = await experiment(spec, {
    threads: 1,
    root: at(root),
    announce: (line) => announced.push(line),
    onRun({ arm, seed, reused, from }) {
      if (from === undefined) return;
      holds(reused);
      taken.push(`${arm} ${seed}`);
    },
    onStep: () => steps++,
    ...options,
  });
  return { report, reportPath, json: join(reportPath, "..", "report.json"), announced, taken, steps };
}

/** Run folders below a root. */
const runsIn = (root: string) => (existsSync(at(root, "runs")) ? readdirSync(at(root, "runs")) : []);
const parsed = (path: string) => JSON.parse(readFileSync(path, "utf8")) as ExperimentReport;

/** As a version before records would have written it: of a run its seed, hash and values. */
function writeOld(name: string, report: ExperimentReport): string {
  const arms = report.arms.map((arm) => ({
    ...arm,
    runs: arm.runs.map(({ seed, hash, values }) => ({ seed, hash, values })),
  }));
  writeFileSync(at(name), JSON.stringify({ ...report, arms }));
  return at(name);
}

let whole: Ran;

test("a report stands in for all its runs: the same report to the last digit, and nothing is trained", async () => {
  whole = await run("whole");
  assert.equal(whole.steps, 2 * (16 + 16 + 8 + 8), "the phases have a first half of their own");
  const json = at("moved.json");
  writeFileSync(json, readFileSync(whole.json));
  const again = await run("again", { reuse: [json] });
  assert.deepEqual(again.report, whole.report);
  assert.equal(readFileSync(again.reportPath, "utf8"), readFileSync(whole.reportPath, "utf8"));
  assert.equal(readFileSync(again.json, "utf8"), readFileSync(whole.json, "utf8"));
  assert.deepEqual(runsIn("again"), []);
  assert.equal(again.taken.length, 8);
  assert.deepEqual(again.announced, []);
  for (const { state, steps, of } of experimentStatus(at("again"))[0].runs)
    assert.deepEqual([state, steps], ["finished", of]);

  rmSync(json);
  const resumed = await run("again", { resume: true });
  assert.deepEqual(resumed.report, whole.report, "it remembers what it took");
  assert.deepEqual(runsIn("again"), []);

  const own = await run("whole", { resume: true, reuse: [at("again", "tiny", "report", "report.json")] });
  assert.deepEqual(own.taken, [], "what is finished here comes first");
  assert.deepEqual(own.report, whole.report);
});

test("the curves of a report are those of its records", () => {
  const [moe] = whole.report.arms;
  assert.deepEqual(
    moe.curves.validation.map(([step]) => step),
    [4, 8, 12, 16],
  );
  const [first, second] = moe.runs.map(({ validation }) => validation!);
  for (const [i, [, mean, low, high]] of moe.curves.validation.entries()) {
    const both = [first[i][1], second[i][1]];
    assert.deepEqual([low, high], [Math.min(...both), Math.max(...both)]);
    holds(Math.abs(mean - (both[0] + both[1]) / 2) < 1e-12);
  }
  holds(Math.abs(first[3][1] / moe.runs[0].values.loss - 1) < 0.1);
  assert.match(readFileSync(whole.json, "utf8"), /\n {12}\[4, \d\.\d+\],\n/, "a point is a line of the file");
});

test("some seeds from a report, the others computed: as if all were computed", async () => {
  const one = await run("one", { seeds: [1] });
  const two = await run("two", { reuse: [one.json] });
  assert.deepEqual(timeless(two.report), timeless(whole.report));
  assert.deepEqual(two.taken, ["MoE 1", "MoNE 1", "continued 1", "pruned 1"]);
  assert.equal(two.steps, whole.steps / 2);
  const first = ({ report }: Ran) => report.arms.map(({ runs }) => runs[0]);
  assert.deepEqual(first(two), first(one), "taken ones with their times");
});

test("backends that round differently are named; numbers of threads make no difference", () => {
  const words = (...backends: string[]) => reportInWords({ ...whole.report, backends }).join(" ");
  assert.doesNotMatch(words("cpu (avx2, 1 thread)", "cpu (avx2, 2 threads)"), /backends/);
  assert.match(words("cpu (avx2, 2 threads)", "cpu (avx512, 2 threads)"), /different backends \(cpu \(avx2/);
});

test("a report without what is measured is not enough, and is named once; one with more gives what is measured", async () => {
  const spec = { ...tiny, arms: tiny.arms.slice(0, 2), measure: ["use", "prune"] };
  const more = await run("more", { reuse: [whole.json] }, spec);
  assert.deepEqual(more.taken, []);
  assert.deepEqual(more.announced, [
    `${whole.json} lacks prune_0, prune_25, prune_50, prune_60 and 5 more: 4 runs that it has are computed.`,
  ]);
  const less = await run("less", { reuse: [whole.json, more.json] }, { ...spec, measure: [] });
  const alone = await run("alone", {}, { ...spec, measure: [] });
  assert.deepEqual(timeless(less.report), timeless(alone.report));
  assert.equal(less.steps, 0);
  const both = await run("both", { reuse: [whole.json, more.json] }, spec);
  assert.deepEqual(both.report, more.report, "the one that has enough is found");
  assert.deepEqual(both.announced, []);
  const other = await run("other", { reuse: [whole.json], tokens: 512, seeds: [1] }, spec);
  assert.match(other.announced.join(), /has none of this experiment's runs: their text, tokenizer, tokens/);
});

test("weights are never taken: the first phase of an arm is trained", async () => {
  const short = await run("short", { tokens: 512, seeds: [1] }, { ...tiny, arms: tiny.arms.slice(0, 1) });
  const [{ hash }] = short.report.arms[0].runs;
  const spec = { ...tiny, arms: tiny.arms.slice(2, 3) };
  const phases = await run("phases", { reuse: [short.json], seeds: [1] }, spec);
  assert.equal(phases.steps, 16);
  assert.deepEqual(phases.taken, []);
  assert.ok(runsIn("phases").includes(hash), "the first phase has the hash of the short run");
});

test("records from before are taken without curves and cost, and the report says so", async () => {
  const one = await run("one", { seeds: [1], resume: true });
  const two = await run("old", { reuse: [writeOld("old.json", one.report)] });
  // To how many neurons a run was pruned such a report does not say.
  assert.deepEqual(two.taken, ["MoE 1", "MoNE 1", "continued 1"]);
  assert.deepEqual(
    two.report.arms.map(({ runs }) => runs.map(({ values }) => values)),
    whole.report.arms.map(({ runs }) => runs.map(({ values }) => values)),
  );
  const [moe] = two.report.arms;
  assert.deepEqual(moe.differences, whole.report.arms[0].differences);
  assert.equal(moe.cost!.runs, 1);
  assert.equal(moe.cost!.seconds, moe.runs[1].cost!.seconds);
  assert.deepEqual(
    moe.curves.validation.map(([, mean]) => mean),
    moe.runs[1].validation!.map(([, loss]) => loss),
  );
  assert.deepEqual(two.report.backends, whole.report.backends);
  const page = readFileSync(two.reportPath, "utf8");
  assert.match(page, /seeds drawn of MoE \(1 of 2\), MoNE \(1 of 2\), continued \(1 of 2\)\./);
  assert.doesNotMatch(page, /NaN|undefined/);

  const spec = { ...tiny, arms: tiny.arms.slice(0, 2) };
  const all = await run("old-all", { reuse: [writeOld("old-all.json", whole.report)] }, spec);
  assert.equal(all.steps, 0);
  assert.equal(all.report.arms[1].cost, undefined);
  assert.doesNotMatch(readFileSync(all.reportPath, "utf8"), /NaN|undefined/);
  const chained = await run("chained", { reuse: [all.json] }, spec);
  assert.deepEqual(chained.report, all.report, "a report that took old records can be reused itself");
});

test("what is no report is said in one sentence, and begins nothing", async () => {
  const report = parsed(whole.json);
  const [arm] = report.arms;
  const withRun = (change: object) => ({
    ...report,
    arms: [{ ...arm, runs: [{ ...arm.runs[0], ...change }] }],
  });
  const cases: [string, RegExp][] = [
    ["{", /is not the report of an experiment \(.*JSON.*\): give a report.json/],
    ["[]", /\(it is no mapping\)/],
    ['{"name": "overhead", "rows": []}', /\(it has no quantities\)/],
    [JSON.stringify({ ...report, arms: [{ name: "a" }] }), /\(arm a has no list of runs\)/],
    [JSON.stringify({ ...report, arms: [] }), /\(it has no finished runs/],
    [JSON.stringify(withRun({ values: { loss: "4" } })), /\(arm MoE, run 1: its values are not numbers\)/],
    [JSON.stringify(withRun({ training: [[1]] })), /run 1: training is no list of steps and losses/],
    [JSON.stringify(withRun({ hash: undefined })), /run 1: it has no hash/],
    [JSON.stringify(withRun({ histogram: { edges: [0, 1], counts: [] } })), /run 1: histogram has no edges/],
  ];
  for (const [content, expected] of cases) {
    writeFileSync(at("bad.json"), content);
    const isUsage = (error: unknown) => {
      holds(error instanceof UsageError);
      assert.match(error.message, expected);
      assert.doesNotMatch(error.message, /\n/);
      return true;
    };
    await assert.rejects(run("bad", { reuse: [whole.json, at("bad.json")] }), isUsage);
  }
  await assert.rejects(run("bad", { reuse: [at("gone.json")] }), /There is no file .*gone\.json/);
  await assert.rejects(run("bad", { reuse: [folder] }), /is not the report of an experiment/);
  holds(!existsSync(at("bad")));
});

test("the reports of docs/results can be reused", () => {
  const results = new URL("../docs/results/", import.meta.url).pathname;
  for (const name of readdirSync(results)) {
    const path = join(results, name, "report.json");
    const report = parsed(path);
    const taken = readReport(path);
    assert.equal(taken.length, report.finished, name);
    holds(taken.every(({ record }) => record.backend !== undefined && record.values.loss > 0));
  }
});

test("a root that is moved while an arm is between its phases goes on where it is", async () => {
  const spec = { ...tiny, base: { ...tiny.base, checkpointEvery: 100 }, arms: tiny.arms.slice(2, 3) };
  let steps = 0;
  const dies = () => {
    if (++steps === 8 + 3) throw new Error("killed"); // in the second phase, before its first checkpoint
  };
  await assert.rejects(run("here", { seeds: [1], onStep: dies }, spec), /killed/);
  renameSync(at("here"), at("there"));
  const { report } = await run("there", { seeds: [1], resume: true }, spec);
  assert.deepEqual(report.arms[0].runs[0].values, whole.report.arms[2].runs[0].values);
});
