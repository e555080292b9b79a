// What other families of models do differently from those that are trained here. A configuration without a variant is
// one of ours; with one it can be run, not trained. src/checkpoint/families.ts makes variants from config.json.

import type { RopeScaling } from "./rope.ts";

/** Queries, keys and values through low ranks (DeepSeek-V2, arXiv 2405.04434). Widths are of one head. */
export interface LatentAttention {
  /** Rank of queries; null: queries are projected directly. */
  readonly queryRank: number | null;
  /** Rank that keys and values share. */
  readonly rank: number;
  /** Part of a query or key that is not rotated; the rest of head_dim is. */
  readonly plain: number;
  readonly value: number;
}

export interface ModelVariant {
  /** The `model_type` it comes from. */
  readonly family: string;
  /** With qk_norm: over the whole projection instead of each head. */
  readonly wholeQkNorm?: boolean;
  /** Bound of queries, keys and values. */
  readonly clipQkv?: number;
  /** Biases of q, k and v (of both compressing projections of latent attention). */
  readonly qkvBias?: boolean;
  readonly outputBias?: boolean;
  /** Biases of gate, up and down in dense layers. */
  readonly mlpBias?: boolean;
  /** Scales scores instead of head_dim^-0.5. */
  readonly attentionScale?: number;
  /** Layers with the sliding window; absent: all. */
  readonly windowLayers?: readonly number[];
  readonly ropeScaling?: RopeScaling;
  readonly latent?: LatentAttention;
  /** Experts come only from the best `kept` of `count` groups; their weights are softmax probabilities times `scale`. */
  readonly groupedRouter?: { readonly count: number; readonly kept: number; readonly scale: number };
  /** The shared expert's output times sigmoid(w . x). */
  readonly sharedGate?: boolean;
}
