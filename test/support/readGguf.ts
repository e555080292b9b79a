// A small reader of GGUF files for tests: what the format's description says, and nothing of this project.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

/** Key-values and tensors; `start` is where the tensors' data begin. */
export function readGguf(path: string) {
  const bytes = readFileSync(path);
  let at = 0;
  /** Moves on, and says from where. */
  const take = (length: number) => {
    at += length;
    return at - length;
  };
  const u32 = () => bytes.readUInt32LE(take(4));
  const u64 = () => Number(bytes.readBigUInt64LE(take(8)));
  const text = () => {
    const length = u64();
    const from = take(length);
    return bytes.toString("utf8", from, from + length);
  };
  const value = (type: number): unknown => {
    if (type === 4) return u32();
    if (type === 5) return bytes.readInt32LE(take(4));
    if (type === 6) return bytes.readFloatLE(take(4));
    if (type === 7) return bytes[take(1)] === 1;
    if (type === 8) return text();
    assert.equal(type, 9);
    const [inner, count] = [u32(), u64()];
    return Array.from({ length: count }, () => value(inner));
  };
  assert.equal(bytes.toString("latin1", 0, 4), "GGUF");
  at = 4;
  assert.equal(u32(), 3);
  const [tensorCount, keyCount] = [u64(), u64()];
  const metadata = new Map(Array.from({ length: keyCount }, () => [text(), value(u32())] as const));
  const tensors = Array.from({ length: tensorCount }, () => {
    const name = text();
    const dims = Array.from({ length: u32() }, u64);
    return { name, dims, type: u32(), offset: u64() };
  });
  const start = Math.ceil(at / 32) * 32;
  return { bytes, metadata, tensors, start };
}
