// Opens the text to train on, wherever it is: a file, a folder, an address, a well known name, or nothing (then the
// type declarations of the installed packages). Not here: tokens (shards.ts), reading single files (textFiles.ts).

import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { readdir, readFile, stat, writeFile } from "node:fs/promises";
import { homedir } from "node:os";
import { basename, join } from "node:path";
import { nearest, RunError, UsageError } from "../errors.ts";
import { installedDeclarations } from "./declarations.ts";
import { download, sha256OfFile } from "./download.ts";
import { NAMED_CORPORA } from "./named.ts";
import type { OnProgress } from "./progress.ts";
import { type DocumentPart, fileDocuments, isJsonLines, sniff } from "./textFiles.ts";

/** Text to train on and to validate with. */
export interface Corpus {
  /** For people: what was asked for. */
  readonly name: string;
  /** Bytes of text, where that is known without reading it. */
  readonly bytes: number | undefined;
  /** How a validation part is taken: whole documents, or the end of the text. */
  readonly split: "documents" | "tail";
  /** What the user should know, e.g. that files were left out. */
  readonly notes: readonly string[];
  /**
   * The text, in the same order at each call. A long document comes in parts: neighbours with the same id are one.
   * Errors: UsageError for a bad line of JSON, RunError for damaged gzip.
   */
  documents(): AsyncIterable<DocumentPart>;
}

export interface OpenCorpusOptions {
  /** Where downloads are kept; by default `$MONE_CACHE` or `~/.cache/neuron-experts`. */
  cacheDir?: string;
  /** Use what the cache has, never the network. */
  offline?: boolean;
  /** Take the files of well known texts from here instead of from their homes. */
  mirror?: string;
  signal?: AbortSignal;
  onProgress?: OnProgress;
}

/**
 * Opens `source`: a file, a folder (all text files in it, sorted by path), an http(s) address, a name of
 * `NAMED_CORPORA`, or undefined for the installed type declarations. Files may be plain text, `.jsonl` (one object
 * with a string `text` a line), and either with `.gz`. Downloads are kept and not fetched again.
 * UsageError if there is nothing of the sort or it is no text; RunError if a download fails.
 */
export async function openCorpus(source?: string, options: OpenCorpusOptions = {}): Promise<Corpus> {
  if (source === undefined) return declarationsCorpus();
  const named = Object.hasOwn(NAMED_CORPORA, source) ? NAMED_CORPORA[source] : undefined;
  if (named !== undefined) {
    const file = basename(new URL(named.url).pathname);
    const url = options.mirror === undefined ? named.url : `${options.mirror.replace(/\/$/, "")}/${file}`;
    const path = join(cacheFolder(options), source, file);
    await fetchOnce(url, path, named.sha256, options);
    const corpus = await fileCorpus(path, source, options.signal);
    return named.separator === undefined ? corpus : separatedCorpus(corpus, named.separator);
  }
  if (/^https?:\/\//i.test(source)) {
    if (!URL.canParse(source))
      throw new UsageError(`${source} is no valid address; write http(s)://HOST/PATH.`);
    const path = join(cacheFolder(options), "urls", fileNameForUrl(source));
    await fetchOnce(source, path, undefined, options);
    return fileCorpus(path, source, options.signal);
  }
  const found = await stat(source).catch(() => undefined);
  if (found === undefined) throw notFound(source);
  return found.isDirectory()
    ? folderCorpus(source, options.signal)
    : fileCorpus(source, basename(source), options.signal);
}

function notFound(source: string): UsageError {
  const names = Object.keys(NAMED_CORPORA);
  const guess = nearest(source, names);
  const hint = guess === undefined ? `one of ${names.join(", ")}` : `did you mean ${guess}?`;
  return new UsageError(
    `There is no file or folder ${source}; give one, an http(s) address, or a known text (${hint}).`,
  );
}

function declarationsCorpus(): Corpus {
  const documents = installedDeclarations();
  return {
    name: "type declarations of the installed packages",
    bytes: documents.reduce((sum, { text }) => sum + Buffer.byteLength(text), 0),
    split: "documents",
    notes: [],
    async *documents() {
      yield* documents;
    },
  };
}

async function fileCorpus(path: string, name: string, signal?: AbortSignal): Promise<Corpus> {
  const { problem, damaged } = await sniff(path, signal);
  if (problem !== undefined) throw new UsageError(`${path} ${problem}; give a file with text in UTF-8.`);
  return {
    name,
    bytes: await plainSize(path),
    split: isJsonLines(path) ? "documents" : "tail",
    notes: damaged ? [damagedNote(path)] : [],
    documents: () => fileDocuments(path, name, signal),
  };
}

async function folderCorpus(folder: string, signal?: AbortSignal): Promise<Corpus> {
  const files: { path: string; id: string }[] = [];
  const notes: string[] = [];
  let bytes: number | undefined = 0;
  for (const id of (await filesBelow(folder, "")).sort()) {
    const path = join(folder, id);
    const { problem, damaged } = await sniff(path, signal);
    if (problem !== undefined) {
      notes.push(`${path} ${problem}: left out.`);
      continue;
    }
    if (damaged) notes.push(damagedNote(path));
    files.push({ path, id });
    const size: number | undefined = await plainSize(path);
    bytes = bytes === undefined || size === undefined ? undefined : bytes + size;
  }
  if (files.length === 0) {
    throw new UsageError(`The folder ${folder} has no text files in it; give one with text in UTF-8.`);
  }
  return {
    name: basename(folder),
    bytes,
    split: "documents",
    notes,
    async *documents() {
      for (const { path, id } of files) yield* fileDocuments(path, id, signal);
    },
  };
}

/** All files, links to files included, that are not hidden; paths relative to `folder`, with slashes. */
async function filesBelow(folder: string, below: string): Promise<string[]> {
  const files: string[] = [];
  for (const entry of await readdir(join(folder, below), { withFileTypes: true })) {
    if (entry.name.startsWith(".")) continue;
    const path = below === "" ? entry.name : `${below}/${entry.name}`;
    if (entry.isDirectory()) files.push(...(await filesBelow(folder, path)));
    else if ((await stat(join(folder, path)).catch(() => undefined))?.isFile()) files.push(path);
  }
  return files;
}

/** The size of a file whose bytes are its text; undefined for packed files and JSON. */
async function plainSize(path: string): Promise<number | undefined> {
  return /\.(gz|jsonl)$/i.test(path) ? undefined : (await stat(path)).size;
}

function damagedNote(path: string): string {
  return `${path} is not all UTF-8: bytes that are not become U+FFFD.`;
}

/** A text file in which `separator` stands between documents. */
function separatedCorpus(corpus: Corpus, separator: string): Corpus {
  return {
    ...corpus,
    bytes: undefined,
    split: "documents",
    async *documents() {
      let count = 0;
      let rest = "";
      const whole = (text: string) => (text === "" ? [] : [{ id: `${corpus.name}:${++count}`, text }]);
      for await (const { text } of corpus.documents()) {
        const documents = (rest + text).split(separator);
        rest = documents.pop()!;
        for (const document of documents) yield* whole(document.trim());
      }
      yield* whole(rest.trim());
    },
  };
}

function cacheFolder(options: OpenCorpusOptions): string {
  return options.cacheDir ?? process.env.MONE_CACHE ?? join(homedir(), ".cache", "neuron-experts");
}

/** Readable, and different for every address. */
function fileNameForUrl(url: string): string {
  const hash = createHash("sha256").update(url).digest("hex").slice(0, 12);
  return `${hash}-${basename(new URL(url).pathname) || "index"}`;
}

/**
 * Has `path` hold the file of `url`. Its checksum is written beside it at the download, and checked at every later
 * use, so that a cache that was damaged or changed is noticed.
 */
async function fetchOnce(
  url: string,
  path: string,
  sha256: string | undefined,
  options: OpenCorpusOptions,
): Promise<void> {
  const record = `${path}.sha256`;
  if (existsSync(path) && existsSync(record)) {
    const expected = (await readFile(record, "utf8")).trim();
    if ((await sha256OfFile(path, options.signal)) === expected) return;
    throw new RunError(
      `${path} has changed since it was downloaded from ${url}; delete it to download it again.`,
    );
  }
  if (options.offline) {
    throw new UsageError(`${url} is not in the cache at ${path}; go online once, or give a local file.`);
  }
  await download(url, path, { sha256, signal: options.signal, onProgress: options.onProgress });
  await writeFile(record, `${await sha256OfFile(path, options.signal)}\n`);
}
