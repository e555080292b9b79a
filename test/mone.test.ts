// One MoNE layer against an independent implementation in PyTorch (test/fixtures/train): outputs for every
// activation, router choices, kept sets, both balance losses in all variants, and every gradient; and a dense layer
// against a mixture of one expert. On the reference backend and on every instruction level.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import type { Backend } from "../src/backends/backend.ts";
import { SafetensorsFile } from "../src/checkpoint/safetensors.ts";
import type { Activation } from "../src/kernels/activation.ts";
import { linear } from "../src/kernels/linear.ts";
import { denseLayer, type LayerBalance, type LayerOptions, mixtureLayer } from "../src/mone/layer.ts";
import type { NeuronScore } from "../src/mone/loadBalance.ts";
import { RandomStream } from "../src/random.ts";
import { Tape } from "../src/tensor/tape.ts";
import { Parameter, sizeOf, type Tensor } from "../src/tensor/tensor.ts";
import { allBackends, maxAbs, maxDifference } from "./support/backends.ts";
import { readInt32 } from "./support/golden.ts";
import { holds } from "./support/holds.ts";

const T = 12;
const D = 16;
const F = 8;
const A = 2;

interface Expected {
  losses: { objective: number; expert_balance: number; neuron_balance: Record<string, number> };
}

function fixture(name: string) {
  const path = new URL(`fixtures/train/${name}`, import.meta.url).pathname;
  return {
    file: SafetensorsFile.open(`${path}.safetensors`),
    expected: JSON.parse(readFileSync(`${path}.json`, "utf8")) as Expected,
  };
}

const OPTIONS: LayerOptions = {
  active: A,
  kept: 3,
  activation: "silu",
  bf16: false,
  normaliseWeights: true,
  balance: true,
  neuronScore: { normalise: "l1", masked: "all" },
};

function parametersOf(backend: Backend, file: SafetensorsFile) {
  const load = (name: string) => {
    const { shape } = file.tensors.get(name)!;
    const parameter = new Parameter(name, backend.allocate("f32", sizeOf(shape)), shape, true);
    backend.write(parameter.buffer, file.readFloat32(name));
    return parameter;
  };
  return { x: load("x"), router: load("router"), gate: load("gate"), up: load("up"), down: load("down") };
}

/** sum(output * R): a linear layer over all of the output at once. */
function linkedSum(tape: Tape, output: Tensor, R: Float32Array): Tensor {
  const inputs = { x: output, w: tape.constant(R, [1, T * D]) };
  return tape.call(linear, inputs, { m: 1, n: 1, k: T * D, accumulate: 0, bf16: 0 }, { y: [1] }).y;
}

for (const { name: backendName, open } of allBackends) {
  for (const name of ["mone", "mone-empty-expert"]) {
    test(`${name}: outputs, losses and gradients on ${backendName}`, async () => {
      const { file, expected } = fixture(name);
      const backend = open();
      const weights = parametersOf(backend, file);
      const gradient = async (parameter: Parameter) =>
        parameter.hasGradient
          ? backend.read(parameter.gradient!.buffer, 0, parameter.size)
          : new Float32Array(parameter.size);
      const clear = () => {
        for (const parameter of Object.values(weights)) parameter.clearGradient(backend);
      };
      const near = (actual: ArrayLike<number>, golden: string, limit: number, relative = false) => {
        const wanted = file.readFloat32(golden);
        const error = maxDifference(actual, wanted) / (relative ? Math.max(1e-2, maxAbs(wanted)) : 1);
        assert.ok(error <= limit, `${golden} is off by ${error.toExponential(2)}, limit ${limit}`);
      };

      for (const activation of ["silu", "relu", "gelu", "gelu_tanh", "sigmoid"] as Activation[]) {
        const tape = new Tape(backend, { recording: false });
        const layer = mixtureLayer(tape, weights.x, weights, { ...OPTIONS, activation });
        const golden = activation === "silu" ? "output" : `output.${activation}`;
        near(await backend.read(layer.output.buffer, 0, T * D), golden, 1e-5);
        tape.release();
      }

      // Routing and the kept sets, bit by bit.
      const tape = new Tape(backend, { recording: false });
      const layer = mixtureLayer(tape, weights.x, weights, OPTIONS);
      near(await backend.read(layer.routing.probs.buffer, 0, T * 4), "router_probs", 1e-6);
      near(await backend.read(layer.routing.weights.buffer, 0, T * A), "expert_weights", 1e-6);
      const ids = await backend.read(layer.routing.ids.buffer, 0, T * A);
      assert.deepEqual([...ids], [...readInt32(file, "expert_ids")]);
      holds(layer.usage.neurons);
      const usage = await backend.read(layer.usage.neurons.buffer, 0, 4 * F);
      const keep = file.readBytes("neuron_keep");
      const wantedUsage = new Array<number>(4 * F).fill(0);
      for (let slot = 0; slot < T * A; slot++) {
        for (let j = 0; j < F; j++) wantedUsage[ids[slot] * F + j] += keep[slot * F + j];
      }
      assert.deepEqual([...usage], wantedUsage);
      tape.release();

      // The whole objective.
      const whole = new Tape(backend, { recording: true });
      const output = mixtureLayer(whole, weights.x, weights, OPTIONS);
      const sum = whole.keep(linkedSum(whole, output.output, file.readFloat32("R")));
      const { experts, neurons } = output.balanceLoss;
      holds(experts && neurons);
      whole.keep(experts);
      whole.keep(neurons);
      whole.backward([
        { loss: sum, weight: 1 },
        { loss: experts, weight: 0.01 },
        { loss: neurons, weight: 0.01 },
      ]);
      const [total, lbl, ngLbl] = await Promise.all(
        [sum, experts, neurons].map(async (t) => (await backend.read(t.buffer, 0, 1))[0]),
      );
      holds(Math.abs(lbl - expected.losses.expert_balance) < 1e-5);
      holds(Math.abs(total + 0.01 * lbl + 0.01 * ngLbl - expected.losses.objective) < 1e-4);
      for (const [key, parameter] of Object.entries(weights))
        near(await gradient(parameter), `grad.${key}`, 1e-4, true);
      whole.release();

      // Every balance loss by itself.
      for (const normalise of ["l1", "none"] as const) {
        for (const masked of ["all", "topk"] as const) {
          clear();
          const neuronScore: NeuronScore = { normalise, masked };
          const alone = new Tape(backend, { recording: true });
          const { balanceLoss } = mixtureLayer(alone, weights.x, weights, { ...OPTIONS, neuronScore });
          const loss = alone.keep(balanceLoss.neurons!);
          alone.backward([{ loss, weight: 1 }]);
          const variant = `abs.${masked}.${normalise}`;
          const value = (await backend.read(loss.buffer, 0, 1))[0];
          assert.ok(Math.abs(value - expected.losses.neuron_balance[variant]) < 1e-5, `${variant}: ${value}`);
          near(await gradient(weights.gate), `grad.neuron_balance.${variant}.gate`, 1e-4, true);
          near(await gradient(weights.x), `grad.neuron_balance.${variant}.x`, 1e-4, true);
          assert.equal(maxAbs(await gradient(weights.up)), 0, "the neuron loss reaches the gate only");
          holds(!weights.down.hasGradient);
          alone.release();
        }
      }
      clear();
      const alone = new Tape(backend, { recording: true });
      const { balanceLoss } = mixtureLayer(alone, weights.x, weights, OPTIONS);
      alone.backward([{ loss: balanceLoss.experts!, weight: 1 }]);
      near(await gradient(weights.router), "grad.expert_balance.router", 1e-4, true);
      near(await gradient(weights.x), "grad.expert_balance.x", 1e-4, true);
      alone.release();
      backend.close();
      file.close();
    });
  }
}

for (const { name: backendName, open } of allBackends) {
  test(`a dense layer is a mixture of one expert: output, neuron balance, gradients on ${backendName}`, async () => {
    const backend = open();
    const random = new RandomStream(5, "dense layer");
    const normal = (count: number, deviation: number) => {
      const values = new Float32Array(count);
      random.fillNormal(values, deviation);
      return values;
    };
    const make = (name: string, ...shape: number[]) => {
      const parameter = new Parameter(name, backend.allocate("f32", sizeOf(shape)), shape, true);
      backend.write(parameter.buffer, normal(sizeOf(shape), 0.5));
      return parameter;
    };
    const x = make("x", T, D);
    const expert = {
      router: make("router", 1, D),
      gate: make("gate", 1, F, D),
      up: make("up", 1, F, D),
      down: make("down", 1, D, F),
    };
    /** The same memory without the dimension of experts. */
    const asDense = ({ name, buffer, shape }: Parameter) => new Parameter(name, buffer, shape.slice(1), true);
    const dense = { gate: asDense(expert.gate), up: asDense(expert.up), down: asDense(expert.down) };
    const R = normal(T * D, 1);
    const numbers = async (tensor: Tensor) => [...(await backend.read(tensor.buffer, 0, tensor.size))];

    /** Everything that comes out of a layer and its objective. */
    const outcome = async (
      layer: (tape: Tape) => { output: Tensor } & LayerBalance,
      parameters: readonly Parameter[],
    ) => {
      const tape = new Tape(backend, { recording: true });
      const { output, balanceLoss, usage } = layer(tape);
      const sum = tape.keep(linkedSum(tape, output, R));
      const { neurons } = balanceLoss;
      holds(neurons && usage.neurons);
      const values = await Promise.all([output, tape.keep(neurons), tape.keep(usage.neurons)].map(numbers));
      tape.backward([
        { loss: sum, weight: 1 },
        { loss: neurons, weight: 3 },
      ]);
      const gradients = await Promise.all(parameters.map((one) => numbers(one.gradientTensor(backend))));
      tape.release();
      for (const parameter of parameters) parameter.clearGradient(backend);
      return [...values, ...gradients];
    };
    for (const normalise of ["l1", "none"] as const) {
      for (const masked of ["all", "topk"] as const) {
        const options = { ...OPTIONS, active: 1, neuronScore: { normalise, masked } };
        const { gate, up, down } = expert;
        const mixture = await outcome((tape) => mixtureLayer(tape, x, expert, options), [x, gate, up, down]);
        const alone = await outcome(
          (tape) => denseLayer(tape, x, dense, options),
          [x, ...Object.values(dense)],
        );
        for (const [i, values] of mixture.entries()) {
          assert.ok(maxAbs(Float32Array.from(values)) > 0.01, `${i} is not all zeros`);
          assert.ok(
            maxDifference(Float32Array.from(alone[i]), Float32Array.from(values)) < 1e-5,
            `${i}, ${normalise}, ${masked}`,
          );
        }
      }
    }
    const tape = new Tape(backend, { recording: false });
    const all = denseLayer(tape, x, dense, { ...OPTIONS, kept: F });
    assert.deepEqual({ ...all.balanceLoss, ...all.usage }, {}, "nothing to balance where every neuron acts");
    tape.release();
    backend.close();
  });
}
