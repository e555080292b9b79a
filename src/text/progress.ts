// How the long jobs of this folder (downloading, surveying, tokenising, training a tokenizer) tell how far they are.
// Not here: how progress is shown.

/** One report. `total` is undefined where it cannot be known beforehand. */
export interface Progress {
  /** What is being done, e.g. `"downloading input.txt"`. */
  readonly task: string;
  readonly done: number;
  readonly total: number | undefined;
  readonly unit: "bytes" | "tokens";
  /** Something the user should read, e.g. why a job ended early. */
  readonly note?: string;
}

export type OnProgress = (progress: Progress) => void;
