// What choosing neurons costs and gains: a training step and decoding of a MoNE relative to its MoE, by size of model. The
// benchmarks do the timing (bench/train.ts, bench/decode.ts): both models take turns, so each round gives a ratio that a
// disturbance of the machine hardly touches. Not an experiment of arms and seeds: nothing is trained to the end.
//
//     ROOT/overhead[-<size>]/     config.json (what was asked), cases/<work>-<width>.json, report/

import { existsSync } from "node:fs";
import { join } from "node:path";
import { benchDecode, type DecodeBench } from "../../bench/decode.ts";
import { benchTrain, type TrainBench } from "../../bench/train.ts";
import { writeFileAtomic } from "../../checkpoint/atomic.ts";
import { throwIfAborted, UsageError } from "../../errors.ts";
import { RunFolder } from "../../train/runFolder.ts";
import { defaultRoot, readJson } from "../store.ts";
import { writeOverhead } from "./page.ts";
import {
  type OverheadReport,
  overheadCases,
  overheadReport,
  overheadShare,
  overheadSizes,
} from "./report.ts";

export interface OverheadOptions {
  /** As for experiments; default `runs/experiments`. */
  readonly root?: string;
  /** Default: small. */
  readonly size?: string;
  /** Go on with what was begun: sizes that are measured are kept. */
  readonly resume?: boolean;
  /** Text of the training steps, as `mone train --data` takes it. */
  readonly data?: string;
  readonly threads?: number;
  readonly signal?: AbortSignal;
  /** Told what is being done, most important words first. */
  readonly onProgress?: (task: string, details: readonly string[]) => void;
  readonly announce?: (line: string) => void;
}

/**
 * Measures what is not measured yet, and writes the report.
 * @throws UsageError for a size there is not, or what was begun without `resume`; what the benchmarks throw.
 */
export async function overhead(
  options: OverheadOptions = {},
): Promise<{ report: OverheadReport; folder: string; reportPath: string }> {
  const { root = defaultRoot, size = "small", resume, data, signal } = options;
  const plan = overheadSizes[size];
  if (!plan) {
    throw new UsageError(
      `overhead has no size "${size}"; there are ${Object.keys(overheadSizes).join(", ")}.`,
    );
  }
  const folder = join(root, `overhead-${size}`);
  const configPath = join(folder, "config.json");
  if (!resume && existsSync(configPath)) {
    throw new UsageError(
      `${folder} holds this measurement already: add --resume to go on with it, or choose another --root.`,
    );
  }
  if (!existsSync(configPath)) {
    if (resume) throw new UsageError(`There is nothing to resume in ${folder}: leave out --resume.`);
    await writeFileAtomic(configPath, `${JSON.stringify({ size, ...plan }, null, 2)}\n`);
  }
  const unlock = RunFolder.open(folder).lock();
  try {
    const trained: TrainBench[] = [];
    const decoded: DecodeBench[] = [];
    for (const width of plan.widths) {
      throwIfAborted(signal);
      const cases = overheadCases(folder, width);
      const common = { ...options, rounds: plan.rounds, quick: plan.quick, sizes: [String(width)] };
      const command = `mone experiment overhead --size ${size}`;
      trained.push(
        await once(cases.train, () => benchTrain({ ...common, command, data, neurons: overheadShare })),
      );
      decoded.push(
        await once(cases.decode, () =>
          benchDecode({
            ...common,
            command,
            neurons: [overheadShare],
            dtypes: ["bf16"],
            batches: plan.batches,
          }),
        ),
      );
    }
    const report = overheadReport(size, plan, trained, decoded);
    return { report, folder, reportPath: await writeOverhead(report, join(folder, "report")) };
  } finally {
    unlock();
  }
}

/** Reads a result, or makes and keeps it. */
async function once<T>(path: string, make: () => Promise<T>): Promise<T> {
  if (existsSync(path)) return readJson<T>(path);
  const made = await make();
  await writeFileAtomic(path, `${JSON.stringify(made, null, 2)}\n`);
  return made;
}
