// From a corpus to a tokenizer of its own: takes text from its start and trains byte-level BPE on it.
// Not here: the training itself (bpeTraining.ts).

import { trainBpe } from "./bpeTraining.ts";
import type { Corpus } from "./corpus.ts";
import type { OnProgress } from "./progress.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** More text hardly changes the merges, and all of it is in memory. */
const MOST_CHARACTERS = 20_000_000;

/**
 * Trains a vocabulary of `vocabSize` on the first 20 million characters of a text. A text with too few pairs gives a
 * smaller one.
 * @throws UsageError if `vocabSize` cannot hold the 256 bytes and the end-of-text token; what reading the text throws.
 */
export async function trainTokenizer(
  corpus: Corpus,
  vocabSize: number,
  options: { signal?: AbortSignal; onProgress?: OnProgress } = {},
): Promise<Tokenizer> {
  const texts: string[] = [];
  let characters = 0;
  for await (const { text } of corpus.documents()) {
    texts.push(text);
    characters += text.length;
    if (characters >= MOST_CHARACTERS) break;
  }
  return trainBpe(texts, { vocabSize, ...options });
}
