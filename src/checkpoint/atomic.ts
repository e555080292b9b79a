// Writing so that a kill, a full disk or a power cut leaves the old state or the new one, never a half: write
// beside, fsync, rename, fsync the folder. A temporary name carries the process that made it, so that what a
// dead process left behind can be told from what a living one is writing.
// Not here: what is written (safetensors.ts) and which checkpoints are kept (train/runFolder.ts).
import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { mkdir, open, readdir, rename, rm, writeFile } from "node:fs/promises";
import { hostname } from "node:os";
import { dirname, join } from "node:path";
import { RunError, UsageError } from "../errors.ts";

/** Deletes what dead processes left half written there. @throws UsageError if there is anything else in a folder that a command would fill. */
export function requireNewFolder(folder: string): void {
  if (!existsSync(folder)) return;
  removeLeftovers(folder);
  if (readdirSync(folder).length > 0) {
    throw new UsageError(`${folder} is not empty: name a new folder`);
  }
}

/** A process, told apart from a later one that got the same number. */
export interface ProcessIdentity {
  readonly pid: number;
  /** Clock ticks from boot to its start (/proc); 0 where the system does not tell. */
  readonly started: number;
}

/** Who has the number `pid` now. */
export function identityOf(pid: number): ProcessIdentity {
  return { pid, started: readProcStat(pid)?.started ?? 0 };
}

/** The process that runs this code. */
export const thisProcess: ProcessIdentity = identityOf(process.pid);

/** Whether that very process of this host still runs; where start times are unknown, whether its number does. */
export function isRunning({ pid, started }: ProcessIdentity): boolean {
  try {
    process.kill(pid, 0);
  } catch (error) {
    if (errorCode(error) === "ESRCH") return false; // EPERM: it runs, as another user
  }
  const stat = readProcStat(pid);
  return stat === undefined || (stat.started === started && stat.state !== "Z");
}

/** State letter and start time from /proc/PID/stat; `undefined` where there is no such thing. */
function readProcStat(pid: number): { state: string; started: number } | undefined {
  let stat: string;
  try {
    stat = readFileSync(`/proc/${pid}/stat`, "latin1");
  } catch {
    return undefined;
  }
  // "PID (name) state ...": the name may hold spaces and brackets, hence the last bracket.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return { state: fields[0], started: Number(fields[19]) };
}

/** Names this host in the names of files: hosts that share a folder are told apart by it. */
export const thisHost = createHash("sha256").update(hostname()).digest("hex").slice(0, 8);

/** The name beside `path` under which this process prepares it. */
export function temporaryPath(path: string): string {
  return `${path}.tmp-${thisHost}-${thisProcess.pid}-${thisProcess.started}`;
}

const TEMPORARY_NAME = /\.tmp-([0-9a-f]{8})-(\d+)-(\d+)$/;

/** Deletes the files and folders in `folder` that dead processes of this host left under temporary names. */
export function removeLeftovers(folder: string): void {
  for (const name of readdirSync(folder)) {
    const match = TEMPORARY_NAME.exec(name);
    if (match === null || match[1] !== thisHost) continue;
    if (isRunning({ pid: Number(match[2]), started: Number(match[3]) })) continue;
    rmSync(join(folder, name), { recursive: true, force: true });
  }
}

/**
 * Writes a file: `path` holds its old content, or all of the new. Missing folders are made.
 * @param data the content; chunks of an iterable are taken one by one, so a large file needs little memory.
 * @throws RunError when the disk is full or not writable; errors of the iterable pass through.
 */
export async function writeFileAtomic(
  path: string,
  data: string | Uint8Array | AsyncIterable<Uint8Array>,
): Promise<void> {
  const temporary = temporaryPath(path);
  try {
    await mkdir(dirname(path), { recursive: true });
    const file = await open(temporary, "w");
    try {
      await writeFile(file, data);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, path);
    await syncFolder(dirname(path));
  } catch (error) {
    await rm(temporary, { force: true });
    throw explainWriteError(error, path);
  }
}

/**
 * Makes the folder `finalPath`, which must not exist, appear complete or not at all. `fill` writes its content
 * into the temporary folder that it is given.
 * @throws UsageError if there is something at `finalPath`; RunError when the disk is full or not writable;
 * errors of `fill` pass through.
 */
export async function publishFolder(
  finalPath: string,
  fill: (temporaryFolder: string) => Promise<void>,
): Promise<void> {
  if (existsSync(finalPath))
    throw new UsageError(`${finalPath} exists already: remove it or choose another name`);
  const temporary = temporaryPath(finalPath);
  try {
    await mkdir(dirname(finalPath), { recursive: true });
    await rm(temporary, { recursive: true, force: true });
    await mkdir(temporary);
    await fill(temporary);
    await syncTree(temporary);
    await rename(temporary, finalPath);
    await syncFolder(dirname(finalPath));
  } catch (error) {
    await rm(temporary, { recursive: true, force: true });
    throw explainWriteError(error, finalPath);
  }
}

/** Deletes a folder; a kill meanwhile leaves it whole, or under a temporary name. */
export async function discardFolder(path: string): Promise<void> {
  const temporary = temporaryPath(path);
  await rename(path, temporary);
  await rm(temporary, { recursive: true, force: true });
}

const WRITE_PROBLEMS: Readonly<Record<string, string>> = {
  ENOSPC: "no space left on the disk while writing PATH: free some and try again",
  EDQUOT: "the disk quota is used up while writing PATH: free some space and try again",
  EACCES: "no permission to write PATH: change its owner or mode, or write elsewhere",
  EPERM: "no permission to write PATH: change its owner or mode, or write elsewhere",
  ENOTDIR: "a part of PATH is a file and no folder: write elsewhere",
  EROFS: "PATH lies on a read-only file system: write elsewhere",
};

/** `error` as a RunError if it is a full or forbidden disk, else `error` itself. */
export function explainWriteError(error: unknown, path: string): unknown {
  const problem = WRITE_PROBLEMS[errorCode(error) ?? ""];
  if (problem === undefined) return error;
  return new RunError(`${problem.replace("PATH", () => path)} (what was saved before is untouched)`, {
    cause: error,
  });
}

/** The system's code of an error (`"ENOSPC"`), if it has one. */
export function errorCode(error: unknown): string | undefined {
  return error instanceof Error ? (error as NodeJS.ErrnoException).code : undefined;
}

async function syncTree(folder: string): Promise<void> {
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) await syncTree(path);
    else if (entry.isFile()) await syncPath(path, "r+");
  }
  await syncFolder(folder);
}

/** Makes names in a folder durable. Windows cannot open folders and needs no such step. */
async function syncFolder(folder: string): Promise<void> {
  if (process.platform !== "win32") await syncPath(folder, "r");
}

async function syncPath(path: string, flags: "r" | "r+"): Promise<void> {
  const handle = await open(path, flags);
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
