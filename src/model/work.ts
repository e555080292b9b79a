// How much work a model is, by formula: floating-point operations of a pass (products only, a multiplication and an
// addition each), and bytes of weights that a decoding step reads. Benchmarks divide measured times by these.
// Letters: D width, H heads, G key/value heads, C head width, E experts, A experts per token, F neurons, K kept, V vocabulary,
// S tokens of a sequence.

import { attentionOf } from "./attention.ts";
import { isSparseLayer, keptNeurons, type ModelConfig } from "./config.ts";
import { attentionMatrices } from "./parameters.ts";

/** Operations for one token. */
export interface TokenFlops {
  /** Projections of attention: 2 D (2 H + 2 G) C; of latent attention: twice the elements of its matrices. */
  readonly projections: number;
  /**
   * Scores and mixtures over (S + 1) / 2 positions on average, or the window: 4 H C positions; of latent attention, whose
   * values have a width of their own, 2 H (C + that) positions.
   */
  readonly attention: number;
  /** 2 D E, and 2 D where a shared expert has a gate. */
  readonly router: number;
  /** A experts with all neurons: 6 A D F; dense layers and shared experts are counted here too. */
  readonly experts: number;
  /** The same if only kept neurons are multiplied: 2 A D (F + 2 K). */
  readonly keptExperts: number;
  /** 2 D V. */
  readonly head: number;
  /** All of the above with all neurons. */
  readonly total: number;
}

/** Operations of a forward pass for one token of sequences of length S, all layers together. */
export function forwardFlops(config: ModelConfig, seq: number): TokenFlops {
  const { hidden_size: D, head_dim: C, num_experts: E, num_experts_per_tok: A } = config;
  const { num_attention_heads: H, num_hidden_layers: layers, variant } = config;
  const F = config.moe_intermediate_size;
  const K = keptNeurons(config);
  let [router, experts, keptExperts, attention] = [0, 0, 0, 0];
  for (let layer = 0; layer < layers; layer++) {
    const positions = meanPositions(seq, attentionOf(config, layer).window);
    attention += 2 * H * (C + (variant?.latent?.value ?? C)) * positions;
    if (isSparseLayer(config, layer)) {
      const shared = 6 * D * config.shared_expert_intermediate_size;
      router += 2 * D * (E + sharedGates(config));
      experts += 6 * A * D * F + shared;
      keptExperts += 2 * A * D * (F + 2 * K) + shared;
    } else {
      const width = config.intermediate_size;
      experts += 6 * D * width;
      keptExperts += 2 * D * (width + 2 * (E > 0 ? width : K));
    }
  }
  const elements = attentionMatrices(config).reduce((sum, [rows, width]) => sum + rows * width, 0);
  const projections = layers * 2 * elements;
  const head = 2 * D * config.vocab_size;
  return {
    projections,
    attention,
    router,
    experts,
    keptExperts,
    head,
    total: projections + attention + router + experts + head,
  };
}

/** Rows that gate a shared expert in each layer. */
function sharedGates({ variant, shared_expert_intermediate_size: width }: ModelConfig): number {
  return variant?.sharedGate && width > 0 ? 1 : 0;
}

/** Positions that a token of a sequence sees, itself included, on average. @param window 0: none. */
function meanPositions(seq: number, window: number): number {
  if (window === 0 || window >= seq) return (seq + 1) / 2;
  return (window * (window + 1)) / 2 / seq + (window * (seq - window)) / seq;
}

/** Operations of a training step per token: forward, and twice that for the gradients of inputs and weights. */
export function trainingFlops(config: ModelConfig, seq: number): number {
  return 3 * forwardFlops(config, seq).total;
}

/** Bytes of an element in each form, and of the scale of a row. */
const storedBytes = { f32: 4, bf16: 2, int8: 1 } as const;

/** Bytes of weights that one token of one sequence reads. */
export interface TokenBytes {
  readonly attention: number;
  /** With the gate of a shared expert; f32 in every form. */
  readonly router: number;
  /** A experts: the gate whole, K rows of up, K columns of down. */
  readonly experts: number;
  readonly head: number;
  readonly total: number;
}

/**
 * Bytes of weights for one token in decoding: attention D (2 H + 2 G) C, or the matrices of latent attention, router D E,
 * experts A D (F + 2 K), head D V, each element once; with int8 also a scale of 4 bytes for each row read. Norms, biases, the
 * token's embedding row and the cache of keys and values are left out.
 */
export function decodeBytes(config: ModelConfig, dtype: keyof typeof storedBytes): TokenBytes {
  const { hidden_size: D, num_experts: E, num_experts_per_tok: A, num_hidden_layers: layers } = config;
  /** `rows` rows of `width` elements. */
  const matrix = (rows: number, width: number) =>
    rows * (width * storedBytes[dtype] + (dtype === "int8" ? 4 : 0));
  const network = (neurons: number, kept: number) => matrix(neurons + 2 * kept, D);
  const K = keptNeurons(config);
  let [router, experts] = [0, 0];
  for (let layer = 0; layer < layers; layer++) {
    if (isSparseLayer(config, layer)) {
      const shared = config.shared_expert_intermediate_size;
      router += 4 * D * (E + sharedGates(config));
      experts += A * network(config.moe_intermediate_size, K) + network(shared, shared);
    } else {
      const width = config.intermediate_size;
      experts += network(width, E > 0 ? width : K);
    }
  }
  const projections = attentionMatrices(config).map(([rows, width]) => matrix(rows, width));
  const attention = layers * projections.reduce((a, b) => a + b, 0);
  const head = matrix(config.vocab_size, D);
  return { attention, router, experts, head, total: attention + router + experts + head };
}
