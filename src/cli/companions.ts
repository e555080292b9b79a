// Further processes of this command that work beside it: started with its own program, their text in files, and ended with
// it, however it ends. Not here: how they share the work (experiment/queue.ts).

import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, openSync } from "node:fs";

export class Companions {
  readonly #announce: (line: string) => void;
  readonly #running: { child: ChildProcess; ended: Promise<void> }[] = [];
  #stopping = false;

  /** @param announce gets a line for each that fails. */
  constructor(announce: (line: string) => void) {
    this.#announce = announce;
  }

  /** Starts `mone` with these arguments. @param log where its text goes; what is there is replaced. */
  start(args: readonly string[], log: string): void {
    const file = openSync(log, "w");
    // The channel tells it when this process is gone (endWithParent).
    const child = spawn(process.execPath, [...process.execArgv, process.argv[1], ...args], {
      stdio: ["ignore", "ignore", file, "ipc"],
      detached: true, // a Ctrl-C of the terminal reaches it through this process, once
    });
    closeSync(file);
    const ended = new Promise<void>((resolve) => {
      child.once("error", (error) => {
        this.#announce(`another process could not be started (${error.message}): its runs are done here`);
        resolve();
      });
      child.once("exit", (code, signal) => {
        if (code !== 0 && !this.#stopping) {
          this.#announce(`process ${child.pid} ended early (${signal ?? `status ${code}`}), see ${log}`);
        }
        resolve();
      });
    });
    this.#running.push({ child, ended });
  }

  /** When all have ended. */
  async ended(): Promise<void> {
    await Promise.all(this.#running.map(({ ended }) => ended));
  }

  /** Asks all to stop as Ctrl-C would; they save where they are. */
  async stop(): Promise<void> {
    this.#stopping = true;
    for (const { child } of this.#running) child.kill("SIGTERM");
    await this.ended();
  }
}

/** In a companion: its starter's end is a Ctrl-C. Elsewhere: nothing. */
export function endWithParent(): void {
  if (process.channel === undefined) return;
  process.once("disconnect", () => process.kill(process.pid, "SIGTERM"));
  process.channel.unref(); // listening alone does not keep it alive
}
