// A result as people see it: tables, plots, and what must be said about them. One function for each benchmark (the other
// files of this folder); here is what they share.

import { formatDuration, formatFixed, formatPercent } from "../../report/format.ts";
import type { NamedFigure } from "../../report/page.ts";
import type { Column, Table } from "../../report/table.ts";
import type { Spread } from "../measure.ts";
import type { Envelope } from "../result.ts";

export interface Presentation {
  readonly heading: string;
  /** What was measured and how, a paragraph each. */
  readonly prose: readonly string[];
  readonly tables: readonly Table[];
  readonly figures: readonly NamedFigure[];
  /** Figures that want the whole width. */
  readonly wideFigures?: readonly NamedFigure[];
}

const fixed = (digits: number) => (value: number) => formatFixed(value, digits);

/** Columns by what they hold; `key` is a cell's name. */
export const columns = {
  text: (key: string, label: string, note?: string): Column => ({ key, label, align: "left", note }),
  count: (key: string, label: string, note?: string): Column => ({ key, label, align: "right", note }),
  fixed: (key: string, label: string, digits: number, note?: string): Column => ({
    key,
    label,
    align: "right",
    format: fixed(digits),
    note,
  }),
  integer: (key: string, label: string, note?: string): Column => ({
    key,
    label,
    align: "right",
    format: fixed(0),
    note,
  }),
  share: (key: string, label: string, note?: string): Column => ({
    key,
    label,
    align: "right",
    format: (value) => formatPercent(value),
    note,
  }),
  seconds: (key: string, label: string, note?: string): Column => ({
    key,
    label,
    align: "right",
    format: (value) => (value < 1 ? `${formatFixed(value * 1000, 2)} ms` : formatDuration(value)),
    note,
  }),
};

/** "1.02 (0.99 to 1.05)". */
export function spreadText({ median, min, max }: Spread, digits: number): string {
  const text = fixed(digits);
  return min === max ? text(median) : `${text(median)} (${text(min)} to ${text(max)})`;
}

/** What the machine can do, as a sentence. */
export function limitsInWords({ limits }: Envelope): string {
  if (!limits) return "The machine's limits were not measured.";
  const { readGigabytes: read, gigaflops } = limits;
  const pair = ({ one, all }: { one: number; all: number }, digits: number) =>
    limits.threads === 1
      ? formatFixed(all, digits)
      : `${formatFixed(all, digits)} (one thread: ${formatFixed(one, digits)})`;
  return (
    `What ${limits.threads === 1 ? "one thread" : `${limits.threads} threads`} can do, measured in the same run, the best of ` +
    `several tries: memory reads ${pair(read, 1)} GB/s; multiplication in registers, f32 ${pair(gigaflops.f32, 0)} and ` +
    `bf16 ${pair(gigaflops.bf16, 0)} GFLOP/s.`
  );
}
