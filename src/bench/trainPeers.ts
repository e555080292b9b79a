// PyTorch on the training steps of `mone bench train`, as a process that works when its turn comes.

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expertWidth, keptNeurons } from "../model/config.ts";
import type { TrainConfig } from "../train/config.ts";
import { median } from "./machine.ts";
import { startPeers, TorchPeers } from "./peers/find.ts";
import type { MissingPeer, PeerProcess } from "./peers/process.ts";

export interface TrainPeerTiming {
  readonly name: string;
  readonly version: string;
  readonly kept: number;
  readonly tokensPerSecond: number;
  readonly range: readonly [number, number];
  /** Of its process, in bytes. */
  readonly peakMemory: number;
}

export class TrainPeers {
  readonly missing: MissingPeer[] = [];
  readonly #folder = mkdtempSync(join(tmpdir(), "mone-peers-"));
  #running: { peer: PeerProcess; kept: number; tokens: number; rates: number[]; peak: number }[] = [];

  /** Starts PyTorch for every configuration, in each type it has products in. @param text bytes to train on. */
  static async start(
    configs: readonly TrainConfig[],
    text: Uint8Array,
    threads: number,
    signal?: AbortSignal,
  ): Promise<TrainPeers> {
    const peers = new TrainPeers();
    const path = join(peers.#folder, "text.bin");
    writeFileSync(path, text);
    const torch = new TorchPeers();
    try {
      for (const { model, batch, seqLen } of configs) {
        const kept = keptNeurons(model);
        for (const dtype of ["bf16", "f32"]) {
          const command = torch.command(`PyTorch ${dtype}`, "torch_train.py", {
            width: model.hidden_size,
            layers: model.num_hidden_layers,
            heads: model.num_attention_heads,
            experts: model.num_experts,
            active: model.num_experts_per_tok,
            neurons: expertWidth(model),
            kept,
            seq: seqLen,
            batch,
            vocab: model.vocab_size,
            threads,
            tokens: path,
            dtype,
          });
          const miss = (missing: MissingPeer) => {
            if (!peers.missing.some(({ peer, reason }) => peer === missing.peer && reason === missing.reason))
              peers.missing.push(missing);
          };
          const [peer] = await startPeers([command], miss, signal);
          if (peer) peers.#running.push({ peer, kept, tokens: batch * seqLen, rates: [], peak: 0 });
        }
      }
    } catch (error) {
      peers.close();
      throw error;
    }
    return peers;
  }

  /** One turn of every peer: a step that is not timed the first time, then some that are. */
  async measure(steps: number, first: boolean): Promise<void> {
    for (const running of this.#running) {
      if (first) await running.peer.seconds({ steps: 1 });
      const answer = await running.peer.ask({ steps });
      running.rates.push(running.tokens / median(answer.seconds as number[]));
      running.peak = Number(answer.peakBytes);
    }
  }

  get timings(): TrainPeerTiming[] {
    return this.#running.map(({ peer, kept, rates, peak }) => ({
      name: peer.name,
      version: String(peer.about.version),
      kept,
      tokensPerSecond: median(rates),
      range: [Math.min(...rates), Math.max(...rates)],
      peakMemory: peak,
    }));
  }

  close(): void {
    for (const { peer } of this.#running) peer.close();
    this.#running = [];
    rmSync(this.#folder, { recursive: true, force: true });
  }
}
