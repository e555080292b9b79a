// Matrix products of linear layers, dense and grouped by expert, with their gradients.
// Shapes: M rows, N output width, K input width, E groups. Weights are stored [out, in] as in checkpoints.
// A grouped product multiplies rows offsets[e]..offsets[e+1] with matrix e; the offsets are data, so that
// nothing on the host depends on how tokens were routed. Not here: biases (no model of ours has them).
//
// `bf16` = 1 rounds both operands to bfloat16 before multiplying; products and sums stay in f32. Results do
// not depend on where bf16 arithmetic is native, only the speed does.

import { combine, offsetsOf } from "./dispatch.ts";
import { defineDifferentiable, defineKernel, type FloatArray, roundToBf16 } from "./kernel.ts";

/** c[m, n] (+)= sum over k of a(m, k) * b(k, n), with operands read through index functions. */
function product(
  c: FloatArray,
  cStart: number,
  { m, n, k }: { m: number; n: number; k: number },
  a: (i: number, p: number) => number,
  b: (p: number, j: number) => number,
  accumulate: number,
  bf16: number,
): void {
  const read = bf16 ? roundToBf16 : (value: number) => value;
  const row = new Float64Array(n);
  for (let i = 0; i < m; i++) {
    row.fill(0);
    for (let p = 0; p < k; p++) {
      const left = read(a(i, p));
      for (let j = 0; j < n; j++) row[j] += left * read(b(p, j));
    }
    for (let j = 0; j < n; j++) {
      const at = cStart + i * n + j;
      c[at] = (accumulate ? c[at] : 0) + row[j];
    }
  }
}

const shapes = [
  { m: 5, n: 7, k: 3 },
  { m: 33, n: 35, k: 31 },
  { m: 70, n: 48, k: 130 },
  { m: 1, n: 64, k: 32 },
];
/** Beyond what a kernel may treat as one block in any of the three directions. */
const edgeShapes = [
  { m: 17, n: 19, k: 700 },
  { m: 3, n: 550, k: 5 },
  { m: 1100, n: 10, k: 6 },
];
const largeShape = { m: 1024, n: 512, k: 512 };

function denseSamples(accumulates: boolean) {
  const flags = accumulates ? [0, 1] : [0];
  return [
    ...shapes.flatMap((shape) =>
      flags.flatMap((accumulate) =>
        [0, 1].map((bf16) => ({
          name: `${shape.m}x${shape.n}x${shape.k}${accumulate ? " add" : ""}${bf16 ? " bf16" : ""}`,
          params: { ...shape, accumulate, bf16 },
        })),
      ),
    ),
    ...edgeShapes.flatMap((shape) =>
      [0, 1].map((bf16) => ({
        name: `${shape.m}x${shape.n}x${shape.k}${bf16 ? " bf16" : ""}`,
        params: { ...shape, accumulate: 0, bf16 },
      })),
    ),
    ...[0, 1].map((bf16) => ({
      name: `1024x512x512${bf16 ? " bf16" : ""}`,
      params: { ...largeShape, accumulate: 0, bf16 },
      large: true,
    })),
  ];
}

const flops = ({ m, n, k }: { m: number; n: number; k: number }) => 2 * m * n * k;

export const linear = defineDifferentiable({
  name: "linear",
  summary: "y = x W^T",
  buffers: { x: "in f32", w: "in f32", y: "inout f32" },
  params: { m: "int", n: "int", k: "int", accumulate: "int", bf16: "int" },
  sizes: ({ m, n, k }) => ({ x: m * k, w: n * k, y: m * n }),
  reference({ x, w, y }, { m, n, k, accumulate, bf16 }) {
    product(
      y,
      0,
      { m, n, k },
      (i, p) => x[i * k + p],
      (p, j) => w[j * k + p],
      accumulate,
      bf16,
    );
  },
  samples: () => denseSamples(true),
  flops,
  gradient: {
    of: ["y"],
    wrt: ["x", "w"],
    rule(g) {
      const { m, n, k, bf16 } = g.params;
      g.run(
        linearGradInput,
        { dy: g.grad("y"), w: g.value("w"), dx: g.target("x") },
        { m, n, k, bf16, accumulate: g.accumulate("x") },
      );
      g.run(
        linearGradWeight,
        { dy: g.grad("y"), x: g.value("x"), dw: g.target("w") },
        { m, n, k, bf16, accumulate: g.accumulate("w") },
      );
    },
  },
});

export const linearGradInput = defineKernel({
  name: "linearGradInput",
  summary: "dx = dy W",
  buffers: { dy: "in f32", w: "in f32", dx: "inout f32" },
  params: { m: "int", n: "int", k: "int", accumulate: "int", bf16: "int" },
  sizes: ({ m, n, k }) => ({ dy: m * n, w: n * k, dx: m * k }),
  reference({ dy, w, dx }, { m, n, k, accumulate, bf16 }) {
    product(
      dx,
      0,
      { m, n: k, k: n },
      (i, p) => dy[i * n + p],
      (p, j) => w[p * k + j],
      accumulate,
      bf16,
    );
  },
  samples: () => denseSamples(true),
  flops,
});

export const linearGradWeight = defineKernel({
  name: "linearGradWeight",
  summary: "dW = dy^T x",
  buffers: { dy: "in f32", x: "in f32", dw: "inout f32" },
  params: { m: "int", n: "int", k: "int", accumulate: "int", bf16: "int" },
  sizes: ({ m, n, k }) => ({ dy: m * n, x: m * k, dw: n * k }),
  reference({ dy, x, dw }, { m, n, k, accumulate, bf16 }) {
    product(
      dw,
      0,
      { m: n, n: k, k: m },
      (i, p) => dy[p * n + i],
      (p, j) => x[p * k + j],
      accumulate,
      bf16,
    );
  },
  samples: () => denseSamples(true),
  flops,
});

/** Group sizes with an empty group and unequal rows. */
const groupCounts = [
  { name: "4 groups, one empty", counts: [3, 0, 40, 2], n: 9, k: 17 },
  { name: "3 groups", counts: [65, 33, 1], n: 34, k: 48 },
  { name: "3 groups, the first empty", counts: [0, 7, 300], n: 9, k: 5 },
];
const largeCounts = Array.from({ length: 16 }, (_, e) => 128 + 16 * (e % 5) - 32);

function groupedSamples() {
  const cases = [
    ...groupCounts.map((c) => ({ ...c, large: false })),
    { name: "16 experts, 128 rows each, 256x256", counts: largeCounts, n: 256, k: 256, large: true },
  ];
  return cases.flatMap(({ name, counts, n, k, large }) =>
    (large ? [0] : [0, 1]).flatMap((accumulate) =>
      [0, 1].map((bf16) => {
        const offsets = offsetsOf(counts);
        const params = { groups: counts.length, rows: offsets[counts.length], n, k, accumulate, bf16 };
        const label = `${name}${accumulate ? " add" : ""}${bf16 ? " bf16" : ""}`;
        return { name: label, params, inputs: { offsets }, ...(large && { large }) };
      }),
    ),
  );
}

/** The same with rows of their own, and rows that are gathered from half or a third as many tokens. */
function gatheredSamples() {
  return groupedSamples().flatMap(({ params, inputs, ...sample }) => {
    const { rows } = params;
    const own = {
      ...sample,
      params: { ...params, active: 0 },
      inputs: { ...inputs, slotOfRow: [], rowOfSlot: [] },
    };
    const active = [2, 3].find((divisor) => rows % divisor === 0);
    if (!active) return [own];
    const step = [7, 11, 13].find((p) => rows % p !== 0)!; // a prime, so that every slot is met once
    const slotOfRow = Array.from({ length: rows }, (_, r) => (r * step + 2) % rows);
    const rowOfSlot = new Array<number>(rows);
    slotOfRow.forEach((slot, row) => {
      rowOfSlot[slot] = row;
    });
    const gathered = {
      ...sample,
      name: `${sample.name}, gathered`,
      params: { ...params, active },
      inputs: { ...inputs, slotOfRow, rowOfSlot },
    };
    return [own, gathered];
  });
}

const groupedFlops = ({ rows, n, k }: { rows: number; n: number; k: number }) => 2 * rows * n * k;

const groupedParams = {
  groups: "int",
  rows: "int",
  n: "int",
  k: "int",
  accumulate: "int",
  bf16: "int",
} as const;

/**
 * With `active` = A > 0 the input has a row per token, and row r of the experts is the token of slot slotOfRow[r],
 * A slots a token (routing.ts); with 0 it has all the rows as they are, and the two maps may be empty.
 */
const gather = { active: "int" } as const;

function inputSizes({ rows, k, active }: { rows: number; k: number; active: number }) {
  return {
    x: active > 0 ? (rows / active) * k : rows * k,
    slotOfRow: active > 0 ? rows : 0,
    rowOfSlot: active > 0 ? rows : 0,
  };
}

/** The row of x that row r of the experts reads. */
const sourceRow = (r: number, slotOfRow: Uint32Array, active: number) =>
  active > 0 ? Math.floor(slotOfRow[r] / active) : r;

export const groupedLinear = defineDifferentiable({
  name: "groupedLinear",
  summary: "y = x W_e^T for the rows of each expert e",
  buffers: {
    x: "in f32",
    w: "in f32",
    offsets: "in u32",
    slotOfRow: "in u32",
    rowOfSlot: "in u32",
    y: "inout f32",
  },
  params: { ...groupedParams, ...gather },
  sizes: ({ groups, rows, n, k, active }) => ({
    ...inputSizes({ rows, k, active }),
    w: groups * n * k,
    offsets: groups + 1,
    y: rows * n,
  }),
  reference({ x, w, offsets, slotOfRow, y }, { groups, n, k, accumulate, bf16, active }) {
    for (let e = 0; e < groups; e++) {
      const start = offsets[e];
      const size = { m: offsets[e + 1] - start, n, k };
      const a = (i: number, p: number) => x[sourceRow(start + i, slotOfRow, active) * k + p];
      product(y, start * n, size, a, (p, j) => w[(e * n + j) * k + p], accumulate, bf16);
    }
  },
  samples: () => gatheredSamples(),
  flops: groupedFlops,
  gradient: {
    of: ["y"],
    wrt: ["x", "w"],
    rule(g) {
      const { accumulate: _, active, ...shape } = g.params;
      const offsets = g.value("offsets");
      const maps = { slotOfRow: g.value("slotOfRow"), rowOfSlot: g.value("rowOfSlot") };
      const dy = g.grad("y");
      const w = g.value("w");
      const dx = g.target("x");
      const accumulate = g.accumulate("x");
      if (active === 0) {
        g.run(groupedLinearGradInput, { dy, w, offsets, dx }, { ...shape, accumulate });
      } else {
        const { rows, k } = shape;
        const dxRows = g.scratch(rows * k);
        g.run(groupedLinearGradInput, { dy, w, offsets, dx: dxRows }, { ...shape, accumulate: 0 });
        const sums = { tokens: rows / active, active, width: k, accumulate };
        g.run(combine, { x: dxRows, ...maps, y: dx }, sums);
      }
      g.run(
        groupedLinearGradWeight,
        { dy, x: g.value("x"), offsets, ...maps, dw: g.target("w") },
        { ...shape, active, accumulate: g.accumulate("w") },
      );
    },
  },
});

export const groupedLinearGradInput = defineKernel({
  name: "groupedLinearGradInput",
  summary: "dx = dy W_e for the rows of each expert e",
  buffers: { dy: "in f32", w: "in f32", offsets: "in u32", dx: "inout f32" },
  params: groupedParams,
  sizes: ({ groups, rows, n, k }) => ({ dy: rows * n, w: groups * n * k, offsets: groups + 1, dx: rows * k }),
  reference({ dy, w, offsets, dx }, { groups, n, k, accumulate, bf16 }) {
    for (let e = 0; e < groups; e++) {
      const start = offsets[e];
      const size = { m: offsets[e + 1] - start, n: k, k: n };
      const a = (i: number, p: number) => dy[(start + i) * n + p];
      product(dx, start * k, size, a, (p, j) => w[(e * n + p) * k + j], accumulate, bf16);
    }
  },
  samples: () => groupedSamples(),
  flops: groupedFlops,
});

export const groupedLinearGradWeight = defineKernel({
  name: "groupedLinearGradWeight",
  summary: "dW_e = dy^T x over the rows of expert e; zero for an expert without rows",
  buffers: {
    dy: "in f32",
    x: "in f32",
    offsets: "in u32",
    slotOfRow: "in u32",
    rowOfSlot: "in u32",
    dw: "inout f32",
  },
  params: { ...groupedParams, ...gather },
  sizes: ({ groups, rows, n, k, active }) => ({
    ...inputSizes({ rows, k, active }),
    dy: rows * n,
    offsets: groups + 1,
    dw: groups * n * k,
  }),
  reference({ dy, x, offsets, slotOfRow, dw }, { groups, n, k, accumulate, bf16, active }) {
    for (let e = 0; e < groups; e++) {
      const start = offsets[e];
      const size = { m: n, n: k, k: offsets[e + 1] - start };
      const a = (i: number, p: number) => dy[(start + p) * n + i];
      const b = (p: number, j: number) => x[sourceRow(start + p, slotOfRow, active) * k + j];
      product(dw, e * n * k, size, a, b, accumulate, bf16);
    }
  },
  samples: () => gatheredSamples(),
  flops: groupedFlops,
});
