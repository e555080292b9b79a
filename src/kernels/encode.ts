// From weights as they come (f32 or bf16, matrices [out, in]) to weights as inference stores them: bf16, bytes with a
// scale per row, transposed. Run once when a model is opened. No gradients.

import { defineKernel, fromBf16, toBf16 } from "./kernel.ts";

const lengths = [{ n: 5 }, { n: 64 }, { n: 1000 }];
const lengthSamples = () => [
  ...lengths.map((params) => ({ name: `${params.n} elements`, params })),
  { name: "4 M elements", params: { n: 1 << 22 }, large: true },
];

export const encodeBf16 = defineKernel({
  name: "encodeBf16",
  summary: "y = x rounded to bf16",
  buffers: { x: "in f32", y: "out bf16" },
  params: { n: "int" },
  sizes: ({ n }) => ({ x: n, y: n }),
  reference({ x, y }, { n }) {
    for (let i = 0; i < n; i++) y[i] = toBf16(x[i]);
  },
  samples: lengthSamples,
});

export const decodeBf16 = defineKernel({
  name: "decodeBf16",
  summary: "y = x as f32",
  buffers: { x: "in bf16", y: "out f32" },
  params: { n: "int" },
  sizes: ({ n }) => ({ x: n, y: n }),
  reference({ x, y }, { n }) {
    for (let i = 0; i < n; i++) y[i] = fromBf16(x[i]);
  },
  samples: lengthSamples,
});

export const copyBf16 = defineKernel({
  name: "copyBf16",
  summary: "y = x",
  buffers: { x: "in bf16", y: "out bf16" },
  params: { n: "int" },
  sizes: ({ n }) => ({ x: n, y: n }),
  reference({ x, y }, { n }) {
    for (let i = 0; i < n; i++) y[i] = x[i];
  },
  samples: lengthSamples,
});

/** To the nearest integer, ties to even, as hardware rounds. */
export function roundToEven(value: number): number {
  const rounded = Math.round(value);
  return Math.abs(value % 1) === 0.5 && rounded % 2 !== 0 ? rounded - 1 : rounded;
}

/** Smaller f32 numbers are subnormal; kernels take those for zero. */
const SMALLEST_NORMAL = 2 ** -126;

export const encodeInt8 = defineKernel({
  name: "encodeInt8",
  // A row with NaN or an infinity has such a scale and bytes of zero, so that none of it reads as a number.
  summary: "y = x / scale rounded, scale = largest |x| of the row / 127",
  buffers: { x: "in f32", y: "out i8", scales: "out f32" },
  params: { rows: "int", width: "int" },
  sizes: ({ rows, width }) => ({ x: rows * width, y: rows * width, scales: rows }),
  reference({ x, y, scales }, { rows, width }) {
    for (let r = 0; r < rows; r++) {
      let largest = 0;
      for (let d = 0; d < width; d++) largest = Math.max(largest, Math.abs(x[r * width + d]));
      const scale = Math.fround(largest / 127);
      scales[r] = scale < SMALLEST_NORMAL ? 0 : scale;
      const encodes = scale >= SMALLEST_NORMAL && scale < Number.POSITIVE_INFINITY;
      if (!encodes) {
        y.fill(0, r * width, (r + 1) * width);
        continue;
      }
      const inverse = Math.fround(127 / largest);
      for (let d = 0; d < width; d++) y[r * width + d] = roundToEven(Math.fround(x[r * width + d] * inverse));
    }
  },
  samples: () => [
    { name: "3 rows of 5", params: { rows: 3, width: 5 } },
    { name: "9 rows of 70", params: { rows: 9, width: 70 } },
    { name: "a row of zeros", params: { rows: 2, width: 4 }, inputs: { x: [0, 0, 0, 0, 1, -2, 0.5, 2] } },
    {
      name: "rows with NaN, with infinities and of numbers too small for a scale",
      params: { rows: 6, width: 20 },
      inputs: {
        x: [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 1, 1e-37, 1e30].flatMap(
          (first, r) =>
            // NaN last in its row, and in the middle of one that has an infinity too.
            Array.from({ length: 20 }, (_, d) => {
              if (d === (r === 0 ? 19 : 0)) return first;
              return r === 2 && d === 7 ? Number.NaN : (r === 4 ? 1e-37 : 1) * Math.sin(d);
            }),
        ),
      },
    },
    { name: "1024 rows of 1024", params: { rows: 1024, width: 1024 }, large: true },
  ],
});

const transposeSamples = () => [
  { name: "5 x 3", params: { groups: 1, rows: 5, columns: 3 } },
  { name: "2 groups of 33 x 70", params: { groups: 2, rows: 33, columns: 70 } },
  { name: "4 groups of 1024 x 1024", params: { groups: 4, rows: 1024, columns: 1024 }, large: true },
];

function transposeOf(type: "f32" | "bf16", suffix: "F32" | "Bf16") {
  return defineKernel({
    name: `transpose${suffix}`,
    summary: `y[g] = x[g]^T for each group, elements ${type}`,
    buffers: { x: `in ${type}`, y: `out ${type}` },
    params: { groups: "int", rows: "int", columns: "int" },
    sizes: ({ groups, rows, columns }) => ({ x: groups * rows * columns, y: groups * rows * columns }),
    reference({ x, y }, { groups, rows, columns }) {
      for (let g = 0; g < groups; g++) {
        const at = g * rows * columns;
        for (let i = 0; i < rows; i++)
          for (let j = 0; j < columns; j++) y[at + j * rows + i] = x[at + i * columns + j];
      }
    },
    samples: transposeSamples,
  });
}

export const transposeF32 = transposeOf("f32", "F32");
export const transposeBf16 = transposeOf("bf16", "Bf16");
