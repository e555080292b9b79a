// PyTorch's training step beside ours: a process for each arm and type of numbers. All are kept while they take turns if
// memory holds them; else each is started for its turn and ended after it.

import { countParameters } from "../model/parameters.ts";
import { sizeArguments, startPeers, TorchPeers } from "./peers/find.ts";
import { type MissingPeer, type PeerCommand, PeerProcess } from "./peers/process.ts";
import { type BenchSize, configOf } from "./sizes.ts";

/** Whose steps they are. */
export interface TrainContender {
  readonly arm: "MoE" | "MoNE";
  readonly engine: string;
  readonly version: string;
  readonly kept: number;
  readonly dtype: string;
  readonly recompute?: boolean;
}

/** Who takes turns at training steps. */
export interface Runner {
  readonly row: TrainContender;
  /** Seconds of each of so many steps. */
  steps(count: number): Promise<number[]>;
  peakBytes(): Promise<number | undefined>;
  close(): void;
}

/** What a process of PyTorch was seen to hold at its peak, by parameter of the medium model. */
const TORCH_BYTES_PER_PARAMETER = 34;
/** Share of the machine's memory that may be taken. */
const MEMORY_SHARE = 0.7;

export interface TorchWork {
  readonly size: BenchSize;
  readonly arms: readonly { arm: "MoE" | "MoNE"; kept: number }[];
  readonly seq: number;
  readonly batch: number;
  /** File of token ids. */
  readonly tokens: string;
  readonly threads: number;
  /** Bytes of this machine. */
  readonly memory: number;
  /** Bytes that our own models hold. */
  readonly own: number;
  /** Told why a peer cannot run. */
  miss(peer: MissingPeer): void;
  readonly signal?: AbortSignal;
}

/** PyTorch in f32 and bf16 for each arm; none, and a note, where it cannot run. */
export async function torchRunners(work: TorchWork): Promise<Runner[]> {
  const { size, arms, seq, batch, tokens, threads, memory, own, signal } = work;
  const config = configOf(size, null);
  const torch = new TorchPeers();
  const plans = arms.flatMap(({ arm, kept }) =>
    (["f32", "bf16"] as const).map((dtype) => ({ arm, kept, dtype })),
  );
  const commands = plans.map(({ kept, dtype }) =>
    torch.command(`PyTorch ${dtype}`, "torch_train.py", {
      ...sizeArguments(config),
      kept,
      seq,
      batch,
      threads,
      tokens,
      dtype,
    }),
  );
  const needed = own + plans.length * TORCH_BYTES_PER_PARAMETER * countParameters(config).total;
  const together = needed <= MEMORY_SHARE * memory;
  const rowOf = (plan: (typeof plans)[number], { about }: PeerProcess): TrainContender => ({
    ...plan,
    engine: "PyTorch",
    version: String(about.version),
  });
  const runners: Runner[] = [];
  if (!together) {
    // One start tells whether it runs here, and the version: it makes a whole model.
    const [first] = await startPeers(commands.slice(0, 1), work.miss, signal);
    await first?.closed();
    for (const [i, command] of commands.entries()) {
      if (first && !("reason" in command)) runners.push(visiting(rowOf(plans[i], first), command, signal));
    }
    return runners;
  }
  for (const [i, plan] of plans.entries()) {
    const [peer] = await startPeers(commands.slice(i, i + 1), work.miss, signal);
    if (!peer) break; // said once
    runners.push(staying(rowOf(plan, peer), peer));
  }
  return runners;
}

/** Asks a peer for steps. @returns their seconds, and the most bytes it has held. */
async function stepsOf(peer: PeerProcess, count: number): Promise<{ seconds: number[]; peak: number }> {
  const answer = await peer.ask({ steps: count });
  return { seconds: answer.seconds as number[], peak: Number(answer.peakBytes) };
}

function staying(row: TrainContender, peer: PeerProcess): Runner {
  let most: number | undefined;
  return {
    row,
    async steps(count) {
      const { seconds, peak } = await stepsOf(peer, count);
      most = peak;
      return seconds;
    },
    peakBytes: async () => most,
    close: () => peer.close(),
  };
}

/** Started anew for each turn, whose first step is not counted: it makes the optimiser's state. */
function visiting(row: TrainContender, command: PeerCommand, signal?: AbortSignal): Runner {
  let most: number | undefined;
  return {
    row,
    async steps(count) {
      const peer = await PeerProcess.start(command, signal);
      try {
        await stepsOf(peer, 1);
        const { seconds, peak } = await stepsOf(peer, count);
        most = Math.max(most ?? 0, peak);
        return seconds;
      } finally {
        await peer.closed();
      }
    },
    peakBytes: async () => most,
    close: () => {},
  };
}
