// Fetches a file over http or https so that an interrupted download goes on where it stopped, and nothing but the
// whole, checked file ever has the final name. Not here: where files are kept and which (corpus.ts, named.ts).

import { createHash } from "node:crypto";
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
  signal?: AbortSignal;
  onProgress?: OnProgress;
}

const RETRIES = 4;
const FIRST_DELAY_MS = 250; // doubles with each retry

/** Worth another try: a connection that broke, a server that is busy. */
class Interrupted extends Error {}

/**
 * Downloads `url` to `path` by way of `path.part`; a part that is there is continued if the server still has the same
 * file, else begun anew. A broken connection is retried a few times. RunError if the server refuses, cannot be
 * reached, or the file has the wrong size or checksum (the part is then deleted).
 */
export async function download(url: string, path: string, options: DownloadOptions = {}): Promise<void> {
  const { sha256, size, signal } = options;
  await mkdir(dirname(path), { recursive: true });
  const part = `${path}.part`;
  for (let failures = 0; ; failures++) {
    try {
      await fetchRest(url, part, options);
      break;
    } catch (error) {
      throwIfAborted(signal);
      if (!(error instanceof Interrupted)) throw error;
      if (failures === RETRIES) {
        throw new RunError(
          `Downloading ${url} failed ${failures + 1} times (${error.message}); run it again later, it will continue where it stopped.`,
        );
      }
      await delay(FIRST_DELAY_MS * 2 ** failures, undefined, { signal });
    }
  }
  const problem = await contentProblem(part, sha256, size, signal);
  await rm(stateFile(part), { force: true });
  if (problem !== undefined) {
    await rm(part, { force: true });
    throw new RunError(
      `${url} has ${problem}; the download was deleted, try again or fetch the file by hand.`,
    );
  }
  await rename(part, path);
}

/** Hexadecimal SHA-256 of a file. */
export async function sha256OfFile(path: string, signal?: AbortSignal): Promise<string> {
  const hash = createHash("sha256");
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
  const { signal, onProgress } = options;
  const state = await readState(part);
  const resumable = state?.url === url ? state.validator : undefined;
  let done = resumable === undefined ? 0 : await fileSize(part);
  // Compressed answers would make nonsense of byte positions.
  const headers: Record<string, string> = { "accept-encoding": "identity" };
  if (resumable !== undefined && done > 0) {
    headers.range = `bytes=${done}-`;
    headers["if-range"] = resumable;
  }
  const response = await request(url, headers, signal);
  const validator = validatorOf(response);
  const continued = response.status === 206 && validator === resumable && rangeStart(response) === done;
  if (response.status !== 200 && !continued) {
    await response.body?.cancel();
    await rm(part, { force: true });
    throw new Interrupted("the file on the server has changed");
  }
  if (!continued) done = 0;
  if (validator === undefined) await rm(stateFile(part), { force: true });
  else await writeFile(stateFile(part), JSON.stringify({ url, validator } satisfies PartState));

  const length = response.headers.get("content-length");
  const total = length === null ? undefined : done + Number(length);
  const task = `downloading ${basename(new URL(url).pathname) || url}`;
  const file = await open(part, done > 0 ? "a" : "w");
  try {
    for await (const chunk of bodyOf(response, signal)) {
      await file.writeFile(chunk);
      done += chunk.length;
      onProgress?.({ task, done, total, unit: "bytes" });
    }
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
  signal?: AbortSignal,
): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(url, { headers, signal });
  } catch (error) {
    throwIfAborted(signal);
    const reason = causeOf(error);
    if (/ENOTFOUND|ECONNREFUSED|EAI_AGAIN|ENETUNREACH|EHOSTUNREACH/.test(reason)) {
      throw new RunError(
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
    throw new Interrupted(answer);
  throw new RunError(`The server answered "${answer}" to ${url}; check the address, or give a local file.`);
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
  sha256: string | undefined,
  size: number | undefined,
  signal: AbortSignal | undefined,
): Promise<string | undefined> {
  const found = await fileSize(path);
  if (size !== undefined && found !== size) return `${found} bytes, not the ${size} expected`;
  if (sha256 === undefined) return undefined;
  const hash = await sha256OfFile(path, signal);
  return hash === sha256 ? undefined : `the SHA-256 checksum ${hash}, not ${sha256}`;
}

/** What lies behind fetch's "fetch failed": a system error code where there is one. */
function causeOf(error: unknown): string {
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
  if (!(cause instanceof Error)) return String(cause);
  return "code" in cause && typeof cause.code === "string" ? cause.code : cause.message;
}
