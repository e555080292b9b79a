// Answers on disk while an evaluation runs, so that one that was stopped goes on where it was: a line per request,
// appended after each batch. What belongs to another model or other settings is not read. Not here: final results.

import { createHash } from "node:crypto";
import { appendFileSync, existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { explainWriteError } from "../checkpoint/atomic.ts";
import type { LanguageModel } from "../infer/languageModel.ts";
import { type LogLikelihood, type LogLikelihoodOptions, logLikelihoods } from "./logLikelihood.ts";
import type { TokenRequest } from "./tokens.ts";

export class RequestLog {
  readonly #path: string;
  readonly #known = new Map<string, LogLikelihood>();

  /**
   * @param identity what the answers depend on besides the tokens, e.g. the model's path and its type of weights.
   * @param resume whether answers of an earlier run with the same identity count; else the file begins anew.
   * @throws RunError when the disk is full or not writable.
   */
  constructor(path: string, identity: string, resume: boolean) {
    this.#path = path;
    const header = JSON.stringify({ identity });
    if (resume && existsSync(path)) {
      const [first, ...lines] = readFileSync(path, "utf8").split("\n");
      if (first === header) {
        // The last line may be half of one.
        for (const line of lines) this.#read(line);
        // What follows begins on a line of its own.
        if (lines.length > 0 && lines[lines.length - 1] !== "") this.#write(() => appendFileSync(path, "\n"));
        return;
      }
    }
    this.#write(() => writeFileSync(path, `${header}\n`));
  }

  /** Number of answers from an earlier run. */
  get size(): number {
    return this.#known.size;
  }

  get(request: TokenRequest): LogLikelihood | undefined {
    return this.#known.get(keyOf(request));
  }

  add(requests: readonly TokenRequest[], answers: readonly LogLikelihood[]): void {
    const lines = requests.map(
      (request, n) =>
        `${JSON.stringify([keyOf(request), answers[n].logLikelihood, Number(answers[n].greedy)])}\n`,
    );
    this.#write(() => appendFileSync(this.#path, lines.join("")));
  }

  /** Deletes the file: the results are saved. */
  remove(): void {
    rmSync(this.#path, { force: true });
  }

  #read(line: string): void {
    try {
      const [key, logLikelihood, greedy] = JSON.parse(line) as [string, number, number];
      this.#known.set(key, { logLikelihood, greedy: greedy === 1 });
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
