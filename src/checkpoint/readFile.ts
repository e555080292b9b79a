// Reading parts of files that may be anything on disk. Not here: what their bytes mean.

import { constants, openSync, readSync } from "node:fs";
import { RunError } from "../errors.ts";
import { errorCode } from "./atomic.ts";

const MAX_READ_BYTES = 2 ** 30; // one read call takes less than 2 GiB

/** A descriptor. @throws RunError if there is no such file or it cannot be read. */
export function openForReading(path: string): number {
  try {
    // O_NONBLOCK: opening a pipe that nobody writes to would wait for ever; it is refused as no file.
    return openSync(path, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0));
  } catch (error) {
    const reason = errorCode(error) === "ENOENT" ? "there is no such file" : String(errorCode(error));
    throw new RunError(`cannot open ${path}: ${reason}`, { cause: error });
  }
}

/** Fills `bytes` from the file, from `position` on. @returns false if it ends before. */
export function readFully(descriptor: number, position: number, bytes: Uint8Array): boolean {
  for (let done = 0; done < bytes.length; ) {
    const wanted = Math.min(bytes.length - done, MAX_READ_BYTES);
    const count = readSync(descriptor, bytes, done, wanted, position + done);
    if (count === 0) return false;
    done += count;
  }
  return true;
}

/** Memory for part of a file. @throws RunError if there is none. */
export function allocateFor(path: string, length: number): Uint8Array<ArrayBuffer> {
  try {
    return new Uint8Array(length);
  } catch (error) {
    throw new RunError(`${path}: there is no memory for a tensor of ${length} bytes`, { cause: error });
  }
}
