// The sections of a study's page about gate values: distributions by depth, how many neurons carry a token, how evenly
// neurons and experts are used.

import { expertWidth } from "../model/config.ts";
import { formatPercent } from "../report/format.ts";
import { heatMap } from "../report/heatMap.ts";
import type { Figure, Section } from "../report/page.ts";
import { barPlot, linePlot } from "../report/plot.ts";
import { ridgePlot } from "../report/ridgePlot.ts";
import type { LayerStatistics } from "./activation.ts";
import type { StudyResult } from "./result.ts";
import { layersTable } from "./tables.ts";

/** Histograms on the page, at most. */
const MOST_HISTOGRAMS = 12;
/** Octaves with a smaller share of the values are not drawn. */
const SEEN = 3e-4;

export function activationSections(study: StudyResult): Section[] {
  const { layers } = study.activation;
  return [
    {
      heading: "Gate values",
      blocks: [
        { kind: "figures", figures: [ridges(layers), ...depthFigures(study)] },
        { kind: "table", table: layersTable(study) },
        {
          kind: "figures",
          figures: histograms(layers),
          small: true,
          caption: "Distribution of |G| layer by layer.",
        },
      ],
    },
    {
      heading: "Use of neurons and experts",
      blocks: [{ kind: "figures", figures: useFigures(study) }],
    },
  ];
}

function ridges(layers: readonly LayerStatistics[]): Figure {
  return {
    svg: ridgePlot({
      title: "Distribution of |G| by depth",
      x: { label: "|G| (logarithmic)", log: true },
      y: { label: "layer", counted: true },
      height: Math.max(210, Math.min(640, 34 * layers.length)),
      ridges: layers.map(({ layer, histogram: { first, shares } }) => ({
        row: layer,
        label: `layer ${layer}`,
        // The middle of each octave, from where there is something to see.
        points: shares
          .map((share, i) => [2 ** (first + i + 0.5), share] as const)
          .filter(([, share]) => share > SEEN),
      })),
    }),
  };
}

function depthFigures({ activation, model }: StudyResult): Figure[] {
  const { layers, kept } = activation;
  const points = (of: (one: LayerStatistics) => number | undefined): [number, number][] =>
    layers.map((one) => [one.layer, of(one) ?? Number.NaN]);
  const width = expertWidth(model.config);
  return [
    {
      svg: linePlot({
        title: "Size of gate values by depth",
        x: { label: "layer", counted: true },
        y: { label: "|G| (logarithmic)", log: true },
        series: [
          { name: "maximum", dots: true, points: points((one) => one.maximum) },
          { name: "95 % quantile", dots: true, points: points((one) => one.quantiles[5]) },
          { name: "mean", dots: true, points: points((one) => one.mean) },
          { name: "median", dots: true, points: points((one) => one.quantiles[3]) },
        ],
      }),
    },
    {
      svg: linePlot({
        title: "Effective number of neurons",
        x: { label: "layer", counted: true },
        y: { label: `of ${width}, per token and expert`, include: [0] },
        series: [{ name: "(sum |G|)² / sum G²", dots: true, points: points((one) => one.effectiveNeurons) }],
      }),
      caption: "As many equal neurons would weigh the same.",
    },
    {
      svg: linePlot({
        title: "Overlap with the token before",
        x: { label: "layer", counted: true },
        y: { label: `of the ${kept} largest, %`, include: [0, 100] },
        references: [{ axis: "y", at: (100 * kept) / width, label: "by chance" }],
        series: [{ name: "shared", dots: true, points: points((one) => 100 * (one.overlap ?? Number.NaN)) }],
      }),
      caption: "Neighbouring tokens in the same expert.",
    },
  ];
}

function histograms(layers: readonly LayerStatistics[]): Figure[] {
  const stride = Math.max(1, Math.ceil(layers.length / MOST_HISTOGRAMS));
  const shown = layers.filter((_, i) => i % stride === 0);
  const seen = shown.flatMap(({ histogram: { first, shares } }) =>
    shares.flatMap((share, i) => (share > SEEN ? [first + i, first + i + 1] : [])),
  );
  const include = [2 ** Math.min(...seen), 2 ** Math.max(...seen)];
  const most = Math.max(...shown.flatMap(({ histogram }) => histogram.shares));
  return shown.map(({ layer, histogram: { first, shares } }) => ({
    svg: barPlot({
      title: `Layer ${layer}`,
      width: 260,
      height: 120,
      x: { label: "|G|", log: true, include },
      y: { label: "values, %", include: [100 * most] },
      bars: shares
        .map((share, i) => ({ from: 2 ** (first + i), to: 2 ** (first + i + 1), value: 100 * share }))
        .filter(({ from, to }) => from >= include[0] && to <= include[1]),
    }),
  }));
}

function useFigures({ activation, model }: StudyResult): Figure[] {
  const { layers, kept } = activation;
  const figures: Figure[] = [];
  const height = Math.max(150, Math.min(420, 24 * layers.length));
  const rows = (layer: number) => [layer - 0.5, layer + 0.5] as const;
  if (model.config.num_experts > 0) {
    figures.push(
      {
        svg: heatMap({
          title: "Tokens of each expert",
          x: { label: "expert", counted: true },
          y: { label: "layer", counted: true },
          height,
          unit: "of a layer's tokens times experts per token",
          format: (value) => formatPercent(value, 1),
          cells: layers.flatMap(({ layer, perExpert }) => {
            const total = perExpert.reduce((sum, one) => sum + one.rows, 0);
            return perExpert.map((one, e) => ({
              x: [e - 0.5, e + 0.5] as const,
              y: rows(layer),
              value: one.rows / Math.max(1, total),
              label: `layer ${layer}, expert ${e}`,
            }));
          }),
        }),
      },
      {
        svg: heatMap({
          title: "Share of small gate values by expert",
          x: { label: "expert", counted: true },
          y: { label: "layer", counted: true },
          height,
          unit: "of |G| below a tenth of the layer's mean",
          format: (value) => formatPercent(value, 1),
          cells: layers.flatMap(({ layer, perExpert }) =>
            perExpert.flatMap((one, e) =>
              one.rows === 0
                ? []
                : [
                    {
                      x: [e - 0.5, e + 0.5] as const,
                      y: rows(layer),
                      value: one.below,
                      label: `layer ${layer}, expert ${e}`,
                    },
                  ],
            ),
          ),
        }),
      },
    );
  }
  const profile = (
    title: string,
    unit: string,
    of: (one: LayerStatistics) => readonly number[],
    log: boolean,
  ): Figure => ({
    svg: heatMap({
      title,
      x: { label: "neurons from the largest to the smallest, %" },
      y: { label: "layer", counted: true },
      height,
      unit,
      logShades: log,
      cells: layers.flatMap((one) => {
        const values = of(one);
        return values.map((value, i) => ({
          x: [(100 * i) / values.length, (100 * (i + 1)) / values.length] as const,
          y: rows(one.layer),
          value,
          label: `layer ${one.layer}, neurons at ${formatPercent(i / values.length, 0)}`,
        }));
      }),
    }),
  });
  figures.push(
    profile("Mean |G| of neurons, sorted in each expert", "mean |G|", (one) => one.neuronProfile, true),
    profile(
      `How often a neuron is among the ${kept} largest`,
      "share of its expert's tokens",
      (one) => one.useProfile,
      false,
    ),
  );
  return figures;
}
