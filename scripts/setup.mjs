// Makes a fresh clone ready: packages, native kernels, compiled TypeScript. Each is done only if what it is made from
// has changed; if nothing has, this says nothing. Needs Node alone, since it runs before anything is installed.

import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";

const [major, minor] = process.versions.node.split(".").map(Number);
if (major < 20 || (major === 20 && minor < 11)) {
  console.error(
    `neuron-experts needs Node 20.11 or newer, and this is ${process.version}: install a newer one.`,
  );
  process.exit(1);
}

// Not at the top: an old Node must get as far as the sentence above.
const { currentStamp, root, startWork } = await import("./stamps.mjs");
const { buildNative } = await import("./build-native.mjs");
const { compileSources } = await import("./compile.mjs");

installPackages();
buildNativeKernels();
if (!compileSources()) process.exit(1);

function installPackages() {
  if (existsSync(join(root, "node_modules")) && currentStamp("install")) return;
  say("installing packages (npm ci)");
  const done = startWork("install");
  // npm's own words go to stderr: stdout belongs to the command that follows.
  const options = { cwd: root, stdio: ["inherit", 2, 2], shell: process.platform === "win32" };
  if (spawnSync("npm", ["ci"], options).status !== 0) fail("npm ci failed; its messages above say why.");
  done();
}

function buildNativeKernels() {
  const stamp = currentStamp("native");
  const isBuilt = existsSync(join(root, "native", "build", "Release", "mone.node"));
  // A build that failed is not tried again until its sources change. It said so then, and whoever opens a backend says
  // it again: no third voice here.
  if (stamp && (isBuilt || stamp.problem)) return;
  say("building native kernels (about a minute)");
  const { problem } = buildNative();
  if (problem) say(problem);
}

function say(line) {
  console.error(`neuron-experts: ${line}`);
}

function fail(line) {
  say(line);
  process.exit(1);
}
