// The two kinds of failure that are somebody's business. Everything else that is thrown is a bug of ours.
// Not here: how errors are printed (src/cli/main.ts).

/**
 * What the user gave cannot work: an option, a configuration, a file of the wrong kind. The message is one
 * sentence that says what is wrong, where, and what to do. The command line exits with status 2.
 */
export class UsageError extends Error {
  override readonly name = "UsageError";
}

/**
 * Correct input, but the work failed: disk full, file damaged, loss not finite. One sentence, as above. The
 * command line exits with status 1.
 */
export class RunError extends Error {
  override readonly name = "RunError";
}

/** What a model gives is not a number. @param what e.g. "the answer is not a number". */
export function damagedWeights(what: string): RunError {
  return new RunError(
    `${what}: the model's weights are damaged (mone inspect --check-values looks), or too large for --dtype`,
  );
}

/** Throws the `AbortSignal`'s reason if it has fired; long loops call this once an iteration. */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw signal.reason;
}

/** A name or value for a message, as JSON on one line: hostile ones are long, nested, or hold line breaks. */
export function quote(value: unknown): string {
  if (typeof value === "string")
    return JSON.stringify(value.length > 100 ? `${value.slice(0, 100)}...` : value);
  let json: string;
  try {
    json = String(JSON.stringify(value));
  } catch {
    return "a deeply nested value"; // JSON.stringify recurses
  }
  return json.length > 100 ? `${json.slice(0, 100)}...` : json;
}

/** The entry of `known` with the smallest edit distance to `word`, if it is near enough to be a slip. */
export function nearest(word: string, known: readonly string[]): string | undefined {
  let best: string | undefined;
  let bestDistance = Math.max(2, Math.floor(word.length / 3)) + 1;
  for (const candidate of known) {
    const distance = editDistance(word.toLowerCase(), candidate.toLowerCase());
    if (distance < bestDistance) {
      best = candidate;
      bestDistance = distance;
    }
  }
  return best;
}

/** Levenshtein distance. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const substitution = row[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(row[j] + 1, next[j - 1] + 1, substitution));
    }
    row = next;
  }
  return row[b.length];
}
