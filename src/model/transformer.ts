// The decoder: embedding, then per layer x += attention(norm(x)), x += feed-forward(norm(x)), then a norm. Dense,
// MoE and MoNE models are this one path; K = F of config.ts makes a MoNE a MoE. How queries meet keys is the
// caller's choice (`attend`): training attends within its batch, generation over a cache.
// Letters: T tokens, D width, H C query width, G C key width, E experts, F neurons.

import type { Backend } from "../backends/backend.ts";
import { denseExpert, type ExpertsOverride } from "../mone/expert.ts";
import { denseLayer, type LayerBalance, mixtureLayer } from "../mone/layer.ts";
import type { Routing } from "../mone/router.ts";
import { RandomStream } from "../random.ts";
import { add, addGated, embedding, linear, rmsNorm, type StoredExperts } from "../tensor/ops.ts";
import type { Tape } from "../tensor/tape.ts";
import { Parameter, sizeOf, Tensor } from "../tensor/tensor.ts";
import { type Attend, attentionBlock } from "./attention.ts";
import { isSparseLayer, keptNeurons, type ModelConfig } from "./config.ts";
import { type ParameterSpec, parameterSpecs } from "./parameters.ts";
import { ropeTable } from "./rope.ts";

export interface ForwardOptions {
  readonly attend: Attend;
  /** Round operands of large matrix products to bf16. */
  readonly bf16: boolean;
  /** Compute balance losses and usage. */
  readonly balance: boolean;
  /** Neurons kept instead of the configuration's number; a list has one number for each layer. */
  readonly kept?: number | readonly number[];
  /** Experts per token instead of the configuration's number. */
  readonly active?: number;
  /** Computes the networks in which neurons are selected, in the model's place: for studies of inference. */
  readonly experts?: (layer: number) => ExpertsOverride;
  /** Forget a layer's intermediates after its forward pass, and compute them again for the backward pass. */
  readonly recompute?: boolean;
  /** Told how each sparse layer routes, to keep what it wants of it on the tape. */
  readonly onRouting?: (tape: Tape, layer: number, routing: Routing) => void;
}

/** What leaves a layer: the residual stream, and the balance of its experts and neurons. */
type LayerTensors = {
  readonly x: Tensor;
  readonly expertLoss?: Tensor;
  readonly neuronLoss?: Tensor;
  readonly expertUsage?: Tensor;
  readonly neuronUsage?: Tensor;
};

export interface ForwardOutput {
  /** After the last norm, before the head: [T, D]. */
  readonly hidden: Tensor;
  /** Balance of each layer that has experts or drops neurons, in order; its tensors stay until the tape is released. */
  readonly layers: readonly LayerBalance[];
}

/** Weights in the form that inference reads; src/infer/storedWeights.ts makes them. */
export interface StoredWeights {
  /** By the parameter's name; not those of experts and other feed-forward networks. */
  weight(name: string): Tensor | undefined;
  /** The feed-forward network or networks at a prefix, e.g. `model.layers.0.mlp.experts`. */
  experts(prefix: string): StoredExperts;
  /** Gives all memory back. */
  close(): void;
}

export class Transformer {
  readonly config: ModelConfig;
  readonly backend: Backend;
  /** What can be trained; empty for a model of stored weights. */
  readonly parameters: ReadonlyMap<string, Parameter>;
  readonly #stored: StoredWeights | undefined;
  readonly #ropeTable: Tensor;

  /**
   * @param stored weights for inference only. Without them all parameters are allocated, with undefined content: follow
   *   with `initialise` or load them.
   */
  constructor(config: ModelConfig, backend: Backend, stored?: StoredWeights) {
    this.config = config;
    this.backend = backend;
    this.#stored = stored;
    const specs = stored ? [] : parameterSpecs(config);
    this.parameters = new Map(
      specs.map(({ name, shape, init }) => [
        name,
        new Parameter(name, backend.allocate("f32", sizeOf(shape)), shape, init !== "ones"),
      ]),
    );
    const { max_position_embeddings: positions, head_dim, rope_theta, variant } = config;
    const rotated = variant?.latent ? head_dim - variant.latent.plain : head_dim;
    this.#ropeTable = new Tensor(backend.allocate("f32", positions * rotated), [positions, rotated]);
    backend.write(this.#ropeTable.buffer, ropeTable(positions, rotated, rope_theta, variant?.ropeScaling));
  }

  /** Whether the weights are stored in fewer bits than f32: bf16 or int8. Keys and values are cached as bf16 then. */
  get isCompressed(): boolean {
    return this.head.dtype !== "f32";
  }

  /** Sets every parameter from the seed; each has its own stream, so none depends on the others. */
  initialise(seed: number): void {
    for (const spec of parameterSpecs(this.config)) {
      this.backend.write(this.parameter(spec.name).buffer, initialValue(spec, seed));
    }
  }

  parameter(name: string): Parameter {
    const parameter = this.parameters.get(name);
    if (!parameter) throw new Error(`the model has no parameter ${name}`);
    return parameter;
  }

  /** A weight by its parameter's name, stored or trained. */
  weight(name: string): Tensor {
    const weight = this.#stored ? this.#stored.weight(name) : this.parameter(name);
    if (!weight) throw new Error(`the model has no weight ${name}`);
    return weight;
  }

  /** The output head [V, D]. */
  get head(): Tensor {
    return this.weight(this.config.tie_word_embeddings ? "model.embed_tokens.weight" : "lm_head.weight");
  }

  /** Runs ids_T at positions_T through all layers. */
  forward(tape: Tape, ids: Tensor, positions: Tensor, options: ForwardOptions): ForwardOutput {
    const layers: LayerBalance[] = [];
    let x = embedding(tape, ids, this.weight("model.embed_tokens.weight"));
    for (let layer = 0; layer < this.config.num_hidden_layers; layer++) {
      const input = x;
      const run = (on: Tape) => this.#layer(on, layer, input, positions, options);
      const out = options.recompute ? tape.recomputed(run) : tape.scope(() => run(tape));
      x = out.x;
      const { expertLoss: experts, neuronLoss: neurons, expertUsage, neuronUsage } = out;
      if (expertUsage ?? neuronUsage) {
        layers.push({
          balanceLoss: { experts, neurons },
          usage: { experts: expertUsage, neurons: neuronUsage },
        });
      }
      for (const tensor of [experts, neurons, expertUsage, neuronUsage]) if (tensor) tape.keep(tensor);
    }
    const hidden = this.#norm(tape, x, "model.norm");
    return { hidden, layers };
  }

  #layer(tape: Tape, layer: number, x: Tensor, positions: Tensor, options: ForwardOptions): LayerTensors {
    const attended = tape.scope(() => add(tape, x, this.#attention(tape, layer, x, positions, options)));
    const { x: forward, ...balance } = this.#feedForward(tape, layer, attended, options);
    return { x: add(tape, attended, forward), ...balance };
  }

  #norm(tape: Tape, x: Tensor, name: string): Tensor {
    return rmsNorm(tape, x, this.weight(`${name}.weight`), this.config.rms_norm_eps);
  }

  #attention(
    tape: Tape,
    layer: number,
    x: Tensor,
    positions: Tensor,
    { attend, bf16 }: ForwardOptions,
  ): Tensor {
    const at = `model.layers.${layer}`;
    const block = {
      config: this.config,
      bf16,
      positions,
      ropeTable: this.#ropeTable,
      weight: (name: string) => this.weight(`${at}.self_attn.${name}`),
      attend: (q: Tensor, k: Tensor, v: Tensor) => attend(tape, layer, q, k, v),
    };
    return attentionBlock(tape, this.#norm(tape, x, `${at}.input_layernorm`), block);
  }

  #feedForward(
    tape: Tape,
    layer: number,
    x: Tensor,
    { bf16, balance, kept: keptByCaller, active, experts, onRouting }: ForwardOptions,
  ): LayerTensors {
    const { config } = this;
    const at = `model.layers.${layer}.mlp`;
    const normed = this.#norm(tape, x, `model.layers.${layer}.post_attention_layernorm`);
    const weights = (prefix: string, suffix: string) =>
      this.#stored?.experts(prefix) ?? {
        gate: this.parameter(`${prefix}.gate_proj${suffix}`),
        up: this.parameter(`${prefix}.up_proj${suffix}`),
        down: this.parameter(`${prefix}.down_proj${suffix}`),
      };
    const common = {
      activation: config.hidden_act,
      bf16,
      neuronScore: config.neuron_aux_loss,
      balance,
    };
    const balanceOf = ({ balanceLoss, usage }: LayerBalance) =>
      balance && {
        expertLoss: balanceLoss.experts,
        neuronLoss: balanceLoss.neurons,
        expertUsage: usage.experts,
        neuronUsage: usage.neurons,
      };
    const byLayer = typeof keptByCaller === "object" ? keptByCaller[layer] : keptByCaller;
    const selected = byLayer ?? keptNeurons(config);
    const override = experts?.(layer);
    if (!isSparseLayer(config, layer)) {
      const kept = config.num_experts > 0 ? config.intermediate_size : selected;
      const dense = config.variant?.mlpBias ? this.#biased(at) : weights(at, ".weight");
      const options = { ...common, kept, ...(config.num_experts === 0 && { override }) };
      const { output, ...balances } = denseLayer(tape, normed, dense, options);
      return { x: output, ...balanceOf(balances) };
    }
    const { output, routing, ...balances } = mixtureLayer(
      tape,
      normed,
      { ...weights(`${at}.experts`, ""), router: this.weight(`${at}.gate.weight`) },
      {
        ...common,
        kept: selected,
        override,
        active: active ?? config.num_experts_per_tok,
        normaliseWeights: config.norm_topk_prob,
        groups: config.variant?.groupedRouter,
      },
    );
    onRouting?.(tape, layer, routing);
    const balanced = balanceOf(balances);
    if (config.shared_expert_intermediate_size === 0) return { x: output, ...balanced };
    const kept = config.shared_expert_intermediate_size;
    const sharedWeights = weights(`${at}.shared_expert`, ".weight");
    const { output: shared } = denseExpert(tape, normed, sharedWeights, { ...common, kept });
    if (!config.variant?.sharedGate) return { x: add(tape, output, shared), ...balanced };
    const gate = linear(tape, normed, this.weight(`${at}.shared_expert_gate.weight`), false);
    return { x: addGated(tape, output, shared, gate), ...balanced };
  }

  /** A network with biases: no kernel has it whole, so its products are single ones. */
  #biased(at: string) {
    const of = (part: "weight" | "bias") => ({
      gate: this.weight(`${at}.gate_proj.${part}`),
      up: this.weight(`${at}.up_proj.${part}`),
      down: this.weight(`${at}.down_proj.${part}`),
    });
    return { ...of("weight"), biases: of("bias") };
  }

  /** Gives all memory back. */
  close(): void {
    for (const parameter of this.parameters.values()) {
      this.backend.free(parameter.buffer);
      parameter.clearGradient(this.backend);
    }
    this.#stored?.close();
    this.backend.free(this.#ropeTable.buffer);
  }
}

function initialValue({ name, shape, init }: ParameterSpec, seed: number): Float32Array {
  const values = new Float32Array(sizeOf(shape));
  if (init === "ones") values.fill(1);
  else new RandomStream(seed, `init/${name}`).fillNormal(values, init);
  return values;
}
