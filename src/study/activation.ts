// What gate values look like: one pass over text, streaming. Distribution of |act(g)| by layer and expert on a grid of
// floating-point bins (32 an octave, so quantiles are off by at most 3.2 %), its mean and maximum by depth, how many
// neurons carry a token, how much neighbouring tokens share, and how evenly neurons and experts are used.
// Letters: E experts, F neurons, K kept, R rows.

import { throwIfAborted } from "../errors.ts";
import { bitCount, keepWords } from "../kernels/neuronTopK.ts";
import { expertWidth, isSparseLayer } from "../model/config.ts";
import type { Transformer } from "../model/transformer.ts";
import { type LayerChoice, layerChoices } from "./choices.ts";
import { batchesOf, type WindowBatch } from "./evaluate.ts";
import { type Evenness, evenness } from "./evenness.ts";
import { GateHistogram } from "./histogram.ts";
import type { Window } from "./text.ts";

/** Gate values in memory at a time, all layers together, and once more while they are read; a window alone may have more. */
const BATCH_VALUES = 1 << 25;
/** An expert with fewer rows says nothing about which of its neurons are dead. */
const LEAST_ROWS = 64;

/** The sums of one layer. */
export interface LayerActivation {
  readonly layer: number;
  readonly experts: number;
  /** One histogram per expert. */
  readonly histograms: readonly GateHistogram[];
  /** Rows of each expert: [E]. */
  readonly rows: Float64Array;
  /** Sum of |act(g)| over an expert's rows: [E, F]. */
  readonly sums: Float64Array;
  /** Rows that keep each neuron among their K largest: [E, F]. */
  readonly uses: Float64Array;
  /** Sum over rows of (sum |G|)^2 / sum G^2. */
  participation: number;
  maximum: number;
  /** Kept neurons that a token shares with the one before it in the same expert, and pairs of such tokens. */
  shared: number;
  pairs: number;
}

/** Statistics of a layer, ready for a file. */
export interface LayerStatistics {
  readonly layer: number;
  readonly mean: number;
  readonly maximum: number;
  /** |act(g)| at 1, 5, 25, 50, 75, 95, 99 % of neurons and tokens. */
  readonly quantiles: readonly number[];
  /** Share of values below each of `thresholds` times the layer's mean. */
  readonly below: readonly number[];
  /** Shares of values by octave: of |act(g)| in [2^(first + i), 2^(first + i + 1)). */
  readonly histogram: { readonly first: number; readonly shares: readonly number[] };
  /** (sum |G|)^2 / sum G^2 of a token in an expert, on average: as many equal neurons would weigh the same. */
  readonly effectiveNeurons: number;
  /** Mean share of the K kept neurons that the token before also kept; K/F by chance. Absent without such pairs. */
  readonly overlap?: number;
  readonly neuronUse: Evenness & { readonly dead: number; readonly alwaysOn: number };
  readonly expertUse?: Evenness;
  readonly perExpert: readonly { readonly rows: number; readonly mean: number; readonly below: number }[];
  /** Mean |act(g)| of neurons, sorted within each expert from large to small, averaged over experts, in 48 groups. */
  readonly neuronProfile: readonly number[];
  /** Share of rows that keep a neuron, sorted likewise: 48 groups from the most to the least used. */
  readonly useProfile: readonly number[];
}

export const quantilesShown = [0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99] as const;
/** Multiples of a layer's mean |act(g)|. */
export const thresholdsShown = [0.01, 0.1, 0.5] as const;

/**
 * Runs the model as it is over windows and adds up what its gates do.
 * @param kept K for which use and overlap are counted.
 */
export async function gatherActivation(
  model: Transformer,
  windows: readonly Window[],
  kept: number,
  { signal, onTokens }: { signal?: AbortSignal; onTokens?: (done: number, total: number) => void } = {},
): Promise<LayerActivation[]> {
  const { config } = model;
  const width = expertWidth(config);
  const experts = Math.max(1, config.num_experts);
  const layers = new Map<number, LayerActivation>();
  for (let layer = 0; layer < config.num_hidden_layers; layer++) {
    if (config.num_experts > 0 && !isSparseLayer(config, layer)) continue;
    layers.set(layer, {
      layer,
      experts,
      histograms: Array.from({ length: experts }, () => new GateHistogram()),
      rows: new Float64Array(experts),
      sums: new Float64Array(experts * width),
      uses: new Float64Array(experts * width),
      participation: 0,
      maximum: 0,
      shared: 0,
      pairs: 0,
    });
  }
  const perToken = layers.size * width * (config.num_experts > 0 ? config.num_experts_per_tok : 1);
  const batches = batchesOf(windows, Math.max(64, Math.min(2048, Math.floor(BATCH_VALUES / perToken))));
  const total = batches.reduce((sum, { inputs }) => sum + inputs.length, 0);
  let done = 0;
  for (const batch of batches) {
    throwIfAborted(signal);
    for (const choice of await layerChoices(model, batch, { kept, values: true })) {
      const layer = layers.get(choice.layer);
      if (layer) addRows(layer, batch, choice, width);
    }
    done += batch.inputs.length;
    onTokens?.(done, total);
  }
  return [...layers.values()];
}

function addRows(layer: LayerActivation, batch: WindowBatch, choice: LayerChoice, width: number): void {
  const { keep, offsets, slots, active } = choice;
  const values = choice.values as Float32Array; // asked for above
  const words = keepWords(width);
  const isPadding = (token: number) =>
    token % batch.length >= batch.windows[Math.floor(token / batch.length)].inputs.length;
  for (let e = 0; e < layer.experts; e++) {
    let before = -2;
    for (let r = offsets[e]; r < offsets[e + 1]; r++) {
      const token = slots ? Math.floor(slots[r] / active) : r;
      if (isPadding(token)) continue;
      layer.rows[e]++;
      const row = values.subarray(r * width, (r + 1) * width);
      layer.histograms[e].add(row);
      let [sum, squares] = [0, 0];
      for (let j = 0; j < width; j++) {
        const size = Math.abs(row[j]);
        layer.sums[e * width + j] += size;
        sum += size;
        squares += size * size;
        if (size > layer.maximum) layer.maximum = size;
      }
      if (squares > 0) layer.participation += (sum * sum) / squares;
      const follows = before === token - 1 && token % batch.length !== 0;
      for (let word = 0; word < words; word++) {
        let bits = keep[r * words + word];
        if (follows) layer.shared += bitCount(bits & keep[(r - 1) * words + word]);
        for (; bits !== 0; bits &= bits - 1) {
          layer.uses[e * width + word * 32 + 31 - Math.clz32(bits & -bits)]++;
        }
      }
      if (follows) layer.pairs++;
      before = token;
    }
  }
}

/** What a file keeps of a layer. @param kept the K of `gatherActivation`. */
export function layerStatistics(activation: LayerActivation, width: number, kept: number): LayerStatistics {
  const { layer, experts, rows, sums, uses, histograms, participation, maximum } = activation;
  const all = new GateHistogram();
  for (const histogram of histograms) all.merge(histogram);
  const total = rows.reduce((a, b) => a + b, 0);
  const mean = sums.reduce((a, b) => a + b, 0) / Math.max(1, total * width);
  const seen = Array.from({ length: experts }, (_, e) => e).filter((e) => rows[e] >= LEAST_ROWS);
  let [dead, alwaysOn] = [0, 0];
  for (const e of seen) {
    for (let j = 0; j < width; j++) {
      if (uses[e * width + j] === 0) dead++;
      if (uses[e * width + j] === rows[e]) alwaysOn++;
    }
  }
  const neurons = Math.max(1, seen.length * width);
  const use = seen.map((e) => evenness(uses.subarray(e * width, (e + 1) * width)));
  const average = (key: keyof Evenness) =>
    use.length === 0 ? 0 : use.reduce((sum, one) => sum + one[key], 0) / use.length;
  const perRow = (of: Float64Array) => profileOf(of, rows, seen, width);
  return {
    layer,
    mean,
    maximum,
    quantiles: quantilesShown.map((share) => all.quantile(share)),
    below: thresholdsShown.map((share) => all.below(share * mean)),
    histogram: all.octaves(),
    effectiveNeurons: participation / Math.max(1, total),
    ...(activation.pairs > 0 && { overlap: activation.shared / (activation.pairs * kept) }),
    neuronUse: {
      entropy: average("entropy"),
      gini: average("gini"),
      maxOverMean: average("maxOverMean"),
      dead: dead / neurons,
      alwaysOn: alwaysOn / neurons,
    },
    ...(experts > 1 && { expertUse: evenness(rows) }),
    perExpert: histograms.map((histogram, e) => ({
      rows: rows[e],
      mean:
        sums.subarray(e * width, (e + 1) * width).reduce((a, b) => a + b, 0) / Math.max(1, rows[e] * width),
      below: histogram.below(0.1 * mean),
    })),
    neuronProfile: perRow(sums),
    useProfile: perRow(uses),
  };
}

const PROFILE_GROUPS = 48;

/** Values per row of each expert's neurons, sorted from large to small, averaged over experts and groups of neurons. */
function profileOf(values: Float64Array, rows: Float64Array, experts: number[], width: number): number[] {
  const groups = Math.min(PROFILE_GROUPS, width);
  const profile = new Array<number>(groups).fill(0);
  for (const e of experts) {
    const sorted = values.slice(e * width, (e + 1) * width).sort((a, b) => b - a);
    for (let g = 0; g < groups; g++) {
      const [first, last] = [Math.floor((g * width) / groups), Math.floor(((g + 1) * width) / groups)];
      let sum = 0;
      for (let j = first; j < last; j++) sum += sorted[j];
      profile[g] += sum / (last - first) / rows[e] / experts.length;
    }
  }
  return profile;
}
