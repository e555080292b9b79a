// Other engines on the shapes of `mone bench decode`: PyTorch (dense, and gathering kept rows) and llama.cpp (which knows
// no kept neurons). Each is a process that works when its turn comes (peers/process.ts).

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { writeRandomGguf } from "../checkpoint/randomGguf.ts";
import type { WeightFormat } from "../infer/randomModel.ts";
import { expertWidth, keptNeurons, type ModelConfig } from "../model/config.ts";
import { decodeBytes } from "./cost.ts";
import { median } from "./machine.ts";
import { nodePeer, startPeers, TorchPeers } from "./peers/find.ts";
import type { MissingPeer, PeerCommand, PeerProcess } from "./peers/process.ts";

export interface PeerTiming {
  readonly name: string;
  readonly version: string;
  readonly kept: number;
  readonly tokensPerSecond: number;
  readonly range: readonly [number, number];
  readonly promptTokensPerSecond: number;
  readonly bytesPerToken: number;
  readonly gigabytesPerSecond: number;
}

interface Candidate {
  readonly command: PeerCommand | MissingPeer;
  readonly kept: number;
  readonly bytesPerToken: number;
}

/** Of q8_0: 32 bytes and a scale of 16 bits. */
const Q8_BYTES = 34 / 32;

export class DecodePeers {
  readonly missing: MissingPeer[] = [];
  readonly #folder: string;
  #running: { peer: PeerProcess; kept: number; bytesPerToken: number; steps: number[]; prompts: number[] }[] =
    [];

  private constructor() {
    this.#folder = mkdtempSync(join(tmpdir(), "mone-peers-"));
  }

  /** Starts what this machine has for models that differ in their kept neurons; the others are in `missing`. */
  static async start(
    models: readonly ModelConfig[],
    dtype: WeightFormat,
    threads: number,
    signal?: AbortSignal,
  ): Promise<DecodePeers> {
    const peers = new DecodePeers();
    try {
      const candidates = [
        ...torchCandidates(models, dtype, threads),
        await peers.#llama(models[0], dtype, threads, signal),
      ];
      for (const { command, kept, bytesPerToken } of candidates) {
        const [peer] = await startPeers([command], (missing) => peers.#miss(missing), signal);
        if (peer) peers.#running.push({ peer, kept, bytesPerToken, steps: [], prompts: [] });
      }
    } catch (error) {
      peers.close();
      throw error;
    }
    return peers;
  }

  #miss(missing: MissingPeer): void {
    if (!this.missing.some(({ peer, reason }) => peer === missing.peer && reason === missing.reason))
      this.missing.push(missing);
  }

  async #llama(
    config: ModelConfig,
    dtype: WeightFormat,
    threads: number,
    signal?: AbortSignal,
  ): Promise<Candidate> {
    const type = ({ f32: "F32", bf16: "BF16", int8: "Q8_0" } as const)[dtype];
    const path = join(this.#folder, "random.gguf");
    const name = `llama.cpp ${type.toLowerCase()}`;
    const values = { model: path, threads, positions: config.max_position_embeddings + 16 };
    const command = nodePeer(name, "node-llama-cpp", "llama_decode.mjs", values);
    const kept = expertWidth(config);
    const dense = { ...config, num_neurons_per_tok: kept };
    if (!("reason" in command))
      await writeRandomGguf(
        path,
        { ...dense, vocab_size: Math.max(320, config.vocab_size) },
        { type, signal },
      );
    // Scales of 2 bytes in 32 instead of 4 in a row; its router is f32 as well.
    const router = 4 * config.num_hidden_layers * config.num_experts * config.hidden_size;
    const plain = (decodeBytes(dense, "bf16") - router) / 2;
    const bytesPerToken = dtype === "int8" ? plain * Q8_BYTES + router : decodeBytes(dense, dtype);
    return { command, kept, bytesPerToken };
  }

  /** One turn of every peer. */
  async measure(prompt: number, tokens: number): Promise<void> {
    for (const running of this.#running) {
      running.prompts.push(median(await running.peer.seconds({ prefill: prompt })));
      running.steps.push(median(await running.peer.seconds({ decode: tokens, prompt })));
    }
  }

  timings(prompt: number): PeerTiming[] {
    return this.#running.map(({ peer, kept, bytesPerToken, steps, prompts }) => ({
      name: peer.name,
      version: String(peer.about.version),
      kept,
      tokensPerSecond: 1 / median(steps),
      range: [1 / Math.max(...steps), 1 / Math.min(...steps)],
      promptTokensPerSecond: prompt / median(prompts),
      bytesPerToken,
      gigabytesPerSecond: bytesPerToken / 1e9 / median(steps),
    }));
  }

  close(): void {
    for (const { peer } of this.#running) peer.close();
    this.#running = [];
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

/** PyTorch keeping everything, and keeping what the second model keeps. It has no products of bytes with scales here. */
function torchCandidates(models: readonly ModelConfig[], dtype: WeightFormat, threads: number): Candidate[] {
  const torch = new TorchPeers();
  const type = dtype === "int8" ? "bf16" : dtype;
  return [models[0], models.find((model) => 4 * keptNeurons(model) === expertWidth(model))]
    .filter((config) => config !== undefined)
    .map((config) => {
      const kept = keptNeurons(config);
      const sparse = kept < expertWidth(config);
      const command = torch.command(`PyTorch ${type}${sparse ? ", kept rows" : ""}`, "torch_decode.py", {
        width: config.hidden_size,
        layers: config.num_hidden_layers,
        heads: config.num_attention_heads,
        experts: config.num_experts,
        active: config.num_experts_per_tok,
        neurons: expertWidth(config),
        kept,
        vocab: config.vocab_size,
        threads,
        positions: config.max_position_embeddings,
        dtype: type,
      });
      return { command, kept, bytesPerToken: decodeBytes(config, type) };
    });
}
