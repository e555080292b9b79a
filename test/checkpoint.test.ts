// The decoder against transformers (test/fixtures/hf): logits, greedy continuation and neuron-sparse logits of a
// qwen3_moe and a qwen3 checkpoint, with both spellings of the configuration; and our own folders read back.

import assert from "node:assert/strict";
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import type { Backend } from "../src/backends/backend.ts";
import { readModelConfig, saveModel } from "../src/checkpoint/modelFolder.ts";
import { SafetensorsFile } from "../src/checkpoint/safetensors.ts";
import { RunError, UsageError } from "../src/errors.ts";
import { Decoder } from "../src/infer/decoder.ts";
import { attendWithin } from "../src/model/attention.ts";
import { expertWidth, resolveModelConfig } from "../src/model/config.ts";
import { Transformer } from "../src/model/transformer.ts";
import { linear } from "../src/tensor/ops.ts";
import { Tape } from "../src/tensor/tape.ts";
import { byteTokenizer } from "../src/text/tokenizer.ts";
import { allBackends, bestBackend, maxDifference } from "./support/backends.ts";
import { openModel, readInt32 } from "./support/golden.ts";

const folder = mkdtempSync(join(tmpdir(), "mone-checkpoint-"));
after(() => rmSync(folder, { recursive: true, force: true }));
const fixture = (family: string) => new URL(`fixtures/hf/${family}`, import.meta.url).pathname;

/** Logits of all positions of both prompts: [2 * 24, V]. */
async function logitsOf(backend: Backend, model: Transformer, ids: Int32Array): Promise<Float32Array> {
  const tape = new Tape(backend, { recording: false });
  const tokens = tape.constant(Uint32Array.from(ids), [ids.length]);
  const positions = tape.constant(
    Uint32Array.from({ length: ids.length }, (_, t) => t % 24),
    [ids.length],
  );
  const attend = attendWithin(model.config, 2, 24);
  const { hidden } = model.forward(tape, tokens, positions, { attend, bf16: false, balance: false });
  const logits = linear(tape, hidden, model.head, false);
  const values = (await backend.read(logits.buffer, 0, logits.size)) as Float32Array;
  tape.release();
  return values;
}

for (const family of ["qwen3_moe", "qwen3"]) {
  const golden = SafetensorsFile.open(join(fixture(family), "expected.safetensors"));
  const { tolerance } = JSON.parse(readFileSync(join(fixture(family), "expected.json"), "utf8"));
  const limit: number = tolerance.logits_abs;

  for (const { name, open } of allBackends.slice(0, 2)) {
    test(`${family}: logits and neuron-sparse logits on ${name}`, async () => {
      const backend = open();
      const ids = readInt32(golden, "input_ids");
      const width = expertWidth(readModelConfig(fixture(family)));
      for (const ratio of ["1.0", "0.5", "0.25", "0.125"]) {
        const kept = Math.ceil(Number(ratio) * width);
        const model = openModel(fixture(family), backend, { num_neurons_per_tok: kept });
        const error = maxDifference(
          await logitsOf(backend, model, ids),
          golden.readFloat32(`neuron.gate.${ratio}.logits`),
        );
        assert.ok(error <= limit, `ratio ${ratio}: off by ${error}, limit ${limit}`);
        model.close();
      }
      backend.close();
    });
  }

  test(`${family}: greedy continuation over the cache`, async () => {
    const backend = bestBackend();
    const model = openModel(fixture(family), backend);
    const ids = readInt32(golden, "input_ids");
    const wanted = readInt32(golden, "greedy_ids");
    for (const row of [0, 1]) {
      const decoder = new Decoder(model);
      let next = Uint32Array.from(ids.subarray(24 * row, 24 * row + 24));
      const written: number[] = [];
      while (written.length < 16) {
        const position = written.length === 0 ? 0 : 23 + written.length;
        const logits = await decoder.run([{ slot: 0, position, ids: next }]);
        written.push(logits.indexOf(logits.reduce((x, y) => Math.max(x, y))));
        next = Uint32Array.from(written.slice(-1));
      }
      assert.deepEqual(written, [...wanted.subarray(16 * row, 16 * row + 16)]);
      decoder.close();
    }
    model.close();
    backend.close();
  });

  test(`${family}: both spellings of the configuration mean the same`, () => {
    const hub = join(folder, family);
    const copy = (from: string, to: string) => copyFileSync(join(fixture(family), from), to);
    rmSync(hub, { force: true });
    copy("config.hub-style.json", join(folder, "config.json"));
    assert.deepEqual(readModelConfig(folder), readModelConfig(fixture(family)));
  });
}

test("a model folder is read back with the same weights and configuration", async () => {
  const backend = bestBackend();
  const config = resolveModelConfig({
    vocab_size: 256,
    hidden_size: 16,
    num_hidden_layers: 2,
    num_attention_heads: 2,
    num_experts: 4,
    num_experts_per_tok: 2,
    moe_intermediate_size: 8,
    num_neurons_per_tok: 2,
    mlp_only_layers: [1],
    shared_expert_intermediate_size: 4,
    sliding_window: 5,
  });
  const model = new Transformer(config, backend);
  model.initialise(5);
  await saveModel(join(folder, "own"), model, byteTokenizer());
  const again = openModel(join(folder, "own"), backend);
  assert.deepEqual(again.config, config);
  for (const [name, parameter] of model.parameters) {
    const values = await backend.read(parameter.buffer, 0, parameter.size);
    assert.deepEqual(await backend.read(again.parameter(name).buffer, 0, parameter.size), values, name);
  }
  again.close();

  const edit = (changes: object) => {
    const path = join(folder, "own", "config.json");
    const stored = JSON.parse(readFileSync(path, "utf8"));
    writeFileSync(path, JSON.stringify({ ...stored, ...changes }));
    return () => writeFileSync(path, JSON.stringify(stored));
  };
  const cases: [object, new () => Error, RegExp][] = [
    [
      { model_type: "gpt2" },
      UsageError as never,
      /"gpt2" is not supported; supported are olmoe, .*qwen3_moe/,
    ],
    [
      { rope_scaling: { rope_type: "longrope", factor: 4 } },
      UsageError as never,
      /rotary scaling "longrope" is not supported/,
    ],
    [
      { moe_intermediate_size: 16 },
      RunError as never,
      /has shape \[8,16\], but config.json asks for \[16,16\]/,
    ],
    [{ num_experts: 5 }, RunError as never, /has shape|has no tensor/],
  ];
  for (const [changes, kind, message] of cases) {
    const restore = edit(changes);
    assert.throws(
      () => openModel(join(folder, "own"), backend),
      (error: Error) => {
        assert.ok(error instanceof kind, error.message);
        assert.match(error.message, message);
        return true;
      },
    );
    restore();
  }
  backend.close();
});
