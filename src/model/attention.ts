// The attention block of a layer around the meeting of queries and keys: projections, norms, rotation, and the output
// projection. All families are this one path; latent attention only makes queries, keys and values another way.
// Letters: T tokens, D width, H heads, G heads of keys and values, C head width, M rank of the latent, R rotated part of a head.

import {
  addBias,
  attention,
  clip,
  latentKeyValue,
  linear,
  rmsNorm,
  rope,
  ropeInterleaved,
  rowPart,
} from "../tensor/ops.ts";
import type { Tape } from "../tensor/tape.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { ModelConfig } from "./config.ts";
import type { LatentAttention } from "./variant.ts";

/** How a layer's queries attend: q_T(H C), k_T(G C), v_T(G C), rotated already, to o_T(H C). */
export type Attend = (tape: Tape, layer: number, q: Tensor, k: Tensor, v: Tensor) => Tensor;

export interface AttentionBlock {
  readonly config: ModelConfig;
  readonly bf16: boolean;
  readonly positions: Tensor;
  readonly ropeTable: Tensor;
  /** A weight of this layer's attention, e.g. `q_proj.weight`. */
  readonly weight: (name: string) => Tensor;
  /** o_T(H C) from queries and keys, rotated already, and values. */
  readonly attend: (q: Tensor, k: Tensor, v: Tensor) => Tensor;
}

/** The norms inside latent attention have an epsilon of their own, whatever `rms_norm_eps` says (transformers 5.18). */
const LATENT_EPS = 1e-6;

/** What scales scores, and how many tokens a query of a layer sees, itself included (0: all earlier ones). */
export function attentionOf({ variant, head_dim, sliding_window }: ModelConfig, layer: number) {
  const slides = variant?.windowLayers?.includes(layer) ?? true;
  return {
    scale: variant?.attentionScale ?? head_dim ** -0.5,
    window: slides ? (sliding_window ?? 0) : 0,
  };
}

/** Attention within each sequence of a batch. */
export function attendWithin(config: ModelConfig, batch: number, seq: number, bf16 = false): Attend {
  const shape = {
    batch,
    seq,
    heads: config.num_attention_heads,
    kvHeads: config.num_key_value_heads,
    headDim: config.head_dim,
  };
  return (tape, layer, q, k, v) =>
    attention(tape, q, k, v, { ...shape, ...attentionOf(config, layer) }, bf16);
}

/** Applies the block to the normed x_TD. */
export function attentionBlock(tape: Tape, x: Tensor, block: AttentionBlock): Tensor {
  const { config, bf16, weight } = block;
  const { variant } = config;
  const attended = variant?.latent
    ? latentAttention(tape, x, block, variant.latent)
    : plainAttention(tape, x, block);
  const output = linear(tape, attended, weight("o_proj.weight"), bf16);
  return variant?.outputBias ? addBias(tape, output, weight("o_proj.bias")) : output;
}

function plainAttention(tape: Tape, x: Tensor, block: AttentionBlock): Tensor {
  const { config, bf16, positions, ropeTable, weight } = block;
  const { variant } = config;
  const clipped = (y: Tensor) => (variant?.clipQkv === undefined ? y : clip(tape, y, variant.clipQkv));
  const project = (name: "q" | "k" | "v") => {
    const y = linear(tape, x, weight(`${name}_proj.weight`), bf16);
    return variant?.qkvBias ? addBias(tape, y, weight(`${name}_proj.bias`)) : y;
  };
  const rotate = (name: "q" | "k") => {
    const y = project(name);
    // The norm's own width says whether it is one of a head or of the whole projection.
    const ready = config.qk_norm ? rmsNorm(tape, y, weight(`${name}_norm.weight`), config.rms_norm_eps) : y;
    return rope(tape, clipped(ready), ropeTable, positions);
  };
  return block.attend(rotate("q"), rotate("k"), clipped(project("v")));
}

/** Keys and values are expanded to whole heads before they are cached; values are padded to the width of keys. */
function latentAttention(tape: Tape, x: Tensor, block: AttentionBlock, latent: LatentAttention): Tensor {
  const { config, bf16, positions, ropeTable, weight } = block;
  const { num_attention_heads: heads, head_dim: headDim } = config;
  const { queryRank, rank, plain, value } = latent;
  const compress = (name: string) => {
    const y = linear(tape, x, weight(`${name}.weight`), bf16);
    return config.variant?.qkvBias ? addBias(tape, y, weight(`${name}.bias`)) : y;
  };
  const norm = (y: Tensor, name: string) => rmsNorm(tape, y, weight(`${name}.weight`), LATENT_EPS);
  const rotate = (y: Tensor) => ropeInterleaved(tape, y, ropeTable, positions, headDim);
  const query =
    queryRank === null
      ? linear(tape, x, weight("q_proj.weight"), bf16)
      : linear(tape, norm(compress("q_a_proj"), "q_a_layernorm"), weight("q_b_proj.weight"), bf16);
  const compressed = compress("kv_a_proj_with_mqa");
  const normed = norm(rowPart(tape, compressed, rank + headDim - plain, 0, rank), "kv_a_layernorm");
  const expanded = linear(tape, normed, weight("kv_b_proj.weight"), bf16);
  const shape = { heads, plain, rotated: headDim - plain, rank, value };
  const { k, v } = latentKeyValue(tape, expanded, compressed, shape);
  const attended = block.attend(rotate(query), rotate(k), v);
  const values = rowPart(tape, attended, headDim, 0, value);
  return values.reshaped([x.shape[0], heads * value]);
}
