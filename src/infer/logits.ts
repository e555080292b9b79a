// Logits of every position of a text, and on request how each sparse layer routes it: for comparing a model with another
// implementation. Also transformers' form of the auxiliary loss. Letters: T tokens, V vocabulary, E experts, A active.

import type { Transformer } from "../model/transformer.ts";
import type { Routing } from "../mone/router.ts";
import { Decoder, type DecoderOptions } from "./decoder.ts";

/** How one layer routes, row by row. */
export interface LayerRouting {
  readonly layer: number;
  /** Before the softmax: [T, E]. */
  readonly logits: Float32Array;
  /** Best first: [T, A]. */
  readonly ids: Uint32Array;
  /** What multiplies each chosen expert's output: [T, A]. */
  readonly weights: Float32Array;
}

export interface TextLogits {
  /** [T, V] */
  readonly logits: Float32Array;
  /** One entry a sparse layer; empty unless asked for. */
  readonly routing: readonly LayerRouting[];
}

export interface LogitsOptions extends Pick<DecoderOptions, "bf16" | "kept" | "cacheType"> {
  readonly router?: boolean;
}

/** Runs ids_T from position 0. @throws Error if there are more of them than the model has positions. */
export async function textLogits(
  model: Transformer,
  ids: Uint32Array,
  { router = false, ...options }: LogitsOptions = {},
): Promise<TextLogits> {
  const decoder = new Decoder(model, { ...options, maxPositions: ids.length });
  const slot = decoder.claim() as number;
  const seen: { layer: number; routing: Routing }[] = [];
  const routing: LayerRouting[] = [];
  const { backend } = model;
  try {
    const logits = await decoder.runAll([{ slot, position: 0, ids }], {
      ...(router && {
        onRouting: (tape, layer, found) => {
          for (const tensor of [found.logits, found.ids, found.weights]) tape.keep(tensor);
          seen.push({ layer, routing: found });
        },
      }),
      read: async () => {
        for (const { layer, routing: found } of seen) {
          const read = (of: "logits" | "ids" | "weights") =>
            backend.read(found[of].buffer, 0, found[of].size);
          routing.push({
            layer,
            logits: (await read("logits")) as Float32Array,
            ids: (await read("ids")) as Uint32Array,
            weights: (await read("weights")) as Float32Array,
          });
        }
      },
    });
    return { logits, routing };
  } finally {
    decoder.close();
  }
}

/**
 * The auxiliary loss as transformers computes it (`load_balancing_loss_func`): E sum_e f_e P_e with all rows of all sparse
 * layers in one pool, f not divided by the experts per token, so that balance gives A and not 1.
 * @param logits of each sparse layer, [rows, E].
 */
export function pooledBalanceLoss(logits: readonly Float32Array[], experts: number, active: number): number {
  const chosen = new Float64Array(experts);
  const probability = new Float64Array(experts);
  let rows = 0;
  for (const layer of logits) {
    for (let at = 0; at < layer.length; at += experts, rows++) {
      const row = layer.subarray(at, at + experts);
      const largest = row.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
      const total = row.reduce((sum, logit) => sum + Math.exp(logit - largest), 0);
      const best = [...row.keys()].sort((a, b) => row[b] - row[a] || a - b).slice(0, active);
      for (const e of best) chosen[e]++;
      for (let e = 0; e < experts; e++) probability[e] += Math.exp(row[e] - largest) / total;
    }
  }
  return experts * chosen.reduce((sum, count, e) => sum + (count / rows) * (probability[e] / rows), 0);
}
