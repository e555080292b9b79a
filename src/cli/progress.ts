// One line that says how far a long job is. On a terminal it is redrawn in place; in a pipe or a file a plain line
// appears every few seconds. Not here: results (output.ts).

import {
  formatBytes,
  formatCount,
  formatDuration,
  formatFixed,
  formatTokensPerSecond,
} from "../report/format.ts";
import type { OnProgress } from "../text/progress.ts";
import type { MetricsRecord } from "../train/loop.ts";

const REDRAW_MS = 100;
const PLAIN_LINE_MS = 5000;
const ERASE_LINE = "\r\x1b[2K";

/** What the line needs of a stream such as `process.stderr`. */
export interface ProgressStream {
  readonly isTTY?: boolean;
  readonly columns?: number;
  write(text: string): unknown;
}

export class ProgressLine {
  readonly #stream: ProgressStream;
  readonly #now: () => number;
  #task: string | undefined;
  #writtenAt = 0;
  /** The live line on the terminal. */
  #live = "";
  /** A state that came too early to be shown. */
  #pending: string | undefined;

  /** @param now milliseconds; tests bring their own clock. */
  constructor(stream: ProgressStream, now: () => number = () => performance.now()) {
    this.#stream = stream;
    this.#now = now;
  }

  /**
   * Shows `task: detail, detail`. The first state of a task appears at once.
   * @param details most important first: on a narrow terminal the last ones are left out.
   */
  show(task: string, details: readonly string[]): void {
    const { isTTY, columns = 80 } = this.#stream;
    const text = fitLine(task, details, isTTY ? columns - 1 : Number.POSITIVE_INFINITY);
    const isEarly = this.#now() - this.#writtenAt < (isTTY ? REDRAW_MS : PLAIN_LINE_MS);
    if (task === this.#task && isEarly) this.#pending = text;
    else this.#write(text);
    this.#task = task;
  }

  /** A line that stays. */
  note(line: string): void {
    if (!this.#stream.isTTY) {
      this.#stream.write(`${line}\n`);
      return;
    }
    const erase = this.#live === "" ? "" : ERASE_LINE;
    this.#stream.write(`${erase}${line}\n${this.#live}`);
  }

  /** Leaves the latest state where it is; what is written next begins on a line of its own. */
  end(): void {
    if (this.#pending !== undefined) this.#write(this.#pending);
    if (this.#live !== "") this.#stream.write("\n");
    this.#live = "";
    this.#task = undefined;
  }

  #write(text: string): void {
    if (this.#stream.isTTY) {
      this.#stream.write(`${ERASE_LINE}${text}`);
      this.#live = text;
    } else {
      this.#stream.write(`${text}\n`);
    }
    this.#pending = undefined;
    this.#writtenAt = this.#now();
  }
}

/** `task: detail, detail`, without the last details where they do not fit into `width` characters. */
export function fitLine(task: string, details: readonly string[], width: number): string {
  const line = (count: number) =>
    [task, details.slice(0, count).join(", ")].filter((part) => part !== "").join(": ");
  let count = details.length;
  while (count > 1 && line(count).length > width) count--;
  return line(count).slice(0, width);
}

/**
 * An `onStep` that shows training on `progress`.
 * @param task asked at every step; "" where there is but one run. @param ahead steps of the runs after this one.
 */
export function showSteps(
  progress: ProgressLine,
  task: () => string = () => "",
  ahead: () => number = () => 0,
): (record: MetricsRecord, steps: number) => void {
  return (record, steps) => {
    // Means of the whole run: a single step is noisy.
    const { step, tokens, seconds, loss } = record;
    const left = (count: number) => formatDuration(count * (seconds / step));
    progress.show(task(), [
      `step ${step}/${steps}`,
      `loss ${formatFixed(loss, 3)}`,
      formatTokensPerSecond(tokens / seconds),
      step < steps ? `ETA ${left(steps - step)}` : `took ${formatDuration(seconds)}`,
      // As if all were as fast as this one.
      ...(ahead() > 0 ? [`all runs about ${left(steps - step + ahead())}`] : []),
    ]);
  };
}

/**
 * An `onProgress` for the jobs of src/text; of bytes it says how fast they come.
 * @param now milliseconds; tests bring their own clock.
 */
export function showText(progress: ProgressLine, now: () => number = () => performance.now()): OnProgress {
  let begin = { task: "", at: 0, done: 0 };
  return ({ task, done, total, unit }) => {
    // What an earlier try has fetched does not count.
    if (task !== begin.task || done < begin.done) begin = { task, at: now(), done };
    const amount = unit === "bytes" ? formatBytes : (count: number) => `${formatCount(count)} tokens`;
    const details = [total === undefined ? amount(done) : `${amount(done)} of ${amount(total)}`];
    const rate = (done - begin.done) / ((now() - begin.at) / 1000);
    if (unit === "bytes" && rate > 0 && Number.isFinite(rate)) {
      details.push(`${formatBytes(rate)}/s`);
      if (total !== undefined && done < total) details.push(`ETA ${formatDuration((total - done) / rate)}`);
    }
    progress.show(task, details);
  };
}
