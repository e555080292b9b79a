// From what a user calls a model to a folder on disk.

import type { Context } from "./action.ts";
import { showText } from "./progress.ts";

/**
 * The local path of a model, fetched from the hub if need be, with progress.
 * @throws UsageError, RunError as `resolveModelPath` of src/checkpoint/hub.ts.
 */
export async function localModel(
  { output, signal }: Context,
  given: string,
  offline: boolean | undefined,
): Promise<string> {
  const { resolveModelPath } = await import("../checkpoint/hub.ts");
  const onDownload = showText(output.progress);
  const path = await resolveModelPath(given, { offline, signal, announce: output.note, onDownload });
  output.progress.end();
  return path;
}
