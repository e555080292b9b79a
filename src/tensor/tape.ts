// The tape: runs kernels forward, remembers the calls, runs their gradient rules backwards, and owns every
// intermediate of a step. Without recording it is the same interface for inference, with nothing remembered.
//
// A kernel with float inputs can only be called if it has a gradient rule: `call` takes DifferentiableKernel. `run`
// takes bookkeeping kernels, which read integers only. So a missing gradient is a compile error.

import type { Backend, DeviceBuffer, HostArray } from "../backends/backend.ts";
import { copy, fill } from "../kernels/elementwise.ts";
import {
  type AnyKernel,
  accessOf,
  type BufferDecls,
  type DifferentiableKernel,
  type DType,
  dtypeOf,
  type GradientContext,
  type Kernel,
  type KeysOf,
  type ParamDecls,
  type ParamsOf,
} from "../kernels/kernel.ts";
import { Parameter, sizeOf, Tensor } from "./tensor.ts";

type Inputs<B extends BufferDecls> = { readonly [K in KeysOf<B, "in">]: Tensor };
type OutputKeys<B extends BufferDecls> = KeysOf<B, "out" | "inout">;
type Shapes<B extends BufferDecls> = { readonly [K in OutputKeys<B>]: readonly number[] };
type Outputs<B extends BufferDecls> = { readonly [K in OutputKeys<B>]: Tensor };

/** Kernels without float inputs: nothing can flow back through them. */
type Bookkeeping<B extends BufferDecls> = "in f32" extends B[keyof B] ? never : unknown;

type Recordable = AnyKernel & { readonly gradient: NonNullable<AnyKernel["gradient"]> };

/** One recorded call. */
interface Call {
  readonly kernel: Recordable;
  readonly tensors: Readonly<Record<string, Tensor>>;
  readonly params: Readonly<Record<string, number>>;
  /** The tensors whose values its gradient rule reads. */
  readonly needs: readonly Tensor[];
}

/** A part of the forward pass that was not recorded: the backward pass runs it again. */
interface Segment {
  readonly body: (tape: Tape) => NamedTensors;
  readonly outputs: NamedTensors;
}

/** Tensors by name; some may be missing. */
export type NamedTensors = Readonly<Record<string, Tensor | undefined>>;

function tensorsOf(named: NamedTensors): Tensor[] {
  return Object.values(named).filter((tensor) => tensor !== undefined);
}

/** The tensors of a call whose values its gradient rule reads, found by running the rule without a backend. */
function neededValues(
  { gradient }: Recordable,
  tensors: Readonly<Record<string, Tensor>>,
  params: Readonly<Record<string, number>>,
): Tensor[] {
  const needs = new Set<Tensor>();
  const nothing = () => undefined;
  gradient.rule<Tensor | undefined>({
    params,
    value: (name) => {
      needs.add(tensors[name]);
      return undefined;
    },
    grad: nothing,
    flows: () => 1,
    target: nothing,
    accumulate: () => 0,
    passOn: nothing,
    scratch: nothing,
    run: nothing,
  });
  return [...needs];
}

function noGradient(name: string): Error {
  return new Error(`${name} has no gradient and cannot be recorded`);
}

export class Tape {
  readonly backend: Backend;
  readonly recording: boolean;
  readonly #calls: (Call | Segment)[] = [];
  /** Intermediates that are still alive. */
  readonly #owned = new Set<Tensor>();
  readonly #kept = new Set<Tensor>();
  /** How many recorded calls need the value of a tensor for their gradients. */
  readonly #needs = new Map<Tensor, number>();

  constructor(backend: Backend, { recording }: { recording: boolean }) {
    this.backend = backend;
    this.recording = recording;
  }

  /** An intermediate with undefined content. */
  allocate(dtype: DType, shape: readonly number[]): Tensor {
    const tensor = new Tensor(this.backend.allocate(dtype, sizeOf(shape)), shape);
    this.#owned.add(tensor);
    return tensor;
  }

  /** A constant from the host. */
  constant(data: HostArray<"f32" | "u32">, shape: readonly number[]): Tensor {
    const tensor = this.allocate(data instanceof Uint32Array ? "u32" : "f32", shape);
    this.backend.write(tensor.buffer, data);
    return tensor;
  }

  /** Runs a differentiable kernel; outputs get fresh memory of the given shapes. */
  call<N extends string, B extends BufferDecls, P extends ParamDecls>(
    kernel: DifferentiableKernel<N, B, P>,
    inputs: Inputs<B>,
    params: ParamsOf<P>,
    shapes: Shapes<B>,
  ): Outputs<B> {
    if (this.recording && !kernel.gradient) throw noGradient(kernel.name);
    const { tensors, outputs } = this.#execute(kernel, inputs, params, shapes);
    // The types of one call are checked above; the list holds calls of all kernels.
    if (this.recording) this.#record(kernel as unknown as Recordable, tensors, params);
    return outputs;
  }

  #record(
    kernel: Recordable,
    tensors: Record<string, Tensor>,
    params: Readonly<Record<string, number>>,
  ): void {
    const needs = neededValues(kernel, tensors, params);
    for (const tensor of needs) this.#needs.set(tensor, (this.#needs.get(tensor) ?? 0) + 1);
    this.#calls.push({ kernel, tensors, params, needs });
  }

  /** Runs a kernel that reads integers only, such as grouping rows by expert. */
  run<N extends string, B extends BufferDecls, P extends ParamDecls>(
    kernel: Kernel<N, B, P> & Bookkeeping<B>,
    inputs: Inputs<B>,
    params: ParamsOf<P>,
    shapes: Shapes<B>,
  ): Outputs<B> {
    return this.#execute(kernel, inputs, params, shapes).outputs;
  }

  /** Runs a kernel that has no gradient; only for inference. @throws if this tape records. */
  infer<N extends string, B extends BufferDecls, P extends ParamDecls>(
    kernel: Kernel<N, B, P>,
    inputs: Inputs<B>,
    params: ParamsOf<P>,
    shapes: Shapes<B>,
  ): Outputs<B> {
    if (this.recording) throw noGradient(kernel.name);
    return this.#execute(kernel, inputs, params, shapes).outputs;
  }

  #execute<B extends BufferDecls, P extends ParamDecls>(
    kernel: Kernel<string, B, P>,
    inputs: Inputs<B>,
    params: ParamsOf<P>,
    shapes: Shapes<B>,
  ): { tensors: Record<string, Tensor>; outputs: Outputs<B> } {
    const tensors: Record<string, Tensor> = { ...(inputs as Record<string, Tensor>) };
    const outputs: Record<string, Tensor> = {};
    for (const [name, shape] of Object.entries(shapes as Record<string, readonly number[]>)) {
      outputs[name] = tensors[name] = this.allocate(dtypeOf(kernel.buffers[name]), shape);
    }
    const buffers: Record<string, DeviceBuffer> = {};
    for (const name in tensors) buffers[name] = tensors[name].buffer;
    this.backend.run(kernel, buffers as { [K in keyof B]: DeviceBuffer }, params);
    return { tensors, outputs: outputs as Outputs<B> };
  }

  /** Keeps a tensor's value through `backward`, which otherwise frees intermediates as it passes them. */
  keep<T extends Tensor>(tensor: T): T {
    this.#kept.add(tensor);
    return tensor;
  }

  /**
   * Frees what `body` allocates, except the tensors it returns; while recording, except those that gradients need.
   */
  scope<R extends Tensor | NamedTensors>(body: () => R): R {
    const before = new Set(this.#owned);
    const result = body();
    const survivors = new Set(result instanceof Tensor ? [result] : tensorsOf(result));
    for (const tensor of [...this.#owned]) {
      if (!before.has(tensor) && !survivors.has(tensor)) this.#releaseUnneeded(tensor);
    }
    return result;
  }

  /**
   * Runs `body` and frees all that it allocates but the tensors it returns. The backward pass runs it once more to have
   * the intermediates again: half as much arithmetic on top for a step that remembers only what leaves such parts.
   * @param body must do the same each time, on the tape that it is given.
   */
  recomputed<R extends NamedTensors>(body: (tape: Tape) => R): R {
    const inner = new Tape(this.backend, { recording: false });
    const outputs = body(inner);
    for (const tensor of tensorsOf(outputs)) {
      if (inner.#owned.delete(tensor)) this.#owned.add(tensor);
    }
    inner.release();
    if (this.recording) this.#calls.push({ body, outputs });
    return outputs;
  }

  /**
   * Gradients of `sum of weight * loss` over the given one-element tensors, added to the gradients of all
   * parameters that the losses depend on. Frees intermediates on the way. A tape runs backward once.
   */
  backward(objective: readonly { readonly loss: Tensor; readonly weight: number }[]): void {
    if (!this.recording) throw new Error("this tape records nothing");
    const gradients = new Map<Tensor, DeviceBuffer>();
    for (const { loss, weight } of objective) {
      if (loss.size !== 1) throw new Error(`an objective must be one number, not [${loss.shape}]`);
      const seed = this.backend.allocate("f32", 1);
      this.backend.run(fill, { y: seed }, { n: 1, value: weight });
      gradients.set(loss, seed);
    }
    this.#runBackwards(gradients);
    for (const buffer of gradients.values()) this.backend.free(buffer);
  }

  #runBackwards(gradients: Map<Tensor, DeviceBuffer>): void {
    for (let i = this.#calls.length - 1; i >= 0; i--) {
      const call = this.#calls[i];
      if ("body" in call) this.#replay(call, gradients);
      else this.#runRule(call, gradients);
    }
    this.#calls.length = 0;
    this.#needs.clear();
  }

  /** Runs a segment again, recording, and then its gradient rules; gradients of its inputs are left in the map. */
  #replay({ body, outputs }: Segment, gradients: Map<Tensor, DeviceBuffer>): void {
    if (tensorsOf(outputs).some((tensor) => gradients.has(tensor))) {
      const tape = new Tape(this.backend, { recording: true });
      const again = body(tape);
      for (const name in outputs) {
        const output = outputs[name];
        const gradient = output && gradients.get(output);
        if (!gradient) continue;
        gradients.delete(output);
        gradients.set(again[name] as Tensor, gradient);
      }
      tape.#runBackwards(gradients);
      tape.release();
    }
    for (const output of tensorsOf(outputs)) this.#releaseUnneeded(output);
  }

  #runRule(call: Call, gradients: Map<Tensor, DeviceBuffer>): void {
    const { kernel, tensors, params } = call;
    const { of, wrt, rule } = kernel.gradient;
    const temporary: DeviceBuffer[] = [];
    const scratch = (length: number) => {
      const buffer = this.backend.allocate("f32", length);
      temporary.push(buffer);
      return buffer;
    };
    const zeros = (length: number) => {
      const buffer = scratch(length);
      this.backend.run(fill, { y: buffer }, { n: length, value: 0 });
      return buffer;
    };
    if (of.some((name) => gradients.has(tensors[name]))) {
      const targets = new Map<string, { buffer: DeviceBuffer; accumulate: 0 | 1 }>();
      const target = (name: string) => {
        let entry = targets.get(name);
        if (!entry) {
          entry = this.#gradientOf(tensors[name], gradients, call);
          targets.set(name, entry);
        }
        return entry;
      };
      const context: GradientContext<DeviceBuffer, BufferDecls, ParamDecls> = {
        params,
        value: (name) => tensors[name].buffer,
        flows: (name) => (gradients.has(tensors[name]) ? 1 : 0),
        grad: (name) => gradients.get(tensors[name]) ?? zeros(tensors[name].size),
        target: (name) => target(name).buffer,
        accumulate: (name) => target(name).accumulate,
        passOn: (output, input) => {
          const [from, to] = [tensors[output], tensors[input]];
          const buffer = gradients.get(from);
          if (buffer && !(to instanceof Parameter) && !gradients.has(to)) {
            gradients.delete(from);
            gradients.set(to, buffer);
            targets.set(input, { buffer, accumulate: 0 });
          } else {
            const { buffer: y, accumulate } = target(input);
            this.backend.run(copy, { x: context.grad(output), y }, { n: to.size, accumulate });
          }
        },
        scratch,
        run: (other, buffers, otherParams) => this.backend.run(other, buffers, otherParams),
      };
      rule(context);
      for (const name of wrt) {
        if (!targets.has(name)) throw new Error(`the gradient rule of ${kernel.name} left out ${name}`);
      }
    }
    for (const buffer of temporary) this.backend.free(buffer);
    for (const tensor of call.needs) {
      this.#needs.set(tensor, (this.#needs.get(tensor) ?? 0) - 1);
      this.#releaseUnneeded(tensor);
    }
    // Whatever used these outputs came later on the tape and is done.
    for (const name in kernel.buffers) {
      if (accessOf(kernel.buffers[name]) === "in") continue;
      const gradient = gradients.get(tensors[name]);
      if (gradient) this.backend.free(gradient);
      gradients.delete(tensors[name]);
      this.#releaseUnneeded(tensors[name]);
    }
  }

  /** Frees an intermediate whose value nobody reads any more: no gradient needs it, and it is not kept. */
  #releaseUnneeded(tensor: Tensor): void {
    if (!this.#kept.has(tensor) && !this.#needs.get(tensor)) this.#release(tensor);
  }

  /** Where a tensor's gradient is collected by the rule of `call`, and whether it holds something already. */
  #gradientOf(
    tensor: Tensor,
    gradients: Map<Tensor, DeviceBuffer>,
    { kernel, tensors, needs }: Call,
  ): { buffer: DeviceBuffer; accumulate: 0 | 1 } {
    if (tensor instanceof Parameter) {
      const accumulate = tensor.hasGradient ? 1 : 0;
      tensor.hasGradient = true;
      return { buffer: tensor.gradientTensor(this.backend).buffer, accumulate };
    }
    const existing = gradients.get(tensor);
    if (existing) return { buffer: existing, accumulate: 1 };
    // The last reader of a value may leave the gradient in its place: the tensor then no longer owns its memory.
    const inPlace = kernel.gradient.inPlace?.some((name) => tensors[name] === tensor);
    const isLast = needs.includes(tensor) && this.#needs.get(tensor) === 1 && !this.#kept.has(tensor);
    const buffer =
      inPlace && isLast && this.#owned.delete(tensor)
        ? tensor.buffer
        : this.backend.allocate("f32", tensor.size);
    gradients.set(tensor, buffer);
    return { buffer, accumulate: 0 };
  }

  #release(tensor: Tensor): void {
    if (this.#owned.delete(tensor)) this.backend.free(tensor.buffer);
  }

  /** Frees every intermediate. Tensors of this tape are unusable afterwards. */
  release(): void {
    for (const tensor of [...this.#owned]) this.#release(tensor);
    this.#calls.length = 0;
    this.#needs.clear();
    this.#kept.clear();
  }
}
