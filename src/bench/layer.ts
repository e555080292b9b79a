// One layer of experts alone: what choosing neurons costs while training (forward, and with the backward pass), and what
// it gains where inference reads experts from memory.

import type { Backend, DeviceBuffer } from "../backends/backend.ts";
import { openBackend } from "../backends/cpu.ts";
import { throwIfAborted } from "../errors.ts";
import type { WeightFormat } from "../infer/randomModel.ts";
import { weightTypeOf } from "../infer/randomModel.ts";
import { toBf16 } from "../kernels/kernel.ts";
import { scalesFor } from "../kernels/stored.ts";
import { mixtureLayer } from "../mone/layer.ts";
import { RandomStream } from "../random.ts";
import { combine, neuronExperts, type StoredExperts } from "../tensor/ops.ts";
import { Tape } from "../tensor/tape.ts";
import { Parameter, StoredTensor, sizeOf, Tensor } from "../tensor/tensor.ts";
import {
  describeMachine,
  LimitProbe,
  type MachineDescription,
  type MachineLimits,
  median,
} from "./machine.ts";

/** Sizes of a layer. */
export interface LayerShape {
  readonly tokens: number;
  readonly width: number;
  readonly experts: number;
  readonly active: number;
  readonly neurons: number;
}

export interface LayerBenchOptions {
  readonly shape?: Partial<LayerShape>;
  /** Shares of the neurons that are kept; the first is the base of ratios. Default 1, 1/2, 1/4, 1/8, 1/16. */
  readonly shares?: readonly number[];
  readonly rounds?: number;
  readonly threads?: number;
  readonly backend?: Backend;
  /** Memory that experts in inference are spread over, far more than caches hold. */
  readonly memoryBytes?: number;
  readonly signal?: AbortSignal;
  readonly onStep?: (done: number, total: number, what: string) => void;
  readonly announce?: (line: string) => void;
}

export interface TrainedLayerTiming {
  readonly kept: number;
  /** Milliseconds, without the balance loss of neurons. */
  readonly forward: number;
  readonly both: number;
  /** Against the first K. */
  readonly forwardRatio: number;
  readonly bothRatio: number;
}

export interface StoredLayerTiming {
  readonly dtype: WeightFormat;
  readonly kept: number;
  /** One token, all its experts: microseconds. */
  readonly microseconds: number;
  readonly gigabytesPerSecond: number;
  readonly bandwidthShare: number;
  readonly speedup: number;
  /** What reading only the kept rows could gain: 3 / (1 + 2 K / F). */
  readonly ideal: number;
}

export interface LayerBench {
  readonly machine: MachineDescription;
  readonly limits: MachineLimits;
  readonly shape: LayerShape;
  readonly trained: readonly TrainedLayerTiming[];
  /** Experts of width x neurons, one token. */
  readonly storedShape: Pick<LayerShape, "width" | "neurons" | "active">;
  readonly stored: readonly StoredLayerTiming[];
}

const DEFAULT_SHAPE: LayerShape = { tokens: 4096, width: 256, experts: 16, active: 4, neurons: 256 };

export async function benchLayer(options: LayerBenchOptions = {}): Promise<LayerBench> {
  const shape = { ...DEFAULT_SHAPE, ...options.shape };
  const { shares = [1, 1 / 2, 1 / 4, 1 / 8, 1 / 16], rounds = 5, memoryBytes = 2 ** 30 } = options;
  const backend = options.backend ?? openBackend({ threads: options.threads }, options.announce);
  const probe = new LimitProbe(backend, memoryBytes);
  const kept = (neurons: number) => shares.map((share) => Math.max(1, Math.round(share * neurons)));
  try {
    const trained = await timeTrained(backend, shape, kept(shape.neurons), { ...options, rounds });
    const stored: StoredLayerTiming[] = [];
    const storedShape = {
      width: Math.max(shape.width, 1024),
      neurons: Math.max(shape.neurons, 1024),
      active: shape.active,
    };
    if (memoryBytes < 2 ** 28) Object.assign(storedShape, { width: shape.width, neurons: shape.neurons }); // a quick look
    for (const dtype of ["bf16", "int8"] as const) {
      options.onStep?.(0, 1, `inference, ${dtype}`);
      stored.push(
        ...(await timeStored(
          backend,
          { ...storedShape, dtype, memoryBytes },
          kept(storedShape.neurons),
          probe,
          rounds,
          options.signal,
        )),
      );
    }
    return { machine: describeMachine(backend), limits: probe.limits, shape, trained, storedShape, stored };
  } finally {
    if (!options.backend) backend.close();
  }
}

async function timeTrained(
  backend: Backend,
  { tokens, width: D, experts: E, active, neurons: F }: LayerShape,
  kept: readonly number[],
  { rounds, signal, onStep }: LayerBenchOptions & { rounds: number },
): Promise<TrainedLayerTiming[]> {
  const random = (name: string, shape: readonly number[], deviation: number) => {
    const values = new Float32Array(sizeOf(shape));
    new RandomStream(1, `bench layer/${name}`).fillNormal(values, deviation);
    const parameter = new Parameter(name, backend.allocate("f32", values.length), shape, true);
    backend.write(parameter.buffer, values);
    return parameter;
  };
  const x = random("x", [tokens, D], 1);
  const weights = {
    router: random("router", [E, D], 0.05),
    gate: random("gate", [E, F, D], D ** -0.5),
    up: random("up", [E, F, D], D ** -0.5),
    down: random("down", [E, D, F], F ** -0.5),
  };
  const size = tokens * D;
  const order = new Tensor(backend.allocate("u32", size), [size]);
  backend.write(
    order.buffer,
    Uint32Array.from({ length: size }, (_, i) => i),
  );
  const once = async (K: number, backward: boolean) => {
    throwIfAborted(signal);
    const start = performance.now();
    const tape = new Tape(backend, { recording: backward });
    const neuronScore = { normalise: "l1", masked: "all" } as const;
    const { output } = mixtureLayer(tape, x, weights, {
      active,
      kept: K,
      activation: "silu",
      bf16: backend.nativeBf16,
      normaliseWeights: true,
      balance: false,
      neuronScore,
    });
    if (backward) {
      // The sum of the output: as one token whose "experts" are all its numbers.
      const sum = combine(tape, new Tensor(output.buffer, [size, 1]), 1, {
        rowOfSlot: order,
        slotOfRow: order,
      });
      tape.backward([{ loss: sum, weight: 1 }]);
    }
    await backend.read(x.buffer, 0, 1);
    tape.release();
    for (const parameter of [x, ...Object.values(weights)]) parameter.clearGradient(backend);
    return performance.now() - start;
  };
  const times = kept.map(() => ({ forward: [] as number[], both: [] as number[] }));
  for (const K of kept) await once(K, true);
  for (let round = 0; round < rounds * 4; round++) {
    onStep?.(round, rounds * 4, "training");
    for (const [i, K] of kept.entries()) {
      times[i].forward.push(await once(K, false));
      times[i].both.push(await once(K, true));
    }
  }
  for (const tensor of [x, order, ...Object.values(weights)]) backend.free(tensor.buffer);
  return kept.map((K, i) => {
    const [forward, both] = [median(times[i].forward), median(times[i].both)];
    return {
      kept: K,
      forward,
      both,
      forwardRatio: forward / median(times[0].forward),
      bothRatio: both / median(times[0].both),
    };
  });
}

async function timeStored(
  backend: Backend,
  {
    width: D,
    neurons: F,
    active,
    dtype,
    memoryBytes,
  }: Pick<LayerShape, "width" | "neurons" | "active"> & { dtype: WeightFormat; memoryBytes: number },
  kept: readonly number[],
  probe: LimitProbe,
  rounds: number,
  signal: AbortSignal | undefined,
): Promise<StoredLayerTiming[]> {
  const type = weightTypeOf(dtype);
  const size = { f32: 4, bf16: 2, int8: 1 }[dtype];
  const groups = Math.max(2 * active, Math.ceil(memoryBytes / (3 * D * F * size)));
  const owned: DeviceBuffer[] = [];
  const allocate = (what: "f32" | "u32" | typeof type, length: number) => {
    owned.push(backend.allocate(what, length));
    return owned[owned.length - 1];
  };
  const normals = new Float32Array(F * D);
  new RandomStream(1, "bench layer/stored").fillNormal(normals, D ** -0.5);
  const pattern =
    type === "f32"
      ? normals
      : type === "bf16"
        ? Uint16Array.from(normals, toBf16)
        : Int8Array.from(normals, (v) => 40 * v * D ** 0.5);
  const matrices = () => {
    const buffer = allocate(type, groups * F * D);
    for (let e = 0; e < groups; e++) backend.write(buffer, pattern, e * F * D);
    const scales = allocate("f32", scalesFor(type, groups * F));
    backend.write(scales, new Float32Array(scales.length).fill(D ** -0.5 / 40));
    return new StoredTensor(buffer, [groups, F, D], new Tensor(scales, [scales.length]));
  };
  const places = allocate("u32", 2 * groups);
  backend.write(
    places,
    Uint32Array.from({ length: 2 * groups }, (_, i) => (i % groups) * F * D),
  );
  const weights: StoredExperts = {
    gate: matrices(),
    up: matrices(),
    down: matrices(),
    places: new Tensor(places, [2, groups]),
  };
  const input = allocate("f32", active * D);
  const row = new Float32Array(active * D);
  new RandomStream(2, "bench layer/x").fillNormal(row);
  backend.write(input, row);
  const x = new Tensor(input, [active, D]);

  let first = 0;
  const once = async (K: number) => {
    throwIfAborted(signal);
    const tape = new Tape(backend, { recording: false });
    // Experts in turn, so that none is still in a cache from last time.
    const chosen = new Set(Array.from({ length: active }, (_, i) => (first + i) % groups));
    first = (first + active) % groups;
    const offsets = [0];
    for (let e = 0; e < groups; e++) offsets.push(offsets[e] + (chosen.has(e) ? 1 : 0));
    const table = tape.constant(Uint32Array.from(offsets), [groups + 1]);
    const start = performance.now();
    neuronExperts(tape, x, table, weights, { kept: K, activation: "silu" });
    const milliseconds = performance.now() - start;
    await backend.read(input, 0, 1);
    tape.release();
    return milliseconds / 1000;
  };
  const times = kept.map(() => [] as number[]);
  for (let round = 0; round < rounds; round++) {
    await probe.measure();
    for (let i = 0; i < 20; i++) for (const [k, K] of kept.entries()) times[k].push(await once(K));
  }
  for (const buffer of owned) backend.free(buffer);
  const { gigabytesPerSecond: limit } = probe.limits;
  return kept.map((K, i) => {
    const seconds = median(times[i]);
    const gigabytesPerSecond = (active * D * size * (F + 2 * K)) / 1e9 / seconds;
    return {
      dtype,
      kept: K,
      microseconds: seconds * 1e6,
      gigabytesPerSecond,
      bandwidthShare: gigabytesPerSecond / limit,
      speedup: median(times[0]) / seconds,
      ideal: 3 / (1 + (2 * K) / F),
    };
  });
}
