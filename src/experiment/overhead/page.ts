// The report of `overhead` as people see it: sentences, plot, tables, page, files. Not here: the numbers (report.ts).

import { join } from "node:path";
import { writeFileAtomic } from "../../checkpoint/atomic.ts";
import { formatBytes, formatCount, formatFixed, formatPercent } from "../../report/format.ts";
import { renderPage } from "../../report/page.ts";
import { linePlot } from "../../report/plot.ts";
import { renderCsv, renderMarkdown, type Table } from "../../report/table.ts";
import type { Verdict } from "../statistics/paired.ts";
import { type OverheadReport, type OverheadRow, overheadTitle as title } from "./report.ts";

const ratio = (value: number) => formatFixed(value, 3);

const words: Readonly<Record<Verdict, string>> = {
  better: "faster",
  worse: "slower",
  "no difference seen": "no difference seen",
  "too few seeds to say": "too few rounds to say",
  "one seed says nothing": "one round says nothing",
};

const worksOf = ({ rows }: OverheadReport) => [...new Set(rows.map(({ work }) => work))];
const rangeOf = ({ difference: { mean, halfWidth = 0 } }: OverheadRow) =>
  [1 + mean - halfWidth, 1 + mean + halfWidth] as const;

/** One line a kind of work and width. */
export function overheadTable({ rows, margin, rounds }: OverheadReport): Table {
  return {
    title: `MoNE's time relative to MoE's, ${rounds} rounds by turns`,
    columns: [
      { key: "work", label: "Work", align: "left" },
      { key: "width", label: "D", align: "right", format: String },
      { key: "parameters", label: "Parameters", align: "right" },
      { key: "kept", label: "K of F", align: "left" },
      {
        key: "ratio",
        label: "Time ratio",
        align: "right",
        format: ratio,
        note: "Mean over rounds of MoNE's time divided by MoE's.",
      },
      {
        key: "low",
        label: "Low",
        align: "right",
        format: ratio,
        note: "Lower end of the 95 % t interval over rounds.",
      },
      { key: "high", label: "High", align: "right", format: ratio, note: "Upper end of it." },
      {
        key: "verdict",
        label: "MoNE is",
        align: "left",
        note: `By the interval; differences within ${formatPercent(margin)} count as none. Rounds of one process are no independent measurements: the next start may differ by more.`,
      },
      { key: "moe", label: "MoE, tokens/s", align: "right" },
      { key: "mone", label: "MoNE, tokens/s", align: "right", note: "Medians over rounds." },
      { key: "moe_bytes", label: "MoE, memory", align: "right", format: formatBytes },
      {
        key: "mone_bytes",
        label: "MoNE, memory",
        align: "right",
        format: formatBytes,
        note: "Peak of training in a process of its own.",
      },
    ],
    rows: rows.map((row) => {
      const [low, high] = rangeOf(row);
      const { tokensPerSecond, peakBytes, difference } = row;
      return {
        work: row.work,
        width: row.width,
        parameters: row.parameters,
        kept: `${row.kept} of ${row.neurons}`,
        ratio: 1 + difference.mean,
        ...(difference.halfWidth !== undefined && { low, high }),
        verdict: words[difference.verdict],
        moe: tokensPerSecond.moe,
        mone: tokensPerSecond.mone,
        moe_bytes: peakBytes?.moe,
        mone_bytes: peakBytes?.mone,
      };
    }),
  };
}

/** The answer: a sentence for each kind of work. */
export function overheadInWords(report: OverheadReport): string[] {
  const sentences = worksOf(report).map((work) => {
    const rows = report.rows.filter((row) => row.work === work);
    const parts = rows.map(
      (row) => `${ratio(1 + row.difference.mean)} at D = ${row.width} (${words[row.difference.verdict]})`,
    );
    return `${work[0].toUpperCase()}${work.slice(1)}: ${parts.join(", ")}.`;
  });
  return [
    ...(report.quick ? ["This was a smoke test: its figures mean nothing."] : []),
    `Time of a MoNE with K = F/${1 / report.share} divided by that of its MoE.`,
    ...sentences,
  ];
}

export function overheadPage(report: OverheadReport): string {
  const { size, machine, backend, threads, rounds, data, finishedAt } = report;
  const series = worksOf(report).map((work) => {
    const rows = report.rows.filter((row) => row.work === work);
    return {
      name: work,
      dots: true,
      points: rows.map((row) => [row.width, 1 + row.difference.mean] as const),
      band: rows.map((row) => [row.width, ...rangeOf(row)] as const),
    };
  });
  const plot = linePlot({
    title: "MoNE's time relative to MoE's",
    x: { label: "D, width of the model", log: true },
    y: { label: "ratio; below 1 the MoNE is faster", include: [1] },
    references: [{ axis: "y", at: 1, label: "MoE" }],
    series,
    width: 640,
    height: 280,
  });
  return renderPage({
    title,
    subtitle: `MoNE with K = F/${1 / report.share} beside its MoE`,
    generatedAt: finishedAt,
    sections: [
      {
        heading: "Result",
        blocks: [
          { kind: "prose", paragraphs: overheadInWords(report) },
          {
            kind: "figures",
            wide: true,
            figures: [{ svg: plot }],
            caption: "Bands are 95 % intervals over rounds, in which both models take turns.",
          },
          { kind: "table", table: overheadTable(report) },
        ],
      },
      {
        heading: "What was run",
        blocks: [
          {
            kind: "facts",
            facts: {
              Size: size,
              Machine: machine,
              Backend: backend,
              Threads: String(threads),
              Rounds: String(rounds),
              Text: data,
              Sizes: [
                ...new Set(report.rows.map((row) => `D ${row.width}: ${formatCount(row.parameters)}`)),
              ].join("; "),
            },
          },
        ],
      },
    ],
  });
}

/** Writes index.html, report.md, report.json and ratios.csv. @returns the path of the page. */
export async function writeOverhead(report: OverheadReport, folder: string): Promise<string> {
  const markdown = [`# ${title}`, ...overheadInWords(report), renderMarkdown(overheadTable(report))];
  const files = {
    "report.md": `${markdown.join("\n\n")}\n`,
    "report.json": `${JSON.stringify(report, null, 2)}\n`,
    "ratios.csv": renderCsv(overheadTable(report)),
    "index.html": overheadPage(report),
  };
  for (const [name, text] of Object.entries(files)) await writeFileAtomic(join(folder, name), text);
  return join(folder, "index.html");
}
