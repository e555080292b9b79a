// Where models of a hub are kept: the cache of huggingface_hub, shared with other tools
// (https://huggingface.co/docs/hub/local-cache): models--ORG--NAME with blobs/ETAG (SHA-256 of large files, git blob id
// of others), snapshots/COMMIT/FILE as links to blobs, and refs/REVISION holding a commit. Not here: the network (hub.ts).

import { existsSync, readFileSync } from "node:fs";
import { copyFile, mkdir, readdir, readlink, rename, rm, symlink } from "node:fs/promises";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { RunError, UsageError } from "../errors.ts";
import { errorCode, isRunning, temporaryPath, thisHost, thisProcess, writeFileAtomic } from "./atomic.ts";
import { INDEX_FILE, shardNames } from "./tensorFiles.ts";

export type Environment = Readonly<Record<string, string | undefined>>;

/** A model of a hub, as users write it: `org/name` or `org/name@revision`. */
export interface HubId {
  /** `org/name` */
  readonly model: string;
  /** A branch, a tag or a commit. */
  readonly revision: string;
}

/** Reads `org/name[@revision]`; undefined for anything else. */
export function parseHubId(text: string): HubId | undefined {
  const match = /^([\w.-]+\/[\w.-]+?)(?:@([\w./-]+))?$/.exec(text);
  if (!match) return undefined;
  const [, model, revision = "main"] = match;
  const plain = (part: string) => /^\w/.test(part) && !/--|\.\.|\.git$|[.-]$/.test(part) && part.length <= 96;
  // Revisions become paths below refs/.
  const isPath =
    revision.length <= 200 && revision.split("/").every((part) => /^\w/.test(part) && !part.includes(".."));
  return model.split("/").every(plain) && isPath ? { model, revision } : undefined;
}

function homeOf(environment: Environment): string {
  const cache = environment.XDG_CACHE_HOME || join(homedir(), ".cache");
  return fromHome(environment.HF_HOME || join(cache, "huggingface"));
}

function fromHome(path: string): string {
  return path.replace(/^~(?=$|[/\\])/, () => homedir());
}

/** The folder of all models. */
export function cacheFolder(environment: Environment): string {
  const given = environment.HF_HUB_CACHE || environment.HUGGINGFACE_HUB_CACHE;
  return given ? fromHome(given) : join(homeOf(environment), "hub");
}

/** The user's token, from a variable or the file that `hf auth login` writes. @throws UsageError for odd characters. */
export function findToken(environment: Environment): string | undefined {
  const file = environment.HF_TOKEN_PATH
    ? fromHome(environment.HF_TOKEN_PATH)
    : join(homeOf(environment), "token");
  let token = environment.HF_TOKEN || environment.HUGGING_FACE_HUB_TOKEN;
  if (!token) {
    try {
      token = readFileSync(file, "utf8");
    } catch {
      return undefined;
    }
  }
  token = token.trim();
  if (/[^\x21-\x7e]/.test(token))
    throw new UsageError("the hub token holds blanks or odd characters: set HF_TOKEN again");
  return token === "" ? undefined : token;
}

/** One model in the cache. */
export class CachedModel {
  readonly folder: string;

  constructor(id: HubId, environment: Environment) {
    this.folder = join(cacheFolder(environment), `models--${id.model.replace("/", "--")}`);
  }

  snapshot(commit: string): string {
    return join(this.folder, "snapshots", commit);
  }

  blob(etag: string): string {
    return join(this.folder, "blobs", etag);
  }

  /** The snapshot of a revision, if all files that a model needs are there. */
  find(revision: string): string | undefined {
    const commit = isCommit(revision) ? revision : this.#commitOf(revision);
    if (commit === undefined) return undefined;
    const folder = this.snapshot(commit);
    const has = (name: string) => existsSync(join(folder, name));
    if (!has("config.json") || !has("tokenizer.json")) return undefined;
    if (has("model.safetensors")) return folder;
    return has(INDEX_FILE) && shardNames(join(folder, INDEX_FILE)).every(has) ? folder : undefined;
  }

  #commitOf(revision: string): string | undefined {
    try {
      const commit = readFileSync(join(this.folder, "refs", revision), "utf8").trim();
      return isCommit(commit) ? commit : undefined;
    } catch {
      return undefined;
    }
  }

  /** Remembers which commit a revision is. */
  async remember(revision: string, commit: string): Promise<void> {
    if (!isCommit(revision)) await writeFileAtomic(join(this.folder, "refs", revision), commit);
  }

  /**
   * The path of a part of this process, which takes over what a dead process left. Each process has its own, so that two
   * at once fetch a file twice but never write into the same one; the first to finish gives the blob its name.
   */
  async part(etag: string): Promise<string> {
    const own = `${etag}.${thisHost}-${thisProcess.pid}-${thisProcess.started}.incomplete`;
    const folder = join(this.folder, "blobs");
    await mkdir(folder, { recursive: true });
    const pattern = new RegExp(`^${etag}\\.${thisHost}-(\\d+)-(\\d+)\\.incomplete$`);
    for (const name of existsSync(join(folder, own)) ? [] : await readdir(folder)) {
      const match = pattern.exec(name);
      if (!match || isRunning({ pid: Number(match[1]), started: Number(match[2]) })) continue;
      try {
        await rename(join(folder, name), join(folder, own));
        break;
      } catch (error) {
        if (errorCode(error) !== "ENOENT") throw error; // another process was faster
      }
    }
    return join(folder, own);
  }

  /** Makes a blob a file of a snapshot. */
  async link(commit: string, name: string, etag: string): Promise<void> {
    const path = join(this.snapshot(commit), name);
    const target = join("..", "..", "blobs", etag);
    if ((await readlink(path).catch(() => undefined)) === target) return;
    const temporary = temporaryPath(path);
    await mkdir(dirname(path), { recursive: true });
    await rm(temporary, { force: true });
    try {
      await symlink(target, temporary);
    } catch (error) {
      if (errorCode(error) !== "EPERM") throw error;
      await copyFile(this.blob(etag), temporary); // Windows lets only some users make links
    }
    await rename(temporary, path);
  }
}

export function isCommit(text: string): boolean {
  return /^[0-9a-f]{40}$/.test(text);
}

/** @throws RunError for what cannot be a blob's name: it becomes a path. */
export function checkEtag(etag: unknown, name: string): string {
  if (typeof etag === "string" && /^([0-9a-f]{40}|[0-9a-f]{64})$/.test(etag)) return etag;
  throw new RunError(`the hub gives no checksum for ${name}: try again later, or download the model by hand`);
}
