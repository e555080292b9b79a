// A model computed once more, in plain loops of doubles, from nothing but config.json and the tensors on disk, by the rules
// of transformers 5.18: for what no golden file of transformers turns on. It shares no code with what it judges.
// Letters: T tokens, D width.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { SafetensorsFile } from "../../src/checkpoint/safetensors.ts";

// biome-ignore lint/suspicious/noExplicitAny: keys of a config.json, each used where its kind is known
type Config = Record<string, any>;
type Matrix = { rows: number; width: number; values: Float32Array };
type Vector = number[];

export interface PlainModel {
  readonly config: Config;
  readonly weights: ReadonlyMap<string, Matrix>;
}

export function readPlainModel(folder: string): PlainModel {
  const config = JSON.parse(readFileSync(join(folder, "config.json"), "utf8"));
  const file = SafetensorsFile.open(join(folder, "model.safetensors"));
  const weights = new Map<string, Matrix>();
  for (const { name, shape } of file.tensors.values()) {
    const [rows, width] = shape.length === 1 ? [1, shape[0]] : shape;
    weights.set(name, { rows, width, values: file.readFloat32(name) });
  }
  file.close();
  return { config, weights };
}

const dot = (a: Vector, b: Vector) => a.reduce((sum, value, i) => sum + value * b[i], 0);
const plus = (a: Vector, b: Vector) => a.map((value, i) => value + b[i]);
const silu = (x: number) => x / (1 + Math.exp(-x));
const softmax = (scores: Vector) => {
  const largest = Math.max(...scores);
  const powers = scores.map((score) => Math.exp(score - largest));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((power) => power / sum);
};

/** Logits of every position: [T][vocabulary]. */
export function plainLogits(model: PlainModel, ids: ArrayLike<number>): Vector[] {
  const { config } = model;
  const family = config.model_type;
  const weight = (name: string) => {
    const found = model.weights.get(name);
    if (!found) throw new Error(`there is no tensor ${name}`);
    return found;
  };
  const row = ({ values, width }: Matrix, index: number) => [
    ...values.subarray(index * width, (index + 1) * width),
  ];
  const linear = (name: string, x: Vector): Vector => {
    const w = weight(`${name}.weight`);
    const y = Array.from({ length: w.rows }, (_, i) => dot(row(w, i), x));
    const bias = model.weights.get(`${name}.bias`);
    return bias ? plus(y, row(bias, 0)) : y;
  };
  const norm = (name: string, x: Vector, eps: number = config.rms_norm_eps): Vector => {
    const scale = 1 / Math.sqrt(dot(x, x) / x.length + eps);
    return x.map((value, i) => value * scale * weight(`${name}.weight`).values[i]);
  };
  const glu = (
    prefix: string,
    x: Vector,
    [gate, up, down]: readonly string[] = ["gate_proj", "up_proj", "down_proj"],
  ) => {
    const [g, u] = [linear(`${prefix}.${gate}`, x), linear(`${prefix}.${up}`, x)];
    return linear(
      `${prefix}.${down}`,
      g.map((value, i) => silu(value) * u[i]),
    );
  };

  function attention(layer: number, x: Vector[]): Vector[] {
    const at = `model.layers.${layer}.self_attn`;
    const { q, k, v, scale } = family === "deepseek_v2" ? latent(at, x) : plain(at, x);
    const window = windowOf(config, layer);
    const group = q[0].length / k[0].length;
    return x.map((_, i) => {
      const heads = q[i].map((query, head) => {
        const first = window === undefined ? 0 : Math.max(0, i - window + 1);
        const seen = Array.from({ length: i + 1 - first }, (_, n) => first + n);
        const shares = softmax(seen.map((j) => scale * dot(query, k[j][Math.floor(head / group)])));
        return v[0][0].map((_, d) =>
          seen.reduce((sum, j, n) => sum + shares[n] * v[j][Math.floor(head / group)][d], 0),
        );
      });
      return linear(`${at}.o_proj`, heads.flat());
    });
  }

  function plain(at: string, x: Vector[]) {
    const width = config.head_dim ?? config.hidden_size / config.num_attention_heads;
    const split = (y: Vector) =>
      Array.from({ length: y.length / width }, (_, h) => y.slice(h * width, (h + 1) * width));
    const bound = config.clip_qkv ?? Number.POSITIVE_INFINITY;
    const clip = (y: Vector) => y.map((value) => Math.min(bound, Math.max(-bound, value)));
    const frequencies = frequenciesOf(config, width);
    const turned = (which: "q" | "k", input: Vector, position: number) => {
      const y = linear(`${at}.${which}_proj`, input);
      const whole = family === "olmoe" ? norm(`${at}.${which}_norm`, y) : y;
      return split(clip(whole)).map((head) => {
        const ready = family.startsWith("qwen3") ? norm(`${at}.${which}_norm`, head) : head;
        const half = width / 2;
        return ready.map((value, i) => {
          const angle = position * frequencies[i % half];
          const other = i < half ? -ready[i + half] : ready[i - half];
          return value * Math.cos(angle) + other * Math.sin(angle);
        });
      });
    };
    return {
      q: x.map((input, t) => turned("q", input, t)),
      k: x.map((input, t) => turned("k", input, t)),
      v: x.map((input) => split(clip(linear(`${at}.v_proj`, input)))),
      scale: width ** -0.5,
    };
  }

  function latent(at: string, x: Vector[]) {
    const { num_attention_heads: heads, qk_nope_head_dim: dn, qk_rope_head_dim: dr, v_head_dim: dv } = config;
    const rank = config.kv_lora_rank;
    const rope = config.rope_scaling;
    const magnitude = (k: number) => (rope.factor <= 1 ? 1 : 0.1 * k * Math.log(rope.factor) + 1);
    const both = rope?.mscale && rope?.mscale_all_dim;
    const cosFactor = !rope
      ? 1
      : both
        ? magnitude(rope.mscale) / magnitude(rope.mscale_all_dim)
        : magnitude(1);
    const frequencies = frequenciesOf(config, dr);
    // Pairs of neighbours.
    const turn = (y: Vector, position: number) =>
      y.map((value, i) => {
        const angle = position * frequencies[Math.floor(i / 2)];
        const other = i % 2 === 0 ? -y[i + 1] : y[i - 1];
        return cosFactor * (value * Math.cos(angle) + other * Math.sin(angle));
      });
    const q = x.map((input, t) => {
      const all =
        config.q_lora_rank === null
          ? linear(`${at}.q_proj`, input)
          : linear(`${at}.q_b_proj`, norm(`${at}.q_a_layernorm`, linear(`${at}.q_a_proj`, input), 1e-6));
      return Array.from({ length: heads }, (_, h) => {
        const head = all.slice(h * (dn + dr), (h + 1) * (dn + dr));
        return [...head.slice(0, dn), ...turn(head.slice(dn), t)];
      });
    });
    const kv = x.map((input, t) => {
      const compressed = linear(`${at}.kv_a_proj_with_mqa`, input);
      const shared = turn(compressed.slice(rank), t);
      const all = linear(`${at}.kv_b_proj`, norm(`${at}.kv_a_layernorm`, compressed.slice(0, rank), 1e-6));
      return Array.from({ length: heads }, (_, h) => {
        const head = all.slice(h * (dn + dv), (h + 1) * (dn + dv));
        return { k: [...head.slice(0, dn), ...shared], v: head.slice(dn) };
      });
    });
    const more = rope?.mscale_all_dim ? magnitude(rope.mscale_all_dim) ** 2 : 1;
    return {
      q,
      k: kv.map((all) => all.map((head) => head.k)),
      v: kv.map((all) => all.map((head) => head.v)),
      scale: (dn + dr) ** -0.5 * more,
    };
  }

  function feedForward(layer: number, x: Vector): Vector {
    const at = `model.layers.${layer}`;
    if (!isSparse(config, layer)) return glu(`${at}.mlp`, x);
    const block = family === "mixtral" ? `${at}.block_sparse_moe` : `${at}.mlp`;
    const names = family === "mixtral" ? (["w1", "w3", "w2"] as const) : undefined;
    const probabilities = softmax(linear(`${block}.gate`, x));
    const allowed = groupsOf(config, probabilities);
    const chosen = probabilities
      .map((_, e) => e)
      .filter((e) => allowed(e))
      .sort((a, b) => probabilities[b] - probabilities[a])
      .slice(0, config.num_experts_per_tok);
    const sum = chosen.reduce((total, e) => total + probabilities[e], 0);
    const divided = family === "mixtral" || (config.norm_topk_prob === true && family !== "deepseek_v2");
    const factor = (config.routed_scaling_factor ?? 1) / (divided ? sum : 1);
    let y = x.map(() => 0);
    for (const e of chosen) {
      const output = glu(`${block}.experts.${e}`, x, names);
      y = plus(
        y,
        output.map((value) => value * probabilities[e] * factor),
      );
    }
    if (family === "deepseek_v2") return plus(y, glu(`${block}.shared_experts`, x));
    if (family !== "qwen2_moe") return y;
    const [gate] = linear(`${block}.shared_expert_gate`, x);
    return plus(
      y,
      glu(`${block}.shared_expert`, x).map((value) => value / (1 + Math.exp(-gate))),
    );
  }

  let h = Array.from(ids, (id) => row(weight("model.embed_tokens.weight"), id));
  for (let layer = 0; layer < config.num_hidden_layers; layer++) {
    const attended = attention(
      layer,
      h.map((x) => norm(`model.layers.${layer}.input_layernorm`, x)),
    );
    h = h.map((x, t) => plus(x, attended[t]));
    h = h.map((x) => plus(x, feedForward(layer, norm(`model.layers.${layer}.post_attention_layernorm`, x))));
  }
  const head = config.tie_word_embeddings === true ? "model.embed_tokens" : "lm_head";
  return h.map((x) => linear(head, norm("model.norm", x)));
}

function isSparse(config: Config, layer: number): boolean {
  if (config.model_type === "deepseek_v2") return layer >= config.first_k_dense_replace;
  const experts = config.num_experts ?? config.num_local_experts ?? 0;
  const step = config.decoder_sparse_step ?? 1;
  return experts > 0 && !(config.mlp_only_layers ?? []).includes(layer) && (layer + 1) % step === 0;
}

function windowOf(config: Config, layer: number): number | undefined {
  const { model_type: family, sliding_window: window } = config;
  if (family === "mixtral") return window || undefined;
  if (!family.startsWith("qwen") || config.use_sliding_window !== true) return undefined;
  const slides = config.layer_types
    ? config.layer_types[layer] === "sliding_attention"
    : family === "qwen2_moe"
      ? layer % 2 === 0 && layer < config.max_window_layers
      : family === "qwen3_moe" || layer >= config.max_window_layers;
  return slides ? window : undefined;
}

/** Which experts may be chosen: those of the groups with the largest maxima. */
function groupsOf(config: Config, probabilities: Vector): (expert: number) => boolean {
  if (config.topk_method !== "group_limited_greedy") return () => true;
  const size = probabilities.length / config.n_group;
  const best = Array.from({ length: config.n_group }, (_, g) =>
    Math.max(...probabilities.slice(g * size, (g + 1) * size)),
  );
  const kept = best
    .map((_, g) => g)
    .sort((a, b) => best[b] - best[a])
    .slice(0, config.topk_group);
  return (expert) => kept.includes(Math.floor(expert / size));
}

/** Of the pairs of a rotation over `dim`. */
function frequenciesOf(config: Config, dim: number): Vector {
  const rope = { ...config.rope_parameters, ...config.rope_scaling };
  const theta = rope.rope_theta ?? config.rope_theta;
  const plain = Array.from({ length: dim / 2 }, (_, i) => theta ** ((-2 * i) / dim));
  const { rope_type: type = "default", factor, original_max_position_embeddings: original } = rope;
  if (type === "linear") return plain.map((frequency) => frequency / factor);
  if (type === "llama3") {
    return plain.map((frequency) => {
      const wavelength = (2 * Math.PI) / frequency;
      if (wavelength < original / rope.high_freq_factor) return frequency;
      if (wavelength > original / rope.low_freq_factor) return frequency / factor;
      const s =
        (original / wavelength - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
      return ((1 - s) * frequency) / factor + s * frequency;
    });
  }
  if (type === "yarn") {
    const pair = (turns: number) =>
      (dim * Math.log(original / (2 * Math.PI * turns))) / (2 * Math.log(theta));
    const low = Math.max(0, Math.floor(pair(rope.beta_fast ?? 32)));
    const end = Math.min(dim - 1, Math.ceil(pair(rope.beta_slow ?? 1)));
    const high = end === low ? end + 0.001 : end;
    return plain.map((frequency, i) => {
      const ramp = Math.min(1, Math.max(0, (i - low) / (high - low)));
      return (frequency / factor) * ramp + frequency * (1 - ramp);
    });
  }
  return plain;
}
