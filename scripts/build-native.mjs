// Builds the native addon. Never fails an install: without a compiler the reference backend takes over, and
// this says so in one line.
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { availableParallelism } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { root, startWork } from "./stamps.mjs";

/** Node's own headers where they lie beside the executable, so that node-gyp need not download them. */
function headerOptions() {
  const prefix = join(dirname(process.execPath), "..");
  return existsSync(join(prefix, "include", "node", "node_api.h")) ? [`--nodedir=${prefix}`] : [];
}

/**
 * Builds and stamps; a build that failed is stamped too, so that it is tried again only when a source changes.
 * @returns the compiler's words, and one line for the user if there is no addon now.
 */
export function buildNative() {
  const done = startWork("native");
  const { ok, log } = runNodeGyp();
  const problem = ok ? undefined : explain(log);
  done({ problem });
  return { problem, log };
}

function runNodeGyp() {
  let nodeGyp;
  try {
    nodeGyp = createRequire(import.meta.url).resolve("node-gyp/bin/node-gyp.js");
  } catch {
    return { ok: false, log: "node-gyp is not installed" };
  }
  const args = [nodeGyp, "rebuild", "--jobs", String(availableParallelism()), ...headerOptions()];
  const result = spawnSync(process.execPath, args, { cwd: join(root, "native"), encoding: "utf8" });
  return { ok: result.status === 0, log: `${result.stdout}\n${result.stderr}` };
}

function explain(log) {
  const cause =
    log.split("\n").find((line) => /error|not found|ERR!/i.test(line)) ?? log.trim().split("\n")[0];
  return (
    `no native kernels (${cause.trim()}); the slow reference backend will be used. ` +
    "To have them, install a C++20 compiler, make and Python 3, then run: node scripts/build-native.mjs"
  );
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { problem, log } = buildNative();
  console.log(`neuron-experts: ${problem ?? "native kernels built"}`);
  if (problem && process.argv.includes("--verbose")) console.log(log);
  // As npm's install script this runs when all packages are in place. (There is no lock file in a published package.)
  if (process.env.npm_lifecycle_event === "install" && existsSync(join(root, "package-lock.json"))) {
    startWork("install")();
  }
}
