// The decoder as a whole: gradients of every kind of layer against a directional difference, K = F against the plain
// MoE, generation over the cache against the full forward pass, and the library's compile-time promise.

import assert from "node:assert/strict";
import { test } from "node:test";
import type { Backend } from "../src/backends/backend.ts";
import { ReferenceBackend } from "../src/backends/reference.ts";
import { Decoder } from "../src/infer/decoder.ts";
import { catalogue } from "../src/kernels/catalogue.ts";
import { attendWithin } from "../src/model/attention.ts";
import { type ModelConfig, resolveModelConfig } from "../src/model/config.ts";
import { countParameters } from "../src/model/parameters.ts";
import { Transformer } from "../src/model/transformer.ts";
import { linear, neuronTopK } from "../src/tensor/ops.ts";
import { Tape } from "../src/tensor/tape.ts";
import type { Tensor } from "../src/tensor/tensor.ts";
import { forwardLoss } from "../src/train/step.ts";
import { allBackends, bestBackend, maxDifference } from "./support/backends.ts";
import { holds } from "./support/holds.ts";

const BASE: Partial<ModelConfig> = {
  vocab_size: 50,
  hidden_size: 16,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  num_experts: 4,
  num_experts_per_tok: 2,
  moe_intermediate_size: 12,
  intermediate_size: 20,
  max_position_embeddings: 32,
  initializer_range: 0.3,
};

const VARIANTS: Record<string, Partial<ModelConfig>> = {
  MoE: {},
  MoNE: { num_neurons_per_tok: 3 },
  dense: { num_experts: 0, num_neurons_per_tok: 5 },
  "a dense first layer, a shared expert, an untied head": {
    mlp_only_layers: [0],
    shared_expert_intermediate_size: 8,
    tie_word_embeddings: false,
    num_neurons_per_tok: 3,
  },
  "no q/k norm, a sliding window, gelu": { qk_norm: false, sliding_window: 3, hidden_act: "gelu" },
};

const batch = {
  inputs: Uint32Array.from({ length: 14 }, (_, t) => (t * 11) % 50),
  targets: Uint32Array.from({ length: 14 }, (_, t) => ((t + 1) * 11) % 50),
  count: 2,
};

function build(backend: Backend, variant: Partial<ModelConfig>): Transformer {
  const model = new Transformer(resolveModelConfig({ ...BASE, ...variant }), backend);
  model.initialise(3);
  return model;
}

async function lossOf(model: Transformer): Promise<number> {
  const tape = new Tape(model.backend, { recording: false });
  const { loss } = forwardLoss(tape, model, batch, { bf16: false, balance: false });
  const [value] = await model.backend.read(loss.buffer, 0, 1);
  tape.release();
  return value;
}

for (const [name, variant] of Object.entries(VARIANTS)) {
  for (const { name: backendName, open } of allBackends.slice(0, 2)) {
    test(`the gradient of a whole model (${name}) predicts the loss along it, on ${backendName}`, async () => {
      const backend = open();
      const model = build(backend, variant);
      const tape = new Tape(backend, { recording: true });
      const { loss } = forwardLoss(tape, model, batch, { bf16: false, balance: false });
      tape.backward([{ loss, weight: 1 }]);
      tape.release();
      let squares = 0;
      const moves: { tensor: Tensor; start: Float32Array; gradient: Float32Array }[] = [];
      for (const parameter of model.parameters.values()) {
        assert.ok(parameter.hasGradient, `${parameter.name} has no gradient`);
        const start = (await backend.read(parameter.buffer, 0, parameter.size)) as Float32Array;
        const gradient = (await backend.read(
          parameter.gradientTensor(backend).buffer,
          0,
          parameter.size,
        )) as Float32Array;
        squares += gradient.reduce((sum, g) => sum + g * g, 0);
        moves.push({ tensor: parameter, start, gradient });
      }
      const step = 1e-3 / Math.sqrt(squares); // short: kept sets must not change on the way
      const at = async (distance: number) => {
        for (const { tensor, start, gradient } of moves) {
          backend.write(
            tensor.buffer,
            start.map((value, i) => value + distance * gradient[i]),
          );
        }
        return lossOf(model);
      };
      const slope = ((await at(step)) - (await at(-step))) / (2 * step);
      assert.ok(Math.abs(slope / squares - 1) < 5e-3, `slope ${slope}, squared norm ${squares}`);
      model.close();
      assert.equal(backend.bytesInUse, 0, "everything was freed");
      backend.close();
    });
  }
}

test("K = F is the plain MoE, bit for bit", async () => {
  for (const { name, open } of allBackends) {
    const backend = open();
    const plain = build(backend, {});
    const full = build(backend, { num_neurons_per_tok: 12 });
    assert.equal(await lossOf(full), await lossOf(plain), name);
    backend.close();
  }
});

test("kept neurons have the same values whatever K is", async () => {
  for (const { open } of allBackends) {
    const backend = open();
    const tape = new Tape(backend, { recording: false });
    const data = (salt: number) =>
      Float32Array.from({ length: 5 * 70 }, (_, i) => Math.sin(i * 1.7 + salt) * 3);
    const [gate, up] = [tape.constant(data(0), [5, 70]), tape.constant(data(1), [5, 70])];
    const hidden = async (kept: number) => {
      const out = neuronTopK(tape, gate, up, { kept, activation: "silu" });
      return backend.read(out.hidden.buffer, 0, 350);
    };
    const all = await hidden(70);
    const some = await hidden(9);
    assert.equal(some.filter((value) => value !== 0).length, 45);
    for (const [i, value] of some.entries()) holds(value === 0 || value === all[i]);
    backend.close();
  }
});

test("decoding over the cache gives the logits of the full forward pass, alone and in a batch", async () => {
  for (const variant of Object.values(VARIANTS)) {
    const backend = bestBackend();
    const model = build(backend, variant);
    const sequences = [0, 1].map((row) => batch.inputs.subarray(row * 7, row * 7 + 7));
    const tape = new Tape(backend, { recording: false });
    const expected: Float32Array[] = [];
    for (const ids of sequences) {
      const positions = tape.constant(Uint32Array.from(ids.keys()), [ids.length]);
      const attend = attendWithin(model.config, 1, ids.length);
      const options = { attend, bf16: false, balance: false };
      const { hidden } = model.forward(tape, tape.constant(ids, [ids.length]), positions, options);
      const logits = linear(tape, hidden, model.head, false);
      expected.push((await backend.read(logits.buffer, 0, logits.size)) as Float32Array);
    }
    tape.release();
    const decoder = new Decoder(model, { slots: 3 });
    const slots = [decoder.claim() as number, decoder.claim() as number];
    // Four tokens of the first, then its rest one by one while the second joins.
    const V = model.config.vocab_size;
    const near = (logits: Float32Array, row: number, position: number, at: number) =>
      holds(
        maxDifference(
          logits.subarray(at * V, at * V + V),
          expected[row].subarray(position * V, position * V + V),
        ) < 1e-4,
      );
    near(await decoder.run([{ slot: slots[0], position: 0, ids: sequences[0].subarray(0, 4) }]), 0, 3, 0);
    for (let i = 0; i < 3; i++) {
      const logits = await decoder.run([
        { slot: slots[0], position: 4 + i, ids: sequences[0].subarray(4 + i, 5 + i) },
        { slot: slots[1], position: 2 * i, ids: sequences[1].subarray(2 * i, 2 * i + 2) },
      ]);
      near(logits, 0, 4 + i, 0);
      near(logits, 1, 2 * i + 1, 1);
    }
    decoder.close();
    model.close();
    assert.equal(backend.bytesInUse, 0);
    backend.close();
  }
});

test("activated parameters in both readings", () => {
  const config = resolveModelConfig({ ...BASE, num_neurons_per_tok: 3 });
  const { experts, activatedExpertsWithGate, activatedExpertsWithoutGate } = countParameters(config);
  assert.equal(experts, 2 * 4 * 3 * 12 * 16);
  // Half of the experts are visited; K = F/4: half of an expert with the gate, a quarter without.
  assert.equal(activatedExpertsWithGate, experts / 4);
  assert.equal(activatedExpertsWithoutGate, experts / 8);
});

test("a kernel without a gradient rule cannot be recorded", () => {
  const tape = new Tape(new ReferenceBackend(), { recording: true });
  const x = tape.constant(new Float32Array(4), [4]);
  const total = { total: [1] };
  // @ts-expect-error: sumSquares has no gradient rule, so `call` refuses it.
  assert.throws(() => tape.call(catalogue.sumSquares, { x }, { n: 4, accumulate: 0 }, total), /no gradient/);
  // @ts-expect-error: it reads floats, so it is no bookkeeping kernel either.
  tape.run(catalogue.sumSquares, { x }, { n: 4, accumulate: 0 }, total);
  assert.throws(
    () => tape.infer(catalogue.sumSquares, { x }, { n: 4, accumulate: 0 }, total),
    /cannot be recorded/,
  );
});
