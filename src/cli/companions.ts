// Further processes of this command that work beside it: started with its own program, their text in files, and ended with
// it, however it ends (endsWithStarter in action.ts). Not here: how they share the work (experiment/queue.ts).

import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, openSync } from "node:fs";

export class Companions {
  readonly #announce: (line: string) => void;
  readonly #running: { child: ChildProcess; ended: Promise<void> }[] = [];
  #stopping = false;

  /** @param announce gets a line for each that fails. @param signal stops them. */
  constructor(announce: (line: string) => void, signal: AbortSignal) {
    this.#announce = announce;
    signal.addEventListener("abort", () => this.#stop(), { once: true });
  }

  /** Starts `mone` with these arguments. @param log where its text is added. */
  start(args: readonly string[], log: string): void {
    const file = openSync(log, "a");
    const child = spawn(process.execPath, [...process.execArgv, process.argv[1], ...args], {
      stdio: ["ignore", "ignore", file, "ipc"],
      detached: true, // a Ctrl-C of the terminal reaches it through the channel
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

  /** Asks all to save where they are, and waits until they have. */
  async stop(): Promise<void> {
    this.#stop();
    await this.ended();
  }

  #stop(): void {
    this.#stopping = true;
    for (const { child } of this.#running) if (child.connected) child.disconnect();
  }
}
