// `mone compare`: a MoE and its MoNE, trained alike and put side by side.

import type { Command } from "commander";
import { UsageError } from "../errors.ts";
import { comparisonInWords, comparisonTable } from "../report/comparison.ts";
import { checkSettings, type TrainConfigInput } from "../train/config.ts";
import { action, type Context, commandLine, Interrupted } from "./action.ts";
import { addCommonOptions, addSettingOptions, addThreadsOption } from "./options.ts";
import { showSteps, showText } from "./progress.ts";
import { stopped } from "./train.ts";

const optionNames = ["data", "tokenizer", "steps", "seed", "dtype"] as const;

type CompareFlags = Pick<TrainConfigInput, (typeof optionNames)[number]> & {
  readonly preset?: string;
  readonly out?: string;
  readonly resume?: boolean;
  readonly threads?: number;
};

export function addCompareCommand(program: Command): void {
  const command = program
    .command("compare")
    .description("train a MoE, its MoNE and a control on the same text; write a report")
    .option(
      "--preset <name>",
      "size and length: quick, glimpse or small; the options below change it (default: quick)",
    );
  addSettingOptions(command, optionNames, true);
  command
    .option("--out <folder>", "folder of the comparison (default: runs/compare-<preset>-<time>)")
    .option("--resume", "continue the comparison in the folder given by --out");
  addThreadsOption(command);
  addCommonOptions(command, "mone compare --preset quick --data input.txt --out runs/compare");
  command.action(action(run));
}

async function run({ output, signal }: Context, flags: CompareFlags): Promise<void> {
  const { preset, resume, threads, out: given, ...rest } = flags;
  if (resume && given === undefined) {
    throw new UsageError("--resume needs --out: name the folder of the comparison to continue.");
  }
  const options = Object.fromEntries(optionNames.map((name) => [name, rest[name]]));
  checkSettings(options, "options");
  const { compare, defaultComparisonFolder } = await import("../train/compare.ts");
  const out = given ?? defaultComparisonFolder(preset ?? "quick");
  let arm = "";
  let step: number | undefined;
  const show = showSteps(output.progress, () => arm);
  try {
    const { comparison, reportPath } = await compare({
      ...options,
      preset,
      out,
      resume,
      threads,
      signal,
      command: commandLine(process.argv.slice(2)),
      onArm({ name, index, count }) {
        output.progress.end();
        arm = `${name} (${index + 1} of ${count})`;
      },
      onStep(record, steps) {
        step = record.step;
        show(record, steps);
      },
      onProgress: showText(output.progress),
      announce: output.note,
    });
    output.line();
    output.table(comparisonTable(comparison));
    output.line();
    output.line(comparisonInWords(comparison));
    for (const { name, sample } of comparison.arms) {
      output.line(`\n${name} writes:\n${indented(sample.prompt + sample.text)}`);
    }
    output.line(`\nreport: ${reportPath}`);
    output.json({ ...comparison, reportPath });
  } catch (error) {
    if (!(error instanceof Interrupted)) throw error;
    throw stopped(step, out, ["compare", "--resume", "--out", out]);
  }
}

function indented(text: string): string {
  return text.replace(/^/gm, "  ");
}
