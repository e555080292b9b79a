// What every benchmark's result carries besides its figures, so that a number can never be found without the machine, the
// versions and the command it belongs to; and the options that all benchmarks share.

import type { Backend } from "../backends/backend.ts";
import { openBackend } from "../backends/cpu.ts";
import { packageVersion } from "../version.ts";
import {
  describeMachine,
  improveLimits,
  type Machine,
  type MachineLimits,
  measureLimits,
  quickLimits,
} from "./machine.ts";
import type { TurnOptions } from "./measure.ts";
import type { MissingPeer } from "./peers/process.ts";

export interface BenchOptions {
  readonly threads?: number;
  /** Alternating rounds. */
  readonly rounds?: number;
  /** Sizes of a smoke test: seconds in all, figures without meaning. */
  readonly quick?: boolean;
  /** The command that asked, for the record. */
  readonly command?: string;
  readonly signal?: AbortSignal;
  /** Told what is being done, most important words first. */
  readonly onProgress?: (task: string, details: readonly string[]) => void;
  /** Told one line about things the user should know, such as a slow backend or a missing peer. */
  readonly announce?: (line: string) => void;
}

/** What surrounds the figures of a benchmark. */
export interface Envelope<N extends string = string> {
  readonly bench: N;
  readonly command: string;
  readonly date: string;
  readonly machine: Machine;
  /** Backend, instruction level and threads in words. */
  readonly backend: string;
  readonly level: string;
  readonly threads: number;
  readonly versions: { readonly node: string; readonly package: string };
  readonly rounds: number;
  /** Measured in the same run; shares refer to it. */
  readonly limits?: MachineLimits;
  /** A smoke test: its figures mean nothing. */
  readonly quick: boolean;
  /** Peers that were asked for and cannot run here, with what to do about it. */
  readonly missing: readonly MissingPeer[];
}

/** A benchmark at work: a backend, and the envelope of the result. */
export interface Session<N extends string> {
  readonly backend: Backend;
  readonly envelope: Envelope<N>;
  readonly turns: TurnOptions;
  /**
   * Measures the machine once more, so that a disturbance at the beginning makes no share too large. Call it when all is
   * measured. @returns the limits, and the envelope with them.
   */
  settle(): Promise<{ readonly limits: MachineLimits; readonly envelope: Envelope<N> }>;
  /** Records a peer that cannot run. */
  miss(peer: MissingPeer): void;
}

/** Measures the machine, opens the backend, runs `body`, which calls `settle` in the end, closes. */
export async function inSession<N extends string, R>(
  bench: N,
  options: BenchOptions,
  body: (session: Session<N>) => Promise<R>,
): Promise<R> {
  const { threads = describeMachine().cores, quick = false, signal, announce, onProgress } = options;
  const rounds = options.rounds ?? (quick ? 1 : 3);
  onProgress?.("measuring the machine", []);
  const plan = { ...(quick && quickLimits), threads, signal, announce };
  const limits = await measureLimits(plan);
  const backend = openBackend({ threads }, () => {}); // what is to be said was said above
  const missing: MissingPeer[] = [];
  try {
    const envelope: Envelope<N> = {
      bench,
      command: options.command ?? `(library) ${bench}`,
      date: new Date().toISOString(),
      machine: describeMachine(),
      backend: backend.name,
      level: levelOf(backend.name),
      threads,
      versions: { node: process.version, package: packageVersion },
      rounds,
      quick,
      missing,
    };
    return await body({
      backend,
      envelope,
      turns: {
        rounds,
        signal,
        onTurn: ({ name, round }) => onProgress?.("measuring", [name, `round ${round} of ${rounds}`]),
      },
      async settle() {
        onProgress?.("measuring the machine again", []);
        const better = await improveLimits(limits, backend, plan);
        return { limits: better, envelope: { ...envelope, limits: better } };
      },
      miss(peer) {
        missing.push(peer);
        announce?.(`${peer.peer} is left out: ${peer.reason}`);
      },
    });
  } finally {
    backend.close();
  }
}

/** "cpu (avx512bf16, 2 threads)" without what is around the level. */
function levelOf(name: string): string {
  return name.match(/\((\w+),/)?.[1] ?? name.split(" ")[0];
}
