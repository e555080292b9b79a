// Causal attention with grouped-query heads and an optional sliding window, over B sequences of S tokens.
// Shapes: q_T(H C), k_T(G C), v_T(G C), T = B S tokens, H query heads, G key/value heads, C = head_dim; query head h
// reads key head floor(h / (H/G)). Key j is visible to query i when j <= i and, with a window W > 0, i - W < j.
// With `bf16` the operands of all products are rounded: q, k, v and do here; probabilities and their gradients are
// rounded by the kernels only, on the way from one product to the next, where no rounding is exactly reproducible.
// No S x S matrix is kept: the gradient recomputes probabilities from `lse_TH`, the logarithm of each softmax's sum.
// Not here: attention over a cache of earlier tokens (cachedAttention.ts).

import { defineDifferentiable, defineKernel, roundToBf16 } from "./kernel.ts";

export interface AttentionShape {
  batch: number;
  seq: number;
  heads: number;
  kvHeads: number;
  headDim: number;
  /** 0: every earlier token is visible. */
  window: number;
}

const params = {
  batch: "int",
  seq: "int",
  heads: "int",
  kvHeads: "int",
  headDim: "int",
  window: "int",
  scale: "float",
  bf16: "int",
} as const;

function shapeSample(
  batch: number,
  seq: number,
  heads: number,
  kvHeads: number,
  headDim: number,
  window: number,
) {
  return {
    name: `${batch} x ${seq} tokens, ${heads}/${kvHeads} heads of ${headDim}${window ? `, window ${window}` : ""}`,
    params: { batch, seq, heads, kvHeads, headDim, window, scale: headDim ** -0.5, bf16: 0 },
  };
}

function inBf16({ name, params }: ReturnType<typeof shapeSample>) {
  return { name: `${name}, bf16`, params: { ...params, bf16: 1 } };
}

/** Rounds if asked to. */
const reader = (bf16: number) => (bf16 ? roundToBf16 : (value: number) => value);

const samples = () => [
  shapeSample(1, 1, 1, 1, 2, 0),
  shapeSample(2, 9, 4, 2, 6, 0),
  shapeSample(1, 21, 2, 2, 16, 4),
  shapeSample(1, 70, 2, 1, 24, 0),
  shapeSample(1, 150, 1, 1, 32, 37),
  // Several blocks of queries and of keys, with rows that begin and end in any of them.
  { ...shapeSample(1, 300, 2, 1, 72, 150), kink: true },
  ...[
    shapeSample(16, 256, 8, 8, 32, 0),
    shapeSample(4, 512, 8, 2, 64, 0),
    inBf16(shapeSample(16, 256, 8, 8, 32, 0)),
    inBf16(shapeSample(8, 512, 8, 8, 64, 0)),
  ].map((sample) => ({ ...sample, large: true })),
];

const sizes = ({ batch, seq, heads, kvHeads, headDim }: AttentionShape) => ({
  q: batch * seq * heads * headDim,
  k: batch * seq * kvHeads * headDim,
  v: batch * seq * kvHeads * headDim,
  o: batch * seq * heads * headDim,
  lse: batch * seq * heads,
});

/** Calls f for every query row: element offset of the query head's row, row of `lse`, and its visible keys. */
function forEachQuery(
  { batch, seq, heads, kvHeads, headDim, window }: AttentionShape,
  f: (row: { q: number; lse: number; keys: number[] }) => void,
): void {
  for (let b = 0; b < batch; b++) {
    for (let i = 0; i < seq; i++) {
      for (let h = 0; h < heads; h++) {
        const lse = (b * seq + i) * heads + h;
        const group = Math.floor(h / (heads / kvHeads));
        const keys: number[] = [];
        for (let j = window > 0 ? Math.max(0, i - window + 1) : 0; j <= i; j++) {
          keys.push(((b * seq + j) * kvHeads + group) * headDim);
        }
        f({ q: lse * headDim, lse, keys });
      }
    }
  }
}

export const attention = defineDifferentiable({
  name: "attention",
  summary: "o = softmax(scale q k^T, causal) v, head by head",
  buffers: { q: "in f32", k: "in f32", v: "in f32", o: "out f32", lse: "out f32" },
  params,
  sizes,
  reference({ q, k, v, o, lse }, params) {
    const { headDim, scale } = params;
    const read = reader(params.bf16);
    forEachQuery(params, (row) => {
      const scores = row.keys.map((key) => {
        let dot = 0;
        for (let c = 0; c < headDim; c++) dot += read(q[row.q + c]) * read(k[key + c]);
        return scale * dot;
      });
      const largest = Math.max(...scores);
      const total = scores.reduce((sum, score) => sum + Math.exp(score - largest), 0);
      lse[row.lse] = largest + Math.log(total);
      for (let c = 0; c < headDim; c++) {
        let value = 0;
        row.keys.forEach((key, j) => {
          value += Math.exp(scores[j] - largest) * read(v[key + c]);
        });
        o[row.q + c] = value / total;
      }
    });
  },
  samples,
  flops: ({ batch, seq, heads, headDim }) => 2 * batch * heads * seq * seq * headDim,
  gradient: {
    of: ["o"],
    wrt: ["q", "k", "v"],
    rule(g) {
      g.run(
        attentionGrad,
        {
          q: g.value("q"),
          k: g.value("k"),
          v: g.value("v"),
          o: g.value("o"),
          lse: g.value("lse"),
          dO: g.grad("o"),
          dq: g.target("q"),
          dk: g.target("k"),
          dv: g.target("v"),
        },
        {
          ...g.params,
          accumulateQ: g.accumulate("q"),
          accumulateK: g.accumulate("k"),
          accumulateV: g.accumulate("v"),
        },
      );
    },
  },
});

export const attentionGrad = defineKernel({
  name: "attentionGrad",
  summary: "gradients of attention with respect to q, k and v",
  buffers: {
    q: "in f32",
    k: "in f32",
    v: "in f32",
    o: "in f32",
    lse: "in f32",
    dO: "in f32",
    dq: "inout f32",
    dk: "inout f32",
    dv: "inout f32",
  },
  params: {
    ...params,
    accumulateQ: "int",
    accumulateK: "int",
    accumulateV: "int",
  },
  sizes: (shape) => {
    const { q, k, v, o, lse } = sizes(shape);
    return { q, k, v, o, lse, dO: o, dq: q, dk: k, dv: v };
  },
  reference({ q, k, v, o, lse, dO, dq, dk, dv }, params) {
    const { headDim, scale } = params;
    const read = reader(params.bf16);
    if (!params.accumulateQ) dq.fill(0);
    if (!params.accumulateK) dk.fill(0);
    if (!params.accumulateV) dv.fill(0);
    forEachQuery(params, (row) => {
      let outputDot = 0; // sum over keys of p dp, equal to o . do
      for (let c = 0; c < headDim; c++) outputDot += o[row.q + c] * dO[row.q + c];
      for (const key of row.keys) {
        let dot = 0;
        let dp = 0;
        for (let c = 0; c < headDim; c++) {
          dot += read(q[row.q + c]) * read(k[key + c]);
          dp += read(dO[row.q + c]) * read(v[key + c]);
        }
        const p = Math.exp(scale * dot - lse[row.lse]);
        const dScore = scale * p * (dp - outputDot);
        for (let c = 0; c < headDim; c++) {
          dq[row.q + c] += dScore * read(k[key + c]);
          dk[key + c] += dScore * read(q[row.q + c]);
          dv[key + c] += p * read(dO[row.q + c]);
        }
      }
    });
  },
  samples: () =>
    samples().flatMap((sample) =>
      [0, 1].map((flag) => ({
        ...sample,
        name: `${sample.name}${flag ? " add" : ""}`,
        params: { ...sample.params, accumulateQ: flag, accumulateK: flag, accumulateV: flag },
        // lse must be near what the forward pass makes, else probabilities overflow.
        inputs: {
          lse: Array.from(
            { length: sample.params.batch * sample.params.seq * sample.params.heads },
            (_, i) => 3 + (i % 3),
          ),
        },
      })),
    ),
  flops: ({ batch, seq, heads, headDim }) => 5 * batch * heads * seq * seq * headDim,
});
