// The experts of a layer with another choice of neurons than the one a MoNE makes: what a study compares. Everything else
// is as in neuronExperts.ts, arithmetic and its order included, so that with all neurons kept the results are the same to
// the last bit. Up is computed whole, whatever is kept: this is for measuring, not for speed.
// Letters: T tokens, A experts per token, R = T A rows grouped by expert, D width, E groups, F neurons, K kept.
//
// Criteria, h = act(g) u: `gate` the K largest |act(g)|; `oracle` |h|; `oracleNorm` |h| scores_EF (the norms of the down
// columns); `threshold` |act(g)| > t, however many these are (CATS, arXiv 2404.08763); `random` K by a hash of seed,
// tokens_T[token], layer, expert and neuron; `static` the K largest scores_EF, for every token the same. Ties: lower index.

import { activations } from "./activation.ts";
import { defineKernel } from "./kernel.ts";
import {
  expertCase,
  expertInputSizes,
  expertInputs,
  expertParams,
  expertsReference,
} from "./neuronExperts.ts";
import { keepWords, largestIndices } from "./neuronTopK.ts";
import { suffixOf, type WeightType } from "./stored.ts";

/** Values of the kernel's `criterion` parameter. */
export const criterionNumbers = {
  gate: 0,
  oracle: 1,
  oracleNorm: 2,
  threshold: 3,
  random: 4,
  static: 5,
} as const;

export type KernelCriterion = keyof typeof criterionNumbers;

/** A permutation of 32-bit words that spreads them well (C. Wellons, "lowbias32"). */
function mixed(word: number): number {
  let x = word >>> 0;
  x = Math.imul(x ^ (x >>> 16), 0x7feb352d) >>> 0;
  x = Math.imul(x ^ (x >>> 15), 0x846ca68b) >>> 0;
  return (x ^ (x >>> 16)) >>> 0;
}

/** The rank of a neuron under `random`: uniform in [0, 1), a multiple of 2^-24. All arguments are 32-bit words. */
export function randomScore(
  seed: number,
  token: number,
  layer: number,
  expert: number,
  neuron: number,
): number {
  const key = mixed(mixed(mixed(mixed(seed) ^ token) ^ layer) ^ expert);
  return (mixed((key + Math.imul(neuron, 0x9e3779b9)) >>> 0) >>> 8) / 2 ** 24;
}

function sampleOf(
  criterion: KernelCriterion,
  counts: number[],
  active: number,
  kept: number,
  notNumber = false,
) {
  const neurons = 40;
  const { params, inputs } = expertCase({ name: "", counts, width: 33, neurons, kept, active, notNumber });
  const { rows, groups } = params;
  const needsScores = isRankedByScores(criterionNumbers[criterion]);
  return {
    name: `${criterion}, ${rows} rows, ${kept} of ${neurons}${notNumber ? ", NaN" : ""}`,
    params: {
      ...params,
      criterion: criterionNumbers[criterion],
      threshold: 0.25,
      seed: 7,
      layer: 3,
      emit: 1,
    },
    inputs: {
      ...inputs,
      scores: Array.from(
        { length: needsScores ? groups * neurons : 0 },
        (_, i) => 0.5 + ((i * 37) % 101) / 100,
      ),
      tokens: Array.from(
        { length: criterion === "random" ? rows / Math.max(1, active) : 0 },
        (_, t) => 1000 + 3 * t,
      ),
    },
  };
}

function studyExperts(type: WeightType) {
  return defineKernel({
    name: `studyExperts${suffixOf[type]}`,
    summary: `experts over the neurons that a criterion of the study keeps, weights stored as ${type}`,
    buffers: {
      ...expertInputs(type),
      /** [E, F]; not read but for `oracleNorm` and `static`. */
      scores: "in f32",
      /** What each token is called: [T]; read for `random`. */
      tokens: "in u32",
      y: "out f32",
      keep: "out u32",
      /** act(g) of all neurons: [R, F] with `emit` 1, else empty. */
      values: "out f32",
    },
    params: {
      ...expertParams,
      criterion: "int",
      threshold: "float",
      seed: "int",
      layer: "int",
      emit: "int",
    },
    sizes: ({ groups, rows, width, neurons, active, extent, criterion, emit }) => ({
      ...expertInputSizes(type, { groups, rows, width, neurons, active, extent }),
      scores: isRankedByScores(criterion) ? groups * neurons : 0,
      tokens: criterion === criterionNumbers.random ? rows / Math.max(1, active) : 0,
      y: rows * width,
      keep: rows * keepWords(neurons),
      values: emit * rows * neurons,
    }),
    reference(buffers, params) {
      const { scores, tokens, slotOfRow, values } = buffers;
      const { neurons, kept, active, criterion, threshold, seed, layer, emit } = params;
      expertsReference(type, buffers, params, (gates, up, e, r) => {
        if (emit) values.set(gates, r * neurons);
        const all = gates.map((_, j) => j);
        if (criterion === criterionNumbers.threshold) {
          return all.filter((j) => !(Math.abs(gates[j]) <= Math.fround(threshold))); // NaN is the largest
        }
        const token = tokens[active === 0 ? r : Math.floor(slotOfRow[r] / active)];
        const rank = (j: number): number => {
          switch (criterion) {
            case criterionNumbers.gate:
              return Math.abs(gates[j]);
            case criterionNumbers.oracle:
              return Math.abs(Math.fround(gates[j] * up(j)));
            case criterionNumbers.oracleNorm:
              return Math.fround(Math.abs(Math.fround(gates[j] * up(j))) * scores[e * neurons + j]);
            case criterionNumbers.random:
              return randomScore(seed, token, layer, e, j);
            default:
              return scores[e * neurons + j];
          }
        };
        return largestIndices(all.map(rank), kept);
      });
    },
    samples: () => {
      const criteria = Object.keys(criterionNumbers) as KernelCriterion[];
      return [
        // Few rows an expert and many take different ways; both, for tokens with two experts and for plain rows.
        ...criteria.map((criterion) => sampleOf(criterion, [4, 5, 1], 2, 9)),
        ...criteria.map((criterion) => sampleOf(criterion, [40, 3, 27], 2, 9)),
        ...criteria.map((criterion) => sampleOf(criterion, [4, 5, 1], 2, 9, true)),
        sampleOf("oracle", [1, 30], 0, 17),
        sampleOf("random", [1, 30], 0, 40),
      ].map((sample) => ({ ...sample, params: { ...sample.params, activation: activations.silu } }));
    },
    flops: ({ rows, width, neurons, kept }) => 2 * rows * width * (2 * neurons + kept),
  });
}

function isRankedByScores(criterion: number): boolean {
  return criterion === criterionNumbers.oracleNorm || criterion === criterionNumbers.static;
}

export const studyExpertsF32 = studyExperts("f32");
export const studyExpertsBf16 = studyExperts("bf16");
export const studyExpertsInt8 = studyExperts("i8");
