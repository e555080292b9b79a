// The benchmarks: formulas against values computed by hand, every command once in its quick size, pages that are whole.
// Nothing here looks at how fast anything was.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";
import { decodeBytes, trainingFlops, trainingMultiplications } from "../src/bench/cost.ts";
import { benchConfig, keptOf } from "../src/bench/decode.ts";
import { LimitProbe, median, quantile } from "../src/bench/machine.ts";
import { UsageError } from "../src/errors.ts";
import { resolveModelConfig } from "../src/model/config.ts";
import { bestBackend } from "./support/backends.ts";

const folder = mkdtempSync(join(tmpdir(), "mone-bench-"));
after(() => rmSync(folder, { recursive: true, force: true }));

const CONFIG = resolveModelConfig({
  vocab_size: 10,
  hidden_size: 8,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  num_key_value_heads: 1,
  num_experts: 4,
  num_experts_per_tok: 2,
  moe_intermediate_size: 6,
  num_neurons_per_tok: 2,
});

test("multiplications of a training step", () => {
  // H C = 8, G C = 4: projections 8 (16 + 8) a layer, router 8 x 4; experts 3 x 2 x 6 x 8; attention 8 x (5 + 1).
  assert.deepEqual(trainingMultiplications(CONFIG, 5), {
    dense: 2 * (8 * 24 + 32),
    attention: 2 * 48,
    experts: 2 * 288,
    head: 80,
  });
  assert.equal(trainingFlops(CONFIG, 5), 6 * (448 + 96 + 576 + 80));
});

test("bytes of weights that a token reads", () => {
  // A layer: q, k, v 8 x 8 + 2 (4 x 8), o 8 x 8; router 4 x 8 in f32; 2 experts of (6 + 2 x 2) rows of 8. Head 10 x 8.
  const rows = 2 * (8 + 4 + 4 + 8 + 2 * 10) + 10;
  assert.equal(decodeBytes(CONFIG, "bf16"), rows * 8 * 2 + 2 * 4 * 32);
  assert.equal(decodeBytes(CONFIG, "int8"), rows * (8 + 4) + 2 * 4 * 32);
  const dense = resolveModelConfig({ ...CONFIG, num_experts: 0, intermediate_size: 6 });
  assert.equal(decodeBytes(dense, "f32"), 4 * 8 * (2 * (24 + 10) + 10));
});

test("the large size is the one that other engines are measured on", () => {
  const large = benchConfig("large");
  const {
    hidden_size,
    num_hidden_layers,
    num_attention_heads,
    num_experts,
    num_experts_per_tok,
    vocab_size,
  } = large;
  assert.deepEqual(
    [hidden_size, num_hidden_layers, num_attention_heads, num_experts, num_experts_per_tok, vocab_size],
    [1024, 12, 16, 32, 4, 512],
  );
  // 384 MiB of attention and experts in bf16, as counted for those engines; head and router come on top.
  const head = 512 * 1024 * 2 + 12 * 32 * 1024 * 4;
  assert.equal(decodeBytes(large, "bf16") - head, 384 * 2 ** 20);
  assert.equal(decodeBytes({ ...large, num_neurons_per_tok: 256 }, "bf16") - head, 240 * 2 ** 20);
  assert.throws(() => benchConfig("huge"), UsageError);
  assert.equal(keptOf(0.25, 256), 64);
  assert.equal(keptOf(100, 256), 100);
  assert.throws(() => keptOf(300, 256), UsageError);
});

test("medians and quantiles", () => {
  assert.equal(median([3, 1, 2]), 2);
  assert.equal(median([4, 1, 2, 3]), 2);
  assert.ok(Number.isNaN(median([])));
  assert.equal(quantile([5, 1, 4, 2, 3], 0.2), 2);
});

test("limits are positive numbers, and bf16 is not slower where hardware multiplies it", async () => {
  const backend = bestBackend();
  const probe = new LimitProbe(backend, 2 ** 20);
  assert.throws(() => probe.limits, /not measured/);
  await probe.measure();
  for (const value of Object.values(probe.limits)) assert.ok(value > 0 && Number.isFinite(value));
  assert.equal(backend.bytesInUse, 0);
  backend.close();
});

for (const name of ["decode", "train", "layer", "select"]) {
  test(`mone bench ${name} prints one JSON object and writes a page, plots and the same JSON`, () => {
    const main = fileURLToPath(new URL("../dist/cli/main.js", import.meta.url));
    const out = join(folder, name);
    const extra = name === "train" ? ["--profile"] : name === "decode" ? ["--batch", "1,3"] : [];
    const args = [main, "bench", name, "--quick", "--json", "--out", out, ...extra];
    const result = spawnSync(process.execPath, args, { encoding: "utf8" });
    assert.equal(result.status, 0, result.stderr);
    assert.equal(result.stdout.trim().split("\n").length, 1);
    const printed = JSON.parse(result.stdout);
    assert.match(printed.machine.backend, /^(cpu|reference) \(/);
    const written = JSON.parse(readFileSync(join(out, `${name}.json`), "utf8"));
    for (const key of Object.keys(written)) assert.deepEqual(printed[key], written[key], key);
    const page = readFileSync(join(out, `${name}.html`), "utf8");
    assert.match(page, /<\/html>\s*$/);
    assert.doesNotMatch(page, /NaN|undefined/);
    if (name !== "select" && name !== "train") {
      const plot = readFileSync(
        join(out, name === "decode" ? "decode-batch.svg" : "layer-speedup.svg"),
        "utf8",
      );
      assert.match(plot, /^<svg[^>]* xmlns="http:\/\/www.w3.org\/2000\/svg"/);
      assert.doesNotMatch(plot, /NaN/);
    }
  });
}

test("mone bench says what it does not know", () => {
  const main = fileURLToPath(new URL("../dist/cli/main.js", import.meta.url));
  for (const [args, expected] of [
    [["decode", "--size", "huge"], /There is no size "huge"/],
    [["decode", "--batch", "0"], /--batch must be counts/],
    [["train", "--data", "nowhere.txt"], /nowhere.txt cannot be read/],
    [["layer", "--active", "9", "--experts", "2"], /--active 9 is more than --experts 2/],
  ] as const) {
    const result = spawnSync(process.execPath, [main, "bench", ...args], { encoding: "utf8", cwd: folder });
    assert.equal(result.status, 2, result.stderr);
    assert.match(result.stderr, expected);
  }
  assert.ok(!existsSync(join(folder, "runs")));
});
