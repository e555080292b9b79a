// A peer: another engine in a process of its own, which prepares its model once and then works whenever it is asked, so
// that engines can take turns. It writes lines "MONE {json}": first that it is ready, then one answer to each line of
// JSON on its input; its other words are kept for the case that it fails. The programs are in bench/peers.

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { RunError, throwIfAborted } from "../../errors.ts";

/** A peer that cannot run here. */
export interface MissingPeer {
  readonly peer: string;
  /** Why, and what to do about it. */
  readonly reason: string;
}

export interface PeerCommand {
  /** For people, e.g. "PyTorch bf16". */
  readonly name: string;
  readonly command: string;
  readonly args: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
}

type Answer = Readonly<Record<string, unknown>>;

export class PeerProcess {
  readonly name: string;
  /** What the program said of itself when it was ready. */
  readonly about: Answer;
  readonly #child: ChildProcess;
  readonly #lines: LineQueue;

  private constructor(name: string, about: Answer, child: ChildProcess, lines: LineQueue) {
    this.name = name;
    this.about = about;
    this.#child = child;
    this.#lines = lines;
  }

  /**
   * Starts a peer and waits until it is ready.
   * @throws RunError with its last words if it ends instead; the reason of the signal.
   */
  static async start({ name, command, args, env }: PeerCommand, signal?: AbortSignal): Promise<PeerProcess> {
    throwIfAborted(signal);
    const child = spawn(command, args, {
      stdio: ["pipe", "pipe", "pipe"],
      env: { ...process.env, ...env },
    });
    const lines = new LineQueue(name, child, signal);
    child.stdin?.on("error", () => {}); // its end is told by the queue
    try {
      const about = await lines.next();
      return new PeerProcess(name, about, child, lines);
    } catch (error) {
      child.kill();
      throw error;
    }
  }

  /** Asks for one piece of work. @throws RunError if the program ends. */
  async ask(request: object): Promise<Answer> {
    this.#child.stdin?.write(`${JSON.stringify(request)}\n`);
    return this.#lines.next();
  }

  /** The list of seconds that a piece of work took. */
  async seconds(request: object): Promise<number[]> {
    const { seconds } = await this.ask(request);
    if (!Array.isArray(seconds)) throw new RunError(`${this.name} answered without seconds`);
    return seconds as number[];
  }

  close(): void {
    this.#child.kill();
  }

  /** Closes it, and waits until its memory is free. */
  async closed(): Promise<void> {
    const { exitCode, signalCode } = this.#child;
    if (exitCode !== null || signalCode !== null) return;
    const ended = once(this.#child, "close");
    this.close();
    await ended;
  }
}

/** Answers in the order in which they come, for one reader. */
class LineQueue {
  readonly #answers: Answer[] = [];
  #waiting: { resolve(answer: Answer): void; reject(error: unknown): void } | undefined;
  #failure: unknown;
  #said = "";

  constructor(name: string, child: ChildProcess, signal?: AbortSignal) {
    let rest = "";
    child.stdout?.setEncoding("utf8").on("data", (text: string) => {
      const lines = (rest + text).split("\n");
      rest = lines.pop() as string;
      for (const line of lines) {
        if (line.startsWith("MONE ")) this.#answers.push(JSON.parse(line.slice(5)));
        else this.#remember(line);
      }
      this.#serve();
    });
    child.stderr?.setEncoding("utf8").on("data", (text: string) => this.#remember(text));
    child.on("error", (error) => this.#fail(new RunError(`${name} cannot be started: ${error.message}`)));
    const abort = () => {
      this.#fail(signal?.reason);
      child.kill();
    };
    signal?.addEventListener("abort", abort);
    child.on("close", (code, killedBy) => {
      signal?.removeEventListener("abort", abort);
      const words = this.#said.trim().split("\n").slice(-3).join("; ");
      const end = killedBy === null ? `ended with status ${code}` : `was ended by ${killedBy}`;
      const cause = killedBy === "SIGKILL" ? ", as a system does that runs out of memory" : "";
      this.#fail(new RunError(`${name} ${end}${cause}${words === "" ? "" : `: ${words}`}`));
    });
  }

  next(): Promise<Answer> {
    return new Promise((resolve, reject) => {
      this.#waiting = { resolve, reject };
      this.#serve();
    });
  }

  #remember(text: string): void {
    this.#said = `${this.#said}${text}\n`.slice(-4000);
  }

  #fail(error: unknown): void {
    this.#failure ??= error;
    this.#serve();
  }

  #serve(): void {
    const waiting = this.#waiting;
    if (!waiting) return;
    const answer = this.#answers.shift();
    if (answer === undefined && this.#failure === undefined) return;
    this.#waiting = undefined;
    if (answer !== undefined) waiting.resolve(answer);
    else waiting.reject(this.#failure);
  }
}

/** Where the peer programs lie. */
const programs = fileURLToPath(new URL("../../../bench/peers/", import.meta.url));

/** The path of a peer program. */
export function peerProgram(file: string): string {
  return join(programs, file);
}

/**
 * A folder with `node_modules/name`: `$MONE_PEERS`, the folder one is in, or this project's own; undefined if none has it.
 */
export function folderWith(name: string): string | undefined {
  const own = fileURLToPath(new URL("../../../", import.meta.url));
  return [process.env.MONE_PEERS, process.cwd(), own]
    .filter((folder) => folder !== undefined)
    .find((folder) => existsSync(join(folder, "node_modules", name, "package.json")));
}
