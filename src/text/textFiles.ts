// Reads text from files, plain or gzip, as one document each or as JSON lines, in pieces of bounded size.
// Not here: which files make up a corpus (corpus.ts).

import { createReadStream } from "node:fs";
import { pipeline } from "node:stream";
import { createGunzip } from "node:zlib";
import { RunError, throwIfAborted, UsageError } from "../errors.ts";

/** A document or a part of one: neighbours with the same id are one document, cut where no token can be cut. */
export interface DocumentPart {
  readonly id: string;
  readonly text: string;
}

/** Characters at which a text file is cut into parts. */
const PART_LENGTH = 1 << 20;
const SNIFFED_BYTES = 1 << 16;
const REPLACEMENT = "\ufffd";

/** Whether the file's name says that it holds one JSON object a line. */
export function isJsonLines(path: string): boolean {
  return /\.jsonl(\.gz)?$/i.test(path);
}

/** The documents of one file; `id` is its name for people. Errors: UsageError for bad lines, RunError for bad gzip. */
export function fileDocuments(path: string, id: string, signal?: AbortSignal): AsyncGenerator<DocumentPart> {
  return isJsonLines(path) ? jsonDocuments(path, id, signal) : textParts(path, id, signal);
}

/** What the beginning of a file says about it. */
export interface Sniffed {
  /** Why it cannot be read as text, e.g. "is empty"; undefined if it can. */
  problem: string | undefined;
  /** A few bytes are not UTF-8; they will become U+FFFD. */
  damaged: boolean;
}

/** Looks at the first 64 KB of text of a file. */
export async function sniff(path: string, signal?: AbortSignal): Promise<Sniffed> {
  const chunks: Buffer[] = [];
  let length = 0;
  for await (const chunk of readChunks(path, signal)) {
    chunks.push(chunk);
    length += chunk.length;
    if (length >= SNIFFED_BYTES) break;
  }
  const head = Buffer.concat(chunks).subarray(0, SNIFFED_BYTES);
  if (head.length === 0) return { problem: "is empty", damaged: false };
  if (head.includes(0)) {
    return { problem: "is a binary file (it has NUL bytes; convert UTF-16 text to UTF-8)", damaged: false };
  }
  // A character that the end of the head cuts off is no error, one that the end of the file cuts off is.
  const decoded = new TextDecoder().decode(head, { stream: length > SNIFFED_BYTES });
  const invalid = occurrences(decoded, REPLACEMENT) - occurrences(head, Buffer.from(REPLACEMENT));
  if (invalid > 0.1 * head.length) {
    const percent = Math.round((100 * invalid) / head.length);
    return { problem: `is not UTF-8 text (${percent} % of its first bytes are invalid)`, damaged: true };
  }
  return { problem: undefined, damaged: invalid > 0 };
}

function occurrences<T extends { indexOf(what: T, from: number): number }>(where: T, what: T): number {
  let count = 0;
  for (let at = where.indexOf(what, 0); at >= 0; at = where.indexOf(what, at + 1)) count++;
  return count;
}

async function* textParts(path: string, id: string, signal?: AbortSignal): AsyncGenerator<DocumentPart> {
  let rest = "";
  for await (const text of readText(path, signal)) {
    rest += text;
    if (rest.length < PART_LENGTH) continue;
    const cut = cutPoint(rest);
    yield { id, text: rest.slice(0, cut) };
    rest = rest.slice(cut);
  }
  if (rest !== "") yield { id, text: rest };
}

/** The last place where white space follows a letter: every pre-tokeniser cuts there. The end, if there is none. */
function cutPoint(text: string): number {
  for (let at = text.length - 1; at > 0; at--) {
    if (/[ \n\r\t]/.test(text[at]) && /\p{L}/u.test(text[at - 1])) return at;
  }
  return text.length;
}

async function* jsonDocuments(path: string, id: string, signal?: AbortSignal): AsyncGenerator<DocumentPart> {
  let line = 0;
  let rest = "";
  for await (const text of readText(path, signal)) {
    const lines = text.split("\n");
    lines[0] = rest + lines[0];
    rest = lines.pop()!;
    for (const content of lines) {
      line++;
      yield* jsonDocument(content, `${id}:${line}`);
    }
  }
  yield* jsonDocument(rest, `${id}:${line + 1}`);
}

/** The document of one line; none for an empty line or an empty text. */
function* jsonDocument(line: string, where: string): Generator<DocumentPart> {
  if (line.trim() === "") return;
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    throw new UsageError(`${where} is not JSON; a .jsonl file has one JSON object a line.`);
  }
  if (typeof value !== "object" || value === null || !("text" in value) || typeof value.text !== "string") {
    throw new UsageError(`${where} has no field "text" with a string in it.`);
  }
  if (value.text !== "") yield { id: where, text: value.text };
}

/** The file's text, unpacked and decoded, without a byte order mark; never half a character. */
async function* readText(path: string, signal?: AbortSignal): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  for await (const chunk of readChunks(path, signal)) yield decoder.decode(chunk, { stream: true });
  yield decoder.decode();
}

async function* readChunks(path: string, signal?: AbortSignal): AsyncGenerator<Buffer> {
  throwIfAborted(signal);
  const file = createReadStream(path, { highWaterMark: 1 << 18 });
  // Errors reach the loop below; the callback only keeps them from being thrown twice.
  const stream = /\.gz$/i.test(path) ? pipeline(file, createGunzip(), () => {}) : file;
  try {
    for await (const chunk of stream) {
      throwIfAborted(signal);
      yield chunk as Buffer;
    }
  } catch (error) {
    throw explain(error, path);
  }
}

function explain(error: unknown, path: string): unknown {
  const code = error instanceof Error && "code" in error ? String(error.code) : "";
  if (code.startsWith("Z_")) {
    return new RunError(
      `${path} is no gzip file or is cut off (${(error as Error).message}); get it again or unpack it by hand.`,
    );
  }
  if (code === "ENOENT") return new UsageError(`There is no file ${path}.`);
  if (code === "EACCES" || code === "EPERM")
    return new UsageError(`${path} may not be read; check its permissions.`);
  return error;
}
