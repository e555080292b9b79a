// Ridge plot: one distribution a row, one row above the other, each standing on its own line. Drawn into the frame of plot.ts.

import { area, curveMonotoneX, line } from "d3-shape";
import { escapeMarkup } from "./markup.ts";
import { drawn, type Frame, rangeInWords } from "./plot.ts";

export interface Ridge {
  /** Row on the vertical axis: 0, 1, ... from below. */
  row: number;
  label: string;
  points: readonly (readonly [x: number, height: number])[];
}

/** Rows that the highest ridge reaches over. */
const REACH = 1.6;

/** All ridges have one scale. */
export function ridgePlot(plot: Frame & { ridges: readonly Ridge[] }): string {
  const { ridges } = plot;
  const highest = ridges
    .flatMap(({ points }) => points.map(([, height]) => height))
    .reduce((a, b) => Math.max(a, b), 0);
  const scale = highest > 0 ? REACH / highest : 0;
  const rows = ridges.map(({ row }) => row);
  // The uppermost ridge needs room above the last row.
  const frame = { ...plot, y: { ...plot.y, lastTick: Math.max(0, ...rows) } };
  return drawn(frame, {
    kind: "Ridge plot",
    summary: `${ridges.length} distributions; heights: ${rangeInWords(ridges.flatMap(({ points }) => points.map(([, height]) => height)))}.`,
    legend: [],
    xs: ridges.flatMap(({ points }) => points.map(([x]) => x)),
    ys: ridges.length === 0 ? [] : [Math.min(...rows), Math.max(...rows) + REACH],
    marks: (toX, toY) =>
      // From the back, so that nearer rows stand before farther ones.
      [...ridges]
        .sort((a, b) => b.row - a.row)
        .map(({ row, label, points }) => {
          const shape = area<readonly [number, number]>()
            .x(([x]) => toX(x))
            .y0(toY(row))
            .y1(([, height]) => toY(row + height * scale))
            .curve(curveMonotoneX)(points);
          const top = line<readonly [number, number]>()
            .x(([x]) => toX(x))
            .y(([, height]) => toY(row + height * scale))
            .curve(curveMonotoneX)(points);
          return `<g><title>${escapeMarkup(label)}</title><path class="veil" d="${shape ?? ""}"/><path class="band c0" d="${shape ?? ""}"/><path class="line solid c0" d="${top ?? ""}"/></g>`;
        }),
  });
}
