// The experts of a layer in inference, in one call: gate, the K neurons of largest |act(gate)| (neuronTopK.ts has the
// rule), up and down for the neurons that are kept. All three matrices are stored neuron by neuron, [E, F, D], so that
// what a token does not keep is not read: the gate whole, then K rows of up and K of down. An expert with many rows
// (a prompt) keeps nearly every neuron for some row, and is multiplied densely instead; the results are the same up to
// the order of sums. Shapes: T tokens, A experts per token, R = T A rows grouped by expert, D width, E groups, F neurons,
// K kept. Row r is token slotOfRow_R[r] / A, and its result is multiplied by weights_TA[slotOfRow_R[r]]; with A = 0 the
// rows are those of x, unweighted.
//
// `places` says where in the buffers of gate and up each expert's matrix begins, in elements (E places of gate, then E
// of up): experts of a mapped checkpoint lie apart. `down` is contiguous.

import { activate, activations } from "./activation.ts";
import { offsetsOf } from "./dispatch.ts";
import { defineKernel, type FloatArray } from "./kernel.ts";
import { keepWords, largestIndices } from "./neuronTopK.ts";
import {
  readerOf,
  roundFor,
  type StoredArray,
  scaleOf,
  scalesFor,
  suffixOf,
  type WeightType,
} from "./stored.ts";

/** Shapes of a sample. */
export interface ExpertCase {
  name: string;
  counts: number[];
  width: number;
  neurons: number;
  kept: number;
  activation?: number;
  /** A; rows are spread over R / A tokens. */
  active?: number;
  large?: boolean;
  /** The first token has a NaN, so all of its gates are NaN. */
  notNumber?: boolean;
}

const cases: ExpertCase[] = [
  { name: "one row, all of 10", counts: [1], width: 5, neurons: 10, kept: 10 },
  { name: "rows of 3 experts, 3 of 10", counts: [2, 0, 1], width: 33, neurons: 10, kept: 3 },
  { name: "5 tokens x 2, 3 of 10", counts: [4, 5, 1], width: 33, neurons: 10, kept: 3, active: 2 },
  { name: "24 tokens x 3, 9 of 30", counts: [40, 3, 29], width: 40, neurons: 30, kept: 9, active: 3 },
  { name: "one row each, 20 of 70", counts: [1, 1], width: 70, neurons: 70, kept: 20 },
  { name: "gelu, 9 of 40", counts: [5, 3], width: 64, neurons: 40, kept: 9, activation: activations.gelu },
  { name: "an expert with many rows, 5 of 24", counts: [1, 70, 17], width: 34, neurons: 24, kept: 5 },
  { name: "many rows, all of 24", counts: [70, 2], width: 34, neurons: 24, kept: 24 },
  { name: "NaN, few rows", counts: [3, 2], width: 34, neurons: 40, kept: 9, notNumber: true },
  { name: "NaN, many rows", counts: [40, 2], width: 34, neurons: 40, kept: 9, notNumber: true },
  ...[512, 128].map((kept) => ({
    name: `4 of 8 experts of 512 x 512, one row each, ${kept} kept`,
    counts: [1, 0, 1, 0, 1, 0, 1, 0],
    width: 512,
    neurons: 512,
    kept,
    active: 4,
    large: true,
  })),
  {
    name: "8 experts of 512 x 512, 64 rows each, 128 kept",
    counts: Array.from({ length: 8 }, () => 64),
    width: 512,
    neurons: 512,
    kept: 128,
    active: 4,
    large: true,
  },
];

/** A permutation of the slots. */
function slotsOf(slots: number): number[] {
  const stride = [7, 5, 3, 11, 13].find((p) => slots % p !== 0) ?? 1;
  return Array.from({ length: slots }, (_, s) => (s * stride + 2) % slots);
}

const firstIsNaN = (length: number) =>
  Array.from({ length }, (_, i) => (i === 0 ? Number.NaN : Math.sin(i * i)));

/** A sample of these shapes; with places that must be looked at. */
export function expertCase(sample: ExpertCase) {
  const { name, counts, width, neurons, kept, activation = activations.silu, active = 0 } = sample;
  const offsets = offsetsOf(counts);
  const groups = counts.length;
  // Experts in reverse order, gate and up with a gap between experts: places are looked at.
  const stride = neurons * width + 3;
  const gate = Array.from({ length: groups }, (_, e) => (groups - 1 - e) * stride);
  const rows = offsets[groups];
  return {
    name,
    params: { groups, rows, width, neurons, kept, activation, active, extent: groups * stride },
    inputs: {
      offsets,
      places: [...gate, ...gate],
      slotOfRow: slotsOf(active === 0 ? 0 : rows),
      ...(sample.notNumber && { x: firstIsNaN((rows / Math.max(1, active)) * width) }),
    },
    ...(sample.large && { large: true }),
  };
}

interface ExpertArrays {
  x: FloatArray;
  weights: FloatArray;
  slotOfRow: Uint32Array;
  offsets: Uint32Array;
  places: Uint32Array;
  gate: StoredArray | Float64Array;
  up: StoredArray | Float64Array;
  down: StoredArray | Float64Array;
  gateScales: FloatArray;
  upScales: FloatArray;
  downScales: FloatArray;
  y: FloatArray;
  keep: Uint32Array;
}

interface ExpertParams {
  groups: number;
  rows: number;
  width: number;
  neurons: number;
  activation: number;
  active: number;
}

/**
 * The reference of this kernel and of studyExperts.ts, which differ in what they keep.
 * @param choose neurons kept by row r of expert e, from the gate values of all and the up projection of each.
 */
export function expertsReference(
  type: WeightType,
  buffers: ExpertArrays,
  { groups, rows, width, neurons, activation, active }: ExpertParams,
  choose: (gates: number[], up: (j: number) => number, e: number, r: number) => number[],
): void {
  const { x, weights, slotOfRow, offsets, places, gateScales, upScales, downScales, y, keep } = buffers;
  const [gate, up, down] = [buffers.gate, buffers.up, buffers.down].map((stored) =>
    readerOf(type, stored as StoredArray),
  );
  const round = roundFor(type);
  const words = keepWords(neurons);
  keep.fill(0, 0, rows * words);
  y.fill(0, 0, rows * width);
  for (let e = 0; e < groups; e++) {
    for (let r = offsets[e]; r < offsets[e + 1]; r++) {
      const row = active === 0 ? r : Math.floor(slotOfRow[r] / active);
      const weight = active === 0 ? 1 : weights[slotOfRow[r]];
      const dot = (stored: (index: number) => number, at: number, scales: ArrayLike<number>, j: number) => {
        let sum = 0;
        for (let d = 0; d < width; d++) sum += round(x[row * width + d]) * stored(at + j * width + d);
        return Math.fround(Math.fround(sum) * scaleOf(type, scales, e * neurons + j));
      };
      const upOf = (j: number) => dot(up, places[groups + e], upScales, j);
      const values = Array.from({ length: neurons }, (_, j) =>
        Math.fround(activate(activation, dot(gate, places[e], gateScales, j))),
      );
      for (const j of choose(values, upOf, e, r)) {
        keep[r * words + (j >>> 5)] |= 1 << (j & 31);
        const hidden = Math.fround(Math.fround(values[j] * upOf(j)) * weight);
        const factor = round(Math.fround(hidden * scaleOf(type, downScales, e * neurons + j)));
        for (let d = 0; d < width; d++) y[r * width + d] += factor * down((e * neurons + j) * width + d);
      }
    }
  }
}

// What this kernel and that of studyExperts.ts have in common: they differ in which neurons they keep.

/** Inputs in the order of the C++ interface. */
export function expertInputs<Type extends WeightType>(type: Type) {
  return {
    x: "in f32",
    weights: "in f32",
    slotOfRow: "in u32",
    offsets: "in u32",
    places: "in u32",
    gate: `in ${type}`,
    up: `in ${type}`,
    down: `in ${type}`,
    gateScales: "in f32",
    upScales: "in f32",
    downScales: "in f32",
  } as const;
}

/** `extent`: elements of the buffers of gate and up, each. */
export const expertParams = {
  groups: "int",
  rows: "int",
  width: "int",
  neurons: "int",
  kept: "int",
  activation: "int",
  active: "int",
  extent: "int",
} as const;

/** Elements of the inputs. */
export function expertInputSizes(
  type: WeightType,
  params: Readonly<Record<"groups" | "rows" | "width" | "neurons" | "active" | "extent", number>>,
) {
  const { groups, rows, width, neurons, active, extent } = params;
  return {
    x: (rows / Math.max(1, active)) * width,
    weights: active === 0 ? 0 : rows,
    slotOfRow: active === 0 ? 0 : rows,
    offsets: groups + 1,
    places: 2 * groups,
    gate: extent,
    up: extent,
    down: groups * neurons * width,
    gateScales: scalesFor(type, groups * neurons),
    upScales: scalesFor(type, groups * neurons),
    downScales: scalesFor(type, groups * neurons),
  };
}

function neuronExperts(type: WeightType) {
  return defineKernel({
    name: `neuronExperts${suffixOf[type]}`,
    summary: `y = down (act(gate x) * up x) over the K neurons of largest |act(gate x)|, weights stored as ${type}`,
    buffers: {
      ...expertInputs(type),
      y: "out f32",
      keep: "out u32",
    },
    params: expertParams,
    sizes: (params) => ({
      ...expertInputSizes(type, params),
      y: params.rows * params.width,
      keep: params.rows * keepWords(params.neurons),
    }),
    reference(buffers, params) {
      expertsReference(type, buffers, params, (values) => largestIndices(values.map(Math.abs), params.kept));
    },
    samples: () => cases.map(expertCase),
    flops: ({ rows, width, neurons, kept }) => 2 * rows * width * (neurons + 2 * kept),
  });
}

export const neuronExpertsF32 = neuronExperts("f32");
export const neuronExpertsBf16 = neuronExperts("bf16");
export const neuronExpertsInt8 = neuronExperts("i8");
