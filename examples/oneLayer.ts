// The layer by itself: one MoNE layer on random tokens, its balance losses, and the gradient of its output.
// Shows the parts that the training step is made of. Run: npx tsx examples/oneLayer.ts

import { openBackend } from "../src/backends/cpu.ts";
import { mixtureLayer } from "../src/mone/layer.ts";
import { RandomStream } from "../src/random.ts";
import { Tape } from "../src/tensor/tape.ts";
import { Parameter } from "../src/tensor/tensor.ts";

const [T, D, E, F, K] = [64, 32, 8, 64, 16];
const backend = openBackend();

function randomParameter(name: string, shape: number[]): Parameter {
  const size = shape.reduce((a, b) => a * b);
  const values = new Float32Array(size);
  new RandomStream(1, name).fillNormal(values, 0.2);
  const parameter = new Parameter(name, backend.allocate("f32", size), shape, true);
  backend.write(parameter.buffer, values);
  return parameter;
}

const weights = {
  router: randomParameter("router", [E, D]),
  gate: randomParameter("gate", [E, F, D]),
  up: randomParameter("up", [E, F, D]),
  down: randomParameter("down", [E, D, F]),
};
const x = randomParameter("x", [T, D]);

const tape = new Tape(backend, { recording: true });
const { output, balanceLoss, usage } = mixtureLayer(tape, x, weights, {
  kept: K,
  active: 2,
  activation: "silu",
  bf16: false,
  normaliseWeights: true,
  neuronScore: { normalise: "l1", masked: "all" },
  balance: true,
});
const { experts, neurons } = balanceLoss;
if (!experts || !neurons) throw new Error("balance was asked for");
for (const tensor of [output, experts, neurons, usage.experts]) tape.keep(tensor);

tape.backward([
  { loss: experts, weight: 0.01 },
  { loss: neurons, weight: 0.01 },
]);

const read = (tensor: { buffer: Parameter["buffer"]; size: number }) =>
  backend.read(tensor.buffer, 0, tensor.size);
console.log("first outputs     ", [...(await read(output)).slice(0, 4)].map((v) => v.toFixed(4)).join(" "));
console.log("expert balance    ", (await read(experts))[0].toFixed(4), "(1 is perfect)");
console.log("neuron balance    ", (await read(neurons))[0].toFixed(4), "(1 is perfect)");
console.log("rows begin at     ", [...(await read(usage.experts))].join(" "));
const gradient = await read(weights.gate.gradientTensor(backend));
console.log("|gradient of gate|", Math.hypot(...gradient).toExponential(3));
tape.release();
backend.close();
