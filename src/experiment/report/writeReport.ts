// The report's files: index.html, report.md, report.json, and CSV of differences and of all runs.

import { join } from "node:path";
import { writeFileAtomic } from "../../checkpoint/atomic.ts";
import { renderCsv, renderMarkdown } from "../../report/table.ts";
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

/** @throws RunError if the disk is full. */
export async function writeReport(report: ExperimentReport, folder: string): Promise<void> {
  const files = {
    "index.html": experimentPage(report),
    "report.md": experimentMarkdown(report),
    "report.json": `${numbersOnOneLine(JSON.stringify(report, null, 2))}\n`,
    "differences.csv": renderCsv(differenceTable(report, true)),
    "runs.csv": renderCsv(runsTable(report)),
  };
  for (const [name, text] of Object.entries(files)) await writeFileAtomic(join(folder, name), text);
}

/** Curves have thousands of points, a line each instead of four. A line break inside a JSON text is never one of a string. */
function numbersOnOneLine(json: string): string {
  return json.replace(/\[\n\s+([-+.\de]+(?:,\n\s+[-+.\de]+)*)\n\s+\]/g, (_all, numbers: string) => {
    return `[${numbers.replace(/\n\s+/g, " ")}]`;
  });
}

export function experimentMarkdown(report: ExperimentReport): string {
  const parts = [
    `# ${report.title}`,
    report.question,
    ...reportInWords(report),
    ...[
      resultTable(report),
      differenceTable(report),
      ...(report.pairs.length > 0 ? [pairTable(report)] : []),
      ...report.sweeps.map((sweep) => sweepTable(report, sweep)),
      costTable(report),
    ].map(renderMarkdown),
    verdictRule(report),
    "## What was run",
    Object.entries(factsOf(report))
      .map(([name, fact]) => `* ${name}: ${fact}`)
      .join("\n"),
    renderMarkdown(runsTable(report)),
  ];
  return `${parts.filter((part) => part !== "").join("\n\n")}\n`;
}
