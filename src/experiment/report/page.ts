// The HTML page of an experiment: the answer, differences, curves, neuron use, cost, and what was run.
// Not here: the numbers (report.ts), tables and sentences (tables.ts), looks (src/report).

import { formatCount } from "../../report/format.ts";
import { type Interval, intervalPlot } from "../../report/intervals.ts";
import { type Block, renderPage, type Section } from "../../report/page.ts";
import { barPlot, linePlot, type Series } from "../../report/plot.ts";
import type { Sweep } from "../measures/measure.ts";
import type { Estimate } from "../statistics/paired.ts";
import type { CurvePoint } from "./compareArms.ts";
import type { RunRecord } from "./record.ts";
import type { ArmReport, ExperimentReport } from "./report.ts";
import {
  costTable,
  differenceTable,
  marginInWords,
  pairTable,
  reportInWords,
  resultTable,
  runsTable,
  sweepTable,
} from "./tables.ts";

/** More lines than this cannot be told apart in one plot. */
const LINES = 6;

export function experimentPage(report: ExperimentReport): string {
  const { title, question, arms, about, finishedAt } = report;
  return renderPage({
    title,
    subtitle: question === "" ? `${arms.length} arms on ${about.corpus}` : question,
    generatedAt: finishedAt,
    sections: [
      result(report),
      ...report.sweeps.map((sweep) => sweepSection(report, sweep)),
      curves(report),
      neuronUse(arms),
      cost(report),
      howToRead(report),
      whatRan(report),
    ].filter(({ blocks }) => blocks.length > 0),
  });
}

function result(report: ExperimentReport): Section {
  const intervals = report.arms.flatMap((arm, colour): Interval[] => {
    const { loss } = arm.differences;
    if (!loss) return [];
    const { mean, halfWidth, against } = loss;
    const range = halfWidth === undefined ? {} : { low: mean - halfWidth, high: mean + halfWidth };
    return [{ name: `${arm.name} - ${against}`, mean, ...range, colour }];
  });
  const margin = report.arms.find((arm) => arm.differences.loss)?.differences.loss.margin;
  const plot = intervalPlot({
    title: "Difference of validation loss, with 95 % intervals",
    label: "nats a token; left is better",
    intervals,
    margin,
    width: 440,
  });
  const figures: Block[] = [
    {
      kind: "figures",
      figures: [{ svg: plot }],
      caption: "Dashed: no difference. Shaded: within the margin that counts as none.",
    },
  ];
  return {
    heading: "Result",
    blocks: [
      { kind: "prose", paragraphs: reportInWords(report), lead: report.arms.length <= LINES },
      ...(intervals.length > 0 ? figures : []),
      { kind: "table", table: resultTable(report) },
      ...(intervals.length > 0 ? [{ kind: "table", table: differenceTable(report) } as const] : []),
      ...(report.pairs.length > 0 ? [{ kind: "table", table: pairTable(report) } as const] : []),
    ],
  };
}

function curves({ arms }: ExperimentReport): Section {
  const last = Math.max(0, ...arms.map(({ curves: { training } }) => training.at(-1)?.[0] ?? 0));
  const series = (
    group: readonly ArmReport[],
    pick: (arm: ArmReport) => readonly CurvePoint[],
    from: number,
    dots: boolean,
  ) =>
    group.flatMap((arm): Series[] => {
      const points = pick(arm).filter(([step]) => step >= from);
      if (points.length === 0) return [];
      return [
        {
          name: arm.name,
          colour: arms.indexOf(arm),
          dots,
          points: points.map(([step, mean]) => [step, mean]),
          band: points.map(([step, , low, high]) => [step, low, high]),
        },
      ];
    });
  const blocks = groupsOf(arms).flatMap((group): Block[] => {
    const training = series(group, (arm) => arm.curves.training, last / 5, false);
    const validation = series(group, (arm) => arm.curves.validation, last / 5, true);
    const difference = series(group, (arm) => arm.curves.difference, last / 5, true);
    const plot = (title: string, label: string, lines: Series[], zero = false) => ({
      svg: linePlot({
        title,
        x: { label: "step" },
        y: { label },
        series: lines,
        ...(zero && { references: [{ axis: "y", at: 0 }] }),
      }),
    });
    if (training.length === 0 && validation.length === 0) return [];
    const figures = [
      plot("Training loss, from a fifth of the run on", "nats a token", training),
      plot("Validation loss", "nats a token", validation),
      ...(difference.length > 0
        ? [plot("Validation loss minus that of the reference", "nats a token", difference, true)]
        : []),
    ];
    return [{ kind: "figures", figures }];
  });
  // Those of a pruned run are another arm's.
  const partly = partlyInWords(arms, ({ training, prunedTo }) => !!training || prunedTo !== undefined);
  return {
    heading: "Loss curves",
    blocks: [
      ...blocks,
      {
        kind: "prose",
        paragraphs: [
          "Lines are means over seeds. Bands of losses go from the lowest to the highest seed; bands of differences are 95 % intervals, made as those of the table. Vertical axes do not begin at 0.",
          ...partly,
        ],
      },
    ],
  };
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

/** Lines over the settings, and of the differences from the reference; then all of it as a table. */
function sweepSection(report: ExperimentReport, sweep: Sweep): Section {
  const { arms } = report;
  const settings = report.quantities
    .flatMap(({ key, at }) => (at?.sweep === sweep.name ? [{ key, x: at.x }] : []))
    .sort((a, b) => a.x - b.x);
  const lines = (group: readonly ArmReport[], of: (arm: ArmReport, key: string) => Estimate | undefined) =>
    group.flatMap((arm): Series[] => {
      const points = settings.flatMap(({ key, x }) => {
        const value = of(arm, key);
        return value ? [{ x, ...value }] : [];
      });
      if (points.length === 0) return [];
      return [
        {
          name: arm.name,
          colour: arms.indexOf(arm),
          dots: true,
          points: points.map(({ x, mean }) => [x, mean]),
          band: points.map(({ x, mean, halfWidth = 0 }) => [x, mean - halfWidth, mean + halfWidth]),
        },
      ];
    });
  const axis = { label: sweep.x, log: sweep.log };
  const figures = groupsOf(arms).flatMap((group) => {
    const values = lines(group, (arm, key) => arm.estimates[key]);
    const differences = lines(group, (arm, key) => arm.differences[key]);
    if (values.length === 0) return [];
    const plot = (title: string, series: Series[]) => ({
      svg: linePlot({ title, x: axis, y: { label: sweep.y }, series }),
    });
    return [
      plot(sweep.title, values),
      ...(differences.length > 0 ? [plot("The same minus that of the reference", differences)] : []),
    ];
  });
  if (figures.length === 0) return { heading: sweep.title, blocks: [] };
  return {
    heading: sweep.title,
    blocks: [
      {
        kind: "figures",
        figures,
        caption: `${sweep.note} Bands are 95 % intervals over seeds, of differences paired ones.`,
      },
      { kind: "table", table: sweepTable(report, sweep) },
    ],
  };
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

function neuronUse(arms: readonly ArmReport[]): Section {
  const shares = (counts: readonly number[]) => {
    const total = counts.reduce((a, b) => a + b, 0);
    return counts.map((count) => count / total);
  };
  const withUse = arms.filter(({ histogram }) => histogram !== undefined);
  const highest = Math.max(0, ...withUse.flatMap(({ histogram }) => shares(histogram?.counts ?? [])));
  const figures = withUse.flatMap((arm) => {
    if (!arm.histogram) return [];
    const { edges, counts } = arm.histogram;
    const bars = shares(counts).map((value, i) => ({ from: edges[i], to: edges[i + 1], value }));
    return [
      {
        svg: barPlot({
          title: arm.name,
          x: { label: "use relative to uniform" },
          y: { label: "share of neurons", include: [0, highest] },
          bars,
          colour: arms.indexOf(arm),
          width: 300,
          height: 130,
          references: [{ axis: "x", at: 1 }],
        }),
      },
    ];
  });
  if (figures.length === 0) return { heading: "Neuron use", blocks: [] };
  const partly = partlyInWords(withUse, (run) => run.histogram !== undefined);
  return {
    heading: "Neuron use",
    blocks: [
      {
        kind: "figures",
        small: true,
        figures,
        caption: [
          "How often a neuron is kept when its expert is chosen, divided by K/F: 1 (dashed) is uniform use, the last bar is everything above.",
          ...partly,
        ].join(" "),
      },
    ],
  };
}

function cost(report: ExperimentReport): Section {
  return { heading: "Cost", blocks: [{ kind: "table", table: costTable(report) }] };
}

function howToRead(report: ExperimentReport): Section {
  return {
    heading: "How the verdicts are made",
    blocks: [{ kind: "prose", paragraphs: [verdictRule(report)] }],
  };
}

/** The rule, in words; docs/EXPERIMENTS.md has it at length. */
export function verdictRule(report: ExperimentReport): string {
  return (
    "Runs of the same seed see the same data in the same order, so arms are compared pair by pair. How much single runs scatter is taken from all arms together, where three or more have runs of their own and scatter alike, else from the pairs alone. If the 95 % t interval of the mean difference excludes 0, the arm is better or worse. " +
    `If it does not, and lies within ${marginInWords(report)} of the reference's value, no difference is seen; if it is wider, the seeds are too few to say. One seed says nothing. ` +
    "Of many comparisons, one in twenty without any effect still gives better or worse: Holm's corrected p values keep that promise for all arms of one quantity, and for all settings of a sweep. It holds for a number of seeds chosen beforehand: who adds seeds until a verdict appears gets more false ones."
  );
}

function whatRan(report: ExperimentReport): Section {
  return {
    heading: "What was run",
    blocks: [
      { kind: "facts", facts: factsOf(report) },
      { kind: "table", table: runsTable(report) },
    ],
  };
}

/** What somebody needs who wants to run it again. */
export function factsOf(report: ExperimentReport): Record<string, string> {
  const { about, tokens, seeds, finished, planned, backends, name, size, settings, baseline } = report;
  const listed = (values: Readonly<Record<string, unknown>>) =>
    Object.entries(values)
      .map(([key, value]) => `${key} ${typeof value === "string" ? value : JSON.stringify(value)}`)
      .join(", ");
  return {
    Experiment: size === "" ? name : `${name}, size ${size}`,
    Runs: `${finished} of ${planned} finished`,
    Seeds: seeds.join(", "),
    "Tokens of a run": formatCount(tokens),
    Text: `${about.corpus}: ${formatCount(about.trainTokens)} tokens, ${formatCount(about.heldOutTokens)} held out, vocabulary ${about.vocabSize}`,
    Backend: backends.join("; "),
    [`Training (${baseline})`]: listed(settings.training),
    [`Model (${baseline})`]: listed(settings.model),
  };
}
