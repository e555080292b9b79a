// Times the experts of one layer as decoding reads them: one token, its A experts, weights that come from memory since all
// experts together are far larger than the caches. What K < F gains is the ratio to K = F of the same round.

import type { Backend, DeviceBuffer } from "../backends/backend.ts";
import { activations } from "../kernels/activation.ts";
import { fill } from "../kernels/elementwise.ts";
import { expertInputSizes, neuronExpertsBf16, neuronExpertsInt8 } from "../kernels/neuronExperts.ts";
import { keepWords } from "../kernels/neuronTopK.ts";
import { probeRead } from "../kernels/probe.ts";
import { RandomStream } from "../random.ts";
import { ratioOf, type Spread, secondsPerCall, spreadOf, takeTurns } from "./measure.ts";
import type { Session } from "./result.ts";

export type StoredDtype = "bf16" | "int8";

/** D, F, A, and E: how many experts there are to read from. */
export interface StoredShape {
  readonly width: number;
  readonly neurons: number;
  readonly active: number;
  readonly experts: number;
}

export interface StoredLayerCase extends StoredShape {
  readonly dtype: StoredDtype;
  readonly kept: number;
  readonly seconds: Spread;
  /** Weights read by a call: the gate whole, K rows of up and of down, of A experts. */
  readonly bytes: number;
  readonly gigabytesPerSecond: number;
  /**
   * Of the rate at which plain reads of memory go, which take their turn in each round: on shared machines that rate changes
   * from one minute to the next.
   */
  readonly shareOfRead: Spread;
  /** How many times as fast as K = F, round by round. */
  readonly speedup: Spread;
}

/** Both forms of the weights; plain reads, K = F, F/2, F/4 and F/8 by turns. */
export async function timeStoredLayers(
  { backend, turns, envelope }: Session<"layer">,
  shape: Omit<StoredShape, "experts">,
): Promise<StoredLayerCase[]> {
  const cases: StoredLayerCase[] = [];
  for (const dtype of ["bf16", "int8"] as const) {
    const bytesOfExpert = 3 * shape.neurons * shape.width * bytesOf(dtype);
    const bytes = envelope.quick ? 0 : 1.5 * 2 ** 30;
    const calls = Math.max(2, Math.ceil(bytes / bytesOfExpert / shape.active));
    const layer = new StoredLayer(backend, { ...shape, experts: calls * shape.active }, dtype);
    try {
      cases.push(...(await timeLayer(layer, turns, envelope.quick ? 0.001 : 0.5)));
    } finally {
      layer.close();
    }
  }
  return cases;
}

async function timeLayer(
  layer: StoredLayer,
  turns: Session<"layer">["turns"],
  seconds: number,
): Promise<StoredLayerCase[]> {
  const { shape, dtype } = layer;
  const { width, neurons, active } = shape;
  const kepts = [1, 1 / 2, 1 / 4, 1 / 8].map((share) => Math.max(1, Math.round(neurons * share)));
  const contender = (name: string, call: () => void) => ({
    name: `experts from memory, ${dtype}, ${name}`,
    run: () => secondsPerCall(call, () => layer.finish(), seconds),
  });
  const [reads, ...times] = await takeTurns(
    [
      contender("plain reads", () => layer.read()),
      ...kepts.map((kept) => contender(`K ${kept}`, () => layer.run(kept))),
    ],
    turns,
  );
  return kepts.map((kept, i) => {
    const spread = spreadOf(times[i]);
    const rows = active * (neurons + 2 * kept);
    const bytes = rows * (width * bytesOf(dtype) + (dtype === "int8" ? 4 : 0));
    return {
      ...shape,
      dtype,
      kept,
      seconds: spread,
      bytes,
      gigabytesPerSecond: bytes / spread.median / 1e9,
      shareOfRead: ratioOf(
        times[i].map((time) => bytes / time),
        reads.map((time) => layer.readBytes / time),
      ),
      speedup: ratioOf(times[0], times[i]),
    };
  });
}

const bytesOf = (dtype: StoredDtype) => (dtype === "bf16" ? 2 : 1);

/** Random stored experts; each call gives one token to the next A of them. */
class StoredLayer {
  readonly shape: StoredShape;
  readonly dtype: StoredDtype;
  readonly #backend: Backend;
  readonly #buffers: Record<keyof typeof neuronExpertsBf16.buffers, DeviceBuffer>;
  readonly #plain: { readonly x: DeviceBuffer; readonly total: DeviceBuffer };
  /** Offsets of each call: A experts with one row each, none for the others. */
  readonly #offsets: DeviceBuffer[] = [];
  #calls = 0;

  constructor(backend: Backend, shape: StoredShape, dtype: StoredDtype) {
    const { width, neurons, active, experts } = shape;
    this.shape = shape;
    this.dtype = dtype;
    this.#backend = backend;
    const stored = dtype === "bf16" ? "bf16" : "i8";
    const sizes = expertInputSizes(stored, this.#params(neurons));
    const make = (type: "f32" | "u32" | "bf16" | "i8", length: number) =>
      backend.allocate(type, Math.max(1, length));
    const scales = () => {
      const buffer = make("f32", sizes.gateScales);
      backend.write(buffer, new Float32Array(sizes.gateScales).fill(0.001));
      return buffer;
    };
    this.#buffers = {
      x: make("f32", width),
      weights: make("f32", active),
      slotOfRow: make("u32", active),
      offsets: make("u32", experts + 1),
      places: make("u32", 2 * experts),
      gate: make(stored, sizes.gate),
      up: make(stored, sizes.up),
      down: make(stored, sizes.down),
      gateScales: scales(),
      upScales: scales(),
      downScales: scales(),
      y: make("f32", active * width),
      keep: make("u32", active * keepWords(neurons)),
    };
    this.#plain = { x: make("f32", (sizes.gate * bytesOf(dtype)) / 4), total: make("f32", 1) };
    backend.run(fill, { y: this.#plain.x }, { n: this.#plain.x.length, value: 1 });
    const { x, weights, slotOfRow, places, gate, up, down } = this.#buffers;
    const random = new RandomStream(1, "bench stored layer");
    const row = new Float32Array(width);
    random.fillNormal(row);
    backend.write(x, row);
    backend.write(weights, new Float32Array(active).fill(1 / active));
    backend.write(
      slotOfRow,
      Uint32Array.from({ length: active }, (_, r) => r),
    );
    const each = neurons * width;
    backend.write(
      places,
      Uint32Array.from({ length: 2 * experts }, (_, i) => (i % experts) * each),
    );
    // All experts alike: that they are others is a matter of where they lie.
    const matrix = randomMatrix(random, each, dtype);
    for (const buffer of [gate, up, down])
      for (let e = 0; e < experts; e++) backend.write(buffer, matrix, e * each);
    for (let first = 0; first < experts; first += active) {
      const buffer = make("u32", experts + 1);
      const rowsBefore = (e: number) => Math.min(active, Math.max(0, e - first));
      backend.write(
        buffer,
        Uint32Array.from({ length: experts + 1 }, (_, e) => rowsBefore(e)),
      );
      this.#offsets.push(buffer);
    }
  }

  #params(kept: number) {
    const { width, neurons, active, experts } = this.shape;
    const extent = experts * neurons * width;
    return {
      groups: experts,
      rows: active,
      width,
      neurons,
      kept,
      activation: activations.silu,
      active,
      extent,
    };
  }

  get readBytes(): number {
    return 4 * this.#plain.x.length;
  }

  /** Reads as much memory as the gates of all experts take, and does nothing with it. */
  read(): void {
    this.#backend.run(probeRead, this.#plain, { n: this.#plain.x.length });
  }

  run(kept: number): void {
    const kernel = this.dtype === "bf16" ? neuronExpertsBf16 : neuronExpertsInt8;
    const offsets = this.#offsets[this.#calls++ % this.#offsets.length];
    this.#backend.run(kernel, { ...this.#buffers, offsets }, this.#params(kept));
  }

  async finish(): Promise<void> {
    await this.#backend.read(this.#buffers.y, 0, 1);
  }

  close(): void {
    const all = [...Object.values(this.#buffers), ...Object.values(this.#plain), ...this.#offsets];
    for (const buffer of all) this.#backend.free(buffer);
  }
}

/** Normal numbers: as bf16 of deviation 1/16 or so, as bytes of 30. */
function randomMatrix(random: RandomStream, length: number, dtype: StoredDtype): Uint16Array | Int8Array {
  const values = new Float32Array(length);
  random.fillNormal(values, dtype === "bf16" ? 1 / 16 : 30);
  if (dtype === "int8")
    return Int8Array.from(values, (value) => Math.max(-127, Math.min(127, Math.round(value))));
  const bits = new Uint32Array(values.buffer);
  return Uint16Array.from(bits, (word) => word >>> 16);
}
