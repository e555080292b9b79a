// Differences with their intervals, one line an arm, around the line of no difference (a "forest plot").
// Not here: how an interval is found.

import { rulerOf } from "./axis.ts";
import { escapeMarkup } from "./markup.ts";
import { colourClass, round, short } from "./plot.ts";

export interface Interval {
  readonly name: string;
  readonly mean: number;
  /** Absent where there is but one value. */
  readonly low?: number;
  readonly high?: number;
  /** Number of the colour. */
  readonly colour: number;
}

const rowHeight = 38;
const header = 24;

/** @param margin half the width of the range around 0 that counts as no difference; it is shaded. */
export function intervalPlot(plot: {
  title: string;
  label: string;
  intervals: readonly Interval[];
  margin?: number;
  width?: number;
}): string {
  const { title, label, intervals, margin = 0, width = 640 } = plot;
  const bottom = header + intervals.length * rowHeight + 6;
  const ends = intervals.flatMap(({ mean, low = mean, high = mean }) => [low, high]);
  const ruler = rulerOf({ label, include: [0, -margin, margin] }, ends, Math.round(width / 80), false);
  ruler.scale.range([12, width - 12]);
  const x = (value: number) => round(ruler.scale(value));
  const upright = (kind: string, at: number) =>
    `<line class="${kind}" x1="${x(at)}" x2="${x(at)}" y1="${header}" y2="${bottom}"/>`;
  const rows = intervals.map(({ name, mean, low, high, colour }, row) => {
    const y = header + row * rowHeight + 28;
    const line =
      low === undefined || high === undefined
        ? ""
        : `<line class="line" x1="${x(low)}" x2="${x(high)}" y1="${y}" y2="${y}"/>`;
    const text = escapeMarkup(`${name}: ${short(mean)}`);
    return `<g class="${colourClass(colour)}"><text x="12" y="${y - 11}">${escapeMarkup(name)}</text>${line}<circle class="dot" cx="${x(mean)}" cy="${y}" r="4"><title>${text}</title></circle></g>`;
  });
  const summary = intervals.map(({ name, mean, low, high }) =>
    low === undefined || high === undefined
      ? `${name}: ${short(mean)}.`
      : `${name}: ${short(mean)}, ${short(low)} to ${short(high)}.`,
  );
  const shade = `<rect fill="var(--ink)" opacity="0.08" x="${x(-margin)}" y="${header}" width="${round(x(margin) - x(-margin))}" height="${bottom - header}"/>`;
  return [
    `<svg class="plot" role="img" viewBox="0 0 ${width} ${bottom + 38}" width="${width}" height="${bottom + 38}">`,
    `<title>${escapeMarkup(title)}</title><desc>${escapeMarkup(`Intervals of ${label}. ${summary.join(" ")}`)}</desc>`,
    `<text class="title" x="0" y="13">${escapeMarkup(title)}</text>`,
    margin > 0 ? shade : "",
    ...ruler.ticks.map(
      ({ value, label: text }) =>
        `${upright("grid", value)}<text class="muted middle" x="${x(value)}" y="${bottom + 16}">${text}</text>`,
    ),
    upright("reference", 0),
    ...rows,
    `<text class="muted middle" x="${width / 2}" y="${bottom + 34}">${escapeMarkup(label)}</text>`,
    "</svg>",
  ].join("\n");
}
