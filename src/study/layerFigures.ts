// The section of a study's page about layers: their errors, what pruning each alone costs, K per layer.

import { expertWidth } from "../model/config.ts";
import { formatPercent } from "../report/format.ts";
import { heatMap } from "../report/heatMap.ts";
import type { Block, Figure, Section } from "../report/page.ts";
import { linePlot, type Series } from "../report/plot.ts";
import { meanKept, type SettingResult, type StudyResult } from "./result.ts";

/** Lines in a plot, at most. */
const MOST_LINES = 6;

export function layerSection(study: StudyResult): Section {
  const blocks: Block[] = [
    {
      kind: "prose",
      paragraphs: [
        "How far a layer's output is from what all its neurons would give for the same input, and how much one layer alone " +
          "can be pruned: layers are not alike, and K per layer spends neurons where they matter.",
      ],
    },
  ];
  const figures = [errorMap(study), ...costFigures(study)];
  blocks.push({ kind: "figures", figures });
  return { heading: "Layers", blocks };
}

function layersOf(study: StudyResult): number[] {
  return study.activation.layers.map(({ layer }) => layer);
}

function errorMap(study: StudyResult): Figure {
  const layers = layersOf(study);
  const settings = study.settings
    .filter(
      ({ kind, criterion, layerErrors }) =>
        kind === "neurons" && criterion === "gate" && layerErrors.length > 0,
    )
    .sort((a, b) => a.prunedShare - b.prunedShare);
  // A cell reaches half way to its neighbours.
  const shares = settings.map(({ prunedShare }) => 100 * prunedShare);
  const edge = (i: number) => {
    if (i === 0) return Math.max(0, shares[0] - 5);
    return i === shares.length ? 100 : (shares[i - 1] + shares[i]) / 2;
  };
  return {
    svg: heatMap({
      title: "Relative error of each layer's output, by gate",
      x: { label: "neurons pruned, %" },
      y: { label: "layer", counted: true },
      unit: "error",
      format: (value) => formatPercent(value, 1),
      height: Math.max(150, Math.min(420, 24 * layers.length)),
      cells: settings.flatMap(({ layerErrors }, i) =>
        layerErrors.map((value, l) => ({
          x: [edge(i), edge(i + 1)] as const,
          y: [layers[l] - 0.5, layers[l] + 0.5] as const,
          value,
          label: `layer ${layers[l]}, ${formatPercent(shares[i] / 100, 0)} pruned`,
        })),
      ),
    }),
  };
}

function costFigures(study: StudyResult): Figure[] {
  const { allocation, settings, model } = study;
  if (!allocation) return [];
  const layers = layersOf(study);
  const width = expertWidth(model.config);
  const picked = spread(layers.map((_, i) => i));
  const costs = linePlot({
    title: "Cost of pruning one layer alone",
    x: { label: "neurons pruned in that layer, %" },
    y: { label: "KL, nats per token (logarithmic)", log: true },
    series: picked.map(
      (i, colour): Series => ({
        name: `layer ${layers[i]}`,
        colour,
        points: allocation.counts.map((count, at) => [100 * (1 - count / width), allocation.costs[i][at]]),
      }),
    ),
  });
  const perLayer = settings
    .filter(({ kind, prunedShare }) => kind === "per-layer" && prunedShare > 0)
    .sort((a, b) => a.prunedShare - b.prunedShare);
  const kept = linePlot({
    title: "K per layer at several budgets",
    x: { label: "layer", counted: true },
    y: { label: "neurons kept", include: [0] },
    series: spread(apart(perLayer)).map(
      (one, colour): Series => ({
        name: `mean ${Math.round(meanKept(model.config, one.kept))}`,
        colour,
        dots: true,
        points: layers.map((layer) => [layer, typeof one.kept === "number" ? one.kept : one.kept[layer]]),
      }),
    ),
  });
  const gate = settings
    .filter(({ kind, criterion }) => kind === "neurons" && criterion === "gate")
    .sort((a, b) => a.prunedShare - b.prunedShare);
  const points = (list: typeof settings): [number, number][] =>
    list.map((one) => [100 * one.prunedShare, one.divergence > 0 ? one.divergence : Number.NaN]);
  const gain = linePlot({
    title: "What K per layer gains",
    x: { label: "neurons pruned on average, %" },
    y: { label: "KL, nats per token (logarithmic)", log: true },
    series: [
      { name: "one K", dots: true, points: points(gate) },
      { name: "K per layer", dots: true, points: points(perLayer) },
    ],
  });
  return [{ svg: gain }, { svg: kept }, { svg: costs }];
}

/** Without those within 5 % of neurons of the one before. */
function apart(settings: readonly SettingResult[]): SettingResult[] {
  const list: SettingResult[] = [];
  for (const one of settings) {
    const last = list[list.length - 1];
    if (!last || one.prunedShare - last.prunedShare > 0.05) list.push(one);
  }
  return list;
}

/** At most six, from the first to the last. */
function spread<T>(list: readonly T[]): T[] {
  if (list.length <= MOST_LINES) return [...list];
  return Array.from(
    { length: MOST_LINES },
    (_, i) => list[Math.round((i * (list.length - 1)) / (MOST_LINES - 1))],
  );
}
