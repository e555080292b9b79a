// A tokenised corpus on disk: `train-00000.bin`, ..., `valid-00000.bin`, ... hold nothing but ids (little endian, 16
// bits if the vocabulary allows it, else 32), and `index.json`, written last, says what they are. The corpus is read
// twice, piece by piece: once to know its hash and to choose what is held out, once to write.
// Ids go to disk as they lie in memory, which is little endian on every machine this package supports.

import { createHash } from "node:crypto";
import { closeSync, openSync, readFileSync, readSync, statSync, writeSync } from "node:fs";
import { mkdir, readdir, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { RunError, throwIfAborted, UsageError } from "../errors.ts";
import type { Corpus } from "./corpus.ts";
import { checkRange, type TokenDataset, type TokenSplit } from "./dataset.ts";
import type { OnProgress } from "./progress.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** Raised when the files change their meaning; older folders are then written anew. */
const FORMAT = 1;
const PARTS = ["train", "valid"] as const;
type Part = (typeof PARTS)[number];

/** The content of index.json. */
interface Index {
  format: typeof FORMAT;
  /** SHA-256 of everything that decides the ids; two equal ones mean equal files. */
  hash: string;
  corpus: { name: string; hash: string };
  tokenizer: { vocabSize: number; hash: string };
  validShare: number;
  bytesPerToken: 2 | 4;
  tokensPerShard: number;
  train: { tokens: number; textBytes: number };
  valid: { tokens: number; textBytes: number };
}

export interface TokenizeOptions {
  /** Share of the text that is held out, from 0 to below 1. */
  validShare?: number;
  /** Size of a full file, a multiple of 4. */
  shardBytes?: number;
  signal?: AbortSignal;
  onProgress?: OnProgress;
}

/**
 * Tokenises `corpus` into the folder `dir`; if `dir` holds just that already, nothing is written. `<|endoftext|>`
 * ends each document, if the tokenizer has it.
 *
 * Held out: of a "tail" corpus (and of any with a single document) the text after the first `floor((1 - validShare) *
 * bytes)` bytes; of others, whole documents in the order of their hashes, each that still fits into the share (the
 * smallest one if none does). So a document's place does not depend on its neighbours' order.
 *
 * UsageError if the corpus has no text.
 */
export async function tokenizeCorpus(
  corpus: Corpus,
  tokenizer: Tokenizer,
  dir: string,
  options: TokenizeOptions = {},
): Promise<TokenDataset> {
  const { validShare = 0.1, shardBytes = 1 << 26, signal, onProgress } = options;
  if (!(validShare >= 0 && validShare < 1)) {
    throw new UsageError(`The share held out for validation is ${validShare}; choose one from 0 to below 1.`);
  }
  const survey = await surveyCorpus(corpus, signal, onProgress);
  const tokenizerHash = sha256(JSON.stringify(tokenizer));
  const hash = sha256(JSON.stringify([FORMAT, survey.hash, corpus.split, tokenizerHash, validShare]));
  const present = readIndex(dir);
  if (present?.hash === hash) return openDataset(dir, present);

  await prepareFolder(dir);
  const bytesPerToken = tokenizer.vocabSize <= 2 ** 16 ? 2 : 4;
  const tokensPerShard = shardBytes / bytesPerToken;
  const writers = {
    train: new ShardWriter(dir, "train", bytesPerToken, tokensPerShard),
    valid: new ShardWriter(dir, "valid", bytesPerToken, tokensPerShard),
  };
  try {
    await writeTokens(corpus, tokenizer, survey, planSplit(corpus, survey, validShare), writers, options);
  } finally {
    for (const part of PARTS) writers[part].close();
  }
  const counts = (part: Part) => ({ tokens: writers[part].tokens, textBytes: writers[part].textBytes });
  const index: Index = {
    format: FORMAT,
    hash,
    corpus: { name: corpus.name, hash: survey.hash },
    tokenizer: { vocabSize: tokenizer.vocabSize, hash: tokenizerHash },
    validShare,
    bytesPerToken,
    tokensPerShard,
    train: counts("train"),
    valid: counts("valid"),
  };
  const indexFile = join(dir, "index.json");
  await writeFile(`${indexFile}.part`, `${JSON.stringify(index, undefined, 2)}\n`);
  await rename(`${indexFile}.part`, indexFile);
  return openDataset(dir, index);
}

/** What `tokenizeCorpus` wrote into `dir`, if it is whole and its hash is this one; the corpus is not looked at. */
export function openTokens(dir: string, hash: string): TokenDataset | undefined {
  const present = readIndex(dir);
  return present?.hash === hash ? openDataset(dir, present) : undefined;
}

/** What the first reading finds. */
interface Survey {
  readonly hash: string;
  readonly textBytes: number;
  /** Of each document, in the order of the corpus: 48 bits of its hash, and its size in bytes. */
  readonly hashes: readonly number[];
  readonly sizes: readonly number[];
}

async function surveyCorpus(corpus: Corpus, signal?: AbortSignal, onProgress?: OnProgress): Promise<Survey> {
  const whole = createHash("sha256");
  const hashes: number[] = [];
  const sizes: number[] = [];
  let textBytes = 0;
  let id: string | undefined;
  let hash = createHash("sha256");
  let bytes = 0;
  const endDocument = () => {
    if (id === undefined) return;
    const digest = hash.digest();
    whole.update(digest);
    hashes.push(digest.readUIntBE(0, 6));
    sizes.push(bytes);
  };
  for await (const part of corpus.documents()) {
    throwIfAborted(signal);
    if (part.id !== id) {
      endDocument();
      ({ id } = part);
      hash = createHash("sha256");
      bytes = 0;
    }
    hash.update(part.text);
    bytes += Buffer.byteLength(part.text);
    textBytes += Buffer.byteLength(part.text);
    onProgress?.({ task: "reading the text", done: textBytes, total: corpus.bytes, unit: "bytes" });
  }
  endDocument();
  if (textBytes === 0)
    throw new UsageError(`The text ${corpus.name} is empty; give one with something in it.`);
  return { hash: whole.digest("hex"), textBytes, hashes, sizes };
}

/** Which documents are held out, or from which byte of the text on everything is. */
type SplitPlan = { heldOut: ReadonlySet<number> } | { cut: number };

function planSplit(corpus: Corpus, { hashes, sizes, textBytes }: Survey, validShare: number): SplitPlan {
  if (corpus.split === "tail" || sizes.length === 1) return { cut: Math.floor((1 - validShare) * textBytes) };
  const heldOut = new Set<number>();
  if (validShare === 0) return { heldOut };
  const order = sizes.map((_, i) => i).sort((a, b) => hashes[a] - hashes[b] || a - b);
  let room = validShare * textBytes;
  for (const i of order) {
    if (sizes[i] > room) continue;
    heldOut.add(i);
    room -= sizes[i];
  }
  if (heldOut.size === 0) heldOut.add(order.reduce((best, i) => (sizes[i] < sizes[best] ? i : best)));
  return { heldOut };
}

/** The second reading. */
async function writeTokens(
  corpus: Corpus,
  tokenizer: Tokenizer,
  survey: Survey,
  plan: SplitPlan,
  writers: Record<Part, ShardWriter>,
  { signal, onProgress }: TokenizeOptions,
): Promise<void> {
  let document = -1;
  let id: string | undefined;
  let done = 0; // bytes of text
  let part: Part = "train";
  const endDocument = () => {
    if (id !== undefined && tokenizer.eosId !== undefined) writers[part].add([tokenizer.eosId], 0);
  };
  const write = (text: string) => writers[part].add(tokenizer.encode(text), Buffer.byteLength(text));
  for await (const piece of corpus.documents()) {
    throwIfAborted(signal);
    if (piece.id !== id) {
      endDocument();
      ({ id } = piece);
      document++;
    }
    const bytes = Buffer.byteLength(piece.text);
    if ("heldOut" in plan) {
      part = plan.heldOut.has(document) ? "valid" : "train";
      write(piece.text);
    } else {
      const [before, after] = cutAtByte(piece.text, plan.cut - done);
      if (before !== "") write(before);
      if (after !== "") {
        part = "valid";
        write(after);
      }
    }
    done += bytes;
    onProgress?.({ task: "tokenising", done, total: survey.textBytes, unit: "bytes" });
  }
  endDocument();
  if (done !== survey.textBytes || document + 1 !== survey.sizes.length) {
    throw new RunError(`The text ${corpus.name} changed while it was being tokenised; run it again.`);
  }
}

/** Two parts of `text`, the first of `bytes` bytes or, not to cut a character, up to three fewer. */
function cutAtByte(text: string, bytes: number): [before: string, after: string] {
  const data = Buffer.from(text);
  if (bytes >= data.length) return [text, ""];
  let cut = Math.max(0, bytes);
  while (cut > 0 && (data[cut] & 0xc0) === 0x80) cut--;
  return [data.toString("utf8", 0, cut), data.toString("utf8", cut)];
}

async function prepareFolder(dir: string): Promise<void> {
  await mkdir(dir, { recursive: true });
  // The index goes first: without it, what is left is nothing.
  await rm(join(dir, "index.json"), { force: true });
  for (const file of await readdir(dir)) {
    if (/^(train|valid)-\d{5}\.bin$/.test(file)) await rm(join(dir, file));
  }
}

/** The index of a folder that is whole; undefined if there is none, or it is of another format or damaged. */
function readIndex(dir: string): Index | undefined {
  try {
    const index = JSON.parse(readFileSync(join(dir, "index.json"), "utf8")) as Index;
    if (index.format !== FORMAT) return undefined;
    for (const part of PARTS) {
      const { tokens } = index[part];
      for (let shard = 0; shard * index.tokensPerShard < tokens; shard++) {
        const expected = Math.min(index.tokensPerShard, tokens - shard * index.tokensPerShard);
        if (statSync(shardFile(dir, part, shard)).size !== expected * index.bytesPerToken) return undefined;
      }
    }
    return index;
  } catch {
    return undefined; // whatever is missing, the answer is to write the folder anew
  }
}

function openDataset(dir: string, index: Index): TokenDataset {
  return {
    vocabSize: index.tokenizer.vocabSize,
    train: new DiskSplit(dir, "train", index),
    valid: new DiskSplit(dir, "valid", index),
    name: index.corpus.name,
    hash: index.hash,
  };
}

function shardFile(dir: string, part: Part, shard: number): string {
  return join(dir, `${part}-${String(shard).padStart(5, "0")}.bin`);
}

function sha256(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}

/** Appends ids to the shards of one part. */
class ShardWriter {
  tokens = 0;
  textBytes = 0;
  readonly #dir: string;
  readonly #part: Part;
  readonly #bytesPerToken: 2 | 4;
  readonly #tokensPerShard: number;
  #shard = -1;
  #file: number | undefined;
  #room = 0; // tokens that the open shard can still take

  constructor(dir: string, part: Part, bytesPerToken: 2 | 4, tokensPerShard: number) {
    this.#dir = dir;
    this.#part = part;
    this.#bytesPerToken = bytesPerToken;
    this.#tokensPerShard = tokensPerShard;
  }

  /** @param textBytes bytes of text that the ids stand for */
  add(ids: ArrayLike<number>, textBytes: number): void {
    const data = this.#bytesPerToken === 2 ? Uint16Array.from(ids) : Uint32Array.from(ids);
    for (let at = 0; at < data.length; ) {
      if (this.#room === 0) this.#nextShard();
      const count = Math.min(this.#room, data.length - at);
      writeFully(
        this.#file!,
        new Uint8Array(data.buffer, at * this.#bytesPerToken, count * this.#bytesPerToken),
      );
      at += count;
      this.#room -= count;
    }
    this.tokens += data.length;
    this.textBytes += textBytes;
  }

  close(): void {
    if (this.#file !== undefined) closeSync(this.#file);
    this.#file = undefined;
  }

  #nextShard(): void {
    this.close();
    this.#file = openSync(shardFile(this.#dir, this.#part, ++this.#shard), "w");
    this.#room = this.#tokensPerShard;
  }
}

/** `writeSync` may write less than it was given. */
function writeFully(file: number, data: Uint8Array): void {
  for (let at = 0; at < data.length; ) at += writeSync(file, data, at);
}

/** Reads ids from the shards of one part. The file of the last read stays open as long as the process lives. */
class DiskSplit implements TokenSplit {
  readonly length: number;
  readonly textBytes: number;
  readonly #dir: string;
  readonly #part: Part;
  readonly #bytesPerToken: 2 | 4;
  readonly #tokensPerShard: number;
  #open: { shard: number; file: number } | undefined;

  constructor(dir: string, part: Part, index: Index) {
    this.length = index[part].tokens;
    this.textBytes = index[part].textBytes;
    this.#dir = dir;
    this.#part = part;
    this.#bytesPerToken = index.bytesPerToken;
    this.#tokensPerShard = index.tokensPerShard;
  }

  read(start: number, count: number): Uint32Array {
    checkRange(start, count, this.length);
    const data = this.#bytesPerToken === 2 ? new Uint16Array(count) : new Uint32Array(count);
    for (let at = 0; at < count; ) {
      const shard = Math.floor((start + at) / this.#tokensPerShard);
      const first = start + at - shard * this.#tokensPerShard;
      const tokens = Math.min(count - at, this.#tokensPerShard - first);
      this.#readShard(shard, first, data.subarray(at, at + tokens));
      at += tokens;
    }
    return Uint32Array.from(data);
  }

  #readShard(shard: number, first: number, into: Uint16Array | Uint32Array): void {
    const path = shardFile(this.#dir, this.#part, shard);
    if (this.#open?.shard !== shard) {
      if (this.#open !== undefined) closeSync(this.#open.file);
      this.#open = undefined;
      this.#open = { shard, file: openSync(path, "r") };
    }
    const bytes = new Uint8Array(into.buffer, into.byteOffset, into.byteLength);
    for (let at = 0; at < bytes.length; ) {
      const read = readSync(this.#open.file, bytes, at, bytes.length - at, first * this.#bytesPerToken + at);
      if (read === 0) throw new RunError(`${path} is shorter than its index.json says; delete the folder.`);
      at += read;
    }
  }
}
