// Samples of neuronTopK and its gradient: rows with magnitudes far enough apart for finite differences, ties, and
// every way in which rows can be weighted and scored.

import { activations } from "./activation.ts";
import { offsetsOf } from "./dispatch.ts";

/** Rows whose hidden values are only made, and those that are weighted and scored by group. */
interface Extras {
  readonly weighted?: boolean;
  /** Rows of each group. */
  readonly counts?: readonly number[];
  readonly normalise?: 0 | 1;
  readonly masked?: 0 | 1;
}

/** Magnitudes at least 0.02 apart, so that a finite difference never changes which neurons are kept. */
function spreadGates(rows: number, width: number): number[] {
  return Array.from({ length: rows * width }, (_, i) => {
    const row = Math.floor(i / width);
    const rank = ((i % width) * 7 + row * 3) % width; // 7 and width have no common factor in the samples
    return (0.3 + 0.04 * rank) * ((i + row) % 3 === 0 ? 1 : -1) * (width > 60 ? 0.3 : 1);
  });
}

/** Parameters and inputs that follow from the extras. */
function extrasOf(rows: number, { weighted, counts, normalise = 0, masked = 0 }: Extras) {
  return {
    params: {
      weighted: weighted ? 1 : 0,
      scored: counts ? 1 : 0,
      groups: counts?.length ?? 0,
      normalise,
      masked,
    },
    inputs: {
      slotOfRow: weighted ? Array.from({ length: rows }, (_, r) => rows - 1 - r) : [],
      offsets: counts ? offsetsOf(counts) : [],
    },
  };
}

function topKSample(
  name: string,
  [rows, width, kept]: readonly [number, number, number],
  activation: number,
  extras: Extras = {},
) {
  const { params, inputs } = extrasOf(rows, extras);
  return {
    name,
    params: { rows, width, kept, activation, ...params },
    inputs: { gate: spreadGates(rows, width), ...inputs },
  };
}

/** One sample for every way to score, over groups of which one is empty. */
const scoredSamples = () =>
  [
    [0, 0, activations.silu],
    [0, 1, activations.silu],
    [1, 0, activations.silu],
    [1, 1, activations.silu],
    [1, 0, activations.gelu],
    [1, 1, activations.sigmoid],
  ].flatMap(([normalise, masked, activation]) =>
    [
      { counts: [3, 0, 5, 1], width: 10, kept: 3 },
      { counts: [0, 9, 2], width: 40, kept: 10 },
    ].map(({ counts, width, kept }) => {
      const rows = counts.reduce((a, b) => a + b, 0);
      const name = `${normalise ? "l1" : "none"}, ${masked ? "topk" : "all"}, activation ${activation}, ${counts.length} groups`;
      const extras = {
        weighted: masked === 1,
        counts,
        normalise: normalise as 0 | 1,
        masked: masked as 0 | 1,
      };
      return topKSample(name, [rows, width, kept], activation, extras);
    }),
  );

const tie = [1, 1, -3, 1, 1, -3, 1, 1, 1];

/** A sample with gates that are given: rows of equal magnitudes, where no finite difference exists. */
function tiedSample(name: string, width: number, kept: number, gate: number[], activation: number) {
  const rows = gate.length / width;
  const { params, inputs } = extrasOf(rows, {});
  return {
    name,
    params: { rows, width, kept, activation, ...params },
    inputs: { gate, ...inputs },
    kink: true,
  };
}

/** Rows among whose gates are NaN, of more than one kind, and infinities; scored, since those are sums of them. */
const notNumberSamples = () =>
  [activations.silu, activations.relu, activations.gelu].flatMap((activation) =>
    [4, 20, 70].map((kept) => {
      const [rows, width] = [6, 70];
      const gates = Float32Array.from({ length: rows * width }, (_, i) => {
        const [r, j] = [Math.floor(i / width), i % width];
        if (j % (r + 2) === 1) return Number.NaN; // fewer a row, but more than 4 each
        if (r > 0 && j % 16 === 0) return Number.POSITIVE_INFINITY;
        return r === 5 && j === 33 ? Number.NEGATIVE_INFINITY : ((j * 7 + r) % 70) * 0.04 + 0.3;
      });
      new Uint32Array(gates.buffer)[1] = 0x7fffffff; // NaN too, and no less than the others
      const { params, inputs } = extrasOf(rows, {
        counts: [2, 1, 3],
        normalise: kept === 20 ? 1 : 0,
        masked: 1,
      });
      return {
        name: `NaN and infinities, ${kept} of ${width}, activation ${activation}`,
        params: { rows, width, kept, activation, ...params },
        inputs: { gate: gates, ...inputs },
        kink: true,
      };
    }),
  );

function largeSample(name: string, kept: number, extras: Extras) {
  const [rows, width] = [16384, 256];
  const { params, inputs } = extrasOf(rows, extras);
  return {
    name: `${rows} rows, ${name}`,
    params: { rows, width, kept, activation: activations.silu, ...params },
    inputs,
    large: true,
  };
}

const expertsOf1024 = new Array<number>(16).fill(1024);

export const topKSamples = () => [...finiteSamples(), ...notNumberSamples()];

const finiteSamples = () => [
  topKSample("silu, 3 of 10", [4, 10, 3], activations.silu),
  topKSample("silu, all of 10", [3, 10, 10], activations.silu),
  topKSample("silu, all of 10, weighted", [3, 10, 10], activations.silu, { weighted: true }),
  topKSample("silu, 1 of 33", [2, 33, 1], activations.silu),
  topKSample("silu, 25 of 100", [3, 100, 25], activations.silu, { weighted: true }),
  topKSample("gelu, 5 of 20", [2, 20, 5], activations.gelu),
  topKSample("gelu_tanh, 5 of 20", [2, 20, 5], activations.gelu_tanh),
  topKSample("relu, 5 of 20", [2, 20, 5], activations.relu),
  topKSample("sigmoid, 5 of 20", [2, 20, 5], activations.sigmoid),
  tiedSample(
    "ties: lower index wins",
    9,
    4,
    [...tie, ...tie.map(() => 0.5), ...tie.map(() => 0)],
    activations.sigmoid,
  ),
  tiedSample(
    "more equal magnitudes than any search keeps at hand",
    1000,
    250,
    Array.from({ length: 3000 }, (_, i) => [1, 0, -2][Math.floor(i / 1000)]),
    activations.silu,
  ),
  tiedSample(
    "rows of very different size, after rows of like size",
    120,
    30,
    Array.from({ length: 40 * 120 }, (_, i) => {
      const row = Math.floor(i / 120);
      const size = row < 20 ? 1 : 10 ** ((row % 7) - 3);
      return size * Math.sin(i * i + row) * (i % 50 === 0 ? 30 : 1);
    }),
    activations.relu, // exact, so that near ties cannot fall differently than in the reference
  ),
  ...scoredSamples(),
  largeSample("64 of 256", 64, {}),
  largeSample("256 of 256", 256, {}),
  largeSample("64 of 256, weighted and scored", 64, { weighted: true, counts: expertsOf1024, normalise: 1 }),
];

export const gradSamples = () =>
  finiteSamples()
    .filter((sample) => !("large" in sample) || sample.params.kept === 64)
    .flatMap(({ params: { kept: _, ...params }, name, inputs, ...rest }) =>
      [0, 1].map((flag) => ({
        name: `${name}${flag ? " add" : ""}`,
        params: { ...params, accumulateGate: flag, accumulateUp: 1 - flag, accumulateWeights: flag },
        inputs: {
          ...inputs,
          keep: Array.from(
            { length: params.rows * Math.ceil(params.width / 32) },
            (_, i) => ((i + 1) * 0x9e3779b9) >>> 0,
          ),
        },
        ...rest,
      })),
    );
