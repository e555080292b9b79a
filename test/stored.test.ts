// Inference on stored weights: against transformers' logits (f32 and bf16 storage, mapped or read), forms against each
// other, steps that are captured and repeated against steps that are not, batches against single sequences.

import assert from "node:assert/strict";
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { cpuLevels, openBackend } from "../src/backends/cpu.ts";
import { CheckpointSource } from "../src/checkpoint/checkpointSource.ts";
import { loadModel, openStoredModel } from "../src/checkpoint/loadModel.ts";
import { readModelConfig, saveModel } from "../src/checkpoint/modelFolder.ts";
import { SafetensorsFile, type TensorSource, writeSafetensors } from "../src/checkpoint/safetensors.ts";
import { RunError } from "../src/errors.ts";
import { Decoder } from "../src/infer/decoder.ts";
import { createRandomModel } from "../src/infer/randomModel.ts";
import { createStoredWeights, type WeightSource } from "../src/infer/storedWeights.ts";
import { toBf16 } from "../src/kernels/kernel.ts";
import { expertWidth, resolveModelConfig } from "../src/model/config.ts";
import { Transformer } from "../src/model/transformer.ts";
import { sizeOf } from "../src/tensor/tensor.ts";
import { byteTokenizer } from "../src/text/tokenizer.ts";
import { allBackends, bestBackend, maxDifference } from "./support/backends.ts";
import { openModel, readInt32 } from "./support/golden.ts";
import { holds } from "./support/holds.ts";

const folder = mkdtempSync(join(tmpdir(), "mone-stored-"));
after(() => rmSync(folder, { recursive: true, force: true }));
const fixture = (family: string) => new URL(`fixtures/hf/${family}`, import.meta.url).pathname;

/** Logits of every position of one sequence, by decoding: the prompt in pieces of these lengths. */
async function decodeAll(model: Transformer, ids: Uint32Array, pieces: number[]): Promise<Float32Array[]> {
  const decoder = new Decoder(model, { slots: 1 });
  const logits: Float32Array[] = [];
  let position = 0;
  for (const length of pieces) {
    logits.push(await decoder.run([{ slot: 0, position, ids: ids.subarray(position, position + length) }]));
    position += length;
  }
  decoder.close();
  return logits;
}

const ones = (count: number) => new Array<number>(count).fill(1);

for (const family of ["qwen3_moe", "qwen3"]) {
  const golden = SafetensorsFile.open(join(fixture(family), "expected.safetensors"));
  const { tolerance } = JSON.parse(readFileSync(join(fixture(family), "expected.json"), "utf8"));
  for (const { name, open } of allBackends) {
    test(`${family}: stored f32 weights give transformers' logits, token by token, on ${name}`, async () => {
      const backend = open();
      const ids = Uint32Array.from(readInt32(golden, "input_ids").subarray(0, 24));
      const width = expertWidth(readModelConfig(fixture(family)));
      for (const ratio of ["1.0", "0.25"]) {
        const kept = Math.ceil(Number(ratio) * width);
        const model = openStoredModel(
          fixture(family),
          backend,
          { dtype: "f32" },
          { num_neurons_per_tok: kept },
        );
        const wanted = golden.readFloat32(`neuron.gate.${ratio}.logits`);
        const V = model.config.vocab_size;
        for (const pieces of [ones(24), [9, 15]]) {
          let position = 0;
          for (const [i, logits] of (await decodeAll(model, ids, pieces)).entries()) {
            position += pieces[i];
            const error = maxDifference(logits, wanted.subarray((position - 1) * V, position * V));
            assert.ok(error <= tolerance.logits_abs, `ratio ${ratio}, position ${position}: off by ${error}`);
          }
        }
        model.close();
        assert.equal(backend.bytesInUse, 0, "everything was freed");
      }
      backend.close();
    });
  }
}

/** A copy of a fixture whose tensors are stored as bf16. */
async function bf16Copy(family: string): Promise<string> {
  const to = join(folder, `${family}-bf16`);
  mkdirSync(to, { recursive: true });
  copyFileSync(join(fixture(family), "config.json"), join(to, "config.json"));
  const file = SafetensorsFile.open(join(fixture(family), "model.safetensors"));
  const sources = [...file.tensors.values()].map(
    ({ name, shape }): TensorSource => ({
      name,
      shape,
      dtype: "BF16",
      data: () => Uint16Array.from(file.readFloat32(name), toBf16),
    }),
  );
  await writeSafetensors(join(to, "model.safetensors"), sources);
  file.close();
  return to;
}

test("a checkpoint of bf16 is used in place, and gives what its values give when they are copied", async () => {
  const path = await bf16Copy("qwen3_moe");
  const golden = SafetensorsFile.open(join(fixture("qwen3_moe"), "expected.safetensors"));
  const ids = Uint32Array.from(readInt32(golden, "input_ids").subarray(0, 24));
  for (const { open } of allBackends.slice(0, 2)) {
    const backend = open();
    const results: Float32Array[][] = [];
    const memory: number[] = [];
    for (const largeBytes of [1, 2 ** 30]) {
      const model = openStoredModel(path, backend, { dtype: "bf16", largeBytes }, { num_neurons_per_tok: 5 });
      memory.push(backend.bytesInUse);
      results.push(await decodeAll(model, ids, ones(6)));
      model.close();
    }
    assert.deepEqual(results[0], results[1]);
    if (backend.map) assert.ok(memory[0] < memory[1] / 4, `${memory} bytes for weights in place and copied`);
    // What is stored in f32 is the same numbers, but f32 activations meet them: equal up to bf16's rounding.
    const exact = openModel(path, backend, { num_neurons_per_tok: 5 });
    const [wanted] = await decodeAll(exact, ids, [1]);
    const scale = Math.max(...wanted.map(Math.abs));
    holds(maxDifference(results[0][0], wanted) < 0.05 * scale);
    exact.close();
    backend.close();
  }
});

test("int8 and bf16 are near f32, int8 with its scales", async () => {
  const backend = bestBackend();
  const ids = Uint32Array.from({ length: 8 }, (_, i) => (i * 37) % 300);
  const logits: Record<string, Float32Array> = {};
  for (const dtype of ["f32", "bf16", "int8"] as const) {
    const model = openStoredModel(fixture("qwen3"), backend, { dtype });
    [logits[dtype]] = await decodeAll(model, ids, [8]);
    model.close();
  }
  const scale = Math.sqrt(logits.f32.reduce((sum, x) => sum + x * x, 0) / logits.f32.length);
  for (const dtype of ["bf16", "int8"]) {
    const error = maxDifference(logits[dtype], logits.f32) / scale;
    assert.ok(error > 0 && error < 0.2, `${dtype}: off by ${error} of the root mean square`);
  }
  backend.close();
});

const CONFIG = resolveModelConfig({
  vocab_size: 96,
  hidden_size: 64,
  num_hidden_layers: 3,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  num_experts: 8,
  num_experts_per_tok: 3,
  moe_intermediate_size: 96,
  intermediate_size: 80,
  mlp_only_layers: [1],
  shared_expert_intermediate_size: 32,
  tie_word_embeddings: false,
  num_neurons_per_tok: 24,
  initializer_range: 0.2,
});

for (const dtype of ["f32", "bf16", "int8"] as const) {
  test(`repeated steps are the steps that were captured, alone or in a batch: ${dtype}`, async () => {
    for (const { open } of allBackends.slice(0, 2)) {
      const backend = open();
      const model = createRandomModel(CONFIG, backend, { dtype });
      const ids = Array.from({ length: 5 }, (_, s) =>
        Uint32Array.from({ length: 7 }, (_, i) => (s * 31 + i * 7) % 96),
      );
      const alone: Float32Array[][] = [];
      for (const sequence of ids) {
        // The first step of a kind is not captured, the second is, the third is the first that is repeated.
        const fresh: Float32Array[] = [];
        for (let length = 1; length <= 7; length++) {
          const decoder = new Decoder(model, { slots: 5, cacheType: "f32" });
          let last = new Float32Array();
          for (let i = 0; i < length; i++) {
            const rows = [{ slot: 2, position: i, ids: sequence.subarray(i, i + 1) }];
            last = Float32Array.from(await decoder.run(rows));
          }
          fresh.push(last);
          decoder.close();
        }
        alone.push(fresh);
        const decoder = new Decoder(model, { slots: 1, cacheType: "f32" });
        for (let i = 0; i < 7; i++) {
          const logits = await decoder.run([{ slot: 0, position: i, ids: sequence.subarray(i, i + 1) }]);
          assert.deepEqual(logits, fresh[i], `step ${i}`);
        }
        decoder.close();
      }
      const decoder = new Decoder(model, { slots: 5, cacheType: "f32" });
      for (let i = 0; i < 7; i++) {
        const rows = ids.map((sequence, slot) => ({ slot, position: i, ids: sequence.subarray(i, i + 1) }));
        const logits = await decoder.run(rows);
        for (let s = 0; s < 5; s++) {
          assert.deepEqual(logits.subarray(s * 96, s * 96 + 96), alone[s][i], `sequence ${s}, step ${i}`);
        }
      }
      decoder.close();
      model.close();
      assert.equal(backend.bytesInUse, 0, "everything was freed");
      backend.close();
    }
  });
}

for (const dtype of ["f32", "bf16", "int8"] as const) {
  test(`sixteen sequences at once get the bits that each gets alone, also in a dense model: ${dtype}`, async () => {
    for (const { open } of allBackends.slice(0, 2)) {
      for (const config of [CONFIG, { ...CONFIG, num_experts: 0, mlp_only_layers: [] }]) {
        const backend = open();
        const model = createRandomModel(config, backend, { dtype });
        const decoder = new Decoder(model, { slots: 17, maxPositions: 2 });
        const rows = Array.from({ length: 16 }, (_, slot) => ({
          slot,
          position: 0,
          ids: Uint32Array.of((slot * 5) % 96),
        }));
        const together = Float32Array.from(await decoder.run(rows));
        for (const [s, row] of rows.entries()) {
          const alone = await decoder.run([{ ...row, slot: 16 }]);
          assert.deepEqual(alone, together.subarray(s * 96, s * 96 + 96), `sequence ${s}`);
        }
        decoder.close();
        model.close();
        backend.close();
      }
    }
  });
}

test("numbers that kernels would follow out of their buffers are refused", async () => {
  const backend = bestBackend();
  const model = createRandomModel(CONFIG, backend, { dtype: "f32" });
  const decoder = new Decoder(model, { slots: 2, maxPositions: 8 });
  const V = model.config.vocab_size;
  const entry = { slot: 0, position: 0, ids: Uint32Array.of(1, 2) };
  const refused: [object, RegExp][] = [
    [{ slot: 2 }, /no slot 2: they go from 0 to 1/],
    [{ slot: -1 }, /no slot -1/],
    [{ position: 7 }, /2 tokens from position 7 on are not within the 8 positions/],
    [{ position: -1 }, /from position -1/],
    [{ position: 0.5 }, /from position 0.5/],
    [{ ids: Uint32Array.of(V) }, new RegExp(`no token ${V}: the model knows ${V}, from 0`)],
    [{ ids: Uint32Array.of(4e9) }, /no token 4000000000/],
    [{ ids: new Uint32Array() }, /an entry has no tokens/],
  ];
  for (const [change, message] of refused) {
    await assert.rejects(decoder.run([{ ...entry, ...change }]), { name: "UsageError", message });
    await assert.rejects(decoder.runAll([entry, { ...entry, ...change }]), { name: "UsageError", message });
  }
  await assert.rejects(decoder.run([]), { name: "UsageError", message: /no entries/ });
  const asked = { ...entry, rows: Uint32Array.of(1), targets: Uint32Array.of(3) };
  for (const change of [
    { targets: Uint32Array.of(V) },
    { rows: Uint32Array.of(2) },
    { rows: Uint32Array.of(0, 1) },
  ]) {
    await assert.rejects(decoder.score([{ ...asked, ...change }]), { name: "UsageError" });
  }
  assert.equal((await decoder.score([asked]))[0].logProbs.length, 1);
  decoder.close();
  model.close();
  backend.close();
});

test("of many numbers of sequences only the latest steps stay captured, and their memory", async () => {
  const backend = bestBackend();
  const model = createRandomModel(CONFIG, backend, { dtype: "f32" });
  const decoder = new Decoder(model, { slots: 20, maxPositions: 64 });
  const expected = new Map<number, Float32Array>();
  const decode = async (count: number) => {
    const entries = Array.from({ length: count }, (_, slot) => ({
      slot,
      position: 0,
      ids: Uint32Array.of(slot),
    }));
    return Float32Array.from(await decoder.run(entries));
  };
  const before = backend.bytesInUse;
  const held: number[] = [];
  for (let count = 1; count <= 20; count++) {
    expected.set(count, await decode(count));
    for (let again = 0; again < 2; again++) assert.deepEqual(await decode(count), expected.get(count));
    held.push(backend.bytesInUse - before);
  }
  // Eight programs of 13 to 20 sequences, not all twenty.
  const perSequence = held[0];
  assert.ok(held[19] < 1.5 * perSequence * (13 + 14 + 15 + 16 + 17 + 18 + 19 + 20), `${held}`);
  assert.deepEqual(await decode(3), expected.get(3), "captured again");
  decoder.close();
  model.close();
  assert.equal(backend.bytesInUse, 0);
  backend.close();
});

test("writes of a captured step are made again with what their arrays hold", async () => {
  for (const { open } of allBackends.slice(0, 2)) {
    const backend = open();
    const { catalogue } = await import("../src/kernels/catalogue.ts");
    const source = Float32Array.of(1, 2, 3);
    const total = backend.allocate("f32", 1);
    const program = backend.capture(() => {
      const x = backend.allocate("f32", 3);
      backend.write(x, source);
      backend.run(catalogue.sumSquares, { x, total }, { n: 3, accumulate: 0 });
      backend.free(x);
    });
    // Memory that was free within the capture goes to nobody else.
    const other = backend.allocate("f32", 3);
    backend.write(other, Float32Array.of(7, 7, 7));
    source.set([3, 4, 0]);
    program.run();
    assert.deepEqual([...(await backend.read(total))], [25]);
    assert.deepEqual([...(await backend.read(other))], [7, 7, 7]);
    program.close();
    backend.free(other);
    backend.free(total);
    assert.equal(backend.bytesInUse, 0);
    backend.close();
  }
});

test("a capture that fails leaves no memory behind", () => {
  for (const { open } of allBackends.slice(0, 2)) {
    const backend = open();
    const fails = () => {
      backend.free(backend.allocate("f32", 100));
      backend.allocate("f32", 3);
      throw new Error("half way");
    };
    assert.throws(() => backend.capture(fails), /half way/);
    assert.equal(backend.bytesInUse, 0);
    backend.close();
  }
});

test("a checkpoint whose tensors do not fit its configuration is refused in one sentence", () => {
  const backend = bestBackend();
  const config = { ...readModelConfig(fixture("qwen3")), hidden_size: 32 };
  const source = new CheckpointSource(fixture("qwen3"), config, backend);
  assert.throws(
    () => createStoredWeights(config, backend, source, { type: "f32" }),
    (error: Error) =>
      error instanceof RunError && /has shape \[.*\], but config.json asks for/.test(error.message),
  );
  assert.equal(backend.bytesInUse, 0, "nothing is left behind");
  backend.close();
});

test("experts that lie too far apart to be addressed are refused", () => {
  const backend = bestBackend();
  const zeros = (spec: { shape: readonly number[] }) => backend.allocate("f32", sizeOf(spec.shape));
  const source: WeightSource = {
    tensor: zeros,
    release: (buffer) => backend.free(buffer),
    inPlace: zeros,
    together: ([gate]) => ({
      buffer: zeros(gate),
      places: Array.from({ length: 2 * gate.shape[0] }, (_, i) => i * 2 ** 30),
    }),
    close: () => {},
  };
  assert.throws(() => createStoredWeights(CONFIG, backend, source, { type: "f32" }), {
    name: "RunError",
    message: /^experts of model\.layers\.0\.mlp\.experts\.gate_proj begin beyond element 4294967295/,
  });
  assert.equal(backend.bytesInUse, 0);
  backend.close();
});

test("a model that fails to load leaves nothing on its caller's backend", async () => {
  const path = join(folder, "few-words");
  const backend = bestBackend();
  const model = new Transformer(CONFIG, backend);
  model.initialise(1);
  await saveModel(path, model, byteTokenizer());
  model.close();
  await assert.rejects(loadModel(path, { backend }), /the tokenizer has \d+ tokens, but the model knows 96/);
  assert.equal(backend.bytesInUse, 0);
  backend.close();
});

test("the best instruction level of this machine is the one that is used", () => {
  const [best] = cpuLevels();
  if (!best) return;
  const before = process.env.MONE_LEVEL;
  delete process.env.MONE_LEVEL;
  const backend = openBackend({ threads: 1 });
  if (before !== undefined) process.env.MONE_LEVEL = before;
  assert.match(backend.name, new RegExp(`cpu \\(${best},`));
  holds(Object.values(backend.support).every((support) => support === "native"));
  backend.close();
});
