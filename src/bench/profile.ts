// Where the time of kernels goes: a backend around another one that times each call, and what part of a model every
// kernel belongs to. Not here: how the figures are shown.

import type { Backend } from "../backends/backend.ts";
import type { KernelName } from "../kernels/catalogue.ts";

export type Phase =
  | "attention"
  | "experts"
  | "selection"
  | "routing"
  | "balance"
  | "head"
  | "norms"
  | "dense"
  | "optimiser"
  | "loading"
  | "probe";

/**
 * The part of a model that each kernel belongs to; `norms` has what else goes over the residual stream,
 * `loading` what brings weights into the form of inference, `probe` what measures the machine.
 */
export const phaseOf: Readonly<Record<KernelName, Phase>> = {
  linear: "dense",
  linearGradInput: "dense",
  linearGradWeight: "dense",
  groupedLinear: "experts",
  groupedLinearGradInput: "experts",
  groupedLinearGradWeight: "experts",
  embedding: "norms",
  embeddingGrad: "norms",
  rmsNorm: "norms",
  rmsNormGrad: "norms",
  rope: "norms",
  attention: "attention",
  attentionGrad: "attention",
  storeKeyValueF32: "attention",
  storeKeyValueBf16: "attention",
  cachedAttentionF32: "attention",
  cachedAttentionBf16: "attention",
  routerTopK: "routing",
  routerTopKGrad: "routing",
  groupByExpert: "routing",
  dispatch: "routing",
  combine: "routing",
  neuronTopK: "selection",
  neuronTopKGrad: "selection",
  neuronBalance: "balance",
  neuronBalanceGrad: "balance",
  expertBalance: "balance",
  expertBalanceGrad: "balance",
  headCrossEntropy: "head",
  headCrossEntropyGrad: "head",
  tokenScores: "head",
  add: "norms",
  copy: "norms",
  fill: "norms",
  sumSquares: "optimiser",
  adamW: "optimiser",
  storedLinearF32: "dense",
  storedLinearBf16: "dense",
  storedLinearInt8: "dense",
  storedRowsF32: "norms",
  storedRowsBf16: "norms",
  storedRowsInt8: "norms",
  neuronExpertsF32: "experts",
  neuronExpertsBf16: "experts",
  neuronExpertsInt8: "experts",
  studyExpertsF32: "experts",
  studyExpertsBf16: "experts",
  studyExpertsInt8: "experts",
  logitDivergence: "head",
  encodeBf16: "loading",
  decodeBf16: "loading",
  copyBf16: "loading",
  encodeInt8: "loading",
  transposeF32: "loading",
  transposeBf16: "loading",
  rowPart: "attention",
  latentKeyValue: "attention",
  ropeInterleaved: "attention",
  addBias: "norms",
  addGated: "norms",
  clip: "norms",
  routerGroups: "routing",
  probeRead: "probe",
  probeMultiply: "probe",
};

export type Pass = "forward" | "backward" | "update";

/** All calls of one kernel in one pass. */
export interface KernelProfile {
  kernel: KernelName;
  phase: Phase;
  pass: Pass;
  calls: number;
  seconds: number;
  /** Floating-point operations, by the kernel's own count; 0 for kernels that memory limits. */
  flops: number;
}

export interface Profile {
  /** Computes as the profiled backend does, and shares its memory; closing it closes both. */
  readonly backend: Backend;
  /** What was called since the beginning or the last `reset`, the longest first. */
  report(): KernelProfile[];
  reset(): void;
}

/**
 * Times every kernel call of a backend. The seconds are those that `run` takes: the whole of the computation where a
 * backend computes at once, as those of the CPU do; only the time to enqueue where it returns earlier, as a GPU's
 * does. A call costs about a microsecond more. Of a captured program only the first run, the capture, is timed.
 */
export function profileBackend(inner: Backend): Profile {
  const entries = new Map<string, KernelProfile>();
  const record = (kernel: KernelName, params: Readonly<Record<string, number>>) => {
    const pass = passOf(kernel, params);
    const key = `${kernel} ${pass}`;
    let entry = entries.get(key);
    if (!entry) {
      entry = { kernel, phase: phaseOf[kernel], pass, calls: 0, seconds: 0, flops: 0 };
      entries.set(key, entry);
    }
    return entry;
  };
  const backend: Backend = {
    name: inner.name,
    nativeBf16: inner.nativeBf16,
    support: inner.support,
    allocate: (dtype, length) => inner.allocate(dtype, length),
    free: (buffer) => inner.free(buffer),
    write: (buffer, data, offset) => inner.write(buffer, data, offset),
    run(kernel, buffers, params) {
      const start = performance.now();
      inner.run(kernel, buffers, params);
      const seconds = (performance.now() - start) / 1000;
      // Only kernels of the catalogue exist for a backend.
      const entry = record(kernel.name as KernelName, params);
      entry.calls++;
      entry.seconds += seconds;
      entry.flops += kernel.flops?.(params) ?? 0;
    },
    slice: (buffer, offset, length) => inner.slice(buffer, offset, length),
    capture: (body) => inner.capture(body),
    ...(inner.map && { map: inner.map.bind(inner) }),
    read: (buffer, offset, length) => inner.read(buffer, offset, length),
    get bytesInUse() {
      return inner.bytesInUse;
    },
    close: () => inner.close(),
  };
  return {
    backend,
    report: () => [...entries.values()].map((e) => ({ ...e })).sort((a, b) => b.seconds - a.seconds),
    reset: () => entries.clear(),
  };
}

/** Kernels whose name does not tell, but that only gradient rules and optimisers call. */
const otherPass: Partial<Record<KernelName, Pass>> = {
  copy: "backward",
  fill: "backward",
  sumSquares: "update",
  adamW: "update",
};

function passOf(kernel: KernelName, params: Readonly<Record<string, number>>): Pass {
  if (kernel.includes("Grad") || params.inverse === 1) return "backward"; // rope is its own gradient
  return otherPass[kernel] ?? "forward";
}
