// `mone train`: one run, from settings to a trained model.

import { existsSync } from "node:fs";
import type { Command } from "commander";
import { formatCount, formatDuration, formatFixed, formatTokensPerSecond } from "../report/format.ts";
import { checkSettings, resolveTrainConfig, type TrainConfigInput } from "../train/config.ts";
import type { TrainResult } from "../train/loop.ts";
import { action, type Context, commandLine, Interrupted } from "./action.ts";
import { addCommonOptions, addSettingOptions, addThreadsOption } from "./options.ts";
import { showSteps, showText } from "./progress.ts";
import { mergeInputs, readPairs, readSettingsFile, settingsHelp } from "./settingsInput.ts";

/** Settings that have an option of their own; all the others are reached by --set. */
const optionNames = [
  "preset",
  "data",
  "tokenizer",
  "steps",
  "seqLen",
  "batch",
  "seed",
  "dtype",
  "recompute",
] as const;

type TrainFlags = Pick<TrainConfigInput, (typeof optionNames)[number]> & {
  readonly out?: string;
  readonly resume?: boolean;
  readonly neurons?: string;
  readonly config?: string;
  readonly set?: readonly string[];
  readonly threads?: number;
};

export function addTrainCommand(program: Command): void {
  const command = program.command("train").description("train a model; it can be stopped and resumed");
  addSettingOptions(command, optionNames);
  command
    .option(
      "--neurons <k>",
      "neurons kept per token in each expert: a share (25%, 0.25), a count (64), or all",
    )
    .option("--config <file>", "settings from a YAML or JSON file; --set wins over it, options win over both")
    .option("--set <key=value...>", "any setting of the list below, e.g. model.num_experts=8")
    .option("--out <folder>", "run folder (default: runs/<preset>-seed<seed>)")
    .option("--resume", "continue the run in the run folder");
  addThreadsOption(command);
  addCommonOptions(command, "mone train --preset mone-tiny --data input.txt --steps 500 --out runs/first");
  command.addHelpText("after", () => `\n${settingsHelp()}`);
  command.action(action(run));
}

async function run({ output, signal }: Context, flags: TrainFlags): Promise<void> {
  const input = await settingsOf(flags);
  const { defaultRunFolder, train } = await import("../train/loop.ts");
  const { resume, threads, out = defaultRunFolder(input) } = flags;
  const show = showSteps(output.progress);
  let step: number | undefined;
  try {
    const result = await train({
      ...input,
      out,
      resume,
      threads,
      signal,
      onStep(record, steps) {
        step = record.step;
        show(record, steps);
        const { validLoss } = record;
        if (validLoss !== undefined)
          output.note(`step ${step}: validation loss ${formatFixed(validLoss, 4)}`);
      },
      onProgress: showText(output.progress),
      announce: output.note,
    });
    for (const line of summary(result)) output.line(line);
    output.json(result);
  } catch (error) {
    throw error instanceof Interrupted ? stopped(step, out, ["train", "--resume", "--out", out]) : error;
  }
}

/** Defaults, then the file, then --set, then the options: what comes later wins. */
async function settingsOf(flags: TrainFlags): Promise<TrainConfigInput> {
  const options = Object.fromEntries(
    optionNames.map((name) => [name, flags[name]]).filter(([, value]) => value !== undefined),
  );
  checkSettings(options, "options");
  const file = flags.config === undefined ? {} : readSettingsFile(flags.config);
  const input = mergeInputs(file, readPairs(flags.set ?? []), options);
  if (flags.neurons === undefined) return input;
  const [{ countOfNeurons }, { expertWidth }] = await Promise.all([
    import("../model/neurons.ts"),
    import("../model/config.ts"),
  ]);
  // The tokenizer is not known yet and does not matter: a share is one of the experts' width.
  const { model } = resolveTrainConfig(input, 1, "settings");
  return mergeInputs(input, {
    model: { num_neurons_per_tok: countOfNeurons(flags.neurons, expertWidth(model)) },
  });
}

function summary({ path, steps, tokens, seconds, tokensPerSecond, ...result }: TrainResult): string[] {
  const { validation, parameters, backend, checkpoint } = result;
  return [
    `${formatCount(steps)} steps, ${formatCount(tokens)} tokens in ${formatDuration(seconds)} ` +
      `(${formatTokensPerSecond(tokensPerSecond)}) on ${backend}`,
    `validation loss ${formatFixed(validation.loss, 4)} nats per token, ` +
      `${formatFixed(validation.bitsPerByte, 4)} bits per byte, on ${formatCount(validation.tokens)} tokens`,
    `${formatCount(parameters.total)} parameters; activated ${formatCount(parameters.activatedWithGate)}, ` +
      `or ${formatCount(parameters.activatedWithoutGate)} if only kept neurons count in the gate projection`,
    `model: ${checkpoint}`,
    `try: ${commandLine(["generate", path, "--max-tokens", "100"])}`,
  ];
}

/** What to say after Ctrl-C. @param step the last one that was done, if any. @param resume the arguments that go on. */
export function stopped(step: number | undefined, out: string, resume: readonly string[]): Interrupted {
  const where = step === undefined ? "before the first step" : `at step ${step}`;
  const next = existsSync(out) ? ` To go on: ${commandLine(resume)}` : "";
  return new Interrupted(`Stopped ${where}.${next}`);
}
