// A tensor is a buffer with a shape; a parameter is a tensor that outlives steps and collects a gradient; a stored
// tensor holds weights in the form in which inference reads them.
// No mathematics here: that is kernels/, called through tape.ts.

import type { Backend, DeviceBuffer } from "../backends/backend.ts";
import type { DType } from "../kernels/kernel.ts";
import type { WeightType } from "../kernels/stored.ts";

export function sizeOf(shape: readonly number[]): number {
  return shape.reduce((product, extent) => product * extent, 1);
}

export class Tensor {
  readonly buffer: DeviceBuffer;
  readonly shape: readonly number[];

  /** @param buffer row-major elements, at least as many as the shape has. */
  constructor(buffer: DeviceBuffer, shape: readonly number[]) {
    if (buffer.length < sizeOf(shape))
      throw new Error(`${buffer.length} elements cannot have shape [${shape}]`);
    this.buffer = buffer;
    this.shape = shape;
  }

  get dtype(): DType {
    return this.buffer.dtype;
  }

  /** The same elements in another shape. Whoever owns this tensor still owns the memory. */
  reshaped(shape: readonly number[]): Tensor {
    return new Tensor(this.buffer, shape);
  }

  get size(): number {
    return sizeOf(this.shape);
  }
}

export class Parameter extends Tensor {
  readonly name: string;
  /** False for norm weights, which AdamW must not shrink. */
  readonly decays: boolean;
  /** Sum of the gradients since `clearGradient`; its memory is the backend's again in between. */
  gradient: Tensor | undefined;
  /** Whether `gradient` holds anything yet; the first contribution overwrites instead of adding. */
  hasGradient = false;

  constructor(name: string, buffer: DeviceBuffer, shape: readonly number[], decays: boolean) {
    super(buffer, shape);
    this.name = name;
    this.decays = decays;
  }

  /** Forgets the gradient, and gives its memory back: between steps there is none. */
  clearGradient(backend: Backend): void {
    if (this.gradient) backend.free(this.gradient.buffer);
    this.gradient = undefined;
    this.hasGradient = false;
  }

  /** The gradient's tensor, allocated if this is the first time. */
  gradientTensor(backend: Backend): Tensor {
    this.gradient ??= new Tensor(backend.allocate("f32", this.size), this.shape);
    return this.gradient;
  }
}

/**
 * Weights as inference stores them (kernels/stored.ts): a matrix [out, in], or one per expert [E, ...]. The buffer may be
 * larger than the shape where experts lie apart (`StoredExperts` of ops.ts says where).
 */
export class StoredTensor extends Tensor {
  /** One factor per row for bytes, none otherwise. */
  readonly scales: Tensor;

  constructor(buffer: DeviceBuffer, shape: readonly number[], scales: Tensor) {
    super(buffer, shape);
    if (buffer.dtype === "u32") throw new Error("weights are not stored as u32");
    this.scales = scales;
  }

  get type(): WeightType {
    return this.buffer.dtype as WeightType;
  }
}
