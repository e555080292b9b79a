// Fetches models from a hub of Hugging Face's kind into the cache that other tools share. One request says which commit
// a revision is and which files it has with their checksums; then only the files that a model needs are fetched, each
// verified before it gets its name. Not here: the cache's layout (hubCache.ts), resuming (text/download.ts).

import { existsSync } from "node:fs";
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { quote, RunError, UsageError } from "../errors.ts";
import { download, downloadText, Unreachable } from "../text/download.ts";
import type { OnProgress } from "../text/progress.ts";
import { explainWriteError } from "./atomic.ts";
import {
  CachedModel,
  checkEtag,
  type Environment,
  findToken,
  type HubId,
  isCommit,
  parseHubId,
} from "./hubCache.ts";
import { isObject } from "./strictJson.ts";
import { INDEX_FILE, SINGLE_FILE, shardNames } from "./tensorFiles.ts";

export interface HubOptions {
  /** Use what the cache has, never the network. Default: HF_HUB_OFFLINE. */
  readonly offline?: boolean;
  /** Told how far a download is. */
  readonly onDownload?: OnProgress;
  /** Told one line about things the user should know. */
  readonly announce?: (line: string) => void;
  readonly signal?: AbortSignal;
  /**
   * HF_ENDPOINT, HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE, HF_TOKEN, HF_TOKEN_PATH, XDG_CACHE_HOME as huggingface_hub knows
   * them. Default: those of the process.
   */
  readonly environment?: Environment;
}

const REQUIRED = ["config.json", "tokenizer.json"];
const OPTIONAL = ["generation_config.json", "tokenizer_config.json", "chat_template.jinja"];
/** The list of files of the largest repositories is a few MB. */
const MAX_LIST_BYTES = 100_000_000;

/**
 * A path as it is, if there is something or it cannot be a hub id; for `org/name[@revision]` the folder of that model,
 * fetched if need be. Without network, what the cache has of it is used.
 * @throws UsageError if there is no such model or it may not be read; RunError if fetching it fails.
 */
export async function resolveModelPath(path: string, options: HubOptions = {}): Promise<string> {
  const id = existsSync(path) ? undefined : parseHubId(path);
  if (!id) return path;
  const environment = options.environment ?? process.env;
  const cached = new CachedModel(id, environment);
  const offline = options.offline ?? /^(1|true|yes|on)$/i.test(environment.HF_HUB_OFFLINE ?? "");
  const known = cached.find(id.revision);
  if (known && (offline || isCommit(id.revision))) return known;
  if (offline) {
    throw new UsageError(
      `there is no folder ${path}, and the model ${path} is not complete in the cache ${cached.folder}: fetch it once without --offline and HF_HUB_OFFLINE`,
    );
  }
  try {
    return await new Download(path, id, cached, environment, options).run();
  } catch (error) {
    if (!(error instanceof Unreachable) || !known) throw explainWriteError(error, cached.folder);
    options.announce?.(`The hub cannot be reached; ${path} is what the cache has of it.`);
    return known;
  }
}

interface RemoteFile {
  /** Name of the blob. */
  readonly etag: string;
  readonly size: number | undefined;
}

class Download {
  readonly #path: string;
  readonly #id: HubId;
  readonly #cached: CachedModel;
  readonly #options: HubOptions;
  readonly #endpoint: string;
  readonly #headers: Record<string, string>;

  constructor(path: string, id: HubId, cached: CachedModel, environment: Environment, options: HubOptions) {
    this.#path = path;
    this.#id = id;
    this.#cached = cached;
    this.#options = options;
    this.#endpoint = (environment.HF_ENDPOINT || "https://huggingface.co").replace(/\/+$/, "");
    if (!/^https?:\/\//i.test(this.#endpoint) || !URL.canParse(this.#endpoint)) {
      throw new UsageError(
        `HF_ENDPOINT is ${quote(this.#endpoint)}, which is no address: write http(s)://HOST`,
      );
    }
    const token = findToken(environment);
    this.#headers = token === undefined ? {} : { authorization: `Bearer ${token}` };
  }

  async run(): Promise<string> {
    const { commit, files } = await this.#list();
    for (const name of REQUIRED) {
      if (!files.has(name))
        throw new UsageError(`the model ${this.#path} has no ${name}: choose another model`);
    }
    const fetched = [...REQUIRED, ...OPTIONAL.filter((name) => files.has(name))];
    if (files.has(SINGLE_FILE)) fetched.push(SINGLE_FILE);
    else if (!files.has(INDEX_FILE)) {
      throw new UsageError(`the model ${this.#path} has no safetensors files: choose one that has`);
    }
    for (const name of fetched) await this.#fetch(commit, name, files);
    if (!files.has(SINGLE_FILE)) {
      // The index comes first, since it says which files there are.
      await this.#fetch(commit, INDEX_FILE, files);
      for (const name of shardNames(join(this.#cached.snapshot(commit), INDEX_FILE))) {
        await this.#fetch(commit, name, files);
      }
    }
    const { revision } = this.#id;
    await once(`${this.#cached.folder}@${revision}`, () => this.#cached.remember(revision, commit));
    return this.#cached.snapshot(commit);
  }

  /** The revision's commit and files. */
  async #list(): Promise<{ commit: string; files: Map<string, RemoteFile> }> {
    const { model, revision } = this.#id;
    const url = `${this.#endpoint}/api/models/${model}/revision/${encodeURIComponent(revision)}?blobs=true`;
    const text = await downloadText(url, MAX_LIST_BYTES, { headers: this.#headers, ...this.#common() });
    const odd = () => new RunError(`${url} gives no list of a model's files: check HF_ENDPOINT`);
    let answer: unknown;
    try {
      answer = JSON.parse(text);
    } catch {
      throw odd();
    }
    if (!isObject(answer) || typeof answer.sha !== "string" || !isCommit(answer.sha)) throw odd();
    if (!Array.isArray(answer.siblings)) throw odd();
    const files = new Map<string, RemoteFile>();
    for (const file of answer.siblings as unknown[]) {
      if (!isObject(file) || typeof file.rfilename !== "string") throw odd();
      const lfs = isObject(file.lfs) ? file.lfs : undefined;
      const size = lfs?.size ?? file.size;
      files.set(file.rfilename, {
        etag: String(lfs ? lfs.sha256 : file.blobId),
        size: typeof size === "number" ? size : undefined,
      });
    }
    return { commit: answer.sha, files };
  }

  /** Fetches a file, unless its content is there, and puts it into the snapshot. */
  async #fetch(commit: string, name: string, files: ReadonlyMap<string, RemoteFile>): Promise<void> {
    const file = files.get(name);
    if (!file)
      throw new UsageError(
        `the model ${this.#path} has no ${name}, which its index lists: choose another model`,
      );
    const etag = checkEtag(file.etag, `${name} of ${this.#path}`);
    const path = this.#cached.blob(etag);
    const isThere = (await stat(path).catch(() => undefined))?.size === file.size && file.size !== undefined;
    if (!isThere) await once(path, () => this.#fetchBlob(commit, name, { etag, size: file.size }));
    await once(join(this.#cached.snapshot(commit), name), () => this.#cached.link(commit, name, etag));
  }

  async #fetchBlob(commit: string, name: string, { etag, size }: RemoteFile): Promise<void> {
    const url = `${this.#endpoint}/${this.#id.model}/resolve/${commit}/${encodeURIComponent(name)}`;
    await download(url, this.#cached.blob(etag), {
      ...(etag.length === 64 ? { sha256: etag } : { gitBlob: etag }),
      size,
      part: await this.#cached.part(etag),
      immutable: true,
      headers: this.#headers,
      label: name,
      onProgress: this.#options.onDownload,
      ...this.#common(),
    });
  }

  #common() {
    return { signal: this.#options.signal, explain: (status: number) => this.#explain(status) };
  }

  #explain(status: number): string | undefined {
    const { host } = new URL(this.#endpoint);
    const [name, page] = [this.#path, `${this.#endpoint}/${this.#id.model}`];
    const hasToken = "authorization" in this.#headers;
    switch (status) {
      case 401: // also the answer to a name that does not exist
        return hasToken
          ? `${host} does not accept the token for ${name}: check HF_TOKEN and the name of the model`
          : `there is no folder ${name}, and ${host} shows no such model without a token: check the name, or set HF_TOKEN`;
      case 403:
        return `${host} does not let ${hasToken ? "this token" : "anyone without a token"} read ${name}: ask for access at ${page}`;
      case 404:
        return `there is no folder ${name}, and ${host} has no such model or revision: check the name`;
      case 429:
        return `${host} has had too many requests for now: try again in some minutes, or set HF_TOKEN`;
    }
    return undefined;
  }
}

/** What this process is writing: models that are opened at the same time wait for each other's files. */
const running = new Map<string, Promise<void>>();

async function once(path: string, work: () => Promise<void>): Promise<void> {
  let promise = running.get(path);
  if (!promise) {
    promise = work().finally(() => running.delete(path));
    running.set(path, promise);
  }
  await promise;
}
