#!/usr/bin/env node
// The command `mone`: the list of commands, and what errors look like. Exit status: 0 done, 1 failed, 2 wrong usage,
// 130 stopped by Ctrl-C. Not here: what a command does (one file each).

import { Command, CommanderError } from "commander";
import pc from "picocolors";
import { RunError, UsageError } from "../errors.ts";
import { packageVersion } from "../version.ts";
import { Interrupted } from "./action.ts";
import { addBenchCommand } from "./bench.ts";
import { addCompareCommand } from "./compare.ts";
import { addConvertCommand } from "./convert.ts";
import { addEvalCommand } from "./eval.ts";
import { addExperimentCommand } from "./experiment.ts";
import { addGenerateCommand } from "./generate.ts";
import { addInitCommand } from "./init.ts";
import { addInspectCommand } from "./inspect.ts";
import { addLogitsCommand } from "./logits.ts";
import { addExample } from "./options.ts";
import { addStudyCommand } from "./study.ts";
import { addTokenizerCommand } from "./tokenizer.ts";
import { addTrainCommand } from "./train.ts";

function buildProgram(): Command {
  const program = new Command("mone")
    .description("Train, study and run Mixture-of-Neuron-Experts language models.")
    .version(packageVersion)
    .configureHelp({ styleTitle: (title) => pc.bold(title) })
    .configureOutput({ outputError: () => {} }) // printed below, with all other errors
    .exitOverride();
  addExample(program, "mone compare --preset quick\n\nmone <command> --help says more.");
  addCompareCommand(program);
  addExperimentCommand(program);
  addTrainCommand(program);
  addGenerateCommand(program);
  addStudyCommand(program);
  addEvalCommand(program);
  addInspectCommand(program);
  addLogitsCommand(program);
  addConvertCommand(program);
  addInitCommand(program);
  addTokenizerCommand(program);
  addBenchCommand(program);
  return program;
}

/** Prints an error as one line on stderr. @returns the exit status. */
function report(error: unknown, verbose: boolean): number {
  if (error instanceof CommanderError && (error.exitCode === 0 || error.code === "commander.help")) {
    return error.exitCode === 0 ? 0 : 2; // the help was printed: asked for, or for want of a command
  }
  if (error instanceof Interrupted) {
    console.error(error.message);
    return 130;
  }
  const message = error instanceof Error ? error.message : String(error);
  const line = message.replace(/^error: /, "").replace(/\s*\n\s*/g, " ");
  console.error(`${pc.red("error:")} ${line}`);
  if (verbose && error instanceof Error) console.error(error.stack);
  return error instanceof UsageError || error instanceof CommanderError ? 2 : 1;
}

// A reader that has gone away, as in `mone generate ... | head`, ends the program without a word; a full disk does not.
// One of stderr does neither: Ctrl-C on `mone train 2>&1 | tee log` ends tee first, and the checkpoint must still be saved.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code === "EPIPE") process.exit();
  process.exit(report(new RunError(`standard output cannot be written: ${error.code}`), false));
});
process.stderr.on("error", () => {});

try {
  await buildProgram().parseAsync();
} catch (error) {
  // Not from the parsed options: the error may be that they could not be parsed.
  process.exitCode = report(error, process.argv.includes("--verbose"));
}
