// Peers of the decoding benchmark: llama.cpp on a temporary file of the same shape, and PyTorch, which gathers the rows of
// kept neurons where K < F. llama.cpp has no neuron selection, so its rows are K = F.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { writeRandomGguf } from "../../checkpoint/randomGguf.ts";
import { decodeBytes } from "../../model/work.ts";
import { type DecodeContender, decodeConfig } from "../decodeArm.ts";
import type { BenchOptions, Session } from "../result.ts";
import type { BenchSize } from "../sizes.ts";
import { nodePeer, sizeArguments, startPeers, TorchPeers } from "./find.ts";
import type { MissingPeer, PeerCommand, PeerProcess } from "./process.ts";

export type DecodePeer = DecodeContender;

export interface DecodePeerPlan {
  readonly size: BenchSize;
  readonly kepts: readonly number[];
  readonly positions: number;
  readonly quick: boolean;
  readonly signal?: AbortSignal;
}

/** Starts all that can be started. */
export async function startDecodePeers(
  session: Session<"decode">,
  plan: DecodePeerPlan,
  onProgress?: BenchOptions["onProgress"],
): Promise<DecodePeer[]> {
  const peers = await llamaPeers(session, plan, onProgress);
  try {
    peers.push(...(await torchPeers(session, plan, onProgress)));
    return peers;
  } catch (error) {
    for (const peer of peers) peer.close();
    throw error;
  }
}

/** Bytes of a weight in llama.cpp: q8_0 has two bytes of scale for each 32. */
const llamaForms = [
  { type: "BF16", dtype: "bf16", like: "bf16", factor: 1 },
  { type: "Q8_0", dtype: "q8_0", like: "bf16", factor: 34 / 64 },
] as const;

async function llamaPeers(
  session: Session<"decode">,
  { size, positions, quick, signal }: DecodePeerPlan,
  onProgress?: BenchOptions["onProgress"],
): Promise<DecodePeer[]> {
  const config = decodeConfig(size, 1, quick);
  const full = decodeConfig(size, config.moe_intermediate_size, quick);
  const folder = mkdtempSync(join(tmpdir(), "mone-gguf-"));
  const found: DecodePeer[] = [];
  let open = 0;
  const remove = () => rmSync(folder, { recursive: true, force: true });
  try {
    for (const { type, dtype, like, factor } of llamaForms) {
      const path = join(folder, `${dtype}.gguf`);
      const values = { model: path, threads: session.envelope.threads, positions };
      const command = nodePeer(`llama.cpp ${dtype}`, "node-llama-cpp", "llama_decode.mjs", values);
      if ("reason" in command) {
        session.miss({ ...command, peer: "llama.cpp" });
        break;
      }
      onProgress?.("starting peers", [`${size.name}, llama.cpp ${dtype}`]);
      await writeRandomGguf(path, full, { type, signal });
      for (const peer of await startPeers([command], session.miss, signal)) {
        open++;
        const { total, router } = decodeBytes(full, like);
        const close = () => {
          peer.close();
          if (--open === 0) remove();
        };
        const bytesPerToken = (total - router) * factor + router;
        const kept = full.moe_intermediate_size;
        found.push(contender(peer, { engine: "llama.cpp", dtype, kept, bytesPerToken, close }));
      }
    }
    if (open === 0) remove();
    return found;
  } catch (error) {
    for (const peer of found) peer.close();
    remove();
    throw error;
  }
}

async function torchPeers(
  session: Session<"decode">,
  { size, kepts, positions, quick, signal }: DecodePeerPlan,
  onProgress?: BenchOptions["onProgress"],
): Promise<DecodePeer[]> {
  const torch = new TorchPeers();
  const found: DecodePeer[] = [];
  try {
    for (const kept of new Set(kepts)) {
      const config = decodeConfig(size, kept, quick);
      const command: PeerCommand | MissingPeer = torch.command("PyTorch bf16", "torch_decode.py", {
        ...sizeArguments(config),
        kept,
        threads: session.envelope.threads,
        positions,
        dtype: "bf16",
      });
      onProgress?.("starting peers", [`${size.name}, PyTorch, K ${kept}`]);
      const started = await startPeers([command], session.miss, signal);
      if (started.length === 0) break; // said once
      const bytesPerToken = decodeBytes(config, "bf16").total;
      for (const peer of started) {
        const close = () => peer.close();
        found.push(contender(peer, { engine: "PyTorch", dtype: "bf16", kept, bytesPerToken, close }));
      }
    }
    return found;
  } catch (error) {
    for (const peer of found) peer.close();
    throw error;
  }
}

function contender(
  peer: PeerProcess,
  about: Pick<DecodePeer, "engine" | "dtype" | "kept" | "bytesPerToken" | "close">,
): DecodePeer {
  return {
    ...about,
    version: String(peer.about.version),
    batches: [1],
    prefill: async (tokens) => (await peer.seconds({ prefill: tokens }))[0],
    decode: ({ tokens, prompt }) => peer.seconds({ decode: tokens, prompt }),
  };
}
