// What docs/BALANCE.md says of the neuron balance loss, on examples of a few rows: where it is small, where it has no gradient,
// and whether it brings neurons back that no row keeps. One expert; relu as activation, so that gate values are what is given.

import assert from "node:assert/strict";
import { test } from "node:test";
import { activations } from "../src/kernels/activation.ts";
import { neuronBalance, neuronBalanceGrad } from "../src/kernels/balance.ts";
import { neuronTopK, neuronTopKGrad } from "../src/kernels/neuronTopK.ts";
import { holds } from "./support/holds.ts";

interface Scoring {
  readonly normalise: 0 | 1;
  readonly masked: 0 | 1;
}
const l1: Scoring = { normalise: 1, masked: 0 };
const none: Scoring = { normalise: 0, masked: 0 };

/** The loss, how many rows keep each neuron, and the loss's gradient by gate value. */
function balanceOf(gates: readonly (readonly number[])[], kept: number, scoring: Scoring) {
  const rows = gates.length;
  const width = gates[0].length;
  const base = {
    rows,
    width,
    activation: activations.relu,
    weighted: 0,
    scored: 1,
    groups: 1,
    ...scoring,
  };
  const zeros = () => new Float64Array(rows * width);
  const gate = Float64Array.from(gates.flat());
  const common = {
    gate,
    up: zeros(),
    weights: new Float64Array(0),
    slotOfRow: new Uint32Array(0),
    offsets: Uint32Array.of(0, rows),
    keep: new Uint32Array(rows),
  };
  const usage = new Uint32Array(width);
  const scores = new Float64Array(width);
  neuronTopK.reference({ ...common, hidden: zeros(), usage, scores }, { ...base, kept });
  const loss = new Float64Array(1);
  const shape = { groups: 1, width, kept };
  neuronBalance.reference({ scores, usage, offsets: common.offsets, loss }, shape);
  const dscores = new Float64Array(width);
  const dloss = Float64Array.of(1);
  neuronBalanceGrad.reference(
    { usage, offsets: common.offsets, dloss, dscores },
    { ...shape, accumulate: 0 },
  );
  const dgate = zeros();
  const gradients = { dhidden: zeros(), dscores, dgate, dup: zeros(), dweights: new Float64Array(0) };
  const alone = { accumulateGate: 0, accumulateUp: 0, accumulateWeights: 0 };
  neuronTopKGrad.reference({ ...common, ...gradients }, { ...base, ...alone });
  return { loss: loss[0], usage: [...usage], gradient: [...dgate] };
}

const near = (value: number, expected: number) =>
  assert.ok(Math.abs(value - expected) < 1e-12, `${value} is not ${expected}`);

/** Neurons 0 and 1 in every row: 2 and 3 are dead. */
const collapsed = [
  [4, 3, 1, 1],
  [3, 4, 1, 1],
];
/** Each neuron in one of two rows. */
const even = [
  [4, 3, 1, 2],
  [1, 2, 3, 5],
];

test("not normalised, the loss is small where gates are, whatever the use", () => {
  const small = collapsed.map((row) => row.map((value) => value / 100));
  const { loss, usage } = balanceOf(collapsed, 2, none);
  const shrunk = balanceOf(small, 2, none);
  assert.deepEqual(shrunk.usage, usage);
  near(shrunk.loss, loss / 100);
  near(balanceOf(small, 2, l1).loss, balanceOf(collapsed, 2, l1).loss);
  holds(shrunk.loss < balanceOf(even, 2, none).loss);
});

test("normalised over all neurons, equal use gives 1 and no gradient, whatever the gates", () => {
  const { loss, usage, gradient } = balanceOf(even, 2, l1);
  assert.deepEqual(usage, [1, 1, 1, 1]);
  near(loss, 1);
  for (const one of gradient) near(one, 0);
});

test("not normalised, equal use still has a gradient: it makes every gate smaller", () => {
  const { gradient } = balanceOf(even, 2, none);
  for (const one of gradient) holds(one > 0);
});

test("neurons that no row keeps come back with the normalised loss only", () => {
  const dead = [2, 3, 6, 7]; // of both rows
  const at = (scoring: Scoring) => {
    const { gradient } = balanceOf(collapsed, 2, scoring);
    return dead.map((i) => gradient[i]);
  };
  for (const masked of [0, 1] as const) {
    for (const one of at({ normalise: 1, masked })) assert.ok(one < 0, "descent makes the gate larger");
    for (const one of at({ normalise: 0, masked })) assert.equal(Math.abs(one), 0);
  }
  const { gradient } = balanceOf(collapsed, 2, l1);
  for (const i of [0, 1, 4, 5]) assert.ok(gradient[i] > 0, "and those that all rows keep smaller");
});

test("masked and normalised, equal use is no rest: kept gates shrink, the others grow", () => {
  const { usage, gradient } = balanceOf(even, 2, { normalise: 1, masked: 1 });
  assert.deepEqual(usage, [1, 1, 1, 1]);
  for (const i of [0, 1, 6, 7]) holds(gradient[i] > 0);
  for (const i of [2, 3, 4, 5]) holds(gradient[i] < 0);
});

test("1 is not the minimum: unequal use can have less", () => {
  // Three rows keep neuron 0 by a hair, one keeps neuron 1 alone: f = 3/2, 1/2 and P = 3/8, 5/8.
  const rows = [
    [1, 1],
    [1, 1],
    [1, 1],
    [0, 1],
  ];
  const { loss, usage, gradient } = balanceOf(rows, 1, l1);
  assert.deepEqual(usage, [3, 1]);
  near(loss, 7 / 8);
  assert.ok(gradient[0] > 0 && gradient[1] < 0, "its gradient still leads towards equal use");
});

test("nor is it a sign of balance: with gates that are alike, dead neurons cost nothing", () => {
  const alike = [
    [1.01, 1.01, 1, 1],
    [1.01, 1.01, 1, 1],
  ];
  const { loss, usage } = balanceOf(alike, 2, l1);
  assert.deepEqual(usage, [2, 2, 0, 0]);
  assert.ok(loss > 1 && loss < 1.01, `${loss}`);
});
