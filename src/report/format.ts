// Numbers as people read them: counts, rates, bytes, durations, shares. Used by the command line and the report.
// Not here: axis ticks (plot.ts), and anything that is parsed again (CSV and JSON keep the raw number).

const notANumber = "n/a";

/** 950, "1.23 k", "12.3 M", "1.75 B", "2.00 T": three significant digits; integers below 1000 as they are. */
export function formatCount(count: number): string {
  return scaled(count, 1000, ["", "k", "M", "B", "T"]);
}

/** "12.3 k tok/s". */
export function formatTokensPerSecond(rate: number): string {
  return Number.isFinite(rate) ? `${formatCount(rate)} tok/s` : notANumber;
}

/** "512 B", "12.3 MiB". */
export function formatBytes(bytes: number): string {
  return scaled(bytes, 1024, ["B", "KiB", "MiB", "GiB", "TiB"]);
}

/** A length of time given in seconds: "420 ms", "4.2 s", "42 s", "2 min 05 s", "1 h 02 min", "3 d 04 h". */
export function formatDuration(seconds: number): string {
  if (!Number.isFinite(seconds)) return notANumber;
  if (seconds < 0) return `-${formatDuration(-seconds)}`;
  if (Math.round(seconds * 1000) < 1000) return `${Math.round(seconds * 1000)} ms`;
  if (Math.round(seconds * 10) < 100) return `${seconds.toFixed(1)} s`;
  if (Math.round(seconds) < 60) return `${Math.round(seconds)} s`;
  if (Math.round(seconds) < 3600) return twoUnits(Math.round(seconds), 60, "min", "s");
  const minutes = Math.round(seconds / 60);
  if (minutes < 24 * 60) return twoUnits(minutes, 60, "h", "min");
  return twoUnits(Math.round(seconds / 3600), 24, "d", "h");
}

/** A share in 0..1 as "41.7 %". */
export function formatPercent(share: number, digits = 1): string {
  if (!Number.isFinite(share)) return notANumber;
  // What is rounded to nothing has no sign.
  const text = (share * 100).toFixed(digits);
  return `${Number(text) === 0 ? text.replace("-", "") : text} %`;
}

/** A number with a fixed count of decimals. */
export function formatFixed(value: number, digits: number): string {
  return Number.isFinite(value) ? value.toFixed(digits) : notANumber;
}

/** Three significant digits and the largest unit of which there is at least one. */
function scaled(value: number, base: number, units: readonly string[]): string {
  if (!Number.isFinite(value)) return notANumber;
  let size = Math.abs(value);
  let unit = 0;
  while (unit < units.length - 1 && Number(threeDigits(size)) >= base) {
    size /= base;
    unit++;
  }
  const digits = unit === 0 && Number.isInteger(size) ? String(size) : threeDigits(size);
  return `${value < 0 ? "-" : ""}${digits} ${units[unit]}`.trimEnd();
}

function threeDigits(size: number): string {
  return size < 99.95 ? size.toPrecision(3) : size.toFixed(0);
}

function twoUnits(count: number, base: number, large: string, small: string): string {
  return `${Math.floor(count / base)} ${large} ${String(count % base).padStart(2, "0")} ${small}`;
}
