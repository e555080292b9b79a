// Compiles src/ to dist/ if a source has changed since the last time.

import { spawnSync } from "node:child_process";
import { chmodSync, existsSync, rmSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { currentStamp, root, startWork } from "./stamps.mjs";

/** @returns whether dist/ is now what the sources say; if not, the compiler has said why. */
export function compileSources() {
  const dist = join(root, "dist");
  if (existsSync(dist) && currentStamp("dist")) return true;
  console.error("neuron-experts: compiling TypeScript");
  const done = startWork("dist");
  rmSync(dist, { recursive: true, force: true });
  const compiler = join(root, "node_modules", "typescript", "bin", "tsc");
  const args = [compiler, "-p", "tsconfig.build.json"];
  // To stderr: stdout belongs to the command that follows.
  const { status } = spawnSync(process.execPath, args, { cwd: root, stdio: ["ignore", 2, 2] });
  if (status !== 0) return false;
  chmodSync(join(dist, "cli", "main.js"), 0o755);
  done();
  return true;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) process.exitCode = compileSources() ? 0 : 1;
