// Several that work on one experiment: each run is trained once, by whoever has its lock; what a dead one leaves is taken
// up; the report is that of one that worked alone.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as wait } from "node:timers/promises";
import { identityOf, isRunning } from "../src/checkpoint/atomic.ts";
import type { ExperimentReport } from "../src/experiment/report/report.ts";
import { type ExperimentOptions, experiment } from "../src/experiment/run.ts";
import { holds } from "./support/holds.ts";
import { timeless } from "./support/timeless.ts";
import { tinyExperiment } from "./support/tinyExperiment.ts";
import { writeToyText } from "./support/tinyRun.ts";

const folder = mkdtempSync(join(tmpdir(), "mone-experiment-processes-"));
after(() => rmSync(folder, { recursive: true, force: true }));
const at = (...path: string[]) => join(folder, ...path);
const main = new URL("../src/cli/main.ts", import.meta.url).pathname;

const spec = tinyExperiment(writeToyText(at("toy.txt")));
const file = at("tiny.json");
writeFileSync(file, JSON.stringify(spec));

interface Worked {
  report: ExperimentReport;
  /** "arm seed" of each run that it began to work on. */
  begun: string[];
  announced: string[];
  /** Steps of later runs, as each run was told. */
  ahead: number[];
}

async function work(root: string, options: ExperimentOptions = {}): Promise<Worked> {
  const begun: string[] = [];
  const announced: string[] = [];
  const ahead: number[] = [];
  const { report } = await experiment(file, {
    threads: 1,
    root: at(root),
    announce: (line) => announced.push(line),
    onRun({ arm, seed, reused, ...event }) {
      ahead.push(event.ahead);
      if (!reused) begun.push(`${arm} ${seed}`);
    },
    ...options,
  });
  return { report, begun, announced, ahead };
}

/** Locks and half written files below a root. */
const leftIn = (root: string) =>
  readdirSync(at(root), { recursive: true, encoding: "utf8" }).filter((path) => /\.tmp-|lock$/.test(path));

/** Processes that work on runs of a root. */
function workers(root: string): Set<number> {
  const runs = at(root, "runs");
  if (!existsSync(runs)) return new Set();
  const locks = readdirSync(runs).filter((name) => name.endsWith(".lock"));
  return new Set(
    locks.flatMap((name) => {
      try {
        return [JSON.parse(readFileSync(join(runs, name), "utf8")).pid as number];
      } catch {
        return []; // given free since
      }
    }),
  );
}

let whole: Worked;
before(async () => {
  whole = await work("whole");
});

test("each run is told how many steps come after it; what runs share counts once", async () => {
  // 16 of MoE, MoNE and continued; the pruned one is the MoE.
  assert.deepEqual(whole.ahead, [80, 64, 48, 48, 32, 16, 0, 0]);
  const { ahead } = await work("whole", { resume: true, seeds: [1, 2, 3] });
  assert.deepEqual(ahead, [...new Array(8).fill(48), 32, 16, 0, 0]);
});

test("an arm that is another's run, pruned, leaves that one's noise its own", () => {
  const { spreads, arms, pairs } = whole.report;
  assert.equal(spreads.loss.arms, 3, "MoE, MoNE, continued");
  const alone = (name: string) => arms.find((arm) => arm.name === name)?.differences.loss.alone !== undefined;
  assert.equal(alone("MoNE"), spreads.loss.used);
  assert.equal(alone("pruned"), false);
  assert.deepEqual(
    pairs.map(({ arm, against }) => `${arm} - ${against}`),
    [
      "MoNE - MoE",
      "continued - MoE",
      "continued - MoNE",
      "pruned - MoE",
      "pruned - MoNE",
      "pruned - continued",
    ],
  );
  const own = arms.find(({ name }) => name === "MoNE")?.differences.loss;
  assert.deepEqual({ ...pairs[0], holm: 0, arm: "" }, { ...own, holm: 0, arm: "" });
  holds(pairs.every(({ p = 1, holm = 0 }) => holm >= p));
});

test("two share the runs: each is trained by one of them, and both end with the report of one", async () => {
  let second: Promise<Worked> | undefined;
  const first = await work("shared", {
    onPlanned: () => {
      second = work("shared", { resume: true });
    },
  });
  const { report, begun } = await (second as Promise<Worked>);
  assert.ok(first.begun.length > 1 && begun.length > 1, `${first.begun} | ${begun}`);
  // A pruned arm is its MoE's run, measured: begun by both where one trains and the other measures.
  const trained = [...first.begun, ...begun].filter((name) => !name.startsWith("pruned"));
  assert.deepEqual(trained.sort(), whole.begun.filter((name) => !name.startsWith("pruned")).sort());
  for (const one of [report, first.report]) assert.deepEqual(timeless(one), timeless(whole.report));
  const written = readFileSync(at("shared", "tiny", "report", "report.json"), "utf8");
  assert.deepEqual(timeless(JSON.parse(written)), timeless(whole.report));
  assert.deepEqual(leftIn("shared"), []);
});

test("a run that a living process has comes last, and is taken up when that process is gone", async () => {
  const [moe] = whole.report.arms;
  const other = spawn("sleep", ["60"]);
  const holder = { ...identityOf(other.pid as number), host: hostname() };
  mkdirSync(at("held", "runs"), { recursive: true });
  writeFileSync(at("held", "runs", `${moe.runs[0].hash}.lock`), JSON.stringify(holder));
  const { report, begun } = await work("held", {
    announce(line) {
      if (!line.includes("waiting")) return;
      assert.equal(line, `waiting for process ${other.pid}, which works on MoE, seed 1`);
      other.kill();
    },
  });
  assert.ok(other.killed, "it waited");
  assert.equal(begun.at(-1), "MoE 1", `${begun}`);
  assert.deepEqual(timeless(report), timeless(whole.report));
  assert.deepEqual(leftIn("held"), []);

  // It might have died after training, or after its last measure: nobody has a reason to take these locks, and yet they go.
  for (const lock of [`${moe.runs[0].hash}.lock`, join(moe.runs[0].hash, "lock")]) {
    writeFileSync(at("held", "runs", lock), JSON.stringify(holder));
  }
  assert.deepEqual((await work("held", { resume: true })).begun, []);
  assert.deepEqual(leftIn("held"), []);
});

test("who was overtaken by a process with other options leaves the report to it", async () => {
  const config = at("overtaken", "tiny", "config.json");
  const { report, announced } = await work("overtaken", {
    seeds: [1],
    onPlanned: () => writeFileSync(config, readFileSync(config, "utf8").replace("1024", "2048")),
  });
  assert.equal(report.finished, 4);
  assert.match(announced.join("\n"), /goes on with other options elsewhere/);
  assert.equal(existsSync(at("overtaken", "tiny", "report")), false);
});

function start(root: string, ...args: string[]) {
  const command = [
    "--import",
    "tsx",
    main,
    "experiment",
    file,
    "--root",
    at(root),
    "--threads",
    "1",
    ...args,
  ];
  const child = spawn(process.execPath, command, { stdio: ["ignore", "ignore", "pipe"] });
  let text = "";
  child.stderr.on("data", (data) => (text += data));
  return { child, exited: new Promise((resolve) => child.on("close", resolve)), text: () => text };
}

test("--processes starts them; killed, it takes them along, and --resume goes on from there", {
  timeout: 120_000,
}, async () => {
  const tokens = ["--tokens", "8192"];
  const calm = start("calm", ...tokens);
  assert.equal(await calm.exited, 0, calm.text());

  const killed = start("killed", ...tokens, "--processes", "2");
  let ended = false;
  void killed.exited.then(() => {
    ended = true;
  });
  let pids: number[] = [];
  while (pids.length < 2) {
    assert.ok(!ended, `two were never at work at once: ${killed.text()}`);
    await wait(5);
    pids = [...workers("killed")];
  }
  killed.child.kill("SIGKILL");
  const companion = pids.find((pid) => pid !== killed.child.pid) as number;
  for (let i = 0; isAlive(companion); i++) {
    assert.ok(i < 1000, "the other process goes on alone");
    await wait(20);
  }
  assert.match(readFileSync(at("killed", "tiny", "process-2.log"), "utf8"), /^Stopped /m);

  const again = start("killed", "--resume", "--processes", "2");
  assert.equal(await again.exited, 0, again.text());
  const reportOf = (root: string) =>
    timeless(JSON.parse(readFileSync(at(root, "tiny", "report", "report.json"), "utf8")));
  assert.deepEqual(reportOf("killed"), reportOf("calm"));
  assert.deepEqual(leftIn("killed"), []);
});

/** Whether the process that now has this number runs. */
function isAlive(pid: number): boolean {
  return isRunning(identityOf(pid));
}
