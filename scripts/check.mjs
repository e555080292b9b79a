// Everything that must hold, for `npm test`: lint and format, types, import direction, then the tests. All of them run
// even if one fails. Needs what setup.mjs prepares.

import { spawnSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { root } from "./stamps.mjs";

const inModules = (...path) => join(root, "node_modules", ...path);

const failed = [
  part("lint and format", [inModules("@biomejs", "biome", "bin", "biome"), "check", "--error-on-warnings"]),
  part("types", [inModules("typescript", "bin", "tsc"), "-p", "tsconfig.json"]),
  part("import direction", [join(root, "scripts", "check-imports.mjs")]),
  tests(),
].filter((name) => name !== undefined);

if (failed.length > 0) console.error(`FAILED: ${failed.join(", ")}`);
process.exitCode = failed.length > 0 ? 1 : 0;

/** Runs a script, whose words are shown only if it fails. @returns its name if it did. */
function part(name, args) {
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { cwd: root, encoding: "utf8" });
  console.log(`${name}: ${status === 0 ? "ok" : "FAILED"}`);
  if (status === 0) return undefined;
  console.log(`${stdout}${stderr}`.trim());
  return name;
}

/** Runs all tests; node:test speaks for itself. */
function tests() {
  const files = readdirSync(join(root, "test"))
    .filter((name) => name.endsWith(".test.ts"))
    .map((name) => join("test", name));
  console.log(`tests: ${files.length} files`);
  const args = ["--import", "tsx", "--test", ...files];
  return spawnSync(process.execPath, args, { cwd: root, stdio: "inherit" }).status === 0
    ? undefined
    : "tests";
}
