// Files that say that a process works on something: made with their content at once, never taken from a living process,
// taken over from a dead one. Not here: what is locked.

import { linkSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { hostname } from "node:os";
import { setTimeout as wait } from "node:timers/promises";
import { RunError, throwIfAborted, UsageError } from "../errors.ts";
import {
  errorCode,
  explainWriteError,
  isRunning,
  type ProcessIdentity,
  temporaryPath,
  thisProcess,
} from "./atomic.ts";

/** Another process has it, or may have it. */
export class InUse extends UsageError {
  /** "process 12", or "process 12 on HOST (if that has ended, delete PATH)". */
  readonly holder: string;

  constructor(message: string, holder: string) {
    super(message);
    this.holder = holder;
  }
}

/** For the message when it is in use. */
export interface LockSubject {
  /** What is locked: "run folder runs/a". */
  readonly what: string;
  /** What one may do other than wait: "choose another --out". */
  readonly instead?: string;
}

/**
 * Makes this process the only holder of the lock at `path`, whose folder must exist.
 * @returns the function that gives it free again.
 * @throws InUse if another process has it, or this one already. The lock of a dead process is taken over; that of another
 * host cannot be judged and counts as alive. @throws RunError where it cannot be written.
 */
export function lockFile(path: string, subject: LockSubject): () => void {
  const mine = JSON.stringify({ ...thisProcess, host: hostname() });
  try {
    acquire(path, subject, mine);
  } catch (error) {
    throw explainWriteError(error, path);
  }
  return () => {
    // Not if somebody deleted our lock by hand and another process has its own there now.
    if (readIfThere(path) === mine) rmSync(path);
  };
}

/** Deletes the lock at `path` if a dead process left it: nobody takes over what guards finished work. */
export function removeDeadLock(path: string): void {
  if (readIfThere(path) === undefined) return;
  try {
    lockFile(path, { what: path })();
  } catch (error) {
    if (!(error instanceof InUse)) throw error;
  }
}

/** Between two looks at a lock that another process has. */
export const lookAgainMs = 250;

/**
 * Waits until nobody else has it.
 * @param take throws InUse while somebody has.
 * @param onWait is told who has, once for each holder.
 * @returns what `take` returns.
 */
export async function whenFree<T>(
  take: () => T,
  { signal, onWait }: { signal?: AbortSignal; onWait?: (holder: string) => void } = {},
): Promise<T> {
  let holder = "";
  for (;;) {
    throwIfAborted(signal);
    try {
      return take();
    } catch (error) {
      if (!(error instanceof InUse)) throw error;
      if (error.holder !== holder) onWait?.(error.holder);
      holder = error.holder;
    }
    await wait(lookAgainMs);
  }
}

/**
 * Puts a file with the text `mine` at `lockPath`. A link appears with its content, and only where nothing is, so
 * nobody ever sees an empty lock. Replacing a dead one takes two steps, looking and renaming; a second lock,
 * held for just that long, keeps two processes from replacing each other's.
 */
function acquire(lockPath: string, subject: LockSubject, mine: string): void {
  refuseIfAlive(lockPath, subject); // whoever waits looks often, and writes nothing
  const temporary = temporaryPath(lockPath);
  const takeoverPath = `${lockPath}.takeover`;
  writeFileSync(temporary, mine, { flush: true });
  try {
    while (!linkIfFree(temporary, lockPath)) {
      if (!refuseIfAlive(lockPath, subject)) continue; // given free just now
      if (!linkIfFree(temporary, takeoverPath)) {
        if (refuseIfAlive(takeoverPath, subject)) {
          throw new UsageError(
            `${takeoverPath} was left by a process that was killed: delete it and try again`,
          );
        }
        continue;
      }
      try {
        if (!refuseIfAlive(lockPath, subject)) continue;
        renameSync(temporary, lockPath);
        return;
      } finally {
        rmSync(takeoverPath);
      }
    }
  } finally {
    rmSync(temporary, { force: true });
  }
}

/** Hard-links `target` to `path`; false if there is something at `path`. */
function linkIfFree(target: string, path: string): boolean {
  try {
    linkSync(target, path);
    return true;
  } catch (error) {
    const code = errorCode(error) ?? "";
    if (code === "EEXIST") return false;
    if (!["EPERM", "ENOTSUP", "EOPNOTSUPP", "ENOSYS"].includes(code)) throw error;
    throw new RunError(`cannot lock ${path}: its file system has no hard links, so put it elsewhere`, {
      cause: error,
    });
  }
}

/** Whether there is a lock at `path`, of a dead process. @throws InUse if its process may be alive. */
function refuseIfAlive(path: string, { what, instead }: LockSubject): boolean {
  const text = readIfThere(path);
  if (text === undefined) return false;
  const { pid, started, host } = parseHolder(path, text);
  if (host !== hostname()) {
    const remedy = `if that has ended, delete ${path}`;
    const holder = `process ${pid} on ${host}`;
    throw new InUse(`${what} is in use by ${holder}: ${remedy}`, `${holder} (${remedy})`);
  }
  if (isRunning({ pid, started })) {
    const orElse = instead === undefined ? "" : `, or ${instead}`;
    const holder = `process ${pid}`;
    throw new InUse(`${what} is in use by ${holder}: wait for it to end${orElse}`, holder);
  }
  return true;
}

function parseHolder(path: string, text: string): ProcessIdentity & { host: string } {
  try {
    const { pid, started, host } = JSON.parse(text);
    if (Number.isSafeInteger(pid) && pid > 0 && Number.isSafeInteger(started) && typeof host === "string") {
      return { pid, started, host };
    }
  } catch {
    // said below
  }
  throw new UsageError(`${path} is not a lock of this program: delete it if no process works in the folder`);
}

function readIfThere(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    if (errorCode(error) === "ENOENT") return undefined;
    throw error;
  }
}
