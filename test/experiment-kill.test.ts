// The queue of an experiment against SIGKILL: the command's process dies at random moments, in training, between phases,
// while measuring or writing, and is started again; the report in the end is that of a process that was left alone.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import type { ExperimentReport } from "../src/experiment/report/report.ts";
import { timeless } from "./support/timeless.ts";
import { tinyExperiment } from "./support/tinyExperiment.ts";
import { writeToyText } from "./support/tinyRun.ts";

const folder = mkdtempSync(join(tmpdir(), "mone-experiment-kill-"));
after(() => rmSync(folder, { recursive: true, force: true }));
const main = new URL("../src/cli/main.ts", import.meta.url).pathname;

/** With checkpoints at odd moments. */
const spec = tinyExperiment(writeToyText(join(folder, "toy.txt")), {
  tokens: 2048,
  measure: ["use", "prune"],
}) as {
  base: object;
};
const file = join(folder, "tiny.json");
writeFileSync(file, JSON.stringify({ ...spec, base: { ...spec.base, validEvery: 5, checkpointEvery: 3 } }));

/** Where a root's experiment is. */
const inRoot = (root: string, ...path: string[]) => join(root, "tiny", ...path);

function start(root: string, resume: boolean) {
  const args = ["--import", "tsx", main, "experiment", file, "--root", root, "--threads", "1"];
  const child = spawn(process.execPath, [...args, ...(resume ? ["--resume"] : [])], {
    stdio: ["ignore", "ignore", "pipe"],
  });
  let errors = "";
  child.stderr.on("data", (data) => (errors += data));
  const exited = new Promise<number | null>((resolve) => child.on("close", resolve));
  return { child, exited, errors: () => errors };
}

const wait = (milliseconds: number) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/**
 * Counts files and folders as they appear below a root: how far the work is, whatever the speed of the machine.
 * @returns when `count` of them are new, or the process has ended.
 */
async function newPaths(root: string, count: number, exited: Promise<unknown>): Promise<number> {
  const list = () => (existsSync(root) ? readdirSync(root, { recursive: true, encoding: "utf8" }) : []);
  const seen = new Set(list());
  const before = seen.size;
  let running = true;
  void exited.then(() => (running = false));
  while (running && seen.size - before < count) {
    await wait(3);
    try {
      for (const path of list()) seen.add(path);
    } catch {
      // a folder that was there when its parent was read, and is deleted now
    }
  }
  return seen.size - before;
}

/** Without what depends on the clock. */
function timelessReport(root: string): object {
  return timeless(
    JSON.parse(readFileSync(inRoot(root, "report", "report.json"), "utf8")) as ExperimentReport,
  );
}

test("killed at random moments and resumed, an experiment ends in the report of one that was left alone", {
  timeout: 240_000,
}, async (context) => {
  const whole = join(folder, "whole");
  const calm = start(whole, false);
  const work = await newPaths(whole, Number.POSITIVE_INFINITY, calm.exited);
  assert.equal(await calm.exited, 0, calm.errors());

  const root = join(folder, "killed");
  const seed = Number(process.env.KILL_SEED ?? Date.now() % 100_000);
  context.diagnostic(`KILL_SEED=${seed}; undisturbed, ${work} files and folders appear`);
  let state = seed;
  const random = () => {
    state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff;
    return ((state >> 8) & 0xffff) / 0x10000;
  };
  let kills = 0;
  for (let attempt = 0; ; attempt++) {
    assert.ok(attempt < 40, "it never comes to an end");
    const { child, exited, errors } = start(root, existsSync(inRoot(root, "config.json")));
    // The first ones early, where folders and data are made; after ten it may finish.
    if (attempt < 10) {
      await newPaths(root, 1 + Math.floor(random() * (attempt < 3 ? 8 : work / 5)), exited);
      await Promise.race([wait(random() * 20), exited]);
      child.kill("SIGKILL");
    }
    const code = await exited;
    if (code === 0) break;
    assert.equal(code, null, errors());
    kills++;
  }
  assert.ok(kills >= 5, `only ${kills} kills hit a working process`);
  assert.deepEqual(timelessReport(root), timelessReport(whole));
  const left = readdirSync(root, { recursive: true, encoding: "utf8" }).filter((path) =>
    /\.tmp-|lock$|optimizer/.test(path),
  );
  assert.deepEqual(left, [], "nothing is left lying about");
});
