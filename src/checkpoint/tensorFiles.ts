// The tensors of a model folder as one thing: model.safetensors, or the shards that model.safetensors.index.json lists
// (the form transformers writes: {"metadata": {...}, "weight_map": {tensor: file in the same folder}}). A single file
// wins where both are there, as in transformers. The index comes from strangers like the files: it is checked against
// what the shards hold before anything is read. Not here: what the tensors mean (modelFolder.ts).

import { closeSync, constants, existsSync, fstatSync, openSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { quote, RunError } from "../errors.ts";
import { errorCode } from "./atomic.ts";
import { SafetensorsFile, type TensorInfo } from "./safetensors.ts";
import { isObject, parseStrictJson } from "./strictJson.ts";

export const SINGLE_FILE = "model.safetensors";
export const INDEX_FILE = "model.safetensors.index.json";

/** Like the limit on a file's header, of which the index is an extract. */
const MAX_INDEX_BYTES = 100_000_000;
/** Metadata are anything; the rest is an object in an object. */
const MAX_INDEX_NESTING = 16;
const MAX_SHARDS = 10_000;

/** A tensor and the path of the file that holds it. */
export interface PlacedTensor extends TensorInfo {
  readonly file: string;
}

/** Whether a folder has tensors to open. */
export function hasTensors(folder: string): boolean {
  return existsSync(join(folder, SINGLE_FILE)) || existsSync(join(folder, INDEX_FILE));
}

/** A reading of tensors by name that remembers the last one: parts of a tensor are asked for one after the other. */
export function rememberLast<Values>(read: (name: string) => Values): (name: string) => Values {
  let last: { name: string; values: Values } | undefined;
  return (name) => {
    if (last?.name !== name) last = { name, values: read(name) };
    return last.values;
  };
}

/** Open files; tensors are read from disk when asked for. */
export class TensorFiles {
  /** What says which tensors there are: the single file, or the index. */
  readonly path: string;
  readonly files: readonly SafetensorsFile[];
  /** File by file, in the order of their data. */
  readonly tensors: ReadonlyMap<string, PlacedTensor>;
  /** Of all files. */
  readonly bytes: number;
  readonly #owners = new Map<string, SafetensorsFile>();

  private constructor(path: string, files: readonly SafetensorsFile[]) {
    this.path = path;
    this.files = files;
    this.bytes = files.reduce((sum, file) => sum + file.bytes, 0);
    const tensors = new Map<string, PlacedTensor>();
    for (const file of files) {
      for (const [name, info] of file.tensors) {
        const earlier = this.#owners.get(name);
        if (earlier)
          throw new RunError(`tensor ${quote(name)} is in both ${earlier.path} and ${file.path}: ${AGAIN}`);
        this.#owners.set(name, file);
        tensors.set(name, { ...info, file: file.path });
      }
    }
    this.tensors = tensors;
  }

  /**
   * Opens the tensors of a folder. Every shard is opened and its header checked.
   * @throws RunError naming file and tensor, if a file is missing or damaged or the index does not fit the shards.
   */
  static open(folder: string): TensorFiles {
    const single = join(folder, SINGLE_FILE);
    const index = join(folder, INDEX_FILE);
    const sharded = !existsSync(single) && existsSync(index);
    const places = sharded ? readWeightMap(index) : undefined;
    const files: SafetensorsFile[] = [];
    try {
      if (!places) files.push(SafetensorsFile.open(single));
      else {
        for (const shard of [...new Set(places.values())].sort()) files.push(openShard(folder, shard, index));
      }
      const all = new TensorFiles(sharded ? index : single, files);
      if (places) all.#checkAgainst(places, folder);
      return all;
    } catch (error) {
      for (const file of files) file.close();
      throw error;
    }
  }

  /** A tensor's bytes, in a buffer of their own. @throws RunError if there is no such tensor. */
  readBytes(name: string): Uint8Array<ArrayBuffer> {
    return this.#owner(name).readBytes(name);
  }

  /** As `SafetensorsFile.readInto`. */
  readInto(name: string, target: Uint8Array<ArrayBuffer>, offset = 0): Uint8Array<ArrayBuffer> {
    return this.#owner(name).readInto(name, target, offset);
  }

  /** A tensor of floats as f32. @throws RunError if there is no such tensor, or its type is not F64, F32, F16 or BF16. */
  readFloat32(name: string): Float32Array<ArrayBuffer> {
    return this.#owner(name).readFloat32(name);
  }

  /** What a part of a tensor (`findPart` of tensorNames.ts) is among the values of the whole one: a view of them. */
  partOf<Values extends Float32Array | Uint16Array>(values: Values, part: PlacedTensor): Values {
    const whole = this.tensors.get(part.name) ?? part;
    const size = (whole.end - whole.begin) / values.length;
    const [first, last] = [part.begin, part.end].map((at) => (at - whole.begin) / size);
    return values.subarray(first, last) as Values;
  }

  /** Closes all files; closing twice is harmless. */
  close(): void {
    for (const file of this.files) file.close();
  }

  #owner(name: string): SafetensorsFile {
    const file = this.#owners.get(name);
    if (!file) throw new RunError(`${this.path} has no tensor ${quote(name)}`);
    return file;
  }

  /** The index and the shards must name the same tensors in the same places. */
  #checkAgainst(places: ReadonlyMap<string, string>, folder: string): void {
    for (const [name, shard] of places) {
      const found = this.tensors.get(name)?.file;
      if (found === join(folder, shard)) continue;
      const where = found === undefined ? "but it is not there" : `but it is in ${found}`;
      throw new RunError(
        `${this.path} says that ${quote(shard)} holds tensor ${quote(name)}, ${where}: ${AGAIN}`,
      );
    }
    for (const { name, file } of this.tensors.values()) {
      if (places.has(name)) continue;
      throw new RunError(`${file} holds tensor ${quote(name)}, which ${this.path} does not list: ${AGAIN}`);
    }
  }
}

const AGAIN = "download or copy the model again";

/** Tensor names to file names of the same folder. */
function readWeightMap(path: string): Map<string, string> {
  const bad = (problem: string) => new RunError(`${path} ${problem}: ${AGAIN}`);
  const { value, problem } = parseStrictJson(readSmallFile(path, MAX_INDEX_BYTES), MAX_INDEX_NESTING);
  if (problem !== undefined) throw bad(problem);
  const map = isObject(value) ? value.weight_map : undefined;
  if (!isObject(map)) throw bad("is no index of shards (it has no weight_map)");
  const places = new Map<string, string>();
  const shards = new Set<string>();
  for (const [name, file] of Object.entries(map)) {
    if (typeof file !== "string") throw bad(`gives ${quote(file)} as the file of tensor ${quote(name)}`);
    if (!isShardName(file)) {
      throw bad(
        `places tensor ${quote(name)} in ${quote(file)}, which is no .safetensors file of this folder`,
      );
    }
    places.set(name, file);
    if (shards.add(file).size > MAX_SHARDS) throw bad(`lists more than ${MAX_SHARDS} files`);
  }
  if (places.size === 0) throw bad("lists no tensors");
  return places;
}

/** The names of an index's shards, sorted. @throws RunError as `TensorFiles.open`. */
export function shardNames(indexPath: string): string[] {
  return [...new Set(readWeightMap(indexPath).values())].sort();
}

/** Whether a name stays in its folder on every system; links are followed, as caches of downloads consist of them. */
function isShardName(name: string): boolean {
  return /^[^/\\:\p{Cc}]{1,240}\.safetensors$/u.test(name) && !name.startsWith(".");
}

function openShard(folder: string, shard: string, index: string): SafetensorsFile {
  const path = join(folder, shard);
  if (!existsSync(path)) throw new RunError(`${path} is missing, which ${index} lists: ${AGAIN}`);
  return SafetensorsFile.open(path);
}

/** A file that may be anything on disk: a pipe is not waited for, a huge file not read. */
function readSmallFile(path: string, limit: number): Uint8Array {
  let descriptor: number | undefined;
  try {
    descriptor = openSync(path, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0));
    const status = fstatSync(descriptor);
    if (!status.isFile()) throw new RunError(`${path} is not a file: ${AGAIN}`);
    if (status.size > limit) throw new RunError(`${path} is longer than ${limit} bytes: ${AGAIN}`);
    return readFileSync(descriptor);
  } catch (error) {
    if (error instanceof RunError) throw error;
    throw new RunError(`cannot read ${path} (${errorCode(error)}): ${AGAIN}`, { cause: error });
  } finally {
    if (descriptor !== undefined) closeSync(descriptor);
  }
}
