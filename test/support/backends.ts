// The backends that a test runs on: the reference, and every instruction level of this machine.

import type { Backend } from "../../src/backends/backend.ts";
import { cpuLevels, openBackend } from "../../src/backends/cpu.ts";
import { ReferenceBackend } from "../../src/backends/reference.ts";

export interface NamedBackend {
  name: string;
  open(): Backend;
}

export const allBackends: NamedBackend[] = [
  { name: "reference", open: () => new ReferenceBackend() },
  ...cpuLevels().map((level) => ({ name: `cpu ${level}`, open: () => openBackend({ level, threads: 2 }) })),
];

/** The fastest backend here; tests that train use it. */
export const bestBackend = (): Backend =>
  cpuLevels().length > 0 ? openBackend({ threads: 2 }) : new ReferenceBackend();

/** Largest difference between two arrays, absolute. */
export function maxDifference(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length < expected.length)
    throw new Error(`${actual.length} values instead of ${expected.length}`);
  let worst = 0;
  for (let i = 0; i < expected.length; i++) {
    const difference = Math.abs(actual[i] - expected[i]);
    worst = Number.isNaN(difference) ? Number.POSITIVE_INFINITY : Math.max(worst, difference);
  }
  return worst;
}

/** Largest absolute value. */
export function maxAbs(values: ArrayLike<number>): number {
  let worst = 0;
  for (let i = 0; i < values.length; i++) worst = Math.max(worst, Math.abs(values[i]));
  return worst;
}
