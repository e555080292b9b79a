// Text that is an argument or comes through a pipe. Not here: what is done with it.

import { text } from "node:stream/consumers";
import { UsageError } from "../errors.ts";

/**
 * The argument, or standard input where it is absent or "-".
 * @param name of the argument, for the message.
 * @throws UsageError if it is absent and nobody pipes anything in: waiting for a keyboard would look like hanging.
 */
export async function readInput(argument: string | undefined, name: string): Promise<string> {
  if (argument !== undefined && argument !== "-") return argument;
  if (argument === undefined && process.stdin.isTTY) {
    throw new UsageError(`There is no ${name}: give one, pipe it in, or write - to type it.`);
  }
  return text(process.stdin);
}
