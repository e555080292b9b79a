// The report of `overhead` as data: from the benchmarks' results to ratios, round by round, with intervals and verdicts.
// Not here: running them (overhead.ts), looks (page.ts).

import { join } from "node:path";
import type { DecodeBench } from "../../bench/decode.ts";
import type { TrainBench } from "../../bench/train.ts";
import { type PairedDifference, pairedDifference } from "../statistics/paired.ts";

export const overheadTitle = "What choosing neurons costs and gains, by size of model";

export interface OverheadSize {
  readonly widths: readonly number[];
  readonly rounds: number;
  readonly batches: readonly number[];
  readonly quick: boolean;
}

export const overheadSizes: Readonly<Record<string, OverheadSize>> = {
  smoke: { widths: [32, 64], rounds: 2, batches: [1, 2], quick: true },
  small: { widths: [64, 128, 192, 256, 384, 512], rounds: 7, batches: [1, 8], quick: false },
};

/** Where the benchmarks of a width leave their results in the measurement's folder. */
export function overheadCases(folder: string, width: number): Record<"train" | "decode", string> {
  const path = (work: string) => join(folder, "cases", `${work}-${width}.json`);
  return { train: path("train"), decode: path("decode") };
}

/** K of the MoNE as a share of F: half of the activated expert parameters, gate included. */
export const overheadShare = 0.25;
/** The largest relative difference that counts as none. */
const MARGIN = 0.02;

export interface OverheadRow {
  readonly work: string;
  readonly width: number;
  /** Of the whole model. */
  readonly parameters: number;
  /** K and F. */
  readonly kept: number;
  readonly neurons: number;
  /** Medians over rounds, of the plain MoE and of the MoNE. */
  readonly tokensPerSecond: { readonly moe: number; readonly mone: number };
  /** Peak of a process of its own, where it was measured. */
  readonly peakBytes?: { readonly moe: number; readonly mone: number };
  /** MoNE's time divided by MoE's, round by round. */
  readonly ratios: readonly number[];
  /** Of the ratios from 1. */
  readonly difference: PairedDifference;
}

export interface OverheadReport {
  readonly name: "overhead";
  readonly size: string;
  /** A smoke test: its figures mean nothing. */
  readonly quick: boolean;
  readonly share: number;
  readonly margin: number;
  readonly rows: readonly OverheadRow[];
  readonly machine: string;
  readonly backend: string;
  readonly threads: number;
  readonly rounds: number;
  readonly data: string;
  readonly finishedAt: string;
}

/** The report from the benchmarks' results, one of each for a width. */
export function overheadReport(
  size: string,
  { quick }: OverheadSize,
  trained: readonly TrainBench[],
  decoded: readonly DecodeBench[],
): OverheadReport {
  const rows = [...trained.flatMap(trainRows), ...decoded.flatMap((one) => decodeRows(one, trained))];
  const [first] = trained;
  const all = [...trained, ...decoded];
  return {
    name: "overhead",
    size,
    quick,
    share: overheadShare,
    margin: MARGIN,
    rows,
    machine: [...new Set(all.map(({ machine }) => `${machine.cpu}, ${machine.cores} cores`))].join("; "),
    backend: [...new Set(all.map(({ backend }) => backend))].join("; "),
    threads: first.threads,
    rounds: first.rounds,
    data: first.data,
    finishedAt: all.map(({ date }) => date).reduce((a, b) => (a > b ? a : b)),
  };
}

function trainRows({ cases }: TrainBench): OverheadRow[] {
  return cases.map(({ width, parameters, kept, neurons, rows }) => {
    const [moe, mone] = (["MoE", "MoNE"] as const).map((arm) => rows.find((row) => row.arm === arm));
    if (!moe || !mone) throw new Error("the benchmark of training has both models");
    return {
      work: "training step",
      width,
      parameters,
      kept,
      neurons,
      tokensPerSecond: { moe: moe.tokensPerSecond.median, mone: mone.tokensPerSecond.median },
      ...(moe.peakBytes !== undefined &&
        mone.peakBytes !== undefined && { peakBytes: { moe: moe.peakBytes, mone: mone.peakBytes } }),
      ...comparison(mone.rounds, moe.rounds),
    };
  });
}

function decodeRows({ cases }: DecodeBench, trained: readonly TrainBench[]): OverheadRow[] {
  return cases.flatMap(({ width, neurons, rows }) => {
    const moe = rows.find(({ kept }) => kept === neurons);
    const mone = rows.find(({ kept }) => kept < neurons);
    if (!moe || !mone) throw new Error("the benchmark of decoding has both models");
    const model = trained.flatMap((one) => one.cases).find((one) => one.width === width);
    return moe.batches.map(({ batch, tokensPerSecond, rounds }, i): OverheadRow => {
      const other = mone.batches[i];
      return {
        work: batch === 1 ? "decoding, 1 sequence" : `decoding, ${batch} sequences`,
        width,
        parameters: model?.parameters ?? Number.NaN,
        kept: mone.kept,
        neurons,
        tokensPerSecond: { moe: tokensPerSecond.median, mone: other.tokensPerSecond.median },
        // Speeds: MoNE's time relative to MoE's is MoE's speed relative to MoNE's.
        ...comparison(rounds, other.rounds),
      };
    });
  });
}

function comparison(
  times: readonly number[],
  references: readonly number[],
): Pick<OverheadRow, "ratios" | "difference"> {
  const ratios = times.map((time, round) => time / references[round]);
  const ones = ratios.map(() => 1);
  return { ratios, difference: pairedDifference(ratios, ones, { better: "lower", margin: MARGIN }) };
}
