// The profiling backend: it computes what the backend inside computes, and counts what was called.

import assert from "node:assert/strict";
import { test } from "node:test";
import { ReferenceBackend } from "../src/backends/reference.ts";
import { phaseOf, profileBackend } from "../src/bench/profile.ts";
import { catalogue, kernelNames } from "../src/kernels/catalogue.ts";
import { tokenDatasetFromMemory } from "../src/text/dataset.ts";
import { byteTokenizer } from "../src/text/tokenizer.ts";
import { resolveTrainConfig } from "../src/train/config.ts";
import { Trainer } from "../src/train/trainer.ts";
import { bestBackend } from "./support/backends.ts";
import { holds } from "./support/holds.ts";
import { tinyRun, toyText } from "./support/tinyRun.ts";

test("a profiled backend counts calls, passes and operations", async () => {
  const { backend, report, reset } = profileBackend(new ReferenceBackend());
  const shape = { m: 2, n: 3, k: 4, accumulate: 0, bf16: 0 };
  const [x, w, y] = [8, 12, 6].map((length) => backend.allocate("f32", length));
  backend.write(x, new Float32Array(8).fill(2));
  backend.write(w, new Float32Array(12).fill(3));
  backend.run(catalogue.linear, { x, w, y }, shape);
  backend.run(catalogue.linear, { x, w, y }, shape);
  backend.run(catalogue.linearGradInput, { dy: y, w, dx: x }, shape);
  backend.run(catalogue.fill, { y }, { n: 6, value: 1 });
  assert.deepEqual(await backend.read(y), new Float32Array(6).fill(1));
  assert.deepEqual(await backend.read(x), new Float32Array(8).fill(3 * 24 * 3));

  const lines = report();
  const counts = lines.map(({ kernel, pass, phase, calls, flops }) => [kernel, pass, phase, calls, flops]);
  assert.deepEqual(counts.sort(), [
    ["fill", "backward", "norms", 1, 0],
    ["linear", "forward", "dense", 2, 96],
    ["linearGradInput", "backward", "dense", 1, 48],
  ]);
  holds(lines.every(({ seconds }) => seconds >= 0));
  reset();
  assert.deepEqual(report(), []);
  backend.close();
});

test("a training step through a profile is the same step, and every pass of it shows", async () => {
  const config = resolveTrainConfig(tinyRun, 256);
  const ids = byteTokenizer().encode(toyText(200));
  const dataset = tokenDatasetFromMemory(ids, ids, { vocabSize: 256 });
  const lossOf = async (backend: ReturnType<typeof bestBackend>) => {
    const trainer = new Trainer(config, dataset, backend);
    trainer.initialise();
    await trainer.advance();
    const { loss } = await trainer.advance();
    trainer.close();
    return loss;
  };
  const plain = bestBackend();
  const expected = await lossOf(plain);
  plain.close();
  const { backend, report } = profileBackend(bestBackend());
  assert.equal(await lossOf(backend), expected);
  backend.close();
  const lines = report();
  for (const pass of ["forward", "backward", "update"]) {
    assert.ok(
      lines.some((line) => line.pass === pass && line.seconds > 0),
      pass,
    );
  }
  for (const phase of new Set(Object.values(phaseOf).filter((p) => p !== "loading" && p !== "probe"))) {
    assert.ok(
      lines.some((line) => line.phase === phase),
      `nothing of ${phase} in a step`,
    );
  }
  for (const { kernel } of lines) assert.ok(kernelNames.includes(kernel), kernel);
});
