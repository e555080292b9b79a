// Kernels of the study with shapes, as in ops.ts. Letters: T tokens, R rows grouped by expert, D width, E experts, F neurons,
// V vocabulary.

import { catalogue as k } from "../kernels/catalogue.ts";
import { criterionNumbers, type KernelCriterion } from "../kernels/studyExperts.ts";
import { type ExpertsOptions, expertsCall, type StoredExperts } from "./ops.ts";
import type { Tape } from "./tape.ts";
import type { Tensor } from "./tensor.ts";

export interface StudyExpertsOptions extends ExpertsOptions {
  readonly criterion: KernelCriterion;
  /** For `threshold`. */
  readonly threshold?: number;
  /** For `oracleNorm` and `static`: [E, F]. */
  readonly scores?: Tensor;
  /** For `random`: 32-bit words; tokens_T names each token. */
  readonly random?: { readonly seed: number; readonly layer: number; readonly tokens: Tensor };
  /** Also return the gate values of all neurons. */
  readonly emit?: boolean;
}

/** All experts on x_TD (or x_RD without `routed`) over the neurons of a criterion: y_RD, keep as bits, values_RF if asked for. */
export function studyExperts(
  tape: Tape,
  x: Tensor,
  offsets: Tensor,
  experts: StoredExperts,
  { criterion, threshold = 0, scores, random, emit = false, ...options }: StudyExpertsOptions,
) {
  const { inputs, params, shapes } = expertsCall(tape, x, offsets, experts, options);
  const kernel = { f32: k.studyExpertsF32, bf16: k.studyExpertsBf16, i8: k.studyExpertsInt8 }[
    experts.gate.type
  ];
  return tape.infer(
    kernel,
    {
      ...inputs,
      scores: scores ?? tape.allocate("f32", [0]),
      tokens: random?.tokens ?? tape.allocate("u32", [0]),
    },
    {
      ...params,
      criterion: criterionNumbers[criterion],
      threshold,
      seed: random?.seed ?? 0,
      layer: random?.layer ?? 0,
      emit: emit ? 1 : 0,
    },
    { ...shapes, values: emit ? [params.rows, params.neurons] : [0] },
  );
}

/** Of logits_TV against expected_TV at targets_T, per token: cross entropy, KL divergence (nats), agreement (0 or 1). */
export function logitDivergence(tape: Tape, logits: Tensor, expected: Tensor, targets: Tensor) {
  const [tokens, vocab] = logits.shape;
  const each = [tokens];
  return tape.infer(
    k.logitDivergence,
    { logits, expected, targets },
    { tokens, vocab },
    { losses: each, divergence: each, agrees: each },
  );
}
