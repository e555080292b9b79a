// The one list of kernels. A kernel that is declared but not listed here does not exist for any backend, test or
// benchmark. Backends are total over it (src/backends).

import { attention, attentionGrad } from "./attention.ts";
import { expertBalance, expertBalanceGrad, neuronBalance, neuronBalanceGrad } from "./balance.ts";
import {
  cachedAttentionBf16,
  cachedAttentionF32,
  storeKeyValueBf16,
  storeKeyValueF32,
} from "./cachedAttention.ts";
import { headCrossEntropy, headCrossEntropyGrad } from "./crossEntropy.ts";
import { combine, dispatch } from "./dispatch.ts";
import { logitDivergence } from "./divergence.ts";
import { add, copy, fill } from "./elementwise.ts";
import { embedding, embeddingGrad } from "./embedding.ts";
import { copyBf16, decodeBf16, encodeBf16, encodeInt8, transposeBf16, transposeF32 } from "./encode.ts";
import { latentKeyValue, ropeInterleaved, rowPart } from "./latent.ts";
import {
  groupedLinear,
  groupedLinearGradInput,
  groupedLinearGradWeight,
  linear,
  linearGradInput,
  linearGradWeight,
} from "./linear.ts";
import { neuronExpertsBf16, neuronExpertsF32, neuronExpertsInt8 } from "./neuronExperts.ts";
import { neuronTopK, neuronTopKGrad } from "./neuronTopK.ts";
import { adamW, sumSquares } from "./optimizer.ts";
import { probeMultiply, probeRead } from "./probe.ts";
import { rmsNorm, rmsNormGrad } from "./rmsNorm.ts";
import { rope } from "./rope.ts";
import { groupByExpert, routerTopK, routerTopKGrad } from "./routing.ts";
import {
  storedLinearBf16,
  storedLinearF32,
  storedLinearInt8,
  storedRowsBf16,
  storedRowsF32,
  storedRowsInt8,
} from "./storedLinear.ts";
import { studyExpertsBf16, studyExpertsF32, studyExpertsInt8 } from "./studyExperts.ts";
import { tokenScores } from "./tokenScores.ts";
import { addBias, addGated, clip, routerGroups } from "./variants.ts";

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
  storeKeyValueF32,
  storeKeyValueBf16,
  cachedAttentionF32,
  cachedAttentionBf16,
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
  tokenScores,
  add,
  copy,
  fill,
  sumSquares,
  adamW,
  storedLinearF32,
  storedLinearBf16,
  storedLinearInt8,
  storedRowsF32,
  storedRowsBf16,
  storedRowsInt8,
  neuronExpertsF32,
  neuronExpertsBf16,
  neuronExpertsInt8,
  studyExpertsF32,
  studyExpertsBf16,
  studyExpertsInt8,
  logitDivergence,
  encodeBf16,
  decodeBf16,
  copyBf16,
  encodeInt8,
  transposeF32,
  transposeBf16,
  rowPart,
  latentKeyValue,
  ropeInterleaved,
  addBias,
  addGated,
  clip,
  routerGroups,
  probeRead,
  probeMultiply,
} as const;

export type KernelName = keyof typeof catalogue;

export const kernelNames = Object.keys(catalogue) as KernelName[];
