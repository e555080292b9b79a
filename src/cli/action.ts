// What surrounds every command: its output, and the signal that Ctrl-C fires. Not here: what errors look like (main.ts).

import type { Command } from "commander";
import { Output } from "./output.ts";

/** The reason of the signal that a command gets. The message is for the user; the exit status is 130. */
export class Interrupted extends Error {
  override readonly name = "Interrupted";
}

export interface Context {
  readonly output: Output;
  /** Fires at the first Ctrl-C, SIGTERM or SIGHUP, with an `Interrupted`. */
  readonly signal: AbortSignal;
}

/** A command's action from its body; commander calls it with the arguments, the options and the command. */
export function action<Args extends unknown[]>(
  body: (context: Context, ...args: Args) => Promise<void>,
): (...args: [...Args, Command]) => Promise<void> {
  return async (...args) => {
    const command = args.at(-1) as Command;
    const output = new Output(command.opts().json === true);
    const signal = interruptSignal(output);
    try {
      await body({ output, signal }, ...(args.slice(0, -1) as Args));
    } finally {
      output.progress.end();
    }
  };
}

/** npm passes a Ctrl-C on to a program that has got it from the terminal already: that is still the first one. */
const SAME_SIGNAL_MS = 300;

/** Fires at the first SIGINT, SIGTERM, or SIGHUP (the terminal is gone); the second one ends the process. */
function interruptSignal(output: Output): AbortSignal {
  const controller = new AbortController();
  let firstAt: number | undefined;
  const onSignal = () => {
    if (firstAt === undefined) {
      firstAt = performance.now();
      output.note("Stopping; Ctrl-C again to stop at once.");
      controller.abort(new Interrupted("Stopped."));
    } else if (performance.now() - firstAt > SAME_SIGNAL_MS) {
      output.progress.end();
      process.exit(130);
    }
  };
  process.on("SIGINT", onSignal);
  process.on("SIGTERM", onSignal);
  process.on("SIGHUP", onSignal);
  endsWithStarter(() => controller.abort(new Interrupted("Stopped.")));
  return controller.signal;
}

/** A companion (companions.ts) has a channel to the process that started it; when that closes, it is to stop. */
function endsWithStarter(stop: () => void): void {
  if (process.send === undefined) return;
  process.once("disconnect", stop);
  if (process.connected)
    process.channel?.unref(); // listening alone does not keep it alive
  else stop();
}

/** A command line that a shell reads as these arguments. */
export function commandLine(args: readonly string[]): string {
  const quote = (arg: string) => (/^[\w@%+=:,./-]+$/.test(arg) ? arg : `'${arg.replaceAll("'", "'\\''")}'`);
  return ["mone", ...args].map(quote).join(" ");
}
