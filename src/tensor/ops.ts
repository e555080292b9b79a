// Kernels with shapes: each function reads the sizes off its tensors, calls one kernel on the tape, and names the
// shapes of what comes out. Letters: T tokens, D width, E experts, A experts per token, F neurons, V vocabulary.

import type { Activation } from "../kernels/activation.ts";
import { activations } from "../kernels/activation.ts";
import type { AttentionShape } from "../kernels/attention.ts";
import { catalogue as k } from "../kernels/catalogue.ts";
import { keepWords } from "../kernels/neuronTopK.ts";
import type { Tape } from "./tape.ts";
import { StoredTensor, sizeOf, type Tensor } from "./tensor.ts";

/** A shape's leading extents as one, and its last extent. */
function rowsAndWidth(tensor: Tensor): [rows: number, width: number] {
  const width = tensor.shape[tensor.shape.length - 1];
  return [sizeOf(tensor.shape) / width, width];
}

/** table_VD rows for ids_T: [T, D]. Also picks rows of any matrix. */
export function embedding(tape: Tape, ids: Tensor, table: Tensor): Tensor {
  const [vocab, width] = table.shape;
  const tokens = ids.size;
  if (table instanceof StoredTensor) {
    const kernel = { f32: k.storedRowsF32, bf16: k.storedRowsBf16, i8: k.storedRowsInt8 }[table.type];
    const inputs = { ids, table, scales: table.scales };
    return tape.infer(kernel, inputs, { tokens, width, vocab }, { y: [tokens, width] }).y;
  }
  return tape.call(k.embedding, { ids, table }, { tokens, width, vocab }, { y: [tokens, width] }).y;
}

/** x_MK w_NK^T: [M, N]. `bf16` rounds both operands; stored weights bring their own type. */
export function linear(tape: Tape, x: Tensor, w: Tensor, bf16: boolean): Tensor {
  const [m, kk] = rowsAndWidth(x);
  const [n] = w.shape;
  if (w instanceof StoredTensor) {
    const kernel = { f32: k.storedLinearF32, bf16: k.storedLinearBf16, i8: k.storedLinearInt8 }[w.type];
    return tape.infer(kernel, { x, w, scales: w.scales }, { m, n, k: kk }, { y: [m, n] }).y;
  }
  const params = { m, n, k: kk, accumulate: 0, bf16: bf16 ? 1 : 0 };
  return tape.call(k.linear, { x, w }, params, { y: [m, n] }).y;
}

/**
 * x_RK w_ENK[e]^T for the rows offsets_E1[e]..offsets_E1[e + 1] of each expert: [R, N]. With `map`, x is x_TK and its
 * tokens are gathered for their experts' rows.
 */
export function groupedLinear(
  tape: Tape,
  x: Tensor,
  w: Tensor,
  offsets: Tensor,
  bf16: boolean,
  map?: RowMap,
): Tensor {
  const [inputs] = rowsAndWidth(x);
  const [groups, n, kk] = w.shape;
  const rows = map ? map.slotOfRow.size : inputs;
  const active = map ? rows / inputs : 0;
  const { slotOfRow, rowOfSlot } = map ?? { slotOfRow: offsets, rowOfSlot: offsets }; // not read
  const params = { groups, rows, n, k: kk, accumulate: 0, bf16: bf16 ? 1 : 0, active };
  return tape.call(k.groupedLinear, { x, w, offsets, slotOfRow, rowOfSlot }, params, { y: [rows, n] }).y;
}

/** RMSNorm over rows of weight's width; the shape of x stays. */
export function rmsNorm(tape: Tape, x: Tensor, weight: Tensor, eps: number): Tensor {
  const width = weight.size;
  const rows = x.size / width;
  return tape.call(k.rmsNorm, { x, weight }, { rows, width, eps }, { y: x.shape, rstd: [rows] }).y;
}

/** Rotary embedding of x_T(H C) at positions_T; table_PC as in kernels/rope.ts. */
export function rope(tape: Tape, x: Tensor, table: Tensor, positions: Tensor): Tensor {
  const [maxPositions, headDim] = table.shape;
  const tokens = positions.size;
  const heads = x.size / tokens / headDim;
  const params = { tokens, heads, headDim, maxPositions, inverse: 0, accumulate: 0 };
  return tape.call(k.rope, { x, table, positions }, params, { y: x.shape }).y;
}

/** Causal attention of q_T(H C) over k_T(G C), v_T(G C): [T, H C]. `bf16` rounds the operands of its products. */
export function attention(
  tape: Tape,
  q: Tensor,
  key: Tensor,
  v: Tensor,
  shape: AttentionShape & { readonly scale: number },
  bf16: boolean,
): Tensor {
  const params = { ...shape, bf16: bf16 ? 1 : 0 };
  const rows = shape.batch * shape.seq * shape.heads;
  return tape.call(k.attention, { q, k: key, v }, params, { o: q.shape, lse: [rows] }).o;
}

export function add(tape: Tape, a: Tensor, b: Tensor): Tensor {
  return tape.call(k.add, { a, b }, { n: a.size }, { y: a.shape }).y;
}

/** Row by row, x_NW + bias_W; for inference. */
export function addBias(tape: Tape, x: Tensor, bias: Tensor): Tensor {
  const width = bias.size;
  return tape.infer(k.addBias, { x, bias }, { rows: x.size / width, width }, { y: x.shape }).y;
}

/** x within -bound and bound; for inference. */
export function clip(tape: Tape, x: Tensor, bound: number): Tensor {
  return tape.infer(k.clip, { x }, { n: x.size, bound }, { y: x.shape }).y;
}

/** a_ND + sigmoid(gate_N1) b_ND; for inference. */
export function addGated(tape: Tape, a: Tensor, b: Tensor, gate: Tensor): Tensor {
  const [rows, width] = rowsAndWidth(a);
  return tape.infer(k.addGated, { a, b, gate }, { rows, width }, { y: a.shape }).y;
}

/** Columns `first` to `first + count` of x seen as rows of `width`: [rows, count]; for inference. */
export function rowPart(tape: Tape, x: Tensor, width: number, first: number, count: number): Tensor {
  const rows = x.size / width;
  return tape.infer(k.rowPart, { x }, { rows, width, first, count }, { y: [rows, count] }).y;
}

/** Rotates the last R elements of each head of x_T(H C) as interleaved pairs; table_PR. For inference. */
export function ropeInterleaved(
  tape: Tape,
  x: Tensor,
  table: Tensor,
  positions: Tensor,
  headDim: number,
): Tensor {
  const [maxPositions, rotated] = table.shape;
  const tokens = positions.size;
  const params = { tokens, heads: x.size / tokens / headDim, headDim, rotated, maxPositions };
  return tape.infer(k.ropeInterleaved, { x, table, positions }, params, { y: x.shape }).y;
}

/** Keys and values k_T(H C), v_T(H C) from expanded_T(H (N + U)) and latent_T(M + R) (kernels/latent.ts). */
export function latentKeyValue(
  tape: Tape,
  expanded: Tensor,
  latent: Tensor,
  shape: { heads: number; plain: number; rotated: number; rank: number; value: number },
) {
  const tokens = expanded.shape[0];
  const keys = [tokens, shape.heads * (shape.plain + shape.rotated)];
  return tape.infer(k.latentKeyValue, { expanded, latent }, { tokens, ...shape }, { k: keys, v: keys });
}

/** As routerTopK, over the best groups of experts, weights times a factor; for inference. */
export function routerGroups(
  tape: Tape,
  logits: Tensor,
  active: number,
  { count, kept, scale }: { readonly count: number; readonly kept: number; readonly scale: number },
) {
  const [tokens, experts] = logits.shape;
  return tape.infer(
    k.routerGroups,
    { logits },
    { tokens, experts, active, groups: count, keptGroups: kept, scale },
    { probs: [tokens, experts], ids: [tokens, active], weights: [tokens, active] },
  );
}

/** probs_TE, and the best A experts of each token: ids_TA, weights_TA. */
export function routerTopK(tape: Tape, logits: Tensor, active: number, normalise: boolean) {
  const [tokens, experts] = logits.shape;
  return tape.call(
    k.routerTopK,
    { logits },
    { tokens, experts, active, normalise: normalise ? 1 : 0 },
    { probs: [tokens, experts], ids: [tokens, active], weights: [tokens, active] },
  );
}

/** offsets_E1, rowOfSlot_TA, slotOfRow_R for ids_TA. */
export function groupByExpert(tape: Tape, ids: Tensor, experts: number) {
  const [tokens, active] = ids.shape;
  const slots = [tokens * active];
  return tape.run(
    k.groupByExpert,
    { ids },
    { tokens, experts, active },
    { offsets: [experts + 1], rowOfSlot: slots, slotOfRow: slots },
  );
}

/** The two directions between slots and rows, from groupByExpert. */
export interface RowMap {
  readonly rowOfSlot: Tensor;
  readonly slotOfRow: Tensor;
}

/** Rows x_RD added up per token: [T, D]. */
export function combine(tape: Tape, x: Tensor, tokens: number, { rowOfSlot, slotOfRow }: RowMap): Tensor {
  const [rows, width] = x.shape;
  const params = { tokens, active: rows / tokens, width, accumulate: 0 };
  return tape.call(k.combine, { x, rowOfSlot, slotOfRow }, params, { y: [tokens, width] }).y;
}

/** How the score of a neuron enters its balance loss (docs: src/mone/README.md). */
export interface NeuronScore {
  /** `l1`: |G_j| / sum of |G|, so that balance gives 1; `none`: |G_j|. */
  readonly normalise: "l1" | "none";
  /** `all` neurons have a score; `topk`: only the kept ones. */
  readonly masked: "all" | "topk";
}

export interface TopKOptions {
  /** K: neurons kept per row. */
  readonly kept: number;
  readonly activation: Activation;
  /** Multiply the hidden values of row r by weights_TA[slotOfRow_R[r]]. */
  readonly routed?: { readonly weights: Tensor; readonly slotOfRow: Tensor };
  /** Count the kept neurons and add up scores, over the rows of each expert. */
  readonly scored?: NeuronScore & { readonly offsets: Tensor };
}

/**
 * hidden_RF = act(gate_RF) * up_RF for the `kept` neurons of largest |act(gate)| per row; keep_RW as bits; usage_EF and
 * scores_EF, empty unless `scored`.
 */
export function neuronTopK(tape: Tape, gate: Tensor, up: Tensor, options: TopKOptions) {
  const { kept, activation, routed, scored } = options;
  const [rows, width] = gate.shape;
  const groups = scored ? scored.offsets.size - 1 : 0;
  const none = () => tape.allocate("u32", [0]);
  return tape.call(
    k.neuronTopK,
    {
      gate,
      up,
      weights: routed?.weights ?? tape.allocate("f32", [0]),
      slotOfRow: routed?.slotOfRow ?? none(),
      offsets: scored?.offsets ?? none(),
    },
    {
      rows,
      width,
      kept,
      activation: activations[activation],
      weighted: routed ? 1 : 0,
      scored: scored ? 1 : 0,
      groups,
      normalise: scored?.normalise === "l1" ? 1 : 0,
      masked: scored?.masked === "topk" ? 1 : 0,
    },
    { hidden: gate.shape, keep: [rows, keepWords(width)], usage: [groups, width], scores: [groups, width] },
  );
}

/** Switch-style loss over experts from probs_TE: one number, 1 when balanced. */
export function expertBalance(tape: Tape, probs: Tensor, offsets: Tensor, active: number): Tensor {
  const [tokens, experts] = probs.shape;
  return tape.call(k.expertBalance, { probs, offsets }, { tokens, experts, active }, { loss: [1] }).loss;
}

/** NG-LBL from the scores_EF and usage_EF of neuronTopK: one number. */
export function neuronBalance(
  tape: Tape,
  { scores, usage, offsets }: { scores: Tensor; usage: Tensor; offsets: Tensor },
  kept: number,
): Tensor {
  const [groups, width] = scores.shape;
  return tape.call(k.neuronBalance, { scores, usage, offsets }, { groups, width, kept }, { loss: [1] }).loss;
}

/** Mean cross entropy of softmax(hidden_TD weight_VD^T) at targets_T, and the loss of each token. */
export function headCrossEntropy(tape: Tape, hidden: Tensor, weight: Tensor, targets: Tensor, bf16: boolean) {
  const [tokens, width] = hidden.shape;
  const [vocab] = weight.shape;
  return tape.call(
    k.headCrossEntropy,
    { hidden, weight, targets },
    { tokens, width, vocab, bf16: bf16 ? 1 : 0 },
    { loss: [1], losses: [tokens], lse: [tokens] },
  );
}

/**
 * Per row of logits_MV the logarithm of its sum of exponentials, lse_M, and its largest logit's index, best_M; and
 * picked_N, the logit ids_N[n] of row rowOf_N[n]. Only for inference.
 */
export function tokenScores(tape: Tape, logits: Tensor, rowOf: Tensor, ids: Tensor) {
  const [rows, vocab] = logits.shape;
  const targets = ids.size;
  return tape.infer(
    k.tokenScores,
    { logits, rowOf, ids },
    { rows, vocab, targets },
    { lse: [rows], best: [rows], picked: [targets] },
  );
}

/** The stored weights of a layer's experts, neuron by neuron: all three are [E, F, D]. */
export interface StoredExperts {
  readonly gate: StoredTensor;
  readonly up: StoredTensor;
  readonly down: StoredTensor;
  /** Where each expert begins in the buffers of gate and up, in elements: [2, E]. */
  readonly places: Tensor;
}

export type ExpertsOptions = Pick<TopKOptions, "kept" | "activation" | "routed">;

/** Inputs and parameters of a kernel over all experts of a layer (kernels/neuronExperts.ts), and the shapes of y and keep. */
export function expertsCall(
  tape: Tape,
  x: Tensor,
  offsets: Tensor,
  { gate, up, down, places }: StoredExperts,
  { kept, activation, routed }: ExpertsOptions,
) {
  const [tokens, width] = x.shape;
  const [groups, neurons] = gate.shape;
  const active = routed ? routed.weights.shape[1] : 0;
  const rows = routed ? tokens * active : tokens;
  return {
    inputs: {
      x,
      weights: routed?.weights ?? tape.allocate("f32", [0]),
      slotOfRow: routed?.slotOfRow ?? tape.allocate("u32", [0]),
      offsets,
      places,
      gate,
      up,
      down,
      gateScales: gate.scales,
      upScales: up.scales,
      downScales: down.scales,
    },
    params: {
      groups,
      rows,
      width,
      neurons,
      kept,
      activation: activations[activation],
      active,
      extent: Math.min(gate.buffer.length, up.buffer.length),
    },
    shapes: { y: [rows, width], keep: [rows, keepWords(neurons)] },
  };
}

/**
 * All experts in one call: output_RD, and the kept sets as bits, keep_RW. With `routed`, x_TD are tokens, and row r is
 * token slotOfRow_R[r] / A with its result times weights_TA[slotOfRow_R[r]]; without, rows are those of x_RD.
 */
export function neuronExperts(
  tape: Tape,
  x: Tensor,
  offsets: Tensor,
  experts: StoredExperts,
  options: ExpertsOptions,
) {
  const { inputs, params, shapes } = expertsCall(tape, x, offsets, experts, options);
  const kernel = { f32: k.neuronExpertsF32, bf16: k.neuronExpertsBf16, i8: k.neuronExpertsInt8 }[
    experts.gate.type
  ];
  return tape.infer(kernel, inputs, params, shapes);
}
