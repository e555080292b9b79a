// `mone study`: how sparse the experts of a checkpoint are on a text.

import { type Command, InvalidArgumentError } from "commander";
import type { WeightFormat } from "../infer/storedWeights.ts";
import { formatPercent } from "../report/format.ts";
import { action, type Context, commandLine, Interrupted } from "./action.ts";
import { localModel } from "./localModel.ts";
import {
  addCommonOptions,
  addModelArgument,
  addThreadsOption,
  dtypeOption,
  integer,
  number,
} from "./options.ts";

interface StudyFlags {
  readonly data?: string;
  readonly out?: string;
  readonly criteria?: readonly string[];
  readonly neurons?: readonly string[];
  readonly experts?: readonly number[];
  readonly tokens?: number;
  readonly calibrationTokens?: number;
  readonly tolerance: number;
  readonly seed: number;
  readonly perLayer: boolean;
  readonly threads?: number;
  readonly offline?: boolean;
  readonly dtype: "auto" | WeightFormat;
}

export function addStudyCommand(program: Command): void {
  const command = program
    .command("study")
    .description("measure how sparse the experts of a checkpoint are; write a report");
  addModelArgument(command)
    .option(
      "--data <text>",
      "file, folder, URL or name of a text (default: the type declarations of installed packages)",
    )
    .option(
      "--out <folder>",
      "folder of the study; what is there already is not measured again (default: MODEL-study)",
    )
    .option("--criteria <names>", "gate, oracle, oracle-norm, threshold, random, static (default: all)", list)
    .option(
      "--neurons <k>",
      "neurons kept: shares, counts or a study.json, e.g. 50%,25%,64 (default: 100% to 2%)",
      list,
    )
    .option(
      "--experts <n>",
      "numbers of experts per token to compare with (default: all smaller ones)",
      integers,
    )
    .option("--tokens <n>", "tokens to measure on (default: 16384)", integer(2))
    .option("--calibration-tokens <n>", "tokens to calibrate on (default: a quarter of --tokens)", integer(1))
    .option("--tolerance <share>", "rise of perplexity that the verdict allows", number, 0.01)
    .option("--seed <n>", "seed of random pruning and of the bootstrap", integer(0), 1)
    .option("--no-per-layer", "leave out K per layer, which takes passes for each layer")
    .addOption(dtypeOption());
  addThreadsOption(command);
  addCommonOptions(command, "mone study runs/first --data input.txt");
  command.action(action(run));
}

async function run(context: Context, given: string, { offline, ...flags }: StudyFlags): Promise<void> {
  const { output, signal } = context;
  const [{ study }, { parseCriteria }, { summaryTable, speedsTable }, { findModelFolder }] =
    await Promise.all([
      import("../study/study.ts"),
      import("../study/settings.ts"),
      import("../study/tables.ts"),
      import("../checkpoint/loadModel.ts"),
    ]);
  const path = await localModel(context, given, offline);
  const { criteria, neurons, out = `${given.replace(/\/+$/, "")}-study`, ...rest } = flags;
  const asked = neurons && (await neuronsOf(neurons, findModelFolder(path)));
  try {
    const result = await study(path, {
      ...rest,
      out,
      criteria: criteria && parseCriteria(criteria),
      ...asked,
      signal,
      onProgress: (task, share) => output.progress.show(task, [formatPercent(share, 0)]),
      announce: output.note,
    });
    output.line();
    output.table(summaryTable(result));
    output.line();
    output.table(speedsTable(result));
    output.line(`\n${result.verdict.text}`);
    output.line(`\nreport: ${result.reportPath}`);
    output.line(`apply it: ${commandLine(["generate", given, "--neurons", `${out}/study.json`])}`);
    output.json(result);
  } catch (error) {
    if (!(error instanceof Interrupted)) throw error;
    throw new Interrupted("Stopped; the same command goes on from here.");
  }
}

/** What --neurons asks for: pruned shares, and lists by layer from studies. */
async function neuronsOf(texts: readonly string[], folder: string) {
  const [{ resolveNeurons }, { expertWidth }, { readModelConfig }, { readNeuronsOption }] = await Promise.all(
    [
      import("../model/neurons.ts"),
      import("../model/config.ts"),
      import("../checkpoint/modelFolder.ts"),
      import("../checkpoint/studyFile.ts"),
    ],
  );
  const config = readModelConfig(folder);
  const shares: number[] = [];
  const keptByLayer: (readonly number[])[] = [];
  for (const text of texts) {
    const kept = resolveNeurons(readNeuronsOption(text), config);
    if (typeof kept === "number") shares.push(1 - kept / expertWidth(config));
    else keptByLayer.push(kept);
  }
  return { ...(shares.length > 0 && { shares }), keptByLayer };
}

function list(text: string, earlier: readonly string[] = []): string[] {
  const words = text
    .split(",")
    .map((word) => word.trim())
    .filter((word) => word !== "");
  if (words.length === 0) throw new InvalidArgumentError("It must be a list, with commas.");
  return [...earlier, ...words];
}

function integers(text: string, earlier: readonly number[] = []): number[] {
  return [...earlier, ...list(text).map(integer(1))];
}
