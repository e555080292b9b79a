// The selection of neurons alone, per row: against keeping all (the activation and the product with up are needed in any
// case), and against sorting, the naive way.

import type { Backend } from "../backends/backend.ts";
import { openBackend } from "../backends/cpu.ts";
import { throwIfAborted } from "../errors.ts";
import { RandomStream } from "../random.ts";
import { neuronTopK } from "../tensor/ops.ts";
import { Tape } from "../tensor/tape.ts";
import { describeMachine, type MachineDescription, median } from "./machine.ts";

export interface SelectBenchOptions {
  readonly widths?: readonly number[];
  readonly shares?: readonly number[];
  readonly rounds?: number;
  readonly threads?: number;
  readonly backend?: Backend;
  readonly signal?: AbortSignal;
  readonly announce?: (line: string) => void;
}

export interface SelectTiming {
  readonly width: number;
  readonly kept: number;
  /** Microseconds a row: activation, selection, product with up. */
  readonly microseconds: number;
  /** More than with K = F: the selection itself. */
  readonly selection: number;
  /** Sorting the magnitudes of one row in JavaScript. */
  readonly sorting: number;
}

export interface SelectBench {
  readonly machine: MachineDescription;
  readonly timings: readonly SelectTiming[];
}

const NUMBERS_A_CALL = 1 << 20;

export async function benchSelect(options: SelectBenchOptions = {}): Promise<SelectBench> {
  const { widths = [256, 512, 1024, 1408, 2048], shares = [1, 1 / 2, 1 / 4, 1 / 8], rounds = 5 } = options;
  const backend = options.backend ?? openBackend({ threads: options.threads }, options.announce);
  try {
    const timings: SelectTiming[] = [];
    for (const width of widths) {
      const rows = Math.max(1, Math.floor(NUMBERS_A_CALL / width));
      const values = new Float32Array(rows * width);
      new RandomStream(1, "bench select").fillNormal(values);
      const tape = new Tape(backend, { recording: false });
      const [gate, up] = [tape.constant(values, [rows, width]), tape.constant(values, [rows, width])];
      const kept = shares.map((share) => Math.max(1, Math.round(share * width)));
      const times = kept.map(() => [] as number[]);
      for (let round = 0; round < 4 * rounds; round++) {
        for (const [i, K] of kept.entries()) {
          throwIfAborted(options.signal);
          const inner = new Tape(backend, { recording: false });
          const start = performance.now();
          neuronTopK(inner, gate, up, { kept: K, activation: "silu" });
          await backend.read(gate.buffer, 0, 1);
          times[i].push(((performance.now() - start) * 1000) / rows);
          inner.release();
        }
      }
      const sorting = timeSorting(values.subarray(0, 20 * width), width);
      const all = median(times[0]);
      for (const [i, K] of kept.entries()) {
        const microseconds = median(times[i]);
        timings.push({ width, kept: K, microseconds, selection: microseconds - all, sorting });
      }
      tape.release();
    }
    return { machine: describeMachine(backend), timings };
  } finally {
    if (!options.backend) backend.close();
  }
}

/** Microseconds a row. */
function timeSorting(values: Float32Array, width: number): number {
  const rows = Math.floor(values.length / width);
  const start = performance.now();
  for (let r = 0; r < rows; r++)
    values
      .slice(r * width, (r + 1) * width)
      .map(Math.abs)
      .sort();
  return ((performance.now() - start) * 1000) / rows;
}
