// Builds the native addon. Never fails an install: without a compiler the reference backend takes over, and
// this says so in one line.
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { availableParallelism } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");

/** Node's own headers where they lie beside the executable, so that node-gyp need not download them. */
function headerOptions() {
  const prefix = join(dirname(process.execPath), "..");
  return existsSync(join(prefix, "include", "node", "node_api.h")) ? [`--nodedir=${prefix}`] : [];
}

export function buildNative() {
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

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { ok, log } = buildNative();
  if (ok) {
    console.log("neuron-experts: native kernels built");
  } else {
    const cause = log.split("\n").find((line) => /error|not found|ERR!/i.test(line)) ?? log.trim().split("\n")[0];
    console.log(
      `neuron-experts: no native kernels (${cause.trim()}); the slow reference backend will be used. ` +
        "To have them, install a C++20 compiler, make and Python 3, then run: node scripts/build-native.mjs",
    );
    if (process.argv.includes("--verbose")) console.log(log);
  }
}
