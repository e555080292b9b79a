// One mixture-of-experts layer that can be timed: random weights and rows, forward alone as in inference, or forward and
// backward as in training (with balance losses).

import type { Backend } from "../backends/backend.ts";
import { linear } from "../kernels/linear.ts";
import { type LayerOptions, mixtureLayer } from "../mone/layer.ts";
import { RandomStream } from "../random.ts";
import { Tape } from "../tensor/tape.ts";
import { Parameter, sizeOf, Tensor } from "../tensor/tensor.ts";
import type { Spread } from "./measure.ts";

/** D, F, E, A and T of a layer, and K. */
export interface LayerShape {
  readonly width: number;
  readonly neurons: number;
  readonly experts: number;
  readonly active: number;
  readonly tokens: number;
  readonly kept: number;
}

export type LayerPass = "forward" | "both";

/** A peer, or this project beside it, on the layer that the sweeps start from or on one dense expert of it. */
export interface LayerPeerRow {
  readonly work: "layer" | "expert";
  readonly engine: string;
  readonly version: string;
  readonly kept: number;
  readonly seconds: Readonly<Partial<Record<LayerPass, Spread>>>;
}

export class LayerArm {
  readonly shape: LayerShape;
  readonly #backend: Backend;
  readonly #weights: { router: Parameter; gate: Parameter; up: Parameter; down: Parameter };
  readonly #x: Parameter;
  readonly #upstream: Tensor;
  readonly #options: LayerOptions;

  constructor(backend: Backend, shape: LayerShape, bf16: boolean) {
    const { width: D, neurons: F, experts: E, tokens: T, active, kept } = shape;
    this.shape = shape;
    this.#backend = backend;
    const parameter = (name: string, dims: readonly number[], deviation: number) => {
      const values = new Float32Array(sizeOf(dims));
      new RandomStream(1, `bench layer/${name}`).fillNormal(values, deviation);
      const made = new Parameter(name, backend.allocate("f32", values.length), dims, true);
      backend.write(made.buffer, values);
      return made;
    };
    this.#weights = {
      router: parameter("router", [E, D], 0.02),
      gate: parameter("gate", [E, F, D], 0.02),
      up: parameter("up", [E, F, D], 0.02),
      down: parameter("down", [E, D, F], 0.02),
    };
    this.#x = parameter("x", [T, D], 1);
    const { buffer } = parameter("upstream", [T, D], 1);
    this.#upstream = new Tensor(buffer, [1, T * D]);
    this.#options = {
      active,
      kept,
      activation: "silu",
      bf16,
      normaliseWeights: true,
      balance: true,
      neuronScore: { normalise: "l1", masked: "all" },
    };
  }

  /** Enqueues one pass. */
  run(pass: LayerPass): void {
    const tape = new Tape(this.#backend, { recording: pass === "both" });
    const balance = pass === "both";
    const { output, balanceLoss } = mixtureLayer(tape, this.#x, this.#weights, { ...this.#options, balance });
    if (pass === "both") {
      // A gradient for every element of the output: that of its product with given numbers.
      const k = output.size;
      const inputs = { x: output, w: this.#upstream };
      const { y } = tape.call(linear, inputs, { m: 1, n: 1, k, accumulate: 0, bf16: 0 }, { y: [1] });
      const losses = [balanceLoss.experts, balanceLoss.neurons].filter((loss) => loss !== undefined);
      tape.backward([{ loss: y, weight: 1 }, ...losses.map((loss) => ({ loss, weight: 0.01 }))]);
      for (const one of this.#parameters) one.clearGradient(this.#backend);
    }
    tape.release();
  }

  /** Waits for what was enqueued. */
  async finish(): Promise<void> {
    await this.#backend.read(this.#x.buffer, 0, 1);
  }

  get #parameters(): Parameter[] {
    return [...Object.values(this.#weights), this.#x];
  }

  close(): void {
    for (const { buffer } of [...this.#parameters, this.#upstream]) this.#backend.free(buffer);
  }
}
