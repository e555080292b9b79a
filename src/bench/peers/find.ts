// Which peers this machine has, and how each is started. A peer that is missing is told with what to install; nothing is
// installed from here.

import { spawnSync } from "node:child_process";
import { RunError } from "../../errors.ts";
import type { ModelConfig } from "../../model/config.ts";
import { folderWith, type MissingPeer, type PeerCommand, PeerProcess, peerProgram } from "./process.ts";

/** A `python3` that has PyTorch: `$MONE_PYTHON` alone if it is set, else those that are usually there. */
function pythonWithTorch(): string | MissingPeer {
  const own = process.env.MONE_PYTHON;
  const candidates = own ? [own] : ["python3", "/usr/bin/python3"];
  for (const command of candidates) {
    if (spawnSync(command, ["-c", "import torch"], { stdio: "ignore" }).status === 0) return command;
  }
  return {
    peer: "PyTorch",
    reason: `${candidates.join(" and ")} cannot import torch: pip install torch, or set MONE_PYTHON to a Python that has it`,
  };
}

type Values = Readonly<Record<string, string | number>>;

const asArguments = (values: Values) =>
  Object.entries(values).flatMap(([name, value]) => [`--${name}`, String(value)]);

/** The sizes of a model as the PyTorch programs take them, but for K. */
export function sizeArguments(config: ModelConfig): Values {
  return {
    width: config.hidden_size,
    layers: config.num_hidden_layers,
    heads: config.num_attention_heads,
    experts: config.num_experts,
    active: config.num_experts_per_tok,
    neurons: config.moe_intermediate_size,
    vocab: config.vocab_size,
  };
}

/** PyTorch programs of bench/peers, once it is known which Python runs them. */
export class TorchPeers {
  readonly #python: string | MissingPeer = pythonWithTorch();

  /** A program as a command, or why it cannot run. */
  command(name: string, file: string, values: Values): PeerCommand | MissingPeer {
    if (typeof this.#python !== "string") return this.#python;
    return {
      name,
      command: this.#python,
      args: [peerProgram(file), ...asArguments(values)],
      env: { PYTHONDONTWRITEBYTECODE: "1" },
    };
  }
}

/** A program that runs in Node with a package of its own, or how to get that. */
export function nodePeer(
  name: string,
  pack: string,
  file: string,
  values: Values,
): PeerCommand | MissingPeer {
  const folder = folderWith(pack);
  if (folder === undefined) {
    return {
      peer: name,
      reason: `there is no node_modules/${pack}: npm install ${pack} in any folder, and set MONE_PEERS to that folder`,
    };
  }
  const args = [peerProgram(file), ...asArguments({ modules: folder, ...values })];
  return { name, command: process.execPath, args };
}

/** Starts those that can; tells `miss` about the others, each kind once. Close what comes back. */
export async function startPeers(
  commands: readonly (PeerCommand | MissingPeer)[],
  miss: (peer: MissingPeer) => void,
  signal?: AbortSignal,
): Promise<PeerProcess[]> {
  const peers: PeerProcess[] = [];
  const told = new Set<string>();
  for (const command of commands) {
    if ("reason" in command) {
      if (!told.has(command.peer)) miss(command);
      told.add(command.peer);
      continue;
    }
    try {
      peers.push(await PeerProcess.start(command, signal));
    } catch (error) {
      if (!(error instanceof RunError)) {
        for (const peer of peers) peer.close();
        throw error;
      }
      miss({ peer: command.name, reason: error.message });
    }
  }
  return peers;
}
