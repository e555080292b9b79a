// Fetches a file over http or https so that an interrupted download goes on where it stopped, and nothing but the
// whole, checked file ever has the final name. Not here: where files are kept and which (corpus.ts, named.ts).

import { createHash, type Hash } from "node:crypto";
import { createReadStream } from "node:fs";
import { mkdir, open, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { basename, dirname } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { RunError, throwIfAborted } from "../errors.ts";
import type { OnProgress } from "./progress.ts";

export interface DownloadOptions {
  /** Hexadecimal SHA-256 that the file must have. */
  sha256?: string;
  /** Bytes that the file must have. */
  size?: number;
  /** Hexadecimal git blob id (SHA-1 of a header and the content) that the file must have. */
  gitBlob?: string;
  /** Where the part is kept; by default `path.part`. */
  part?: string;
  /** The address always gives the same content: a part is continued without asking whether the file changed. */
  immutable?: boolean;
  /** Sent to the address itself; `authorization` is not sent on to other hosts that it redirects to. */
  headers?: Readonly<Record<string, string>>;
  /** Words for an answer that is not a file; undefined: the usual ones. */
  explain?: (status: number) => string | undefined;
  /** What progress calls the file; by default the end of the address. */
  label?: string;
  signal?: AbortSignal;
  onProgress?: OnProgress;
}

const RETRIES = 4;
const FIRST_DELAY_MS = 250; // doubles with each retry

/** Worth another try: a connection that broke, a server that is busy. */
class Interrupted extends Error {
  readonly status: number | undefined;

  constructor(message: string, status?: number) {
    super(message);
    this.status = status;
  }
}

/** The server's name does not resolve, or nobody listens there. */
export class Unreachable extends RunError {}

/**
 * Downloads `url` to `path` by way of `path.part`; a part that is there is continued if the server still has the same
 * file, else begun anew. A broken connection is retried a few times. RunError if the server refuses, cannot be
 * reached, or the file has the wrong size or checksum (the part is then deleted).
 */
export async function download(url: string, path: string, options: DownloadOptions = {}): Promise<void> {
  const part = options.part ?? `${path}.part`;
  await mkdir(dirname(path), { recursive: true });
  await retrying(url, options, () => fetchRest(url, part, options));
  const problem = await contentProblem(part, options);
  await rm(stateFile(part), { force: true });
  if (problem !== undefined) {
    await rm(part, { force: true });
    throw new RunError(
      `${url} has ${problem}; the download was deleted, try again or fetch the file by hand.`,
    );
  }
  await rename(part, path);
}

/** The text at an address, of at most `limit` bytes. Errors as of `download`. */
export async function downloadText(
  url: string,
  limit: number,
  options: Pick<DownloadOptions, "headers" | "explain" | "signal"> = {},
): Promise<string> {
  let text = "";
  await retrying(url, options, async () => {
    const response = await request(url, { ...options.headers }, options);
    const chunks: Uint8Array[] = [];
    let bytes = 0;
    for await (const chunk of bodyOf(response, options.signal)) {
      bytes += chunk.length;
      if (bytes > limit)
        throw new RunError(`The answer to ${url} is longer than ${limit} bytes; check the address.`);
      chunks.push(chunk);
    }
    text = Buffer.concat(chunks).toString("utf8");
  });
  return text;
}

/** Tries again a few times, later and later, where a try was `Interrupted`. */
async function retrying(
  url: string,
  { signal, explain }: Pick<DownloadOptions, "signal" | "explain">,
  attempt: () => Promise<void>,
): Promise<void> {
  for (let failures = 0; ; failures++) {
    try {
      return await attempt();
    } catch (error) {
      throwIfAborted(signal);
      if (!(error instanceof Interrupted)) throw error;
      if (failures === RETRIES) {
        const words = error.status === undefined ? undefined : explain?.(error.status);
        throw new RunError(
          words ??
            `Downloading ${url} failed ${failures + 1} times (${error.message}); run it again later, it will continue where it stopped.`,
        );
      }
      await delay(FIRST_DELAY_MS * 2 ** failures, undefined, { signal });
    }
  }
}

/** Hexadecimal SHA-256 of a file. */
export async function sha256OfFile(path: string, signal?: AbortSignal): Promise<string> {
  return hashOfFile(path, createHash("sha256"), signal);
}

async function hashOfFile(path: string, hash: Hash, signal?: AbortSignal): Promise<string> {
  for await (const chunk of createReadStream(path, { signal, highWaterMark: 1 << 20 })) hash.update(chunk);
  return hash.digest("hex");
}

/** Beside the part: which file of which server it is a part of. */
interface PartState {
  url: string;
  /** Strong ETag, else Last-Modified. */
  validator: string;
}

function stateFile(part: string): string {
  return `${part}.json`;
}

/** Makes one request and writes what comes to the end of `part`. */
async function fetchRest(url: string, part: string, options: DownloadOptions): Promise<void> {
  const { signal, onProgress, immutable = false, size } = options;
  const state = immutable ? undefined : await readState(part);
  const resumable = state?.url === url ? state.validator : undefined;
  let done = immutable || resumable !== undefined ? await fileSize(part) : 0;
  if (immutable && done > 0 && done === size) return;
  // Compressed answers would make nonsense of byte positions.
  const headers: Record<string, string> = { ...options.headers, "accept-encoding": "identity" };
  if (done > 0) headers.range = `bytes=${done}-`;
  if (done > 0 && resumable !== undefined) headers["if-range"] = resumable;
  const response = await request(url, headers, options);
  const validator = validatorOf(response);
  const continued =
    response.status === 206 && (immutable || validator === resumable) && rangeStart(response) === done;
  if (response.status !== 200 && !continued) {
    await response.body?.cancel();
    await rm(part, { force: true });
    throw new Interrupted("the file on the server has changed");
  }
  if (!continued) done = 0;
  if (immutable || validator === undefined) await rm(stateFile(part), { force: true });
  else await writeFile(stateFile(part), JSON.stringify({ url, validator } satisfies PartState));

  const length = response.headers.get("content-length");
  const total = length === null ? undefined : done + Number(length);
  const task = `downloading ${options.label ?? (basename(new URL(url).pathname) || url)}`;
  const file = await open(part, done > 0 ? "a" : "w");
  try {
    for await (const chunk of bodyOf(response, signal)) {
      await file.writeFile(chunk);
      done += chunk.length;
      onProgress?.({ task, done, total, unit: "bytes" });
    }
    await file.sync(); // the final name must not outlive the content in a power cut
  } finally {
    await file.close();
  }
  if (total !== undefined && done < total)
    throw new Interrupted(`the connection ended after ${done} of ${total} bytes`);
}

/** Sends a request and turns what is not a file into an error. */
async function request(
  url: string,
  headers: Record<string, string>,
  { signal, explain }: Pick<DownloadOptions, "signal" | "explain">,
): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(url, { headers, signal });
  } catch (error) {
    throwIfAborted(signal);
    const reason = causeOf(error);
    if (/ENOTFOUND|ECONNREFUSED|EAI_AGAIN|ENETUNREACH|EHOSTUNREACH/.test(reason)) {
      throw new Unreachable(
        `${new URL(url).host} cannot be reached (${reason}); check the network, or give a local file instead of ${url}.`,
      );
    }
    throw new Interrupted(reason);
  }
  // 416: the server has nothing beyond the part that we have.
  if ([200, 206, 416].includes(response.status)) return response;
  await response.body?.cancel();
  const answer = `${response.status} ${response.statusText}`.trim();
  if (response.status >= 500 || response.status === 429 || response.status === 408)
    throw new Interrupted(answer, response.status);
  throw new RunError(
    explain?.(response.status) ??
      `The server answered "${answer}" to ${url}; check the address, or give a local file.`,
  );
}

/** The chunks of the body; a connection that breaks is an `Interrupted`. */
async function* bodyOf(response: Response, signal?: AbortSignal): AsyncGenerator<Uint8Array> {
  const reader = response.body?.getReader();
  while (reader !== undefined) {
    try {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    } catch (error) {
      throwIfAborted(signal);
      throw new Interrupted(causeOf(error));
    }
  }
}

async function readState(part: string): Promise<PartState | undefined> {
  try {
    return JSON.parse(await readFile(stateFile(part), "utf8")) as PartState;
  } catch {
    return undefined; // no earlier attempt, or one that left nothing to rely on
  }
}

async function fileSize(path: string): Promise<number> {
  try {
    return (await stat(path)).size;
  } catch {
    return 0;
  }
}

function validatorOf(response: Response): string | undefined {
  const etag = response.headers.get("etag");
  if (etag !== null && !etag.startsWith("W/")) return etag;
  return response.headers.get("last-modified") ?? undefined;
}

function rangeStart(response: Response): number | undefined {
  const match = /^bytes (\d+)-/.exec(response.headers.get("content-range") ?? "");
  return match === null ? undefined : Number(match[1]);
}

async function contentProblem(
  path: string,
  { sha256, gitBlob, size, signal }: DownloadOptions,
): Promise<string | undefined> {
  const found = await fileSize(path);
  if (size !== undefined && found !== size) return `${found} bytes, not the ${size} expected`;
  if (sha256 !== undefined) {
    const hash = await sha256OfFile(path, signal);
    if (hash !== sha256) return `the SHA-256 checksum ${hash}, not ${sha256}`;
  }
  if (gitBlob !== undefined) {
    const hash = await hashOfFile(path, createHash("sha1").update(`blob ${found}\0`), signal);
    if (hash !== gitBlob) return `the git blob id ${hash}, not ${gitBlob}`;
  }
  return undefined;
}

/** What lies behind fetch's "fetch failed": a system error code where there is one. */
function causeOf(error: unknown): string {
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
  if (!(cause instanceof Error)) return String(cause);
  return "code" in cause && typeof cause.code === "string" ? cause.code : cause.message;
}
