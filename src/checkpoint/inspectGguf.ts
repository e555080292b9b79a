// What is in a GGUF file, of any architecture and quantisation: its keys in brief and its tensors, those of all layers
// together. Only the header is read.

import { sizeOf } from "../tensor/tensor.ts";
import { type GgufEntry, GgufFile } from "./ggufReader.ts";

/** Tensors of one name, type and shape over all layers. */
export interface GgufSummary {
  /** With `*` for the number of the layer. */
  readonly name: string;
  readonly type: string;
  /** Outermost first. */
  readonly shape: readonly number[];
  tensors: number;
  parameters: number;
  bytes: number;
}

export interface GgufInspection {
  readonly path: string;
  readonly version: number;
  /** Of the file. */
  readonly bytes: number;
  /** By key: numbers and truth values; short texts; lists as e.g. "512 texts". */
  readonly keys: Readonly<Record<string, number | boolean | string>>;
  readonly tensors: readonly GgufSummary[];
  readonly parameters: number;
}

/** @throws RunError if the file cannot be read or is damaged. */
export function inspectGguf(path: string): GgufInspection {
  const file = GgufFile.open(path);
  try {
    const keys = [...file.entries].map(([key, entry]) => [key, brief(file, key, entry)] as const);
    const summaries = new Map<string, GgufSummary>();
    let parameters = 0;
    for (const { name: full, type, shape, begin, end } of file.tensors.values()) {
      const name = full.replace(/^blk\.\d+\./, "blk.*.");
      const group = `${name} ${type.name} ${shape}`;
      const found = summaries.get(group) ?? {
        name,
        type: type.name,
        shape,
        tensors: 0,
        parameters: 0,
        bytes: 0,
      };
      summaries.set(group, found);
      found.tensors++;
      found.parameters += sizeOf(shape);
      found.bytes += end - begin;
      parameters += sizeOf(shape);
    }
    const { version, bytes } = file;
    return {
      path,
      version,
      bytes,
      keys: Object.fromEntries(keys),
      tensors: [...summaries.values()],
      parameters,
    };
  } finally {
    file.close();
  }
}

/** Longer texts, templates most of all, are told by their length. */
const SHOWN_BYTES = 200;

function brief(file: GgufFile, key: string, entry: GgufEntry): number | boolean | string {
  if (typeof entry === "bigint") return Number(entry);
  if (typeof entry !== "object") return entry;
  if (entry.kind !== "text") return `${entry.count} ${entry.kind}`;
  return entry.count > SHOWN_BYTES ? `a text of ${entry.count} bytes` : (file.text(key) ?? "");
}
