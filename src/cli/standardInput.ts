// Text that is an argument or comes through a pipe. Not here: what is done with it.

import { buffer } from "node:stream/consumers";
import { UsageError } from "../errors.ts";

/**
 * The argument, or standard input where it is absent or "-".
 * @param name of the argument, for the message.
 * @throws UsageError for what is not UTF-8; if it is absent and nobody pipes anything in: waiting for a keyboard would look like hanging.
 */
export async function readInput(argument: string | undefined, name: string): Promise<string> {
  if (argument !== undefined && argument !== "-") return argument;
  if (argument === undefined && process.stdin.isTTY) {
    throw new UsageError(`There is no ${name}: give one, pipe it in, or write - to type it.`);
  }
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(await buffer(process.stdin));
  } catch (error) {
    throw new UsageError("standard input is not text in UTF-8: convert it first", { cause: error });
  }
}
