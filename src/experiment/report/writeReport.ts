// The report's files: index.html, report.md with its plots, report.json, and CSV of differences and of all runs.

import { dirname, join } from "node:path";
import { removeLeftovers, writeFileAtomic } from "../../checkpoint/atomic.ts";
import { svgFile } from "../../report/svgFile.ts";
import { renderCsv, renderMarkdown } from "../../report/table.ts";
import { curvesInWords, figuresOf, type ReportFigure, type ReportFigures, useInWords } from "./figures.ts";
import { experimentPage, factsOf, verdictRule } from "./page.ts";
import type { ExperimentReport } from "./report.ts";
import {
  costTable,
  differenceTable,
  pairTable,
  reportInWords,
  resultTable,
  runsTable,
  sweepTable,
} from "./tables.ts";

/** Also deletes files that a kill left half written there. @throws RunError if the disk is full. */
export async function writeReport(report: ExperimentReport, folder: string): Promise<void> {
  const figures = figuresOf(report);
  const { differences, sweeps, curves, use } = figures;
  const plots = [differences, ...sweeps, ...curves, use].flat();
  const files = {
    ...Object.fromEntries(plots.map((figure) => [plotPath(figure), svgFile(figure.svg)])),
    "index.html": experimentPage(report, figures),
    "report.md": experimentMarkdown(report, figures),
    "report.json": `${numbersOnOneLine(JSON.stringify(report, null, 2))}\n`,
    "differences.csv": renderCsv(differenceTable(report, true)),
    "runs.csv": renderCsv(runsTable(report)),
  };
  const folders = new Set<string>();
  for (const [name, text] of Object.entries(files)) {
    const path = join(folder, name);
    await writeFileAtomic(path, text);
    folders.add(dirname(path));
  }
  for (const one of folders) removeLeftovers(one);
}

/** Curves have thousands of points, a line each instead of four. A line break inside a JSON text is never one of a string. */
function numbersOnOneLine(json: string): string {
  return json.replace(/\[\n\s+([-+.\de]+(?:,\n\s+[-+.\de]+)*)\n\s+\]/g, (_all, numbers: string) => {
    return `[${numbers.replace(/\n\s+/g, " ")}]`;
  });
}

/** Below the report's folder. */
function plotPath({ name }: ReportFigure): string {
  return `plots/${name}.svg`;
}

/** Images side by side, and what they show. */
function illustrated(figures: readonly ReportFigure[], words: readonly string[] = []): string[] {
  if (figures.length === 0) return [];
  const images = figures.map((figure) => {
    const words = figure.title.replace(/[[\]\\]/g, "\\$&");
    return `![${words}](${plotPath(figure)})`;
  });
  return [images.join("\n"), ...words];
}

function experimentMarkdown(report: ExperimentReport, figures: ReportFigures): string {
  const { sweeps, pairs } = report;
  const parts = [
    `# ${report.title}`,
    report.question,
    ...reportInWords(report),
    ...illustrated(figures.differences),
    ...[resultTable(report), differenceTable(report), ...(pairs.length > 0 ? [pairTable(report)] : [])].map(
      renderMarkdown,
    ),
    ...sweeps.flatMap((sweep, index) => [
      ...illustrated(figures.sweeps[index]),
      renderMarkdown(sweepTable(report, sweep)),
    ]),
    ...illustrated(figures.curves.flat(), curvesInWords(report)),
    ...illustrated(figures.use, useInWords(report)),
    renderMarkdown(costTable(report)),
    verdictRule(report),
    "## What was run",
    Object.entries(factsOf(report))
      .map(([name, fact]) => `* ${name}: ${fact}`)
      .join("\n"),
    renderMarkdown(runsTable(report)),
  ];
  return `${parts.filter((part) => part !== "").join("\n\n")}\n`;
}
