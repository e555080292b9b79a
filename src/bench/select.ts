// Times the selection of neurons alone: the kernel neuronTopK for K < F against the same kernel with K = F, which selects
// nothing; against the three products of the expert it belongs to; and against sorting in JavaScript, the naive floor.

import type { Backend, DeviceBuffer } from "../backends/backend.ts";
import { activations } from "../kernels/activation.ts";
import { linear } from "../kernels/linear.ts";
import { neuronTopK } from "../kernels/neuronTopK.ts";
import { RandomStream } from "../random.ts";
import { type Spread, secondsPerCall, spreadOf, takeTurns } from "./measure.ts";
import { type BenchOptions, type Envelope, inSession, type Session } from "./result.ts";

export interface SelectBenchOptions extends BenchOptions {
  /** F of the rows; default: 256 to 4096. */
  readonly widths?: readonly number[];
  /** Rows of a call. Default 1024. */
  readonly rows?: number;
}

export interface SelectCase {
  /** F. */
  readonly width: number;
  readonly kept: number;
  readonly rows: number;
  /** Of the whole kernel: activation, selection, product with up. */
  readonly microsecondsPerRow: Spread;
  /** What remains without the time of K = F, in which nothing is selected; 0 where noise is larger. */
  readonly selectionPerRow: Spread;
  readonly nanosecondsPerNeuron: number;
  /** Selection relative to gate, up and down products of a square expert (D = F) in the better type. */
  readonly shareOfProducts: number;
  /** Sorting the indices of a row by magnitude in JavaScript, one thread. */
  readonly sortedPerRow: Spread;
}

export interface SelectBench extends Envelope<"select"> {
  readonly dtype: "f32" | "bf16";
  readonly cases: readonly SelectCase[];
}

export function benchSelect(options: SelectBenchOptions = {}): Promise<SelectBench> {
  const { quick = false } = options;
  const widths = options.widths ?? (quick ? [64, 96] : [256, 512, 1024, 1408, 2048, 4096]);
  const rows = options.rows ?? (quick ? 4 : 1024);
  return inSession("select", options, async (session) => {
    const cases: SelectCase[] = [];
    for (const width of widths) cases.push(...(await timeWidth(session, width, rows)));
    const { envelope } = await session.settle();
    return { ...envelope, dtype: session.backend.nativeBf16 ? "bf16" : "f32", cases };
  });
}

async function timeWidth(
  { backend, turns, envelope }: Session<"select">,
  width: number,
  rows: number,
): Promise<SelectCase[]> {
  const seconds = envelope.quick ? 0.001 : 0.1;
  const gates = new Float32Array(rows * width);
  new RandomStream(1, "bench select").fillNormal(gates);
  const kernel = new SelectionKernel(backend, gates, width, rows);
  const products = new ProductKernels(backend, width, rows);
  const kepts = [1, 1 / 2, 1 / 4, 1 / 8].map((share) => Math.max(1, Math.round(width * share)));
  const sortedRows = Math.min(rows, 16);
  try {
    const contenders = [
      ...kepts.map((kept) => ({
        name: `F ${width}, K ${kept}`,
        run: () =>
          secondsPerCall(
            () => kernel.run(kept),
            () => kernel.finish(),
            seconds,
          ),
      })),
      {
        name: `F ${width}, products`,
        run: () =>
          secondsPerCall(
            () => products.run(),
            () => products.finish(),
            seconds,
          ),
      },
      {
        name: `F ${width}, sorting in JavaScript`,
        run: () =>
          secondsPerCall(
            () => sortRows(gates, width, sortedRows),
            async () => {},
            seconds,
          ),
      },
    ];
    const times = await takeTurns(contenders, turns);
    const [all, product, sorted] = [times[0], times[kepts.length], times[kepts.length + 1]];
    const perRow = (values: readonly number[], count: number) =>
      spreadOf(values.map((value) => (value / count) * 1e6));
    return kepts.slice(1).map((kept, i) => {
      const added = times[i + 1].map((time, round) => Math.max(0, time - all[round]));
      const selectionPerRow = perRow(added, rows);
      return {
        width,
        kept,
        rows,
        microsecondsPerRow: perRow(times[i + 1], rows),
        selectionPerRow,
        nanosecondsPerNeuron: (selectionPerRow.median * 1000) / width,
        shareOfProducts: selectionPerRow.median / perRow(product, rows).median,
        sortedPerRow: perRow(sorted, sortedRows),
      };
    });
  } finally {
    kernel.close();
    products.close();
  }
}

/** Indices of each row by magnitude, as somebody would write it at first. */
function sortRows(gates: Float32Array, width: number, rows: number): void {
  for (let r = 0; r < rows; r++) {
    const sizes = gates
      .subarray(r * width, (r + 1) * width)
      .map((gate) => Math.abs(gate / (1 + Math.exp(-gate))));
    Array.from(sizes.keys()).sort((a, b) => sizes[b] - sizes[a] || a - b);
  }
}

class SelectionKernel {
  readonly #backend: Backend;
  readonly #buffers: Record<keyof typeof neuronTopK.buffers, DeviceBuffer>;
  readonly #shape: { rows: number; width: number };

  constructor(backend: Backend, gates: Float32Array, width: number, rows: number) {
    this.#backend = backend;
    this.#shape = { rows, width };
    const sizes = neuronTopK.sizes(this.#params(width));
    const allocate = (name: keyof typeof sizes, dtype: "f32" | "u32") => backend.allocate(dtype, sizes[name]);
    this.#buffers = {
      gate: allocate("gate", "f32"),
      up: allocate("up", "f32"),
      weights: allocate("weights", "f32"),
      slotOfRow: allocate("slotOfRow", "u32"),
      offsets: allocate("offsets", "u32"),
      hidden: allocate("hidden", "f32"),
      keep: allocate("keep", "u32"),
      usage: allocate("usage", "u32"),
      scores: allocate("scores", "f32"),
    };
    backend.write(this.#buffers.gate, gates);
    backend.write(this.#buffers.up, gates);
  }

  #params(kept: number) {
    const none = { weighted: 0, scored: 0, groups: 0, normalise: 0, masked: 0 };
    return { ...this.#shape, ...none, kept, activation: activations.silu };
  }

  run(kept: number): void {
    this.#backend.run(neuronTopK, this.#buffers, this.#params(kept));
  }

  async finish(): Promise<void> {
    await this.#backend.read(this.#buffers.hidden, 0, 1);
  }

  close(): void {
    for (const buffer of Object.values(this.#buffers)) this.#backend.free(buffer);
  }
}

/** Three products of a square expert. */
class ProductKernels {
  readonly #backend: Backend;
  readonly #buffers: { x: DeviceBuffer; w: DeviceBuffer; y: DeviceBuffer };
  readonly #params: { m: number; n: number; k: number; accumulate: number; bf16: number };

  constructor(backend: Backend, width: number, rows: number) {
    this.#backend = backend;
    const allocate = (length: number) => backend.allocate("f32", length);
    this.#buffers = { x: allocate(rows * width), w: allocate(width * width), y: allocate(rows * width) };
    this.#params = { m: rows, n: width, k: width, accumulate: 0, bf16: backend.nativeBf16 ? 1 : 0 };
  }

  run(): void {
    for (let i = 0; i < 3; i++) this.#backend.run(linear, this.#buffers, this.#params);
  }

  async finish(): Promise<void> {
    await this.#backend.read(this.#buffers.y, 0, 1);
  }

  close(): void {
    for (const buffer of Object.values(this.#buffers)) this.#backend.free(buffer);
  }
}
