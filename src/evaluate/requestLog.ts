// Answers on disk while an evaluation runs, so that one that was stopped goes on where it was: a line per request,
// appended after each batch. Answers of another model or other settings are refused. Not here: final results.

import { createHash } from "node:crypto";
import { appendFileSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { explainWriteError } from "../checkpoint/atomic.ts";
import { lockFile } from "../checkpoint/lock.ts";
import { UsageError } from "../errors.ts";
import type { LanguageModel } from "../infer/languageModel.ts";
import { type LogLikelihood, type LogLikelihoodOptions, logLikelihoods } from "./logLikelihood.ts";
import type { TokenRequest } from "./tokens.ts";

export class RequestLog {
  readonly #path: string;
  readonly #known = new Map<string, LogLikelihood>();
  readonly #unlock: () => void;

  /**
   * Close it when done; whoever removes it has closed it.
   * @param identity what the answers depend on besides the tokens, e.g. the model's weights and their type.
   * @param resume whether to go on with an earlier run of the same identity.
   * @throws UsageError for answers on disk that are another identity's, or that nobody wants to go on with; InUse, one
   * too, while another process writes there; RunError when the disk is full or not writable.
   */
  constructor(path: string, identity: string, resume: boolean) {
    this.#path = path;
    this.#write(() => mkdirSync(dirname(path), { recursive: true }));
    this.#unlock = lockFile(`${path}.lock`, { what: path, instead: "choose another --out" });
    try {
      this.#open(JSON.stringify({ identity }), resume);
    } catch (error) {
      this.#unlock();
      throw error;
    }
  }

  #open(header: string, resume: boolean): void {
    const path = this.#path;
    const [first, ...lines] = existsSync(path) ? readFileSync(path, "utf8").split("\n") : [];
    const hasAnswers = lines.length > 1;
    if (hasAnswers && !resume) {
      throw new UsageError(
        `${path} holds answers of an evaluation that was stopped: add --resume to go on, or delete it to begin anew`,
      );
    }
    if (hasAnswers && first !== header) {
      throw new UsageError(
        `${path} holds answers of another model or other options: give those again, or delete it to begin anew`,
      );
    }
    if (!hasAnswers) {
      this.#write(() => writeFileSync(path, `${header}\n`));
      return;
    }
    // The last line may be half of one.
    for (const line of lines) this.#read(line);
    // What follows begins on a line of its own.
    if (lines[lines.length - 1] !== "") this.#write(() => appendFileSync(path, "\n"));
  }

  /** Number of answers from an earlier run. */
  get size(): number {
    return this.#known.size;
  }

  get(request: TokenRequest): LogLikelihood | undefined {
    return this.#known.get(keyOf(request));
  }

  add(requests: readonly TokenRequest[], answers: readonly LogLikelihood[]): void {
    const lines = requests.map((request, n) => {
      const { logLikelihood, greedy } = answers[n];
      // As text: JSON has no infinity.
      return `${JSON.stringify([keyOf(request), String(logLikelihood), Number(greedy)])}\n`;
    });
    this.#write(() => appendFileSync(this.#path, lines.join("")));
  }

  /** Gives the file free; the answers stay. */
  close(): void {
    this.#unlock();
  }

  /** Deletes the file: the results are saved. */
  remove(): void {
    rmSync(this.#path, { force: true });
    this.close();
  }

  #read(line: string): void {
    try {
      const [key, logLikelihood, greedy] = JSON.parse(line) as [string, string, number];
      this.#known.set(key, { logLikelihood: Number(logLikelihood), greedy: greedy === 1 });
    } catch {
      // the line at which an earlier run was stopped
    }
  }

  #write(write: () => void): void {
    try {
      write();
    } catch (error) {
      throw explainWriteError(error, this.#path);
    }
  }
}

function keyOf({ context, continuation }: TokenRequest): string {
  const hash = createHash("sha256");
  hash.update(`${context.length} ${continuation.length}\n`);
  hash.update(new Uint8Array(context.buffer, context.byteOffset, context.byteLength));
  hash.update(new Uint8Array(continuation.buffer, continuation.byteOffset, continuation.byteLength));
  return hash.digest("base64url").slice(0, 27);
}

/**
 * As `logLikelihoods`, but what `log` knows is not asked again, and what is asked is added to it. `onGroup` is told of
 * groups of either kind.
 */
export async function askLogged(
  model: LanguageModel,
  groups: readonly (readonly TokenRequest[])[],
  { log, ...options }: LogLikelihoodOptions & { readonly log?: RequestLog },
): Promise<LogLikelihood[][]> {
  const answers: LogLikelihood[][] = [];
  const open: number[] = [];
  for (const [group, requests] of groups.entries()) {
    const known = requests.map((request) => log?.get(request)).filter((answer) => answer !== undefined);
    if (known.length < requests.length) {
      open.push(group);
      continue;
    }
    answers[group] = known;
    options.onGroup?.(group, known);
  }
  const asked = open.map((group) => groups[group]);
  const onGroup = (n: number, found: readonly LogLikelihood[]) => {
    log?.add(asked[n], found);
    options.onGroup?.(open[n], found);
  };
  const found = await logLikelihoods(model, asked, { ...options, onGroup });
  for (const [n, group] of open.entries()) answers[group] = found[n];
  return answers;
}
