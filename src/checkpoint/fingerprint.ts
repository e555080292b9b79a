// Whether a model folder holds the weights that it held before, without reading them all.

import { createHash, type Hash } from "node:crypto";
import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { TensorFiles } from "./tensorFiles.ts";

const SAMPLE_BYTES = 4096;
const SAMPLES = 256;

/**
 * A hash of the weight files' lengths and of samples all over them: weights of another training differ everywhere, and
 * large files would take long to read. @throws as `TensorFiles.open`.
 */
export function fingerprintOf(folder: string): string {
  const opened = TensorFiles.open(folder);
  opened.close();
  const hash = createHash("sha256");
  for (const { path } of opened.files) hashSamples(hash, path);
  return hash.digest("hex");
}

function hashSamples(hash: Hash, path: string): void {
  const file = openSync(path, "r");
  try {
    const { size } = fstatSync(file);
    hash.update(String(size));
    const sample = new Uint8Array(SAMPLE_BYTES);
    for (let i = 0; i < SAMPLES; i++) {
      const count = readSync(file, sample, 0, sample.length, Math.floor((size * i) / SAMPLES));
      hash.update(sample.subarray(0, count));
    }
  } finally {
    closeSync(file);
  }
}
