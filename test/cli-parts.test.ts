// Parts of the command line that need no process: the progress line, settings from several sources, and the library
// functions behind `mone bench` and `mone inspect`.

import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { ReferenceBackend } from "../src/backends/reference.ts";
import { benchKernels } from "../src/bench/kernels.ts";
import { inspectModel } from "../src/checkpoint/inspect.ts";
import { saveModel } from "../src/checkpoint/modelFolder.ts";
import { commandLine } from "../src/cli/action.ts";
import { fitLine, ProgressLine } from "../src/cli/progress.ts";
import { mergeInputs, readPairs, readSettingsFile, settingsHelp } from "../src/cli/settingsInput.ts";
import { modelKeys, resolveModelConfig } from "../src/model/config.ts";
import { Transformer } from "../src/model/transformer.ts";
import { byteTokenizer } from "../src/text/tokenizer.ts";
import { settingNames } from "../src/train/config.ts";
import { holds } from "./support/holds.ts";

/** A stream that remembers, and a clock that is set by hand. */
function fakeTerminal(isTTY: boolean, columns = 60) {
  const terminal = {
    isTTY,
    columns,
    text: "",
    now: 0,
    write: (text: string) => {
      terminal.text += text;
    },
  };
  return { terminal, line: new ProgressLine(terminal, () => terminal.now) };
}

/** What a terminal shows in the end: of each line what comes after it was last erased. */
function screen(text: string): string[] {
  return text.split("\n").map((line) => line.split("\x1b[2K").at(-1) as string);
}

test("a terminal gets one line, redrawn at most ten times a second", () => {
  const { terminal, line } = fakeTerminal(true);
  for (let step = 1; step <= 200; step++) {
    terminal.now = step * 10;
    line.show("", [`step ${step}/200`]);
  }
  const redraws = terminal.text.split("\r").length - 1;
  assert.ok(redraws >= 15 && redraws <= 21, `${redraws} redraws in 2 seconds`);
  line.end();
  assert.deepEqual(screen(terminal.text), ["step 200/200", ""]);
});

test("a note does not disturb the line", () => {
  const { terminal, line } = fakeTerminal(true);
  line.show("", ["step 1"]);
  line.note("something to know");
  line.end();
  assert.deepEqual(screen(terminal.text), ["something to know", "step 1", ""]);
});

test("a pipe gets a plain line every few seconds, the first and the last at once", () => {
  const { terminal, line } = fakeTerminal(false);
  for (let step = 1; step <= 200; step++) {
    terminal.now = step * 100;
    line.show("", [`step ${step}`]);
  }
  line.end();
  assert.deepEqual(terminal.text.split("\n"), ["step 1", "step 51", "step 101", "step 151", "step 200", ""]);
});

test("a narrow terminal loses the least important details", () => {
  const details = ["step 120/300", "loss 2.310", "8.10 k tok/s", "ETA 1 min 05 s"];
  assert.equal(fitLine("", details, 80), "step 120/300, loss 2.310, 8.10 k tok/s, ETA 1 min 05 s");
  assert.equal(fitLine("", details, 40), "step 120/300, loss 2.310, 8.10 k tok/s");
  assert.equal(fitLine("MoE (1 of 3)", details, 30), "MoE (1 of 3): step 120/300");
  assert.equal(fitLine("MoE (1 of 3)", details, 10), "MoE (1 of ");
});

test("pairs are YAML values at the end of a path", () => {
  assert.deepEqual(
    readPairs(["learningRate=3e-4", "data=null", "model.num_experts=8", "model.qk_norm=false"]),
    {
      learningRate: 3e-4,
      data: null,
      model: { num_experts: 8, qk_norm: false },
    },
  );
  assert.throws(() => readPairs(["model=3"]), /model must be a mapping/);
  assert.throws(() => readPairs(["steps.few=3"]), /steps must be an integer/);
});

test("later inputs win, key by key, and half a neuron loss is completed", () => {
  const file = { steps: 10, batch: 4, model: { num_experts: 8, hidden_act: "gelu" as const } };
  const merged = mergeInputs(file, readPairs(["steps=20", "model.neuron_aux_loss.normalise=none"]), {
    batch: 8,
  });
  assert.deepEqual(merged, {
    steps: 20,
    batch: 8,
    model: { num_experts: 8, hidden_act: "gelu", neuron_aux_loss: { normalise: "none", masked: "all" } },
  });
});

test("a settings file may be YAML, JSON, or what a run has saved", () => {
  const folder = mkdtempSync(join(tmpdir(), "mone-settings-"));
  const read = (content: string) => {
    writeFileSync(join(folder, "settings"), content);
    return readSettingsFile(join(folder, "settings"));
  };
  try {
    assert.deepEqual(read("steps: 3 # few\nmodel:\n  num_experts: 8\n"), {
      steps: 3,
      model: { num_experts: 8 },
    });
    assert.deepEqual(read('{"steps": 3, "versions": {"node": "v20"}}'), { steps: 3 });
    assert.throws(() => read("- 1\n- 2\n"), /has no settings/);
    assert.throws(() => read("steps: [1"), /cannot be read/);
    assert.throws(() => read("model:\n  num_exprts: 8\n"), /settings, model: .*did you mean "num_experts"/);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

test("the help names every setting and every key", () => {
  const help = settingsHelp();
  for (const name of settingNames) assert.match(help, new RegExp(`^  ${name} = `, "m"));
  for (const key of modelKeys) assert.match(help, new RegExp(`\\b${key}=`));
  for (const line of help.split("\n")) assert.ok(line.length <= 150, line);
});

test("a command line is quoted for a shell", () => {
  assert.equal(commandLine(["train", "--out", "runs/a", "it's"]), "mone train --out runs/a 'it'\\''s'");
});

test("kernels are timed on their large samples", async () => {
  const backend = new ReferenceBackend();
  const seen: string[] = [];
  const { timings } = await benchKernels({
    kernels: ["add", "fill"],
    backend,
    secondsEach: 0.001,
    onSample: ({ kernel }) => seen.push(kernel),
  }).finally(() => backend.close());
  assert.deepEqual(
    timings.map(({ kernel }) => kernel),
    seen,
  );
  const add = timings.find(({ kernel }) => kernel === "add")!;
  holds(add.microseconds > 0 && add.gigabytesPerSecond > 0);
  holds(Math.abs(add.bytes / add.microseconds / 1000 / add.gigabytesPerSecond - 1) < 1e-9);
  assert.equal(backend.bytesInUse, 0);
});

test("inspecting names groups, and refuses a file that differs from its configuration", async () => {
  const folder = mkdtempSync(join(tmpdir(), "mone-inspect-"));
  const backend = new ReferenceBackend();
  const config = resolveModelConfig({
    hidden_size: 16,
    num_hidden_layers: 2,
    num_attention_heads: 2,
    num_experts: 2,
    num_experts_per_tok: 1,
    moe_intermediate_size: 8,
    shared_expert_intermediate_size: 4,
    intermediate_size: 8,
    mlp_only_layers: [1],
    tie_word_embeddings: false,
  });
  try {
    const model = new Transformer(config, backend);
    model.initialise(1);
    await saveModel(folder, model, byteTokenizer());
    const { tensors, parameters, dtypes } = inspectModel(folder);
    assert.deepEqual(dtypes, ["F32"]);
    assert.deepEqual(
      [...new Set(tensors.map(({ group }) => group))],
      ["embedding", "attention", "router", "experts", "shared expert", "dense layers", "norms", "head"],
    );
    assert.equal(
      tensors.reduce((sum, tensor) => sum + tensor.parameters, 0),
      parameters.total,
    );
    writeFileSync(
      join(folder, "config.json"),
      JSON.stringify({ ...config, model_type: "mone", num_experts: 3 }),
    );
    assert.throws(() => inspectModel(folder), /tensor model.layers.0.mlp.gate.weight has shape \[2,16\]/);
  } finally {
    backend.close();
    rmSync(folder, { recursive: true, force: true });
  }
});
