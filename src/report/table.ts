// A table as data, and four ways to show it: terminal, Markdown, CSV, HTML. Cells keep raw numbers; the column knows
// how people read them, so that CSV loses nothing.
// Not here: style sheets (page.ts), sorting, and what the columns of a particular report are.

import { max } from "d3-array";
import { formatCount } from "./format.ts";
import { escapeMarkup } from "./markup.ts";

export interface Column {
  /** Name of the cell in a row, and the column's heading in CSV. */
  key: string;
  label: string;
  align: "left" | "right";
  /** How a number is shown, CSV excepted; counts such as "12.3 M" if absent. */
  format?: (value: number) => string;
  /** One sentence on what the column means, listed below the table. */
  note?: string;
}

/** The cells of one line, by column key; an absent cell is shown as "-", and left empty in CSV. */
export type Row = Record<string, string | number | undefined>;

export interface Table {
  title?: string;
  /** The first column names the row. */
  columns: Column[];
  rows: Row[];
}

/**
 * Lines for a terminal, without a line break at the end. Where the table is wider than `width` characters it is turned:
 * the columns become lines, and as many rows as fit stand side by side in each block.
 */
export function renderText(table: Table, options: { width?: number } = {}): string {
  const { width = Number.POSITIVE_INFINITY } = options;
  const lines = table.title === undefined ? [] : [table.title, ""];
  const straight = gridOf(table.columns, table.rows);
  if (gridWidth(straight) <= width) {
    lines.push(...gridLines(straight));
  } else {
    for (const grid of turnedGrids(table, width)) {
      if (lines.length > 0 && lines[lines.length - 1] !== "") lines.push("");
      lines.push(...gridLines(grid));
    }
  }
  const notes = notesOf(table);
  if (notes.length > 0) lines.push("");
  for (const { label, note } of notes) lines.push(...wrapWords(`${label}: ${note}`, width));
  return lines.join("\n");
}

/** A pipe table, with the notes as a list below it. */
export function renderMarkdown(table: Table): string {
  const line = (cells: string[]) => `| ${cells.join(" | ")} |`;
  const lines = table.title === undefined ? [] : [`**${escapeMarkdown(table.title)}**`, ""];
  lines.push(line(table.columns.map((column) => escapeMarkdown(column.label))));
  lines.push(line(table.columns.map((column) => (column.align === "right" ? "---:" : ":---"))));
  for (const row of table.rows) {
    lines.push(line(table.columns.map((column) => escapeMarkdown(cellText(column, row)))));
  }
  const notes = notesOf(table);
  if (notes.length > 0) lines.push("");
  for (const { label, note } of notes) lines.push(`* ${escapeMarkdown(label)}: ${escapeMarkdown(note)}`);
  return lines.join("\n");
}

/** RFC 4180 with "\n" after every line: keys as the heading, numbers unformatted, no title and no notes. */
export function renderCsv(table: Table): string {
  const field = (text: string) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const lines = [table.columns.map((column) => column.key)];
  for (const row of table.rows) lines.push(table.columns.map((column) => String(row[column.key] ?? "")));
  return lines.map((cells) => `${cells.map(field).join(",")}\n`).join("");
}

/** Characters of a text that is not wrapped. */
const SHORT = 40;

/** A `<table>` in a box that scrolls sideways, and the notes folded away below it; page.ts has the style. */
export function renderHtml(table: Table): string {
  const { title, columns, rows } = table;
  // Short texts stay on one line; longer ones get room to wrap in.
  const isShort = (column: Column) =>
    rows.every((row) => cellText(column, row).length <= SHORT) && column.label.length <= SHORT;
  const kinds = columns.map((column) =>
    column.align === "right" ? ' class="number"' : isShort(column) ? ' class="short"' : "",
  );
  const head = columns.map(
    (column, index) => `<th scope="col"${kinds[index]}>${escapeMarkup(column.label)}</th>`,
  );
  const body = rows.map((row) => {
    const cells = columns.map((column, index) => {
      const text = escapeMarkup(cellText(column, row));
      return index === 0 ? `<th scope="row">${text}</th>` : `<td${kinds[index]}>${text}</td>`;
    });
    return `<tr>${cells.join("")}</tr>`;
  });
  const caption = title === undefined ? "" : `<caption>${escapeMarkup(title)}</caption>`;
  const notes = notesOf(table).map(
    ({ label, note }) => `<dt>${escapeMarkup(label)}</dt><dd>${escapeMarkup(note)}</dd>`,
  );
  return [
    `<div class="scroll" role="region" tabindex="0" aria-label="${escapeMarkup(title ?? "Table")}">`,
    `<table>${caption}<thead><tr>${head.join("")}</tr></thead>`,
    `<tbody>${body.join("\n")}</tbody></table></div>`,
    notes.length === 0
      ? ""
      : `<details class="notes"><summary>What the columns mean</summary><dl>${notes.join("\n")}</dl></details>`,
  ].join("\n");
}

function cellText(column: Column, row: Row): string {
  const value = row[column.key];
  if (value === undefined) return "-";
  return typeof value === "number" ? (column.format ?? formatCount)(value) : value;
}

function notesOf(table: Table): { label: string; note: string }[] {
  return table.columns.flatMap(({ label, note }) => (note === undefined ? [] : [{ label, note }]));
}

// Terminal: a grid is the finished text of every cell with the width of every column.

interface Grid {
  lines: string[][];
  aligns: Column["align"][];
  widths: number[];
}

const gap = "  ";

function gridOf(columns: Column[], rows: Row[]): Grid {
  const body = rows.map((row) => columns.map((column) => cellText(column, row)));
  return gridOfLines(
    [columns.map((column) => column.label), ...body],
    columns.map((column) => column.align),
  );
}

function gridOfLines(lines: string[][], aligns: Column["align"][]): Grid {
  const widths = aligns.map((_, index) => max(lines, (line) => [...line[index]].length) ?? 0);
  return { lines, aligns, widths };
}

function turnedGrids(table: Table, width: number): Grid[] {
  const grids: Grid[] = [];
  let first = 0;
  do {
    let count = 1;
    let grid = turned(table.columns, table.rows.slice(first, first + 1));
    while (first + count < table.rows.length) {
      const wider = turned(table.columns, table.rows.slice(first, first + count + 1));
      if (gridWidth(wider) > width) break;
      grid = wider;
      count++;
    }
    grids.push(grid);
    first += count;
  } while (first < table.rows.length);
  return grids;
}

function turned(columns: Column[], rows: Row[]): Grid {
  const lines = columns.map((column) => [column.label, ...rows.map((row) => cellText(column, row))]);
  return gridOfLines(lines, ["left", ...rows.map(() => "right" as const)]);
}

function gridWidth(grid: Grid): number {
  return grid.widths.reduce((sum, width) => sum + width, gap.length * (grid.widths.length - 1));
}

function gridLines(grid: Grid): string[] {
  const lines = grid.lines.map((cells) =>
    cells
      .map((cell, index) => {
        const space = " ".repeat(grid.widths[index] - [...cell].length);
        return grid.aligns[index] === "right" ? space + cell : cell + space;
      })
      .join(gap)
      .trimEnd(),
  );
  const rule = grid.widths.map((width) => "-".repeat(width)).join(gap);
  return [lines[0], rule, ...lines.slice(1)];
}

function wrapWords(text: string, width: number): string[] {
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(" ")) {
    if (line !== "" && line.length + 1 + word.length > width) {
      lines.push(line);
      line = `  ${word}`;
    } else {
      line = line === "" ? word : `${line} ${word}`;
    }
  }
  return [...lines, line];
}

function escapeMarkdown(text: string): string {
  return text.replace(/[\\|`*_<>[\]]/g, "\\$&").replace(/\s*\n\s*/g, " ");
}
