// The text that is always at hand: the type declarations (.d.ts) of the packages installed beside this one, without
// copies, so that what is held out for validation does not stand in the training part too.

import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { UsageError } from "../errors.ts";
import type { DocumentPart } from "./textFiles.ts";

/**
 * The declarations under the `node_modules` that holds this package's own dependencies, sorted by path, ids relative
 * to it. The same packages give the same documents. UsageError if nothing is installed.
 */
export function installedDeclarations(): DocumentPart[] {
  const root = findNodeModules();
  const seen = new Set<string>();
  const documents: DocumentPart[] = [];
  for (const id of declarationFiles(root, "").sort()) {
    const text = withoutCopies(readFileSync(join(root, id), "utf8"), seen);
    if (text !== "") documents.push({ id, text });
  }
  return documents;
}

/** The nearest `node_modules`, from this file upwards, in which the dependencies of this package are. */
function findNodeModules(): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  while (true) {
    const candidate = join(folder, "node_modules");
    if (existsSync(join(candidate, "@types", "node"))) return candidate;
    if (dirname(folder) === folder) {
      throw new UsageError(
        "There is no installed package to take a default text from; name a text file or folder.",
      );
    }
    folder = dirname(folder);
  }
}

/** Paths below `root`, with slashes. */
function declarationFiles(root: string, below: string): string[] {
  return readdirSync(join(root, below), { withFileTypes: true }).flatMap((entry) => {
    const path = below === "" ? entry.name : `${below}/${entry.name}`;
    if (entry.isDirectory()) return isCopy(entry.name) ? [] : declarationFiles(root, path);
    // lib.webworker repeats lib.dom with its lines in another order.
    return entry.name.endsWith(".d.ts") && !entry.name.startsWith("lib.webworker") ? [path] : [];
  });
}

/** Folders with a second form of declarations that are there already: for CommonJS, or for an older compiler. */
function isCopy(folder: string): boolean {
  return folder.startsWith(".") || folder === "cjs" || folder === "commonjs" || /^(ts|types)\d/.test(folder);
}

/** The blocks of `text` (separated by blank lines) that are not in `seen`, which is filled. */
function withoutCopies(text: string, seen: Set<string>): string {
  const blocks = text.replaceAll("\r\n", "\n").split(/\n(?:[ \t]*\n)+/);
  const fresh = blocks.filter((block) => {
    const hash = createHash("sha256").update(block.trim()).digest("base64");
    const isNew = block.trim() !== "" && !seen.has(hash);
    seen.add(hash);
    return isNew;
  });
  return fresh.length === 0 ? "" : `${fresh.join("\n\n").trimEnd()}\n`;
}
