// Remembers what was done from which files, so that setup does nothing twice. A stamp is a small file in .setup/ with
// the hash of the inputs. Not here: what is done (setup.mjs, build-native.mjs).

import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";

export const root = join(dirname(fileURLToPath(import.meta.url)), "..");

/** What each piece of work depends on; functions, since files come and go. */
const inputs = {
  install: () => [join(root, "package-lock.json")],
  native: () => {
    const sources = /\.(cc|h|inc|def|gyp)$/;
    return [
      ...filesBelow(join(root, "native"), sources, ["build"]),
      ...filesBelow(join(root, "src", "kernels"), sources),
    ];
  },
  dist: () => [
    ...filesBelow(join(root, "src"), /\.ts$/),
    join(root, "tsconfig.json"),
    join(root, "tsconfig.build.json"),
  ],
};

/** The stamp of `work` (a key of `inputs`) if it was done from the files as they are, else undefined. */
export function currentStamp(work) {
  try {
    const stamp = JSON.parse(readFileSync(stampPath(work), "utf8"));
    return stamp.hash === hashOf(work) ? stamp : undefined;
  } catch {
    return undefined; // none yet, or half of one
  }
}

/**
 * To be called before `work` begins. @returns the function that writes its stamp when it is done; what it is given is
 * kept too. A file that changed meanwhile makes the stamp an old one.
 */
export function startWork(work) {
  const hash = hashOf(work);
  return (extra = {}) => {
    mkdirSync(dirname(stampPath(work)), { recursive: true });
    writeFileSync(stampPath(work), `${JSON.stringify({ hash, ...extra })}\n`);
  };
}

function stampPath(work) {
  return join(root, ".setup", `${work}.json`);
}

/** Of names and contents; the version of Node is in it because native code is built for one. */
function hashOf(work) {
  const hash = createHash("sha256").update(`${process.version} ${process.arch}\n`);
  for (const path of inputs[work]().sort()) {
    const content = readFileSync(path);
    hash.update(`${relative(root, path)} ${content.length}\n`).update(content);
  }
  return hash.digest("hex");
}

function filesBelow(folder, pattern, except = []) {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    if (except.includes(entry.name)) return [];
    const path = join(folder, entry.name);
    if (entry.isDirectory()) return filesBelow(path, pattern);
    return pattern.test(entry.name) ? [path] : [];
  });
}
