// One axis of a plot: from the values it must cover to a scale, its ticks and their labels.
// Not here: anything drawn (plot.ts).

import { extent, max } from "d3-array";
import { type ScaleContinuousNumeric, scaleLinear, scaleLog } from "d3-scale";

export interface Axis {
  label: string;
  /** Logarithmic; values that are not positive count as gaps. */
  log?: boolean;
  /** Values that the axis covers whatever the data are: 0 for a bar's foot, or a range shared by several plots. */
  include?: number[];
  /** Ends where the values end, and has ticks at whole numbers only: for layers and other things that are counted. */
  counted?: boolean;
  /** Nothing is labelled beyond it, where the axis ends in room that stands for no value. */
  lastTick?: number;
}

export interface Ruler {
  /** From a value to its place; the caller sets the range. */
  scale: ScaleContinuousNumeric<number, number>;
  ticks: { value: number; label: string }[];
}

/** Can `value` be drawn on this axis? */
export function isDrawable(axis: Axis, value: number): boolean {
  return Number.isFinite(value) && (!axis.log || value > 0);
}

/**
 * A scale over `values` with about `count` ticks; `nice` lets it end on a round number. Where all values are whole
 * (steps, layers), so are the ticks.
 */
export function rulerOf(axis: Axis, values: Iterable<number>, count: number, nice: boolean): Ruler {
  const drawable = [...values, ...(axis.include ?? [])].filter((value) => isDrawable(axis, value));
  const domain = widened(axis, extent(drawable));
  const linear = scaleLinear().domain(domain);
  if (!axis.log) {
    if (nice && !axis.counted) linear.nice(count);
    const areWhole = axis.counted || drawable.every(Number.isInteger);
    const { lastTick = Number.POSITIVE_INFINITY } = axis;
    const ticks = linear
      .ticks(count)
      .filter((tick) => (!areWhole || Number.isInteger(tick)) && tick <= lastTick);
    return { scale: linear, ticks: labelled(ticks, true) };
  }
  const scale = scaleLog().domain(domain);
  const ticks = logTicks(domain, count);
  // Within less than an octave no round number may fall: even steps read better there, and a log scale is straight.
  return ticks.length >= 2
    ? { scale, ticks: labelled(ticks, false) }
    : { scale, ticks: labelled(linear.ticks(count), true) };
}

/** A range with some length, where there are no values or only one. */
function widened(axis: Axis, [low, high]: [number, number] | [undefined, undefined]): [number, number] {
  if (low === undefined) return axis.log ? [1, 10] : [0, 1];
  if (low < high) return [low, high];
  if (axis.log) return [low / 2, low * 2];
  if (low === 0) return [0, 1];
  const margin = Math.abs(low) * 0.1;
  return [low - margin, low + margin];
}

/** 1, 2 and 5 times the powers of ten; over a long range only powers of ten, in equal strides. */
function logTicks([low, high]: [number, number], count: number): number[] {
  const [first, last] = [Math.log10(low), Math.log10(high)];
  const powersInside = Math.floor(last) - Math.ceil(first) + 1;
  const stride = Math.max(1, Math.ceil(powersInside / count));
  const mantissas = (last - first) * 3 <= count + 1 ? [1, 2, 5] : [1];
  const ticks: number[] = [];
  for (let power = Math.ceil(Math.floor(first) / stride) * stride; power <= last; power += stride) {
    for (const mantissa of mantissas) ticks.push(Number(`${mantissa}e${power}`));
  }
  return ticks.filter((tick) => tick >= low && tick <= high);
}

/** Labels that tell the ticks apart: "0.25", "20k", "1e-5". `evenly`: all with the same number of decimals. */
function labelled(ticks: number[], evenly: boolean): Ruler["ticks"] {
  const largest = max(ticks, Math.abs) ?? 0;
  const decimals = max(ticks, (tick) => plain(tick).split(".")[1]?.length ?? 0);
  const text = (tick: number): string => {
    const size = Math.abs(tick);
    if (tick === 0) return "0";
    if (size >= 1e15 || size < 1e-4) return Number(tick.toPrecision(3)).toExponential().replace("e+", "e");
    const unit = largest >= 1e4 ? units.find(([length]) => size >= length) : undefined;
    if (unit !== undefined) return plain(tick / unit[0]) + unit[1];
    return evenly && largest < 1e4 ? tick.toFixed(decimals) : plain(tick);
  };
  return ticks.map((value) => ({ value, label: text(value) }));
}

const units: readonly (readonly [number, string])[] = [
  [1e12, "T"],
  [1e9, "B"],
  [1e6, "M"],
  [1e3, "k"],
];

/** Without the tail that binary fractions leave behind. */
function plain(value: number): string {
  return String(Number(value.toPrecision(9)));
}
