// Well known texts that can be asked for by name, and where they are. Not here: the downloading (download.ts).

/** One text that is downloaded at its first use. */
export interface NamedCorpus {
  /** A plain text file. */
  readonly url: string;
  /** Undefined where nobody publishes one: then the first download's own is recorded and checked from then on. */
  readonly sha256: string | undefined;
  /** What stands between documents; undefined if the text is one document. */
  readonly separator: string | undefined;
  /** Where it comes from and what may be done with it. */
  readonly licence: string;
}

export const NAMED_CORPORA: Readonly<Record<string, NamedCorpus>> = {
  tinyshakespeare: {
    url: "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
    sha256: "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    separator: undefined,
    licence: "plays by Shakespeare, public domain; 1.1 MB",
  },
  // The training part of the word-level form (rare words are <unk>). Its last tenth validates here, so results are
  // not those of the published test part.
  "wikitext-2": {
    url: "https://raw.githubusercontent.com/pytorch/examples/main/word_language_model/data/wikitext-2/train.txt",
    sha256: undefined,
    separator: undefined,
    licence: "Wikipedia articles (WikiText-2), CC BY-SA 3.0; 11 MB",
  },
  tinystories: {
    url: "https://huggingface.co/datasets/roneneldan/TinyStories/resolve/main/TinyStoriesV2-GPT4-train.txt",
    sha256: undefined,
    separator: "<|endoftext|>",
    licence: "stories written by GPT-4 (TinyStories V2), CDLA-Sharing-1.0; 2.2 GB",
  },
};
