// The one list of kernels. A kernel that is declared but not listed here does not exist for any backend, test or
// benchmark. Backends are total over it (src/backends).

import { attention, attentionGrad } from "./attention.ts";
import { expertBalance, expertBalanceGrad, neuronBalance, neuronBalanceGrad } from "./balance.ts";
import { cachedAttention, storeRows } from "./cachedAttention.ts";
import { headCrossEntropy, headCrossEntropyGrad } from "./crossEntropy.ts";
import { combine, dispatch } from "./dispatch.ts";
import { add, copy, fill } from "./elementwise.ts";
import { embedding, embeddingGrad } from "./embedding.ts";
import {
  groupedLinear,
  groupedLinearGradInput,
  groupedLinearGradWeight,
  linear,
  linearGradInput,
  linearGradWeight,
} from "./linear.ts";
import { neuronTopK, neuronTopKGrad } from "./neuronTopK.ts";
import { adamW, sumSquares } from "./optimizer.ts";
import { rmsNorm, rmsNormGrad } from "./rmsNorm.ts";
import { rope } from "./rope.ts";
import { groupByExpert, routerTopK, routerTopKGrad } from "./routing.ts";

/** Every kernel under its own name. */
export const catalogue = {
  linear,
  linearGradInput,
  linearGradWeight,
  groupedLinear,
  groupedLinearGradInput,
  groupedLinearGradWeight,
  embedding,
  embeddingGrad,
  rmsNorm,
  rmsNormGrad,
  rope,
  attention,
  attentionGrad,
  storeRows,
  cachedAttention,
  routerTopK,
  routerTopKGrad,
  groupByExpert,
  dispatch,
  combine,
  neuronTopK,
  neuronTopKGrad,
  neuronBalance,
  neuronBalanceGrad,
  expertBalance,
  expertBalanceGrad,
  headCrossEntropy,
  headCrossEntropyGrad,
  add,
  copy,
  fill,
  sumSquares,
  adamW,
} as const;

export type KernelName = keyof typeof catalogue;

export const kernelNames = Object.keys(catalogue) as KernelName[];
