// AdamW over all parameters of a model, with clipping by the global norm. Its state is tensors and one counter.
// Not here: the learning rate (schedule.ts), and the arithmetic (kernels/optimizer.ts).

import type { Backend } from "../backends/backend.ts";
import { fill } from "../kernels/elementwise.ts";
import { adamW, sumSquares } from "../kernels/optimizer.ts";
import { type Parameter, Tensor } from "../tensor/tensor.ts";

export interface AdamWOptions {
  readonly beta1: number;
  readonly beta2: number;
  readonly epsilon: number;
  /** Applies to parameters with `decays`. */
  readonly weightDecay: number;
  /** Gradients are scaled so that their global norm is at most this; 0: never. */
  readonly clip: number;
}

/** First and second moment of a parameter's gradient. */
export interface Moments {
  readonly parameter: Parameter;
  readonly m: Tensor;
  readonly v: Tensor;
}

export class AdamW {
  readonly options: AdamWOptions;
  readonly moments: readonly Moments[];
  /** Updates done. */
  step = 0;
  readonly #backend: Backend;
  readonly #normSquared: Tensor;

  constructor(backend: Backend, parameters: Iterable<Parameter>, options: AdamWOptions) {
    this.#backend = backend;
    this.options = options;
    this.moments = [...parameters].map((parameter) => ({
      parameter,
      m: this.#zeros(parameter.size),
      v: this.#zeros(parameter.size),
    }));
    this.#normSquared = this.#zeros(1);
  }

  #zeros(n: number): Tensor {
    const tensor = new Tensor(this.#backend.allocate("f32", n), [n]);
    this.#backend.run(fill, { y: tensor.buffer }, { n, value: 0 });
    return tensor;
  }

  /** One update with the gradients collected so far, which are cleared. Parameters without one stay as they are. */
  update(learningRate: number): void {
    const { beta1, beta2, epsilon, weightDecay, clip } = this.options;
    this.step++;
    const active = this.moments.filter(({ parameter }) => parameter.hasGradient);
    active.forEach(({ parameter }, i) => {
      const x = parameter.gradientTensor(this.#backend).buffer;
      const params = { n: parameter.size, accumulate: i === 0 ? 0 : 1 };
      this.#backend.run(sumSquares, { x, total: this.#normSquared.buffer }, params);
    });
    for (const { parameter, m, v } of active) {
      this.#backend.run(
        adamW,
        {
          param: parameter.buffer,
          m: m.buffer,
          v: v.buffer,
          grad: parameter.gradientTensor(this.#backend).buffer,
          normSquared: this.#normSquared.buffer,
        },
        {
          n: parameter.size,
          step: this.step,
          lr: learningRate,
          beta1,
          beta2,
          eps: epsilon,
          weightDecay: parameter.decays ? weightDecay : 0,
          maxNorm: clip,
        },
      );
      parameter.clearGradient(this.#backend);
    }
  }

  /** Global norm of the gradients of the last update, before clipping. */
  async gradientNorm(): Promise<number> {
    return Math.sqrt((await this.#backend.read(this.#normSquared.buffer, 0, 1))[0]);
  }

  close(): void {
    for (const { m, v } of this.moments) {
      this.#backend.free(m.buffer);
      this.#backend.free(v.buffer);
    }
    this.#backend.free(this.#normSquared.buffer);
  }
}
