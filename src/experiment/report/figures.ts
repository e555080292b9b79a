// The plots of an experiment, for the page and as files: differences, curves, sweeps, neuron use.
// Not here: the numbers (report.ts), how a plot is drawn (src/report), and where it stands (page.ts, writeReport.ts).

import { type Interval, intervalPlot } from "../../report/intervals.ts";
import type { NamedFigure } from "../../report/page.ts";
import { barPlot, linePlot, type Series } from "../../report/plot.ts";
import type { Sweep } from "../measures/measure.ts";
import type { Estimate } from "../statistics/paired.ts";
import type { CurvePoint } from "./compareArms.ts";
import type { RunRecord } from "./record.ts";
import type { ArmReport, ExperimentReport } from "./report.ts";

/** Its name is told apart within a report. */
export interface ReportFigure extends NamedFigure {
  readonly title: string;
}

export interface ReportFigures {
  /** The difference of every arm's loss from its reference's, with its interval; nothing where nothing is compared. */
  readonly differences: ReportFigure[];
  /** A list for each sweep of the report, in its order. */
  readonly sweeps: ReportFigure[][];
  /** Losses over the steps, from a fifth of the run on: a list for each group of arms that one plot can show. */
  readonly curves: ReportFigure[][];
  /** How evenly each arm's neurons are used: a histogram an arm, all on one scale. */
  readonly use: ReportFigure[];
}

/** All plots of a report. */
export function figuresOf(report: ExperimentReport): ReportFigures {
  return {
    differences: differenceFigures(report),
    sweeps: report.sweeps.map((sweep) => sweepFigures(report, sweep)),
    curves: curveFigures(report),
    use: useFigures(report),
  };
}

/** More lines than this cannot be told apart in one plot. */
export const LINES = 6;

function differenceFigures({ arms }: ExperimentReport): ReportFigure[] {
  const intervals = arms.flatMap((arm, index): Interval[] => {
    const { loss } = arm.differences;
    if (!loss) return [];
    const { mean, halfWidth, against } = loss;
    const range = halfWidth === undefined ? {} : { low: mean - halfWidth, high: mean + halfWidth };
    return [{ name: `${arm.name} - ${against}`, mean, ...range, colour: colourOf(index) }];
  });
  if (intervals.length === 0) return [];
  const title = "Difference of validation loss, with 95 % intervals";
  const margin = arms.find((arm) => arm.differences.loss)?.differences.loss.margin;
  const label = "nats a token; left is better";
  return [{ name: "differences", title, svg: intervalPlot({ title, label, intervals, margin, width: 440 }) }];
}

function curveFigures({ arms }: ExperimentReport): ReportFigure[][] {
  const last = Math.max(0, ...arms.map(({ curves: { training } }) => training.at(-1)?.[0] ?? 0));
  return groupsOf(arms).flatMap((group, index): ReportFigure[][] => {
    const series = (pick: (arm: ArmReport) => readonly CurvePoint[], dots: boolean) =>
      group.flatMap((arm) => {
        const points = pick(arm).filter(([step]) => step >= last / 5);
        return seriesOf(arm.name, colourOf(arms.indexOf(arm)), points, dots);
      });
    const figure = (name: string, title: string, lines: Series[], zero = false): ReportFigure => ({
      name: numbered(name, index),
      title,
      svg: linePlot({
        title,
        x: { label: "step" },
        y: { label: "nats a token" },
        series: lines,
        ...(zero && { references: [{ axis: "y", at: 0 }] }),
      }),
    });
    const training = series((arm) => arm.curves.training, false);
    const validation = series((arm) => arm.curves.validation, true);
    const difference = series((arm) => arm.curves.difference, true);
    if (training.length === 0 && validation.length === 0) return [];
    const differenceTitle = "Validation loss minus that of the reference";
    return [
      [
        figure("training", "Training loss, from a fifth of the run on", training),
        figure("validation", "Validation loss", validation),
        ...(difference.length > 0
          ? [figure("difference-over-steps", differenceTitle, difference, true)]
          : []),
      ],
    ];
  });
}

/** What there is to know about curves. */
export function curvesInWords({ arms }: ExperimentReport): string[] {
  // Those of a pruned run are another arm's.
  const partly = partlyInWords(arms, ({ training, prunedTo }) => !!training || prunedTo !== undefined);
  return [
    "Lines are means over seeds. Bands of losses go from the lowest to the highest seed; bands of differences are 95 % intervals, made as those of the table. Vertical axes do not begin at 0.",
    ...partly,
  ];
}

/** A sweep's values over its settings, and their differences from the reference. */
function sweepFigures({ arms, quantities }: ExperimentReport, sweep: Sweep): ReportFigure[] {
  const settings = quantities
    .flatMap(({ key, at }) => (at?.sweep === sweep.name ? [{ key, x: at.x }] : []))
    .sort((a, b) => a.x - b.x);
  return groupsOf(arms).flatMap((group, index) => {
    const lines = (of: (arm: ArmReport, key: string) => Estimate | undefined) =>
      group.flatMap((arm) => {
        const points = settings.flatMap(({ key, x }): CurvePoint[] => {
          const value = of(arm, key);
          if (!value) return [];
          const { mean, halfWidth = 0 } = value;
          return [[x, mean, mean - halfWidth, mean + halfWidth]];
        });
        return seriesOf(arm.name, colourOf(arms.indexOf(arm)), points, true);
      });
    const values = lines((arm, key) => arm.estimates[key]);
    const differences = lines((arm, key) => arm.differences[key]);
    if (values.length === 0) return [];
    const figure = (name: string, title: string, series: Series[]): ReportFigure => ({
      name: numbered(name, index),
      title,
      svg: linePlot({ title, x: { label: sweep.x, log: sweep.log }, y: { label: sweep.y }, series }),
    });
    return [
      figure(sweep.name, sweep.title, values),
      ...(differences.length > 0
        ? [figure(`${sweep.name}-differences`, "The same minus that of the reference", differences)]
        : []),
    ];
  });
}

function useFigures({ arms }: ExperimentReport): ReportFigure[] {
  const shares = (counts: readonly number[]) => {
    const total = counts.reduce((a, b) => a + b, 0);
    return counts.map((count) => count / total);
  };
  const highest = Math.max(0, ...arms.flatMap(({ histogram }) => shares(histogram?.counts ?? [])));
  return arms.flatMap(({ name: title, histogram }, index): ReportFigure[] => {
    if (!histogram) return [];
    const { edges, counts } = histogram;
    const svg = barPlot({
      title,
      x: { label: "use relative to uniform" },
      y: { label: "share of neurons", include: [0, highest] },
      bars: shares(counts).map((value, i) => ({ from: edges[i], to: edges[i + 1], value })),
      colour: colourOf(index),
      width: 300,
      height: 130,
      references: [{ axis: "x", at: 1 }],
    });
    return [{ name: `neuron-use-${index + 1}`, title, svg }];
  });
}

/** What there is to know about histograms. */
export function useInWords({ arms }: ExperimentReport): string[] {
  const withUse = arms.filter(({ histogram }) => histogram !== undefined);
  return [
    "How often a neuron is kept when its expert is chosen, divided by K/F: 1 (dashed) is uniform use, the last bar is everything above.",
    ...partlyInWords(withUse, (run) => run.histogram !== undefined),
  ];
}

/** Which arms are drawn from fewer seeds than they have: a report from before records has no such data of single runs. */
function partlyInWords(arms: readonly ArmReport[], has: (run: RunRecord) => boolean): string[] {
  const parts = arms.flatMap(({ name, runs }) => {
    const count = runs.filter(has).length;
    return count === runs.length ? [] : [`${name} (${count} of ${runs.length})`];
  });
  if (parts.length === 0) return [];
  return [`Runs from a report that has numbers only are not drawn here; seeds drawn of ${parts.join(", ")}.`];
}

/** A line with its band; none without points. */
function seriesOf(name: string, colour: number, points: readonly CurvePoint[], dots: boolean): Series[] {
  if (points.length === 0) return [];
  return [
    {
      name,
      colour,
      dots,
      points: points.map(([x, mean]) => [x, mean]),
      band: points.map(([x, , low, high]) => [x, low, high]),
    },
  ];
}

/** "validation", "validation-2": groups beyond the first have a number. */
function numbered(name: string, index: number): string {
  return index === 0 ? name : `${name}-${index + 1}`;
}

/** An arm's colour in all plots; within a group of `groupsOf` no two arms have the same. */
function colourOf(index: number): number {
  return index === 0 ? 0 : 1 + ((index - 1) % (LINES - 1));
}

/** Few enough arms for one plot each; the first one, for comparison, in all. */
function groupsOf(arms: readonly ArmReport[]): ArmReport[][] {
  if (arms.length <= LINES) return [[...arms]];
  const [first, ...rest] = arms;
  return Array.from({ length: Math.ceil(rest.length / (LINES - 1)) }, (_, i) => [
    first,
    ...rest.slice(i * (LINES - 1), (i + 1) * (LINES - 1)),
  ]);
}
