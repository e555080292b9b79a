// The command `mone` as its users meet it: child processes, on a model so small that the reference backend does.
// Not here: the parts that need no process (cli-parts.test.ts), and whether what is computed is right.

import assert from "node:assert/strict";
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { fileURLToPath } from "node:url";
import { RunFolder } from "../src/train/runFolder.ts";
import { holds } from "./support/holds.ts";

const projectFile = (path: string) => fileURLToPath(new URL(`../${path}`, import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "mone-cli-"));
const at = (name: string) => join(folder, name);

interface Ended {
  code: number | null;
  stdout: string;
  stderr: string;
}

function start(args: readonly string[]): ChildProcess {
  const env = { ...process.env, MONE_LEVEL: "reference", NO_COLOR: "1" };
  return spawn(process.execPath, [projectFile("dist/cli/main.js"), ...args], { cwd: folder, env });
}

async function ended(child: ChildProcess): Promise<Ended> {
  const result: Ended = { code: null, stdout: "", stderr: "" };
  child.stdout?.on("data", (data) => (result.stdout += data));
  child.stderr?.on("data", (data) => (result.stderr += data));
  result.code = await new Promise((resolve) => child.on("close", resolve));
  return result;
}

async function mone(args: readonly string[], input = ""): Promise<Ended> {
  const child = start(args);
  child.stdin?.on("error", () => {}); // it may end without reading
  child.stdin?.end(input);
  return ended(child);
}

/** The settings of every training here; more arguments change them. */
const training = (...args: string[]) => ["train", "--config", "tiny.yaml", ...args];

/** Fails unless the command ended with this status and one sentence that says what is expected. */
async function assertFails(
  args: readonly string[],
  code: number,
  expected: RegExp,
  input = "",
): Promise<void> {
  const { stderr, stdout, ...result } = await mone(args, input);
  const context = `mone ${args.join(" ")}\n${stderr}`;
  assert.equal(result.code, code, context);
  assert.equal(stdout, "", context);
  const errors = stderr.split("\n").filter((line) => line.startsWith("error:"));
  assert.equal(errors.length, 1, context);
  assert.match(errors[0], expected, context);
  assert.doesNotMatch(stderr, /^\s+at /m, `no stack without --verbose: ${context}`);
}

before(async () => {
  const compiled = spawnSync(process.execPath, [projectFile("scripts/compile.mjs")], { encoding: "utf8" });
  assert.equal(compiled.status, 0, compiled.stderr);
  let text = "";
  for (let line = 0; line < 200; line++)
    text += `line ${line}: the cat sat on the mat ${(line * line) % 97} times\n`;
  writeFileSync(at("text.txt"), text);
  writeFileSync(
    at("tiny.yaml"),
    `data: text.txt
preset: mone-tiny
seqLen: 16
batch: 2
steps: 60
validTokens: 64
model:
  hidden_size: 16
  num_hidden_layers: 2
  num_attention_heads: 2
  num_experts: 4
  num_experts_per_tok: 2
  moe_intermediate_size: 8
  num_neurons_per_tok: 2
`,
  );
});

after(() => rmSync(folder, { recursive: true, force: true }));

const commands = [
  ["train"],
  ["compare"],
  ["generate"],
  ["inspect"],
  ["tokenizer"],
  ["tokenizer", "train"],
  ["tokenizer", "encode"],
  ["tokenizer", "decode"],
  ["eval"],
  ["bench"],
  ["bench", "kernels"],
  ["bench", "layer"],
  ["bench", "select"],
  ["bench", "train"],
  ["bench", "decode"],
  ["bench", "memory"],
];

describe("help", { concurrency: 2 }, () => {
  for (const command of [[], ...commands]) {
    it(`of mone ${command.join(" ")} has an example`, async () => {
      const { code, stdout } = await mone([...command, "--help"]);
      assert.equal(code, 0);
      assert.match(stdout, new RegExp(`Example:\n  mone ${command.join(" ")}`));
    });
  }

  it("of train lists every setting and every key of the model", async () => {
    const { stdout } = await mone(["train", "--help"]);
    for (const name of [
      "learningRate = 0.001",
      "keepCheckpoints = 2",
      "num_experts=16",
      "initializer_range",
    ]) {
      assert.ok(stdout.includes(name), name);
    }
  });

  it("is printed where a command is missing, with status 2", async () => {
    const { code, stdout, stderr } = await mone([]);
    assert.equal(code, 2);
    assert.equal(stdout, "");
    assert.match(stderr, /Usage: mone/);
  });
});

describe("wrong usage is one sentence and status 2", { concurrency: 2 }, () => {
  it("unknown command", () => assertFails(["trian"], 2, /unknown command 'trian' \(Did you mean train\?\)/));
  it("unknown option", () => assertFails(["train", "--stpes", "3"], 2, /--stpes.*Did you mean --steps/));
  it("missing argument", () => assertFails(["inspect"], 2, /missing required argument 'model'/));
  it("no number", () =>
    assertFails(["generate", ".", "x", "--seed", "one"], 2, /must be an integer of at least 0/));

  it("of threads that a machine has no use for is refused", () =>
    assertFails(["generate", ".", "x", "--threads", "100000"], 2, /must be at most \d+ on this machine/));

  const cases: [string, string[], RegExp][] = [
    [
      "unknown key",
      ["--set", "learningrat=1"],
      /--set: unknown key "learningrat"; did you mean "learningRate"/,
    ],
    ["unknown model key", ["--set", "model.num_expert=8"], /--set, model: .*did you mean "num_experts"/],
    ["pair without =", ["--set", "steps"], /--set steps: write it as key=value/],
    ["value out of bounds", ["--steps", "0"], /steps must be an integer of at least 1, not 0/],
    ["unknown preset", ["--preset", "mone-tinny"], /did you mean "mone-tiny"/],
    ["K above F", ["--neurons", "9"], /expert width 8, not 9/],
    ["K = 0", ["--neurons", "0"], /neurons must be .* not 0/],
    ["K = 0 by --set", ["--set", "model.num_neurons_per_tok=0"], /num_neurons_per_tok must be .* not 0/],
    ["experts per token", ["--set", "model.num_experts_per_tok=5"], /5 is more than num_experts 4/],
    ["heads", ["--set", "model.num_attention_heads=3"], /does not divide into 3 heads/],
    ["missing data", ["--data", "nowhere.txt"], /no file or folder nowhere.txt/],
    ["missing settings", ["--config", "nowhere.yaml"], /nowhere.yaml cannot be read/],
    ["missing tokenizer", ["--tokenizer", "nowhere.json"], /"nowhere.json" is neither/],
    ["nothing to resume", ["--resume", "--out", "nowhere"], /nowhere is not a run folder/],
  ];
  for (const [name, args, expected] of cases) {
    it(name, () => assertFails(training("--out", "never", ...args), 2, expected));
  }

  const files: [string, string | Buffer, RegExp][] = [
    ["empty.txt", "", /empty.txt is empty/],
    ["binary.txt", Buffer.from([0, 1, 2, 0, 255, 254]), /binary.txt is a binary file/],
    ["short.txt", "too short", /part has \d+ tokens, but one sequence needs 17/],
  ];
  for (const [name, content, expected] of files) {
    it(name, () => {
      writeFileSync(at(name), content);
      return assertFails(training("--out", `never-${name}`, "--data", name), 2, expected);
    });
  }

  it("unknown key in a settings file", async () => {
    writeFileSync(at("wrong.yaml"), "stepz: 3\n");
    await assertFails(
      ["train", "--config", "wrong.yaml"],
      2,
      /wrong.yaml: unknown key "stepz"; did you mean "steps"/,
    );
  });

  it("leaves no run folder behind", () => holds(!existsSync(at("never"))));
});

describe("a trained model", { concurrency: 2 }, () => {
  let trained: Ended;
  before(async () => {
    trained = await mone(training("--out", "run", "--json"));
    assert.equal(trained.code, 0, trained.stderr);
  });

  it("is told of in one JSON object on stdout, in plain lines on stderr", () => {
    assert.equal(trained.stdout.trim().split("\n").length, 1);
    assert.equal(JSON.parse(trained.stdout).steps, 60);
    assert.match(trained.stderr, /^step 1\/60, loss \d\.\d+, .* tok\/s, ETA .*$/m);
    assert.match(trained.stderr, /^step 60\/60, loss .*, took .*$/m);
    assert.match(trained.stderr, /^step 60: validation loss \d\.\d{4}$/m);
    holds(!trained.stderr.includes("\x1b") && !trained.stderr.includes("\r"));
  });

  it("writes what a seed decides, from an argument or from stdin", async () => {
    const args = ["--max-tokens", "12", "--seed", "3"];
    const [argument, piped, json] = await Promise.all([
      mone(["generate", "run", "the cat", ...args]),
      mone(["generate", "run", ...args], "the cat\n"),
      mone(["generate", "run", "-", "--json", "--neurons", "0.25", ...args], "the cat"),
    ]);
    assert.equal(argument.code, 0, argument.stderr);
    holds(argument.stdout.length > 1);
    assert.match(
      argument.stderr,
      /12 tokens in .* tok\/s after a prompt of 7 tokens in .*; ended at --max-tokens; --seed 3/,
    );
    const { promptTokens, reason, seed } = JSON.parse(json.stdout);
    assert.deepEqual([promptTokens, reason, seed], [7, "length", 3]);
    const [long, stopped] = await Promise.all([
      mone(["generate", "run", "the cat", "--json", "--max-tokens", "100000"]),
      mone(["generate", "run", "the cat", "--json", "--stop", "t", "--seed", "3", "--max-tokens", "200"]),
    ]);
    assert.equal(JSON.parse(long.stdout).reason, "positions");
    // The drawn seed is told, so that the text can be had again.
    const { seed: drawn, text } = JSON.parse(long.stdout);
    const again = ["generate", "run", "the cat", "--json", "--max-tokens", "100000", "--seed", String(drawn)];
    assert.equal(JSON.parse((await mone(again)).stdout).text, text);
    assert.equal(JSON.parse(stopped.stdout).reason, "stop");
    const refused = await mone(["generate", "run", "x", "--temperature", "-1"]);
    assert.equal(refused.code, 2);
    assert.doesNotMatch(refused.stderr, /loading weights/);
    assert.equal(piped.stdout, argument.stdout);
    // K = 2 of 8 is what the model was trained with.
    assert.equal(`${JSON.parse(json.stdout).text}\n`, argument.stdout);
  });

  it("is described in a table and in JSON", async () => {
    const [people, programs] = await Promise.all([
      mone(["inspect", "run"]),
      mone(["inspect", "run", "--json"]),
    ]);
    assert.match(people.stdout, /^experts +model.layers.\*.mlp.experts.gate_proj +4 x 8 x 16 +2 /m);
    const { parameters, tensors } = JSON.parse(programs.stdout) as {
      parameters: { total: number };
      tensors: { parameters: number }[];
    };
    assert.equal(
      tensors.reduce((sum, tensor) => sum + tensor.parameters, 0),
      parameters.total,
    );
  });

  it("writes with its weights kept in fewer bits", async () => {
    const args = ["generate", "run", "the cat", "--max-tokens", "8", "--seed", "3", "--json", "--dtype"];
    for (const dtype of ["f32", "bf16", "int8"]) {
      const result = await mone([...args, dtype]);
      assert.equal(result.code, 0, result.stderr);
      assert.equal(JSON.parse(result.stdout).tokens, 8);
    }
    await assertFails([...args.slice(0, -2), "--dtype", "int4"], 2, /int4.*f32, bf16, int8/);
  });

  it("is evaluated on a text and on tasks, with results in files", async () => {
    const rows = [0, 1, 2].map((gold) => ({
      query: "Question: who?",
      choices: ["cat", "mat", "line"],
      gold,
    }));
    writeFileSync(at("arc_easy.jsonl"), rows.map((row) => `${JSON.stringify(row)}\n`).join(""));
    const args = ["eval", "run", "--data", "text.txt", "--tasks", "arc_easy", "--max-length", "16"];
    const people = await mone([...args, "--out", "eval.json", "--log-samples", "--limit", "2"]);
    assert.equal(people.code, 0, people.stderr);
    assert.match(people.stdout, /^text.txt +- +bits_per_byte +\d\.\d{4} /m);
    assert.match(people.stdout, /^arc_easy +0 +acc_norm +[01]\.\d{4} /m);
    const file = JSON.parse(readFileSync(at("eval.json"), "utf8"));
    assert.deepEqual(file["n-samples"].arc_easy, { original: 3, effective: 2 });
    assert.equal(readFileSync(at("eval.samples_arc_easy.jsonl"), "utf8").trim().split("\n").length, 2);
    holds(!existsSync(at("eval.json.requests")));
    await assertFails(["eval", "run", "--tasks", "arc_easi"], 2, /no task arc_easi; did you mean arc_easy\?/);
    await assertFails(["eval", "run"], 2, /--data, or tasks with --tasks/);
    const parts = ["one", "two"].map((UID) => ({ UID, sentence_good: "a cat", sentence_bad: "cat a" }));
    writeFileSync(at("blimp.jsonl"), parts.map((row) => `${JSON.stringify(row)}\n`).join(""));
    const group = await mone(["eval", "run", "--tasks", "blimp"]);
    assert.match(group.stdout, /^blimp +- +acc +[01]\.\d{4} +- +2 tasks$/m);
    await assertFails(["eval", "run", "--tasks", "blimp,blimp_three"], 2, /there are one, two/);
    await assertFails(["eval", "run", "--tasks", "blimp", "--out", "."], 2, /\. is a folder: name a file/);
    await assertFails(["eval", "run", "--data", "no.txt"], 2, /no\.txt/);
    const logged = ["eval", "run", "--data", "text.txt", "--out", "new/eval.json"];
    await assertFails([...logged, "--log-samples"], 2, /questions of tasks: name some/);
    const made = await mone(logged);
    assert.equal(made.code, 0, made.stderr);
    holds(existsSync(at("new/eval.json")));
    await assertFails(["eval", "run", "--tasks", "piqa"], 2, /no file for the task piqa/);
    await assertFails(["eval", "run", "--data", "text.txt", "--resume"], 2, /--resume needs --out/);
  });

  it("that is damaged is one sentence and status 1", async () => {
    const damage: [string, (path: string) => void, RegExp][] = [
      ["truncated", (path) => truncateSync(path, 5000), /model.safetensors/],
      ["no-model", (path) => writeFileSync(path, "not a model at all"), /model.safetensors/],
    ];
    for (const [name, spoil, expected] of damage) {
      cpSync(join(JSON.parse(trained.stdout).checkpoint.replace(/^run/, at("run"))), at(name), {
        recursive: true,
      });
      spoil(join(at(name), "model.safetensors"));
      await Promise.all([
        assertFails(["inspect", name], 1, expected),
        assertFails(["generate", name, "x"], 1, expected),
      ]);
    }
  });

  it("is not overwritten, and not touched while another process has it", async () => {
    await assertFails(training("--out", "run"), 2, /run exists already: add --resume/);
    const unlock = RunFolder.open(at("run")).lock();
    try {
      await assertFails(
        ["train", "--resume", "--out", "run"],
        2,
        new RegExp(`in use by process ${process.pid}`),
      );
    } finally {
      unlock();
    }
  });

  it("with numbers that are none is no model to write or to study with", async () => {
    cpSync(JSON.parse(trained.stdout).checkpoint.replace(/^run/, at("run")), at("nan"), { recursive: true });
    const path = at("nan/model.safetensors");
    const bytes = readFileSync(path);
    const header = Number(bytes.readBigUInt64LE());
    const { "model.norm.weight": norm } = JSON.parse(bytes.toString("utf8", 8, 8 + header));
    bytes.writeFloatLE(Number.NaN, 8 + header + norm.data_offsets[0]);
    writeFileSync(path, bytes);
    const damaged = /weights are damaged \(mone inspect --check-values looks\)/;
    await assertFails(["generate", "nan", "x"], 1, damaged);
    await assertFails(["logits", "nan", "--ids", "1"], 1, damaged);
    await assertFails(["eval", "nan", "--data", "text.txt"], 1, damaged);
    await assertFails(["study", "nan", "--data", "text.txt", "--tokens", "200"], 1, damaged);
  });

  it("of more layers than its configuration says so", async () => {
    cpSync(JSON.parse(trained.stdout).checkpoint.replace(/^run/, at("run")), at("deep"), { recursive: true });
    const config = JSON.parse(readFileSync(at("deep/config.json"), "utf8"));
    writeFileSync(at("deep/config.json"), JSON.stringify({ ...config, num_hidden_layers: 1 }));
    const { code, stderr } = await mone(["generate", "deep", "x", "--max-tokens", "1"]);
    assert.equal(code, 0, stderr);
    assert.match(stderr, /^deep has weights of 2 layers, of which its config.json names 1: the others/m);
  });

  it("is not where a study may write, and has a tokenizer of its own", async () => {
    const study = ["study", "run", "--data", "text.txt", "--tokens", "200", "--out"];
    await assertFails([...study, "run"], 2, /run is not empty, and no study was begun there/);
    const encoded = await mone(["tokenizer", "encode", "--tokenizer", "run", "ab", "--json"]);
    assert.deepEqual(JSON.parse(encoded.stdout).ids, [97, 98]);
  });

  it("is saved where its terminal is closed", async () => {
    const child = start(training("--out", "hung-up"));
    child.stderr?.on("data", (data) => {
      if (!child.killed && String(data).includes("step 1/")) child.kill("SIGHUP");
    });
    const stopped = await ended(child);
    assert.equal(stopped.code, 130, stopped.stderr);
    assert.match(stopped.stderr, /^Stopped at step \d+\. To go on: /m);
  });

  it("cannot be resumed with other settings", () =>
    assertFails(["train", "--resume", "--out", "run", "--steps", "61"], 2, /started with steps = 60/));

  it("with a vocabulary that is too large for the text says so and goes on", async () => {
    const { code, stderr } = await mone(training("--out", "bpe", "--tokenizer", "bpe:5000", "--steps", "1"));
    assert.equal(code, 0, stderr);
    assert.match(stderr, /vocabulary of \d+ only, not 5000/);
  });

  it("that was interrupted is saved, and goes on to the same loss", async () => {
    const child = start(training("--out", "stopped"));
    child.stderr?.on("data", (data) => {
      // Twice at once, as npm and the terminal do: still one wish.
      if (!child.killed && String(data).includes("step 1/")) for (let i = 0; i < 2; i++) child.kill("SIGINT");
    });
    const stopped = await ended(child);
    assert.equal(stopped.code, 130, stopped.stderr);
    const step = Number(
      stopped.stderr.match(/^Stopped at step (\d+). To go on: mone train --resume --out stopped$/m)?.[1],
    );
    assert.ok(step >= 1 && step < 60, stopped.stderr);
    holds(existsSync(at(`stopped/checkpoints/step-${step}`)));
    const resumed = await mone(["train", "--resume", "--out", "stopped", "--json"]);
    assert.equal(resumed.code, 0, resumed.stderr);
    assert.deepEqual(JSON.parse(resumed.stdout).validation, JSON.parse(trained.stdout).validation);
    const lines = (run: string) =>
      readFileSync(at(`${run}/metrics.jsonl`), "utf8")
        .trim()
        .split("\n");
    assert.equal(lines("stopped").length, lines("run").length);
  });
});

describe("other commands", { concurrency: 2 }, () => {
  it("tokenizer: train, encode and decode come back to the text", async () => {
    const made = await mone([
      "tokenizer",
      "train",
      "--data",
      "text.txt",
      "--vocab-size",
      "300",
      "--out",
      "new/tok.json",
    ]);
    assert.match(made.stdout, /^new\/tok.json: 300 tokens$/m);
    const { stdout } = await mone(
      ["tokenizer", "encode", "--tokenizer", "new/tok.json", "--json"],
      "the cat\n",
    );
    const ids = JSON.parse(stdout).ids.map(String);
    holds(ids.length < 8);
    const decoded = await mone(["tokenizer", "decode", "--tokenizer", "new/tok.json", "--json", ...ids]);
    assert.deepEqual(JSON.parse(decoded.stdout), { text: "the cat\n" });
  });

  it("bench: a table of the kernel that was asked for", async () => {
    const { code, stdout } = await mone(["bench", "kernels", "--kernel", "add"]);
    assert.equal(code, 0);
    assert.match(stdout, /^add +\S.* +\d+\.\d +- +\d+\.\d+ +- +\d+\.\d %$/m);
    await assertFails(["bench", "kernels", "--kernel", "ad"], 2, /no kernel "ad"; did you mean "add"/);
  });

  for (const name of ["kernels", "layer", "select", "train", "decode", "memory"]) {
    it(`bench ${name}: a smoke test as one JSON object, and as files`, async () => {
      const args = ["bench", name, "--quick", "--threads", "1", "--json", "--out", `bench-${name}`];
      const { code, stdout, stderr } = await mone(args);
      assert.equal(code, 0, stderr);
      assert.equal(stdout.trim().split("\n").length, 1);
      const result = JSON.parse(stdout);
      assert.equal(result.bench, name);
      assert.equal(result.command, `mone ${args.join(" ")}`);
      assert.ok(result.machine.cpu && result.versions.node && result.level === "reference", stdout);
      assert.match(stderr, /its figures mean nothing/);
      assert.deepEqual(JSON.parse(readFileSync(at(`bench-${name}/${name}.json`), "utf8")), result);
      assert.match(readFileSync(at(`bench-${name}/index.html`), "utf8"), /^<!doctype html>/);
    });
  }

  it("bench: what is wrong is said before anything is measured", async () => {
    await Promise.all([
      assertFails(["bench", "train", "--size", "smal"], 2, /no size "smal"; did you mean "small"/),
      assertFails(["bench", "train", "--neurons", "0"], 2, /neurons must be .* not 0/),
      assertFails(["bench", "train", "--data", "nowhere.txt"], 2, /no file or folder nowhere.txt/),
      assertFails(["bench", "decode", "--dtype", "f16"], 2, /--dtype/),
      assertFails(["bench", "decode", "--neurons", "5000"], 2, /neurons must be .* not 5000/),
      assertFails(["bench", "layer", "--experts", "2"], 2, /2 experts are fewer than the 4/),
    ]);
  });

  it("compare: to resume, the folder must be named", () =>
    assertFails(["compare", "--resume"], 2, /--resume needs --out/));

  it("a reader that goes away ends the program quietly", async () => {
    const child = start(["train", "--help"]);
    child.stdout?.destroy();
    const { code, stderr } = await ended(child);
    assert.deepEqual({ code, stderr }, { code: 0, stderr: "" });
  });

  it("--verbose shows where an error comes from", async () => {
    const { stderr } = await mone(["inspect", "nowhere", "--verbose"]);
    assert.match(stderr, /^\s+at .*loadModel/m);
  });
});

describe("a random checkpoint", () => {
  const size = ["hidden_size=16", "num_hidden_layers=1", "num_experts=4", "moe_intermediate_size=8"];

  it("is written, described and run", async () => {
    const init = await mone(["init", "random", "--preset", "moe-tiny", "--json", "--set", ...size]);
    assert.equal(init.code, 0, init.stderr);
    const { parameters } = JSON.parse(init.stdout) as { parameters: number };
    const [inspected, generated] = await Promise.all([
      mone(["inspect", "random", "--json"]),
      mone(["generate", "random", "ab", "--max-tokens", "3", "--json"]),
    ]);
    assert.equal(JSON.parse(inspected.stdout).parameters.total, parameters);
    assert.deepEqual(JSON.parse(inspected.stdout).dtypes, ["BF16"]);
    assert.equal(JSON.parse(generated.stdout).tokens, 3);
  });

  it("becomes bytes, and GGUF and a folder again", async () => {
    const converted = await Promise.all([
      mone(["convert", "random", "bytes", "--dtype", "int8"]),
      mone(["convert", "random", "random.gguf", "--dtype", "f32"]),
    ]);
    for (const { code, stderr } of converted) assert.equal(code, 0, stderr);
    const [logits, asked, inspected, back] = await Promise.all([
      mone(["logits", "bytes", "--ids", "1,2", "--json"]),
      mone(["logits", "random", "--ids", "1,2", "--json", "--dtype", "int8"]),
      mone(["inspect", "random.gguf", "--json"]),
      mone(["convert", "random.gguf", "back", "--json"]),
    ]);
    assert.deepEqual(JSON.parse(logits.stdout), JSON.parse(asked.stdout));
    assert.equal(JSON.parse(inspected.stdout).keys["general.architecture"], "qwen3moe");
    assert.equal(JSON.parse(back.stdout).tokenizer, true);
    await assertFails(["logits", "bytes", "--ids", "1", "--dtype", "f32"], 2, /holds int8 weights/);
    await assertFails(["convert", "bytes", "x", "--prune-neurons", "10%"], 2, /cannot be pruned/);
    const like = [...size.map((pair) => `model.${pair}`), "seqLen=16", "startFrom=bytes"];
    const train = [
      "train",
      "--preset",
      "moe-tiny",
      "--data",
      "text.txt",
      "--out",
      "from-bytes",
      "--set",
      ...like,
    ];
    await assertFails(train, 2, /bytes holds int8 weights, which cannot be trained on/);
    await assertFails(["generate", "random.gguf", "a"], 2, /make a model folder of it with mone convert/);
    await assertFails(["convert", "random.gguf", "x", "--neurons", "25%"], 2, /a model folder first/);
    await assertFails(["convert", "nowhere.gguf", "x"], 1, /there is no such file/);
    await assertFails(
      ["convert", "random", "random.gguf"],
      2,
      /random.gguf is there already: name a new file/,
    );
    await assertFails(["convert", "random", "x", "--threads", "1"], 2, /--threads is for --prune-neurons/);
  });

  it("does not go where something is, nor with impossible sizes", async () => {
    await assertFails(["init", "."], 2, /not empty/);
    await assertFails(["init", "nowhere", "--set", "vocab_size=100"], 2, /vocab_size must be at least 256/);
    await assertFails(["init", "nowhere", "--preset", "moe-tini"], 2, /did you mean "moe-tiny"/);
    await assertFails(["init", "nowhere", "--set", "num_expert=3"], 2, /did you mean "num_experts"/);
    holds(!existsSync(at("nowhere")));
  });
});

describe("standard streams", () => {
  it("that are not text, or cannot be written, are one sentence", async () => {
    const child = start(["tokenizer", "encode", "--tokenizer", "byte"]);
    child.stdin?.end(Buffer.of(0xff, 0xfe));
    const { code, stderr } = await ended(child);
    assert.equal(code, 2, stderr);
    assert.match(stderr, /^error: standard input is not text in UTF-8/);
    if (!existsSync("/dev/full")) return;
    const full = spawnSync(
      "sh",
      ["-c", `"$0" "$1" --help > /dev/full`, process.execPath, projectFile("dist/cli/main.js")],
      {
        encoding: "utf8",
      },
    );
    assert.equal(full.status, 1);
    assert.match(full.stderr, /^.*error:.* standard output cannot be written: ENOSPC$/m);
    assert.doesNotMatch(full.stderr, /^\s+at /m);
  });
});
