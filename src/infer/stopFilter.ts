// Ends a stream of text before the first stop string, which may arrive in pieces: text that could be the beginning of
// one is held back until it is clear.

export class StopFilter {
  /** Whether a stop string was found; nothing comes after it. */
  stopped = false;
  readonly #stops: readonly string[];
  #held = "";

  constructor(stops: readonly string[]) {
    this.#stops = stops.filter((stop) => stop !== "");
  }

  /** The text that may be shown after `piece` has arrived. */
  push(piece: string): string {
    if (this.stopped) return "";
    const text = this.#held + piece;
    const found = this.#stops.map((stop) => text.indexOf(stop)).filter((at) => at >= 0);
    if (found.length > 0) {
      this.stopped = true;
      this.#held = "";
      return text.slice(0, Math.min(...found));
    }
    const hold = Math.max(0, ...this.#stops.map((stop) => overlap(text, stop)));
    this.#held = text.slice(text.length - hold);
    return text.slice(0, text.length - hold);
  }

  /** What is left at the end of the stream. */
  end(piece = ""): string {
    const shown = this.push(piece);
    const rest = this.#held;
    this.#held = "";
    return shown + rest;
  }
}

/** Length of the longest beginning of `stop`, short of all of it, that `text` ends with. */
function overlap(text: string, stop: string): number {
  for (let n = Math.min(text.length, stop.length - 1); n > 0; n--) {
    if (text.endsWith(stop.slice(0, n))) return n;
  }
  return 0;
}
