// Options that several commands share, and how option values become numbers. What an option needs to say is taken from
// the table of settings where it is one. Not here: settings files and --set (settingsInput.ts).

import { availableParallelism } from "node:os";
import { type Command, InvalidArgumentError, Option } from "commander";
import { parse } from "yaml";
import { settings } from "../train/config.ts";

/** Adds an example below a command's help. */
export function addExample(command: Command, example: string): Command {
  return command.addHelpText("after", `\nExample:\n  ${example}`);
}

/** Adds --json and --verbose, and an example below the help. */
export function addCommonOptions(command: Command, example: string): Command {
  command
    .option("--json", "print one JSON object on stdout, everything else on stderr")
    .option("--verbose", "show where in the program an error comes from");
  return addExample(command, example);
}

export function addThreadsOption(command: Command): Command {
  return command.option("--threads <n>", "threads that work on a kernel (default: all cores)", threads);
}

/** Threads without a core of their own wait for each other: a few do little harm, many bring everything to a halt. */
function threads(text: string): number {
  const most = Math.max(16, 4 * availableParallelism());
  const value = integer(1)(text);
  if (value > most) throw new InvalidArgumentError(`It must be at most ${most} on this machine.`);
  return value;
}

/** Adds the argument of commands that read a model, and how it may be fetched. */
export function addModelArgument(command: Command): Command {
  return command
    .argument(
      "<model>",
      "model folder, run folder (its best checkpoint), or org/name[@revision] of the Hugging Face hub",
    )
    .option("--offline", "never use the network: a model of the hub must be in the cache already");
}

/** What every --neurons says. */
export const neuronsHelp =
  "neurons kept per token in each expert: a share (25%, 0.25), a count (64), all, or a study.json";

type SettingName = keyof typeof settings;

/**
 * Adds settings of training as options: `seqLen` becomes `--seq-len <value>`.
 * @param hasPreset whether the default is that of the command's preset, not the table's.
 */
export function addSettingOptions(
  command: Command,
  names: readonly SettingName[],
  hasPreset = false,
): Command {
  for (const name of names) {
    const { default: fallback, help } = settings[name];
    const flag = name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
    if (typeof fallback === "boolean") {
      command.addOption(new Option(`--${flag}`, help));
      continue;
    }
    const shown = hasPreset || fallback === null ? "" : ` (default: ${fallback})`;
    // Numbers are checked with the other settings, in their words.
    const read = (text: string) => (typeof fallback === "number" ? readValue(text) : text);
    command.addOption(new Option(`--${flag} <value>`, `${help}${shown}`).argParser(read));
  }
  return command;
}

/** A value as YAML has it: `3e-4`, `null`, `[0, 1]`, `text`. */
export function readValue(text: string): unknown {
  try {
    return parse(text);
  } catch {
    return text;
  }
}

/** Reads an option that is an integer of at least `low`. */
export function integer(low: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() === "" || !Number.isInteger(value) || value < low) {
      throw new InvalidArgumentError(`It must be an integer of at least ${low}.`);
    }
    return value;
  };
}

/** Reads an option that is a number; its bounds are checked where it is used. */
export function number(text: string): number {
  const value = Number(text);
  if (text.trim() === "" || !Number.isFinite(value)) throw new InvalidArgumentError("It must be a number.");
  return value;
}

/** Reads an option that may be given several times. */
export function repeated(text: string, earlier: readonly string[] = []): readonly string[] {
  return [...earlier, text];
}

/**
 * `--dtype` of commands that run a model.
 * @param otherwise what the command does without it, in words; absent: `auto`.
 */
export function dtypeOption(otherwise?: string): Option {
  const auto = "auto: as an int8 checkpoint is, bf16 for 16-bit ones and where the hardware multiplies it";
  const choices = ["auto", "f32", "bf16", "int8"];
  if (otherwise === undefined) {
    return new Option("--dtype <type>", `how weights are kept; ${auto}`).choices(choices).default("auto");
  }
  return new Option("--dtype <type>", `how weights are kept (default: ${otherwise}); ${auto}`).choices(
    choices,
  );
}
