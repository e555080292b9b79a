// A run on disk: `config.json`, `metrics.jsonl`, `checkpoints/step-N/`, `report/`, and a `lock` while a process
// works in it. Whatever kills that process, every file is readable afterwards and every `step-N` is complete.
// Not here: what a configuration, a metrics line or a checkpoint contains.
import {
  appendFileSync,
  closeSync,
  existsSync,
  fsyncSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import {
  discardFolder,
  errorCode,
  explainWriteError,
  publishFolder,
  removeLeftovers,
} from "../checkpoint/atomic.ts";
import { lockFile } from "../checkpoint/lock.ts";
import { RunError, UsageError } from "../errors.ts";

/** A line of `metrics.jsonl`; the key `step` is what `truncateMetrics` goes by. */
export type MetricsLine = Record<string, unknown>;

/**
 * Which checkpoints survive a save: the new one, those before it to make `last` of them, and that of step `best`. Of those
 * before only multiples of `every` count: when a run was stopped, or was at its best, must not decide what stays.
 */
export interface KeepRule {
  readonly last: number;
  readonly every?: number;
  readonly best?: number;
}

/** One process, or none, writes to a run folder at a time: take `lock()` first. Reading needs no lock. */
export class RunFolder {
  readonly path: string;
  /** The content of `config.json`. */
  readonly config: unknown;

  private constructor(path: string, config: unknown) {
    this.path = path;
    this.config = config;
  }

  /** Makes a run folder. @throws UsageError if there is something at `path` other than an empty folder. */
  static create(path: string, config: object): RunFolder {
    const taken = new UsageError(
      `${path} exists already: add --resume to continue it, or choose another --out`,
    );
    try {
      mkdirSync(path, { recursive: true });
      if (readdirSync(path).length > 0) throw taken;
      // wx: of two processes that got this far, one fails.
      writeFileSync(join(path, "config.json"), `${JSON.stringify(config, null, 2)}\n`, {
        flag: "wx",
        flush: true,
      });
    } catch (error) {
      throw errorCode(error) === "EEXIST" ? taken : explainWriteError(error, path);
    }
    return RunFolder.open(path);
  }

  /** Opens an existing one. @throws UsageError if `path` is no run folder; RunError if its configuration is damaged. */
  static open(path: string): RunFolder {
    const configPath = join(path, "config.json");
    if (!existsSync(configPath)) {
      throw new UsageError(
        `${path} is not a run folder: it has no config.json, so there is nothing to resume`,
      );
    }
    try {
      return new RunFolder(path, JSON.parse(readFileSync(configPath, "utf8")));
    } catch (error) {
      throw new RunError(`${configPath} cannot be read as JSON: restore it or start a new run`, {
        cause: error,
      });
    }
  }

  /**
   * Makes this process the only one that writes here, and clears away what a killed one left half done.
   * @returns the function that gives the folder free again.
   * @throws InUse, a UsageError, if another process has it (lock.ts).
   */
  lock(): () => void {
    const unlock = lockFile(join(this.path, "lock"), {
      what: `run folder ${this.path}`,
      instead: "choose another --out",
    });
    removeLeftovers(this.path);
    if (existsSync(this.#checkpointsPath)) removeLeftovers(this.#checkpointsPath);
    return unlock;
  }

  /** Adds one line, in one system call. @throws RunError if the disk is full. */
  appendMetrics(line: object): void {
    try {
      appendFileSync(this.#metricsPath, `${JSON.stringify(line)}\n`);
    } catch (error) {
      throw explainWriteError(error, this.#metricsPath);
    }
  }

  /** All complete lines; the torn last line of a killed process is left out. @throws RunError for any other damage. */
  readMetrics(): MetricsLine[] {
    return [...this.#metricsLines()].map(({ line }) => line);
  }

  /**
   * For a run that goes on from `afterStep`: cuts the file before the first line of a later step, and in any case
   * before a torn line. Shortening a file is one step of the file system, so a kill leaves the old file or the new.
   */
  truncateMetrics(afterStep: number): void {
    if (!existsSync(this.#metricsPath)) return;
    let length = 0;
    for (const { line, end } of this.#metricsLines()) {
      if (typeof line.step === "number" && line.step > afterStep) break;
      length = end;
    }
    const file = openSync(this.#metricsPath, "r+");
    try {
      ftruncateSync(file, length);
      fsyncSync(file);
    } finally {
      closeSync(file);
    }
  }

  /** The checkpoints, oldest first. Each is complete. */
  checkpoints(): { step: number; path: string }[] {
    if (!existsSync(this.#checkpointsPath)) return [];
    return readdirSync(this.#checkpointsPath)
      .filter((name) => /^step-\d+$/.test(name))
      .map((name) => ({ step: Number(name.slice("step-".length)), path: join(this.#checkpointsPath, name) }))
      .sort((a, b) => a.step - b.step);
  }

  /**
   * Writes checkpoint `step`, then deletes those that `keep` does not name.
   * @param fill writes the files into the folder that it is given, which gets its final name afterwards.
   * @returns the path of the checkpoint.
   * @throws UsageError if there is one of this step; RunError if the disk is full; errors of `fill` pass through.
   * After a failure the older checkpoints are all there.
   */
  async saveCheckpoint(
    step: number,
    fill: (folder: string) => Promise<void>,
    keep: KeepRule,
  ): Promise<string> {
    const path = join(this.#checkpointsPath, `step-${step}`);
    await publishFolder(path, fill);
    const { last, every = 1, best } = keep;
    const before = this.checkpoints().filter((one) => one.step !== step);
    const onSchedule = before.filter((one) => one.step % every === 0);
    const kept = onSchedule.slice(Math.max(0, onSchedule.length - (last - 1)));
    for (const old of before) {
      if (old.step !== best && !kept.includes(old)) await discardFolder(old.path);
    }
    return path;
  }

  get #metricsPath(): string {
    return join(this.path, "metrics.jsonl");
  }

  get #checkpointsPath(): string {
    return join(this.path, "checkpoints");
  }

  /** The complete lines, each with the position of the byte behind it. */
  *#metricsLines(): Generator<{ line: MetricsLine; end: number }> {
    if (!existsSync(this.#metricsPath)) return;
    const bytes = readFileSync(this.#metricsPath);
    let begin = 0;
    for (let number = 1; ; number++) {
      const end = bytes.indexOf("\n", begin) + 1;
      if (end === 0) return;
      yield { line: this.#parseLine(bytes.toString("utf8", begin, end), number), end };
      begin = end;
    }
  }

  #parseLine(text: string, number: number): MetricsLine {
    try {
      const line: unknown = JSON.parse(text);
      if (typeof line === "object" && line !== null && !Array.isArray(line)) return line as MetricsLine;
    } catch {
      // said below
    }
    throw new RunError(
      `line ${number} of ${this.#metricsPath} is not a JSON object: repair or delete that line`,
    );
  }
}
