// The page of `mone compare`: result first, then the curves, the use of experts and neurons, samples and configuration.
// Not here: the result itself (comparison.ts), the look (page.ts, plot.ts).

import { max, median } from "d3-array";
import {
  type ArmResult,
  type Comparison,
  comparisonInWords,
  comparisonTable,
  type TrainingPoint,
  type Use,
} from "./comparison.ts";
import { formatCount, formatDuration, formatPercent } from "./format.ts";
import { type Block, type Figure, renderPage, type Section } from "./page.ts";
import { barPlot, type Frame, linePlot, type Series } from "./plot.ts";
import type { Table } from "./table.ts";

/** The self-contained HTML page. */
export function comparisonPage(comparison: Comparison): string {
  const { title, arms, corpus, finishedAt } = comparison;
  return renderPage({
    title,
    subtitle: `${arms.map((arm) => arm.name).join(" / ")}, trained alike on ${corpus.name}`,
    generatedAt: finishedAt,
    sections: [
      result(comparison),
      lossCurves(arms),
      lossForCost(arms),
      balance(arms),
      neuronUse(arms),
      expertUse(arms),
      samples(arms),
      howToRead(),
      configuration(comparison),
    ],
  });
}

function result(comparison: Comparison): Section {
  const arms: Table = {
    title: "The arms",
    columns: [
      { key: "name", label: "Arm", align: "left" },
      { key: "experts", label: "Parameters of routed experts", align: "right" },
      { key: "tokens", label: "Trained tokens", align: "right" },
      { key: "seconds", label: "Time", align: "right", format: formatDuration },
      { key: "description", label: "What it is", align: "left" },
    ],
    rows: comparison.arms.map((arm) => ({
      name: arm.name,
      experts: arm.parameters.experts,
      tokens: arm.trainedTokens,
      seconds: arm.seconds,
      description: arm.description,
    })),
  };
  return {
    heading: "Result",
    blocks: [
      { kind: "prose", paragraphs: [comparisonInWords(comparison)], lead: true },
      { kind: "table", table: comparisonTable(comparison) },
      { kind: "table", table: arms },
    ],
  };
}

function lossCurves(arms: ArmResult[]): Section {
  const plot = (title: string, firstStep: number, log: boolean) =>
    linePlot({
      title,
      x: { label: log ? "step (logarithmic)" : "step", log },
      y: { label: "loss, nats a token" },
      series: arms.flatMap((arm, colour): Series[] => [
        { name: arm.name, colour, points: smoothed(arm.training, (point) => point.loss, firstStep) },
        {
          name: arm.name,
          colour,
          line: "none",
          dots: true,
          points: arm.validation
            .filter(({ step }) => step >= firstStep)
            .map(({ step, loss }) => [step, loss]),
        },
      ]),
    });
  return {
    heading: "Loss",
    blocks: [
      {
        kind: "figures",
        figures: [
          { svg: plot("The whole run", 0, true) },
          { svg: plot("The last two thirds, enlarged", lastStep(arms) / 3, false) },
        ],
        caption:
          "Lines: training loss, smoothed. Dots: validation loss. The vertical axes do not begin at 0.",
      },
    ],
  };
}

/** The two costs that a user pays: weights to multiply with, and time to train. */
function lossForCost(arms: ArmResult[]): Section {
  const forWeights = linePlot({
    title: "Against activated expert weights",
    x: { label: "activated weights of the routed experts, a token", include: [0] },
    y: { label: "validation loss, nats a token" },
    series: arms.map((arm, colour) => {
      const { activatedExpertsWithGate, activatedExpertsWithoutGate } = arm.parameters;
      const readings = [...new Set([activatedExpertsWithoutGate, activatedExpertsWithGate])];
      return { name: arm.name, colour, dots: true, points: readings.map((count) => [count, arm.final.loss]) };
    }),
  });
  const forTime = linePlot({
    title: "Against training time",
    x: { label: "minutes of training" },
    y: { label: "validation loss, nats a token" },
    series: arms.map((arm, colour) => {
      const minutes = minutesByStep(arm.training);
      const late = arm.validation.filter(({ step }) => step >= lastStep([arm]) / 3);
      return {
        name: arm.name,
        colour,
        dots: true,
        points: late.map(({ step, loss }) => [minutes.get(step) ?? Number.NaN, loss]),
      };
    }),
  });
  return {
    heading: "Loss for the cost",
    blocks: [
      {
        kind: "figures",
        figures: [
          {
            svg: forWeights,
            caption:
              "Further down and further left is better. An arm with two dots keeps only some neurons: on the right the gate projection counts in full, on the left only the rows of the kept neurons.",
          },
          { svg: forTime, caption: "The last two thirds of each run, at the speed of this machine." },
        ],
      },
    ],
  };
}

function balance(arms: ArmResult[]): Section {
  const plot = (title: string, pick: (point: TrainingPoint) => number | undefined): Figure[] => {
    const series = arms.flatMap((arm, colour): Series[] => {
      const points = smoothed(arm.training, pick, 0);
      return points.length === 0 ? [] : [{ name: arm.name, colour, points }];
    });
    if (series.length === 0) return [];
    const references: Frame["references"] = [{ axis: "y", at: 1, label: "perfect balance" }];
    return [
      { svg: linePlot({ title, x: { label: "step" }, y: { label: "balance loss" }, series, references }) },
    ];
  };
  return {
    heading: "Balance during training",
    blocks: [
      {
        kind: "figures",
        figures: [
          ...plot("Between the experts", (point) => point.expertBalance),
          ...plot("Between the neurons of an expert", (point) => point.neuronBalance),
        ],
        caption: "Smoothed, before the coefficient with which it joins the training loss.",
      },
    ],
  };
}

function neuronUse(arms: ArmResult[]): Section {
  const blocks = arms.flatMap((arm, colour): Block[] => {
    if (arm.neuronUse === undefined) return [];
    const { layers, entropy, dead } = arm.neuronUse;
    return [
      {
        kind: "figures",
        small: true,
        figures: layerHistograms(layers, colour).map((svg) => ({ svg })),
        caption: `${arm.name}: entropy ${formatPercent(entropy)} of uniform use; ${formatPercent(dead)} of the neurons are never kept.`,
      },
    ];
  });
  const intro =
    "How often is a neuron kept when its expert is chosen? A ratio of 1 (dashed) is a neuron kept at the uniform rate K/F; 0 is never, and further right are the favourites.";
  const none = "In every arm all neurons of a chosen expert act, so there is nothing to choose between.";
  return {
    heading: "Neuron use, layer by layer",
    blocks: [{ kind: "prose", paragraphs: [blocks.length === 0 ? none : intro] }, ...blocks],
  };
}

/** One histogram a layer, all on the same axes, logarithmic where a linear one would show a single spike. */
function layerHistograms(layers: NonNullable<ArmResult["neuronUse"]>["layers"], colour: number): string[] {
  const bars = layers.map(({ histogram: { edges, counts } }) => {
    const neurons = counts.reduce((sum, count) => sum + count, 0);
    return counts.map((count, index) => ({
      from: edges[index],
      to: edges[index + 1],
      value: (100 * count) / Math.max(1, neurons),
    }));
  });
  const values = bars.flatMap((layer) => layer.map((bar) => bar.value)).filter((value) => value > 0);
  const edges = bars.flatMap((layer) => layer.flatMap((bar) => [bar.from, bar.to]));
  const isSpike = Math.max(...values) > 50 * (median(values) ?? 0);
  const isGeometric = Math.min(...edges) > 0 && Math.max(...edges) > 50 * Math.min(...edges);
  return bars.map((layer, index) =>
    barPlot({
      title: `Layer ${index}: ${formatPercent(layers[index].dead)} unused`,
      x: { label: "keep rate / uniform", log: isGeometric, include: edges },
      y: { label: "% of neurons", log: isSpike, include: values },
      bars: layer,
      colour,
      references: [{ axis: "x", at: 1 }],
      width: 200,
      height: 100,
    }),
  );
}

function expertUse(arms: ArmResult[]): Section {
  const plot = (title: string, label: string, include: number[], pick: (use: Use) => number) =>
    linePlot({
      title,
      x: { label: "layer" },
      y: { label, include },
      series: arms.map((arm, colour) => ({
        name: arm.name,
        colour,
        dots: true,
        points: arm.expertUse.layers.map((use, layer) => [layer, pick(use)]),
      })),
    });
  const share = (value: number) => formatPercent(value);
  const table: Table = {
    columns: [
      { key: "arm", label: "Arm", align: "left" },
      { key: "expertEntropy", label: "Entropy of expert use", align: "right", format: share },
      { key: "deadExperts", label: "Experts never used", align: "right", format: share },
      { key: "neuronEntropy", label: "Entropy of neuron use", align: "right", format: share },
      { key: "deadNeurons", label: "Neurons never kept", align: "right", format: share },
    ],
    rows: arms.map((arm) => ({
      arm: arm.name,
      expertEntropy: arm.expertUse.entropy,
      deadExperts: arm.expertUse.dead,
      neuronEntropy: arm.neuronUse?.entropy,
      deadNeurons: arm.neuronUse?.dead,
    })),
  };
  return {
    heading: "Expert use",
    blocks: [
      {
        kind: "figures",
        figures: [
          { svg: plot("Evenness by layer", "entropy, % of uniform use", [100], (use) => 100 * use.entropy) },
          { svg: plot("Never used, by layer", "% of experts", [0, 5], (use) => 100 * use.dead) },
        ],
      },
      { kind: "table", table },
    ],
  };
}

function samples(arms: ArmResult[]): Section {
  return {
    heading: "Samples",
    blocks: arms.map((arm) => ({ kind: "sample", title: arm.name, ...arm.sample })),
  };
}

function howToRead(): Section {
  return {
    heading: 'How to read "activated"',
    blocks: [
      {
        kind: "prose",
        paragraphs: [
          "An expert has three matrices of equal size: gate, up and down. To find the K of its F neurons with the largest gate values, the gate projection must be computed in full; up and down are needed for the kept neurons only.",
          "With gate: every weight that a token multiplies with counts, so an expert's share is 1/3 + 2/3 K/F. Half of an expert then means K = F/4.",
          "Without gate: only the kept neurons' rows and columns count, in all three matrices, so the share is K/F. Half of an expert then means K = F/2.",
          "The first reading is what is computed, the second what contributes to the output. An expert that keeps all its neurons counts the same in both.",
        ],
      },
    ],
  };
}

function configuration(comparison: Comparison): Section {
  const { corpus, machine, command, config, finishedAt } = comparison;
  return {
    heading: "Configuration",
    blocks: [
      {
        kind: "facts",
        facts: {
          Corpus: corpus.name,
          "Training tokens in it": formatCount(corpus.trainTokens),
          "Validation tokens": formatCount(corpus.validTokens),
          Tokenizer: corpus.tokenizer,
          Finished: finishedAt,
          ...machine,
        },
      },
      { kind: "code", title: "Command", text: command },
      { kind: "code", title: "Everything resolved", text: JSON.stringify(config, null, 2) },
    ],
  };
}

function lastStep(arms: ArmResult[]): number {
  return max(arms, (arm) => arm.training.at(-1)?.step) ?? 0;
}

/** Time spent on training alone until the end of each step that was recorded. */
function minutesByStep(training: TrainingPoint[]): Map<number, number> {
  const minutes = new Map<number, number>();
  let seconds = 0;
  let tokensBefore = 0;
  for (const { step, tokens, tokensPerSecond } of training) {
    seconds += (tokens - tokensBefore) / tokensPerSecond;
    tokensBefore = tokens;
    minutes.set(step, seconds / 60);
  }
  return minutes;
}

/**
 * Moving mean, at no more than a few hundred places from `firstStep` on. The window is short at the beginning, where
 * the loss falls fast, and at most a twenty-fifth of the run.
 */
function smoothed(
  training: TrainingPoint[],
  pick: (point: TrainingPoint) => number | undefined,
  firstStep: number,
): [step: number, value: number][] {
  const recorded = training.filter((point) => pick(point) !== undefined);
  const values = recorded.map((point) => pick(point) ?? Number.NaN);
  const widest = Math.floor(recorded.length / 50);
  const start = recorded.findIndex((point) => point.step >= firstStep);
  if (start === -1) return [];
  const stride = Math.max(1, Math.ceil((recorded.length - start) / 300));
  const points: [number, number][] = [];
  for (let index = start; index < recorded.length; index++) {
    const fromEnd = recorded.length - 1 - index;
    if (index >= 40 && fromEnd % stride !== 0) continue;
    const half = Math.min(widest, Math.floor(index / 4));
    const window = values.slice(index - half, index + half + 1);
    points.push([recorded[index].step, window.reduce((sum, value) => sum + value, 0) / window.length]);
  }
  return points;
}
