// Run folders and atomic writes: what a kill, a full disk, a stale lock or a second process leaves behind.
// Run with an argument, this file is a child process: "save" writes checkpoints until it is killed, "race" tries
// to lock folders at given times.
import assert from "node:assert/strict";
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { writeFile } from "node:fs/promises";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, describe, test } from "node:test";
import {
  publishFolder,
  removeLeftovers,
  temporaryPath,
  thisProcess,
  writeFileAtomic,
} from "../src/checkpoint/atomic.ts";
import { SafetensorsFile, writeSafetensors } from "../src/checkpoint/safetensors.ts";
import { RunError, UsageError } from "../src/errors.ts";
import { RunFolder } from "../src/train/runFolder.ts";
import { holds } from "./support/holds.ts";

// ---- the children

const ITEMS = 20_000;

/** Checkpoint `step`: a tensor of that number, and a second file that is written after it. */
async function fillCheckpoint(folder: string, step: number): Promise<void> {
  const weight = {
    name: "w",
    dtype: "F32",
    shape: [ITEMS],
    data: () => new Float32Array(ITEMS).fill(step),
  } as const;
  await writeSafetensors(join(folder, "model.safetensors"), [weight]);
  await writeFile(join(folder, "state.json"), JSON.stringify({ step }));
}

function assertComplete({ step, path }: { step: number; path: string }): void {
  const file = SafetensorsFile.open(join(path, "model.safetensors"));
  assert.deepEqual(file.readFloat32("w"), new Float32Array(ITEMS).fill(step));
  file.close();
  assert.deepEqual(JSON.parse(readFileSync(join(path, "state.json"), "utf8")), { step });
}

async function saveUntilKilled(path: string): Promise<void> {
  await once(process.stdin, "data");
  const run = RunFolder.open(path);
  run.lock();
  const begin = run.checkpoints().at(-1)?.step ?? 0;
  run.truncateMetrics(begin);
  process.stdout.write("ready\n");
  for (let step = begin + 1; ; step++) {
    run.appendMetrics({ step, loss: 1 / step, text: "\u00e9".repeat(step % 100) });
    await run.saveCheckpoint(step, (folder) => fillCheckpoint(folder, step), { last: 2, best: 1 });
  }
}

/** What a race is about: who creates the run, who gets its free lock, or who gets the lock of a dead process. */
const prizeOf = (round: number) => (["run", "free lock", "dead lock", "dead lock"] as const)[round % 4];

/** At the k-th of the given times, goes for the prize of round k in `folder/k`; prints the rounds that it won. */
function raceForFolders(plan: string): void {
  const { folder, times }: { folder: string; times: number[] } = JSON.parse(plan);
  const got: number[] = [];
  const pause = new Int32Array(new SharedArrayBuffer(4));
  for (const [k, time] of times.entries()) {
    const path = join(folder, String(k));
    const attempt =
      prizeOf(k) === "run" ? () => RunFolder.create(path, {}) : () => RunFolder.open(path).lock();
    if (time - Date.now() > 2) Atomics.wait(pause, 0, 0, time - Date.now() - 2);
    while (Date.now() < time);
    try {
      attempt();
      got.push(k);
    } catch (error) {
      if (!(error instanceof UsageError)) throw error;
    }
  }
  process.stdout.write(`${JSON.stringify(got)}\n`);
  process.stdin.resume(); // keep the locks until the test has read the result
}

const children: ChildProcess[] = [];

function startChild(script: string, ...args: string[]): ChildProcess {
  const child = spawn(process.execPath, [script, ...args], { stdio: ["pipe", "pipe", "inherit"] });
  children.push(child);
  return child;
}

/** This file as JavaScript in `folder`: two dozen children start several times faster without tsx. */
function compileTo(folder: string): string {
  const root = join(import.meta.dirname, "..");
  const options =
    "--ignoreConfig --module nodenext --target es2022 --rewriteRelativeImportExtensions --types node";
  const tsc = [join(root, "node_modules/typescript/bin/tsc"), ...options.split(" "), "--rootDir", root];
  execFileSync(process.execPath, [...tsc, "--outDir", folder, import.meta.filename], { cwd: root });
  writeFileSync(join(folder, "package.json"), '{ "type": "module" }');
  return join(folder, "test", "run-folder.test.js");
}

async function firstLine(child: ChildProcess): Promise<string> {
  for await (const line of createInterface({ input: child.stdout! })) return line;
  throw new Error("the child ended without a line");
}

async function kill(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null) throw new Error(`the child ended by itself with ${child.exitCode}`);
  child.kill("SIGKILL");
  await once(child, "exit");
}

// ---- the tests

function defineTests(): void {
  const folder = mkdtempSync(join(tmpdir(), "run-folder-test-"));
  const script = compileTo(join(folder, "compiled"));
  after(() => {
    for (const child of children) child.kill("SIGKILL"); // if a test failed; else they are gone
    rmSync(folder, { recursive: true });
  });
  let folders = 0;
  const newPath = (): string => join(folder, `test-${folders++}`);
  /** The number of a process that existed, and does not any more. */
  const deadPid = Number(execFileSync(process.execPath, ["-p", "process.pid"]));
  const holder = (fields: object = {}): string =>
    JSON.stringify({ ...thisProcess, host: hostname(), ...fields });
  const keepAll = { last: Number.POSITIVE_INFINITY };
  const errorWithCode = (code: string): Error => Object.assign(new Error(`${code}: write`), { code });

  describe("atomic writes", () => {
    test("a file holds the old content until the new is complete", async () => {
      const path = join(folder, "file");
      await writeFileAtomic(path, "old");
      async function* chunks() {
        yield Buffer.from("new ");
        assert.equal(readFileSync(path, "utf8"), "old");
        yield Buffer.from("content");
      }
      await writeFileAtomic(path, chunks());
      assert.equal(readFileSync(path, "utf8"), "new content");
      async function* broken() {
        yield Buffer.from("half");
        throw new TypeError("broken");
      }
      await assert.rejects(writeFileAtomic(path, broken()), TypeError);
      assert.equal(readFileSync(path, "utf8"), "new content");
      assert.deepEqual(readdirSync(folder).sort(), ["compiled", "file"]);
    });

    test("a folder appears complete, or not at all", async () => {
      const path = join(newPath(), "inside", "published");
      await publishFolder(path, async (temporary) => {
        mkdirSync(join(temporary, "deep"));
        writeFileSync(join(temporary, "deep", "file"), "content");
        assert.equal(existsSync(path), false);
      });
      assert.equal(readFileSync(join(path, "deep", "file"), "utf8"), "content");
      await assert.rejects(
        publishFolder(path, async () => {}),
        { name: "UsageError", message: /exists already/ },
      );
      assert.equal(readFileSync(join(path, "deep", "file"), "utf8"), "content");
    });

    test("a full or forbidden disk is a RunError, other errors pass; nothing stays behind", async () => {
      const parent = newPath();
      const failWith = (error: Error) =>
        publishFolder(join(parent, "x"), async (temporary) => {
          writeFileSync(join(temporary, "file"), "half");
          throw error;
        });
      for (const [code, words] of [
        ["ENOSPC", "no space left on the disk while writing"],
        ["EACCES", "no permission to write"],
        ["EROFS", "read-only"],
      ]) {
        await assert.rejects(failWith(errorWithCode(code)), (error: unknown) => {
          holds(error instanceof RunError);
          assert.ok(
            error.message.includes(words) && error.message.includes(join(parent, "x")),
            error.message,
          );
          return true;
        });
        assert.deepEqual(readdirSync(parent), []);
      }
      const own = new TypeError("mine");
      await assert.rejects(failWith(own), (error) => error === own);
      assert.deepEqual(readdirSync(parent), []);
    });

    test("leftovers of dead processes go, those of living ones stay", () => {
      const path = newPath();
      const host = /\.tmp-([0-9a-f]{8})-/.exec(temporaryPath("x"))![1];
      const dead = [`step-7.tmp-${host}-${deadPid}-0`, `file.tmp-${host}-${deadPid}-123`];
      if (thisProcess.started > 0) dead.push(`step-8.tmp-${host}-${process.pid}-${thisProcess.started + 1}`); // pid reused
      const elsewhere = `y.tmp-0123abcd-${deadPid}-123`; // nobody can tell whether that process runs
      const alive = ["step-1", "notes.tmp-x", `x.tmp-${deadPid}`, elsewhere, temporaryPath("step-9")].sort();
      for (const name of [...dead, ...alive]) mkdirSync(join(path, name, "deep"), { recursive: true });
      removeLeftovers(path);
      assert.deepEqual(readdirSync(path).sort(), alive);
    });
  });

  describe("create and open", () => {
    test("the configuration comes back; an empty folder may be used, a full one not", () => {
      const path = newPath();
      mkdirSync(path);
      const config = { seed: 1, model: { hidden_size: 64 } };
      assert.deepEqual(RunFolder.create(path, config).config, config);
      assert.deepEqual(RunFolder.open(path).config, config);
      assert.throws(() => RunFolder.create(path, {}), { name: "UsageError", message: /--resume.*--out/ });
      assert.deepEqual(RunFolder.open(path).config, config);
      const file = join(path, "config.json");
      assert.throws(() => RunFolder.create(file, {}), { name: "UsageError", message: /exists already/ });
      assert.throws(() => RunFolder.create(join(file, "x"), {}), { name: "RunError", message: /is a file/ });
    });

    test("what is no run folder is refused", () => {
      const path = newPath();
      assert.throws(() => RunFolder.open(path), { name: "UsageError", message: /not a run folder/ });
      mkdirSync(path);
      assert.throws(() => RunFolder.open(path), { name: "UsageError", message: /not a run folder/ });
      writeFileSync(join(path, "config.json"), "{");
      assert.throws(() => RunFolder.open(path), { name: "RunError", message: /config\.json/ });
    });
  });

  describe("metrics", () => {
    test("a torn last line is ignored, and cut off on resume", () => {
      const run = RunFolder.create(newPath(), {});
      assert.deepEqual(run.readMetrics(), []);
      run.truncateMetrics(0);
      const lines = [
        { step: 1, loss: 2.5 },
        { event: "saved" },
        { step: 2, text: "\u00e9\n" },
        { step: 3 },
        { step: 4 },
      ];
      for (const line of lines) run.appendMetrics(line);
      assert.deepEqual(run.readMetrics(), lines);
      const file = join(run.path, "metrics.jsonl");
      for (const torn of ["{", '{"step":5,"text":"\u00c3', '{"step":5}']) {
        appendFileSync(file, torn, "latin1");
        assert.deepEqual(run.readMetrics(), lines);
        run.truncateMetrics(4);
        run.appendMetrics({ step: 5 });
        assert.deepEqual(run.readMetrics(), [...lines, { step: 5 }]);
        run.truncateMetrics(4);
      }
      run.truncateMetrics(2);
      assert.deepEqual(run.readMetrics(), lines.slice(0, 3));
      run.truncateMetrics(0);
      assert.equal(readFileSync(file, "utf8"), "");
    });

    test("a damaged line elsewhere is an error that names it", () => {
      const run = RunFolder.create(newPath(), {});
      for (const line of ['{"step":2,', "17", "[]", "null", ""]) {
        writeFileSync(join(run.path, "metrics.jsonl"), `{"step":1}\n${line}\n{"step":3}\n`);
        assert.throws(() => run.readMetrics(), { name: "RunError", message: /line 2 of .*metrics\.jsonl/ });
        assert.throws(() => run.truncateMetrics(5), { name: "RunError", message: /line 2/ });
      }
    });
  });

  describe("checkpoints", () => {
    test("the last ones and the best are kept", async () => {
      const run = RunFolder.create(newPath(), {});
      assert.deepEqual(run.checkpoints(), []);
      const kept: number[][] = [];
      for (const step of [5, 10, 20, 100, 200]) {
        const path = await run.saveCheckpoint(step, (at) => fillCheckpoint(at, step), { last: 2, best: 10 });
        assert.equal(path, join(run.path, "checkpoints", `step-${step}`));
        kept.push(run.checkpoints().map((checkpoint) => checkpoint.step));
      }
      assert.deepEqual(kept, [[5], [5, 10], [10, 20], [10, 20, 100], [10, 100, 200]]);
      run.checkpoints().forEach(assertComplete);
      assert.equal(readdirSync(join(run.path, "checkpoints")).length, 3);
      await assert.rejects(
        run.saveCheckpoint(100, async () => {}, keepAll),
        UsageError,
      );
      assertComplete(run.checkpoints()[1]);
    });

    test("what a stop or the best adds does not push out those on schedule", async () => {
      const run = RunFolder.create(newPath(), {});
      const kept: number[][] = [];
      let best = 0;
      for (const step of [10, 17, 20, 24, 30, 33]) {
        if (step === 17 || step === 24) best = step;
        const keep = { last: 2, every: 10, best };
        await run.saveCheckpoint(step, (at) => fillCheckpoint(at, step), keep);
        kept.push(run.checkpoints().map((checkpoint) => checkpoint.step));
      }
      const expected = [[10], [10, 17], [10, 17, 20], [20, 24], [20, 24, 30], [24, 30, 33]];
      assert.deepEqual(kept, expected);
    });

    test("a failed save leaves the older ones", async () => {
      const run = RunFolder.create(newPath(), {});
      await run.saveCheckpoint(1, (at) => fillCheckpoint(at, 1), { last: 1 });
      const failing = run.saveCheckpoint(2, () => Promise.reject(errorWithCode("ENOSPC")), { last: 1 });
      await assert.rejects(failing, { name: "RunError", message: /no space left .*step-2.* untouched/ });
      assert.deepEqual(readdirSync(join(run.path, "checkpoints")), ["step-1"]);
      run.checkpoints().forEach(assertComplete);
    });

    test("a disk that really is full", async (t) => {
      const mount = newPath();
      mkdirSync(mount);
      try {
        execFileSync("mount", ["-t", "tmpfs", "-o", "size=200k", "tmpfs", mount], { stdio: "pipe" });
      } catch (error) {
        return t.skip(`cannot mount a small tmpfs: ${error}`);
      }
      try {
        const run = RunFolder.create(join(mount, "run"), {});
        await run.saveCheckpoint(1, (at) => fillCheckpoint(at, 1), keepAll);
        await run.saveCheckpoint(2, (at) => fillCheckpoint(at, 2), keepAll);
        const third = run.saveCheckpoint(3, (at) => fillCheckpoint(at, 3), keepAll);
        await assert.rejects(third, { name: "RunError", message: /no space left/ });
        assert.deepEqual(readdirSync(join(run.path, "checkpoints")), ["step-1", "step-2"]);
        run.checkpoints().forEach(assertComplete);
        const fillDisk = () => {
          for (;;) run.appendMetrics({ step: 1, text: "x".repeat(1000) });
        };
        assert.throws(fillDisk, { name: "RunError", message: /no space left .*metrics\.jsonl/ });
        holds(run.readMetrics().length > 10);
      } finally {
        execFileSync("umount", [mount]);
      }
    });

    test("20 kills in the middle of saving: every checkpoint is complete, metrics are whole", {
      timeout: 60_000,
    }, async () => {
      const run = RunFolder.create(newPath(), {});
      const checkpointsPath = join(run.path, "checkpoints");
      const leftovers = (): string[] =>
        // The first kill may come before there is anything.
        existsSync(checkpointsPath) ? readdirSync(checkpointsPath).filter((name) => /tmp/.test(name)) : [];
      let interrupted = 0;
      let next = startChild(script, "save", run.path);
      for (let round = 0; round < 20; round++) {
        const child = next;
        const ready = firstLine(child);
        child.stdin!.write("go\n");
        next = startChild(script, "save", run.path); // starts up meanwhile, and waits
        await ready;
        await new Promise((resolve) => setTimeout(resolve, 100 * Math.random()));
        await kill(child);
        const checkpoints = run.checkpoints();
        checkpoints.forEach(assertComplete);
        const lastStep = checkpoints.at(-1)?.step ?? 0;
        assert.ok(lastStep < 2 || checkpoints[0].step === 1, "the best checkpoint is gone");
        const metrics = run.readMetrics().map(({ step }) => step);
        assert.deepEqual(
          metrics,
          Array.from({ length: metrics.length }, (_, i) => i + 1),
        );
        holds(metrics.length === lastStep || metrics.length === lastStep + 1);
        if (leftovers().length > 0) interrupted++;
      }
      await kill(next);
      assert.ok(interrupted > 0, "no kill came while a checkpoint was being written");
      const unlock = run.lock();
      assert.deepEqual(leftovers(), []);
      const last = run.checkpoints().at(-1)!.step;
      await run.saveCheckpoint(last + 1, (at) => fillCheckpoint(at, last + 1), { last: 2, best: 1 });
      const steps = run.checkpoints().map(({ step }) => step);
      assert.deepEqual(steps, [1, last, last + 1]); // also those that a kill kept from being deleted are gone
      unlock();
      assert.deepEqual(readdirSync(run.path).sort(), ["checkpoints", "config.json", "metrics.jsonl"]);
    });
  });

  describe("lock", () => {
    const inUse = { name: "UsageError", message: new RegExp(`in use by process ${process.pid}`) };
    const runWithLock = (text: string): RunFolder => {
      const run = RunFolder.create(newPath(), {});
      writeFileSync(join(run.path, "lock"), text);
      return run;
    };

    test("one holder at a time", () => {
      const run = RunFolder.create(newPath(), {});
      const unlock = run.lock();
      assert.throws(() => run.lock(), inUse);
      assert.throws(() => RunFolder.open(run.path).lock(), inUse);
      unlock();
      unlock();
      RunFolder.open(run.path).lock()();
      assert.deepEqual(readdirSync(run.path), ["config.json"]);
    });

    test("only the lock's owner removes it", () => {
      const run = RunFolder.create(newPath(), {});
      const unlock = run.lock();
      const other = holder({ started: thisProcess.started + 1 });
      writeFileSync(join(run.path, "lock"), other);
      unlock();
      assert.equal(readFileSync(join(run.path, "lock"), "utf8"), other);
    });

    test("a dead process's lock is taken over, also if its number was given out again", () => {
      const dead = [holder({ pid: deadPid })];
      if (thisProcess.started > 0) dead.push(holder({ started: thisProcess.started - 1 }));
      for (const text of dead) {
        const run = runWithLock(text);
        const unlock = run.lock();
        assert.equal(readFileSync(join(run.path, "lock"), "utf8"), holder());
        assert.deepEqual(readdirSync(run.path), ["config.json", "lock"]);
        unlock();
      }
    });

    test("what cannot be judged is refused, with the file to delete", () => {
      const otherHost = runWithLock(holder({ pid: deadPid, host: "elsewhere" }));
      assert.throws(() => otherHost.lock(), {
        name: "UsageError",
        message: /process \d+ on elsewhere.*delete .*lock/,
      });
      for (const text of [
        "",
        "{",
        "null",
        holder({ pid: -1 }),
        holder({ pid: "1" }),
        holder({ host: null }),
      ]) {
        assert.throws(
          () => runWithLock(text).lock(),
          { name: "UsageError", message: /not a lock.*delete/ },
          text,
        );
      }
      const run = runWithLock(holder({ pid: deadPid }));
      writeFileSync(join(run.path, "lock.takeover"), holder());
      assert.throws(() => run.lock(), inUse);
      writeFileSync(join(run.path, "lock.takeover"), holder({ pid: deadPid }));
      assert.throws(() => run.lock(), { name: "UsageError", message: /takeover .*delete it/ });
      assert.equal(readdirSync(run.path).length, 3);
    });

    test("of processes that race, exactly one creates the run, or gets its lock, free or left by a dead one", {
      timeout: 60_000,
    }, async () => {
      const rounds = 120;
      const racers = 3;
      const parent = newPath();
      for (let round = 0; round < rounds; round++) {
        const path = join(parent, String(round));
        if (prizeOf(round) !== "run") RunFolder.create(path, {});
        if (prizeOf(round) === "dead lock") writeFileSync(join(path, "lock"), holder({ pid: deadPid }));
      }
      const begin = Date.now() + 1500; // all are up by then
      const times = Array.from({ length: rounds }, (_, round) => begin + 12 * round);
      const plan = JSON.stringify({ folder: parent, times });
      const contenders = Array.from({ length: racers }, () => startChild(script, "race", plan));
      const got = await Promise.all(
        contenders.map(async (child) => JSON.parse(await firstLine(child)) as number[]),
      );
      await Promise.all(contenders.map(kill));
      assert.deepEqual(
        got.flat().sort((a, b) => a - b),
        Array.from({ length: rounds }, (_, round) => round),
      );
    });
  });
}

const [role, argument] = process.argv.slice(2);
if (role === "save") await saveUntilKilled(argument);
else if (role === "race") raceForFolders(argument);
else defineTests();
