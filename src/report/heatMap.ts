// Heat map: a grid of cells, darker where values are larger, drawn into the frame of plot.ts. Not here: clustering, scales
// other than a straight or a logarithmic one.

import { escapeMarkup } from "./markup.ts";
import { drawn, type Frame, rangeInWords, round, short } from "./plot.ts";

export interface HeatCell {
  /** Edges of the cell along both axes. */
  x: readonly [from: number, to: number];
  y: readonly [from: number, to: number];
  value: number;
  /** What the cell is called where it is pointed at, e.g. "layer 3, expert 7". */
  label: string;
}

export interface HeatMap extends Frame {
  cells: readonly HeatCell[];
  /** Of the values in words for the legend, e.g. "share of tokens". */
  unit: string;
  /** How values become text; four digits if absent. */
  format?: (value: number) => string;
  /** Shades follow the logarithm. */
  logShades?: boolean;
}

/** The faintest shade that is told apart from none. */
const FAINTEST = 0.06;
/** Cells reach so far under their neighbours that no seam is seen between them. */
const OVERLAP = 0.6;

export function heatMap(map: HeatMap): string {
  const { cells, unit, format = short, logShades = false } = map;
  const finite = cells.filter(({ value }) => Number.isFinite(value) && (!logShades || value > 0));
  const place = logShades ? Math.log : (value: number) => value;
  const values = finite.map(({ value }) => value);
  const low = values.length === 0 ? 0 : values.reduce((a, b) => Math.min(a, b));
  const high = values.length === 0 ? 1 : values.reduce((a, b) => Math.max(a, b));
  const span = place(high) - place(low);
  const shade = (value: number) =>
    span > 0 ? FAINTEST + (1 - FAINTEST) * ((place(value) - place(low)) / span) : 0.5;
  // Mixed with the page's colour, not see-through: neither grid nor seams show.
  const fill = (value: number) =>
    `class="c0" style="fill:color-mix(in srgb, var(--c) ${Math.round(100 * shade(value))}%, var(--paper))"`;
  const swatch = (value: number) => `<rect ${fill(value)} x="0" y="-11" width="18" height="13"/>`;
  return drawn(map, {
    kind: "Heat map",
    summary: `${unit}: ${rangeInWords(values)}.`,
    legend:
      values.length === 0
        ? []
        : [
            { label: `${format(low)}`, swatch: swatch(low) },
            { label: `${format(high)} (${unit})`, swatch: swatch(high) },
          ],
    xs: cells.flatMap(({ x }) => [...x]),
    ys: cells.flatMap(({ y }) => [...y]),
    marks: (toX, toY) =>
      finite.map(({ x, y, value, label }) => {
        const [left, right] = [toX(x[0]), toX(x[1])];
        const [bottom, top] = [toY(y[0]), toY(y[1])];
        const box = `x="${round(left)}" y="${round(top)}" width="${round(right - left + OVERLAP)}" height="${round(bottom - top + OVERLAP)}"`;
        return `<rect ${fill(value)} ${box}><title>${escapeMarkup(`${label}: ${format(value)}`)}</title></rect>`;
      }),
  });
}
