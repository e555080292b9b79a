// The HTML page of an experiment: the answer, differences, curves, neuron use, cost, and what was run.
// Not here: the numbers (report.ts), plots (figures.ts), tables and sentences (tables.ts), looks (src/report).

import { formatCount } from "../../report/format.ts";
import { renderPage, type Section } from "../../report/page.ts";
import type { Sweep } from "../measures/measure.ts";
import { curvesInWords, LINES, type ReportFigure, type ReportFigures, useInWords } from "./figures.ts";
import type { ExperimentReport } from "./report.ts";
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

export function experimentPage(report: ExperimentReport, figures: ReportFigures): string {
  const { title, question, arms, about, finishedAt } = report;
  return renderPage({
    title,
    subtitle: question === "" ? `${arms.length} arms on ${about.corpus}` : question,
    generatedAt: finishedAt,
    sections: [
      result(report, figures),
      ...report.sweeps.map((sweep, index) => sweepSection(report, sweep, figures.sweeps[index])),
      curves(report, figures),
      neuronUse(report, figures),
      cost(report),
      howToRead(report),
      whatRan(report),
    ].filter(({ blocks }) => blocks.length > 0),
  });
}

function result(report: ExperimentReport, { differences: figures }: ReportFigures): Section {
  const caption = "Dashed: no difference. Shaded: within the margin that counts as none.";
  const isCompared = figures.length > 0;
  return {
    heading: "Result",
    blocks: [
      { kind: "prose", paragraphs: reportInWords(report), lead: report.arms.length <= LINES },
      ...(isCompared ? [{ kind: "figures", figures, caption } as const] : []),
      { kind: "table", table: resultTable(report) },
      ...(isCompared ? [{ kind: "table", table: differenceTable(report) } as const] : []),
      ...(report.pairs.length > 0 ? [{ kind: "table", table: pairTable(report) } as const] : []),
    ],
  };
}

function curves(report: ExperimentReport, { curves }: ReportFigures): Section {
  return {
    heading: "Loss curves",
    blocks: [
      ...curves.map((figures) => ({ kind: "figures", figures }) as const),
      { kind: "prose", paragraphs: curvesInWords(report) },
    ],
  };
}

/** Lines over the settings, and of the differences from the reference; then all of it as a table. */
function sweepSection(report: ExperimentReport, sweep: Sweep, figures: ReportFigure[]): Section {
  const caption = `${sweep.note} Bands are 95 % intervals over seeds, of differences paired ones.`;
  return {
    heading: sweep.title,
    blocks:
      figures.length === 0
        ? []
        : [
            { kind: "figures", figures, caption },
            { kind: "table", table: sweepTable(report, sweep) },
          ],
  };
}

function neuronUse(report: ExperimentReport, { use: figures }: ReportFigures): Section {
  const caption = useInWords(report).join(" ");
  return {
    heading: "Neuron use",
    blocks: figures.length === 0 ? [] : [{ kind: "figures", small: true, figures, caption }],
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
