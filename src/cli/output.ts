// Where a command's words go. Results for people: stdout; progress and notes: stderr. With --json, stdout gets one
// JSON object and nothing else, and everything for people goes to stderr.

import { renderText, type Table } from "../report/table.ts";
import { ProgressLine } from "./progress.ts";

export class Output {
  readonly progress = new ProgressLine(process.stderr);
  readonly #json: boolean;

  constructor(json: boolean) {
    this.#json = json;
  }

  /** A part of the result, for people. A model may write anything, but must not steer their terminal. */
  write(text: string): void {
    const stream = this.#forPeople;
    stream.write(stream.isTTY ? text.replace(/(?![\n\t])\p{Cc}/gu, "\uFFFD") : text);
  }

  /** A line of the result, for people. */
  line(text = ""): void {
    this.progress.end();
    this.write(`${text}\n`);
  }

  /** A table of the result, for people, fitted to the terminal. */
  table(table: Table): void {
    this.line(renderText(table, { width: this.#forPeople.columns }));
  }

  /** The result for programs; printed with --json only. Call it once. */
  json(value: object): void {
    if (this.#json) process.stdout.write(`${JSON.stringify(value)}\n`);
  }

  /** Something the user should know besides the result. */
  readonly note = (line: string): void => this.progress.note(line);

  get #forPeople(): NodeJS.WriteStream {
    return this.#json ? process.stderr : process.stdout;
  }
}
