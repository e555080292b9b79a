// Plots as SVG text to stand inside a page: lines with bands and dots, and bars over intervals. Colours are CSS variables
// and classes (plotStyle), so that one drawing serves light and dark; it shrinks with its box, text included.
// Not here: scales and ticks (axis.ts), a DOM, scripts, and stand-alone .svg files (without plotStyle a plot has no colour).

import { area, line } from "d3-shape";
import { type Axis, isDrawable, type Ruler, rulerOf } from "./axis.ts";
import { escapeMarkup } from "./markup.ts";

export type { Axis } from "./axis.ts";

/** What every plot has. */
export interface Frame {
  title: string;
  x: Axis;
  y: Axis;
  /** Dashed straight lines at a value worth comparing with, in the legend if labelled; the axis covers them. */
  references?: { axis: "x" | "y"; at: number; label?: string }[];
  /** Of the whole drawing, in user units; 440 if absent. */
  width?: number;
  /** Of the area of the data; title, legend and labels come on top of it. 210 if absent. */
  height?: number;
}

export interface Series {
  /** Series of one name share a colour and an entry of the legend. */
  name: string;
  /** A coordinate that is not finite (or not positive, on a logarithmic axis) makes a gap. */
  points: readonly Point[];
  /** Solid if absent. */
  line?: "solid" | "dashed" | "none";
  /** Mark every point. A point between two gaps is marked in any case. */
  dots?: boolean;
  /** A range around the line, with gaps as above. */
  band?: readonly BandPoint[];
  /** Number of the colour, counted by name if absent; give it where several plots must agree. */
  colour?: number;
}

/** Line plot; the legend stands above the data, never on them. */
export function linePlot(plot: Frame & { series: readonly Series[] }): string {
  const { x, y, series } = plot;
  const names = [...new Set(series.map((one) => one.name))];
  const lines: DrawnSeries[] = series.map((one) => {
    const isShown = ([at, value]: Point) => isDrawable(x, at) && isDrawable(y, value);
    return {
      ...one,
      colourClass: colourClass(one.colour ?? names.indexOf(one.name)),
      isShown,
      shown: one.points.filter(isShown),
      edges: (one.band ?? [])
        .flatMap(([at, low, high]): Point[] => [
          [at, low],
          [at, high],
        ])
        .filter(isShown),
    };
  });
  const named = names.map((name) => ({ name, parts: lines.filter((one) => one.name === name) }));
  const legend = named.map(({ name, parts }) => ({ label: name, swatch: parts.map(swatchOf).join("") }));
  const summaries = named.map(
    ({ name, parts }) =>
      `${name}: ${rangeInWords(parts.flatMap((one) => one.shown.map((point) => point[1])))}.`,
  );
  return drawn(plot, {
    kind: "Line plot",
    summary: summaries.join(" "),
    legend,
    xs: lines.flatMap(({ shown, edges }) => [...shown, ...edges].map((point) => point[0])),
    ys: lines.flatMap(({ shown, edges }) => [...shown, ...edges].map((point) => point[1])),
    marks: (toX, toY) => [
      ...lines.map((one) => bandMark(one, toX, toY)),
      ...lines.map((one) => lineMark(one, toX, toY)),
      ...lines.flatMap((one) => dotMarks(one, toX, toY)),
    ],
  });
}

type Point = readonly [x: number, y: number];
type BandPoint = readonly [x: number, low: number, high: number];
export type Place = (value: number) => number;

interface DrawnSeries extends Series {
  colourClass: string;
  isShown: (point: Point) => boolean;
  shown: Point[];
  /** Of the band. */
  edges: Point[];
}

function bandMark({ band = [], isShown, colourClass }: DrawnSeries, toX: Place, toY: Place): string {
  const path = area<BandPoint>()
    .defined(([at, low, high]) => isShown([at, low]) && isShown([at, high]))
    .x(([at]) => toX(at))
    .y0(([, low]) => toY(low))
    .y1(([, , high]) => toY(high))(band);
  return path ? `<path class="band ${colourClass}" d="${path}"/>` : "";
}

function lineMark(series: DrawnSeries, toX: Place, toY: Place): string {
  if (series.line === "none") return "";
  const path = line<Point>()
    .defined(series.isShown)
    .x(([at]) => toX(at))
    .y(([, value]) => toY(value))(series.points);
  return path ? `<path class="line ${series.line ?? "solid"} ${series.colourClass}" d="${path}"/>` : "";
}

function dotMarks(
  { name, points, dots, isShown, colourClass }: DrawnSeries,
  toX: Place,
  toY: Place,
): string[] {
  const shown = points.map(isShown);
  return points.flatMap(([at, value], index) => {
    const isAlone = !shown[index - 1] && !shown[index + 1];
    if (!shown[index] || !(dots || isAlone)) return [];
    const text = escapeMarkup(`${name}: ${short(value)} at ${short(at)}`);
    const place = `cx="${round(toX(at))}" cy="${round(toY(value))}"`;
    return [`<circle class="dot ${colourClass}" ${place} r="3"><title>${text}</title></circle>`];
  });
}

function swatchOf({ line: stroke = "solid", dots, colourClass }: DrawnSeries): string {
  const dash = `<line class="line ${stroke} ${colourClass}" x1="0" x2="18" y1="-4" y2="-4"/>`;
  const dot = `<circle class="dot ${colourClass}" cx="9" cy="-4" r="3"/>`;
  return (stroke === "none" ? "" : dash) + (dots ? dot : "");
}

export interface Bar {
  from: number;
  to: number;
  value: number;
}

/** Bars over intervals of x, such as a histogram; they stand on 0, or on the axis's lower end if it is logarithmic. */
export function barPlot(plot: Frame & { bars: readonly Bar[]; colour?: number }): string {
  const { x, y } = plot;
  const bars = plot.bars.filter(
    (bar) => isDrawable(x, bar.from) && isDrawable(x, bar.to) && isDrawable(y, bar.value),
  );
  const values = bars.map((bar) => bar.value);
  // The smallest bar must still be seen above the end of a logarithmic axis, which is shared if `include` is.
  const covered = [...values, ...(y.include ?? [])].filter((value) => isDrawable(y, value));
  const foot = y.log ? Math.min(...covered) / 2 : 0;
  return drawn(plot, {
    kind: "Bar plot",
    summary: `${bars.length} bars: ${rangeInWords(values)}.`,
    legend: [],
    xs: bars.flatMap((bar) => [bar.from, bar.to]),
    ys: bars.length === 0 ? [] : [...values, foot],
    marks: (toX, toY) =>
      bars.map((bar) => {
        const [left, right] = [toX(bar.from), toX(bar.to)];
        const [top, bottom] = [toY(Math.max(bar.value, foot)), toY(Math.min(bar.value, foot))];
        const gap = right - left > 4 ? 1 : 0;
        const box = `x="${round(left)}" y="${round(top)}" width="${round(right - left - gap)}" height="${round(bottom - top)}"`;
        const text = escapeMarkup(`${short(bar.from)} to ${short(bar.to)}: ${short(bar.value)}`);
        return `<rect class="bar ${colourClass(plot.colour ?? 0)}" ${box}><title>${text}</title></rect>`;
      }),
  });
}

/**
 * [light, dark] of each series, the best contrasts first: Okabe and Ito's colour-blind-safe set, made lighter or darker
 * where a thin line of it would be lost on that background.
 */
const colours: readonly (readonly [light: string, dark: string])[] = [
  ["#0072b2", "#56b4e9"],
  ["#d55e00", "#e69f00"],
  ["#009e73", "#2cc295"],
  ["#cc79a7", "#e29bc3"],
  ["#8a7400", "#f0e442"],
  ["#5b6066", "#a9afb6"],
];

/** The class that gives a mark its colour. */
export function colourClass(index: number): string {
  return `c${index % colours.length}`;
}

/** CSS of all plots of a page; the page defines --ink, --muted, --rule and --paper for both themes. */
export const plotStyle = `
:root { ${colours.map(([light], index) => `--c${index}: ${light};`).join(" ")} }
@media screen and (prefers-color-scheme: dark) {
  :root { ${colours.map(([, dark], index) => `--c${index}: ${dark};`).join(" ")} }
}
${colours.map((_, index) => `.c${index} { --c: var(--c${index}); }`).join("\n")}
.plot { display: block; width: 100%; height: auto; font: 12px system-ui, sans-serif; fill: var(--ink); }
.plot .title { font-size: 13px; font-weight: 600; }
.plot .muted { fill: var(--muted); }
.plot text { font-variant-numeric: tabular-nums; }
.plot .end { text-anchor: end; }
.plot .middle { text-anchor: middle; }
.plot .grid { stroke: var(--rule); stroke-width: 1; }
.plot .axis { stroke: var(--muted); stroke-width: 1; }
.plot .reference { stroke: var(--ink); stroke-width: 1.25; stroke-dasharray: 2 3; }
.plot .line { fill: none; stroke: var(--c); stroke-width: 1.75; stroke-linejoin: round; stroke-linecap: round; }
.plot .dashed { stroke-dasharray: 5 4; }
.plot .dot { fill: var(--paper); stroke: var(--c); stroke-width: 1.75; }
.plot .band { fill: var(--c); opacity: 0.18; }
.plot .bar { fill: var(--c); }
.plot .veil { fill: var(--paper); opacity: 0.75; }
.plot .name { fill: var(--c); font-size: 11px; }
`;

/** What `drawn` draws besides title, legend, axes and grid. */
export interface Drawing {
  kind: string;
  /** What the data say, for those who do not see them. */
  summary: string;
  legend: { label: string; swatch: string }[];
  /** Everything that the axes must cover. */
  xs: number[];
  ys: number[];
  marks: (toX: Place, toY: Place) => string[];
}

const lineHeight = 17;
const swatchWidth = 24;
/** Estimates on the wide side, in user units, at the sizes in plotStyle. */
const characterWidth = 7;
const boldCharacterWidth = 7.8;

/** Title, legend, axes and grid around the marks. Text is laid out by estimate: there is nothing here to measure it. */
export function drawn(frame: Frame, drawing: Drawing): string {
  const { title, x, y, width = 440, height = 210 } = frame;
  const references = (frame.references ?? []).filter((one) => isDrawable(one.axis === "x" ? x : y, one.at));
  const at = (axis: "x" | "y") => references.filter((one) => one.axis === axis).map((one) => one.at);

  let top = 0;
  const header: string[] = [];
  for (const text of wrapped(title, width / boldCharacterWidth, 3)) {
    top += lineHeight;
    header.push(`<text class="title" x="0" y="${top - 4}">${escapeMarkup(text)}</text>`);
  }
  let left = width;
  for (const { label, swatch } of legendOf(drawing, references)) {
    const [text] = wrapped(label, (width - swatchWidth) / characterWidth, 1);
    const length = swatchWidth + textWidth(text);
    if (left + length > width) {
      left = 0;
      top += lineHeight;
    }
    header.push(
      `<g transform="translate(${round(left)} ${top - 4})">${swatch}<text x="${swatchWidth}">${escapeMarkup(text)}</text></g>`,
    );
    left += length + 14;
  }
  const [yLabel] = wrapped(y.label, width / characterWidth, 1);
  top += lineHeight;
  header.push(`<text class="muted" x="0" y="${top - 4}">${escapeMarkup(yLabel)}</text>`);
  // The uppermost tick label stands beside the end of the axis, half a line higher.
  top += 10;

  const bottom = top + height;
  const total = bottom + 36;
  const yRuler = rulerOf(y, [...drawing.ys, ...at("y")], Math.max(2, Math.round(height / 40)), true);
  const margin = Math.max(...yRuler.ticks.map((tick) => textWidth(tick.label))) + 8;
  const right = width - 20;
  const xRuler = rulerOf(
    x,
    [...drawing.xs, ...at("x")],
    Math.max(3, Math.round((right - margin) / 65)),
    false,
  );
  yRuler.scale.range([bottom, top]);
  xRuler.scale.range([margin, right]);
  const [xLabel] = wrapped(x.label, (right - margin) / characterWidth, 1);

  const isEmpty = drawing.xs.length === 0;
  const body = [
    ...gridOf(xRuler, yRuler, { left: margin, right, top, bottom }),
    `<text class="muted middle" x="${round((margin + right) / 2)}" y="${total - 4}">${escapeMarkup(xLabel)}</text>`,
    ...(isEmpty
      ? [
          `<text class="muted middle" x="${round((margin + right) / 2)}" y="${round((top + bottom) / 2)}">no data</text>`,
        ]
      : drawing.marks(xRuler.scale, yRuler.scale)),
    ...references.map(({ axis, at }) => {
      const place = round(axis === "x" ? xRuler.scale(at) : yRuler.scale(at));
      return axis === "x"
        ? `<line class="reference" x1="${place}" x2="${place}" y1="${round(top)}" y2="${round(bottom)}"/>`
        : `<line class="reference" x1="${round(margin)}" x2="${round(right)}" y1="${place}" y2="${place}"/>`;
    }),
  ];
  const description = `${drawing.kind} of ${y.label} against ${x.label}. ${isEmpty ? "No data." : drawing.summary}`;
  return [
    `<svg class="plot" role="img" viewBox="0 0 ${width} ${total}" width="${width}" height="${total}">`,
    `<title>${escapeMarkup(title)}</title><desc>${escapeMarkup(description)}</desc>`,
    ...header,
    ...body,
    "</svg>",
  ].join("\n");
}

/** A single series needs no legend. */
function legendOf(drawing: Drawing, references: NonNullable<Frame["references"]>): Drawing["legend"] {
  const swatch = '<line class="reference" x1="0" x2="18" y1="-4" y2="-4"/>';
  const dashes = references.flatMap(({ label }) => (label === undefined ? [] : [{ label, swatch }]));
  const legend = [...drawing.legend, ...dashes];
  return legend.length > 1 || dashes.length > 0 ? legend : [];
}

function gridOf(
  x: Ruler,
  y: Ruler,
  box: { left: number; right: number; top: number; bottom: number },
): string[] {
  const across = y.ticks.map(({ value, label }) => {
    const place = round(y.scale(value));
    return `<line class="grid" x1="${round(box.left)}" x2="${round(box.right)}" y1="${place}" y2="${place}"/><text class="muted end" x="${round(box.left - 6)}" y="${place + 4}">${label}</text>`;
  });
  const along = x.ticks.map(({ value, label }) => {
    const place = round(x.scale(value));
    return `<line class="axis" x1="${place}" x2="${place}" y1="${box.bottom}" y2="${box.bottom + 4}"/><text class="muted middle" x="${place}" y="${box.bottom + 17}">${label}</text>`;
  });
  const base = `<line class="axis" x1="${round(box.left)}" x2="${round(box.right)}" y1="${box.bottom}" y2="${box.bottom}"/>`;
  return [...across, base, ...along];
}

function textWidth(text: string): number {
  const wide = text.match(/[mwMW%]/g)?.length ?? 0;
  return ([...text].length + wide / 2) * characterWidth;
}

/** Lines of at most `room` characters; what does not fit into `limit` lines, or is one longer word, ends in "...". */
function wrapped(text: string, room: number, limit: number): string[] {
  const lines = [""];
  for (const word of text.split(/\s+/)) {
    const last = lines[lines.length - 1];
    const longer = last === "" ? word : `${last} ${word}`;
    if (longer.length <= room || last === "" || lines.length === limit) lines[lines.length - 1] = longer;
    else lines.push(word);
  }
  return lines.map((one) => (one.length <= room ? one : `${one.slice(0, Math.max(1, room - 3))}...`));
}

/** How far values go, for descriptions. */
export function rangeInWords(values: number[]): string {
  if (values.length === 0) return "no values";
  if (values.length === 1) return `one value, ${short(values[0])}`;
  const low = values.reduce((a, b) => Math.min(a, b));
  const high = values.reduce((a, b) => Math.max(a, b));
  return `${values.length} values from ${short(low)} to ${short(high)}`;
}

/** Four digits, for tooltips. */
export function short(value: number): string {
  return String(Number(value.toPrecision(4)));
}

/** Tenths of a unit are enough for the eye and keep pages small. */
export function round(value: number): number {
  return Math.round(value * 10) / 10;
}
