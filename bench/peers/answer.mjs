// What the peer programs written in JavaScript share: finding a package in a folder, and the conversation with
// `mone bench` (src/bench/peers/process.ts): a line of JSON that says they are ready, then one answer to each line.

import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";

/** Numbers and texts given as `--name value`. */
export function readOptions(defaults) {
  const options = Object.fromEntries(Object.keys(defaults).map((name) => [name, { type: "string" }]));
  const { values } = parseArgs({ options });
  return Object.fromEntries(
    Object.entries(defaults).map(([name, fallback]) => {
      const given = values[name];
      return [name, given === undefined ? fallback : typeof fallback === "number" ? Number(given) : given];
    }),
  );
}

/** Imports a package from `folder`/node_modules. @returns its names and its version. */
export async function importFrom(folder, name) {
  const home = join(folder, "node_modules", name);
  const manifest = JSON.parse(readFileSync(join(home, "package.json"), "utf8"));
  const entry = manifest.exports?.["."]?.import ?? manifest.module ?? manifest.main ?? "index.js";
  const path = join(home, typeof entry === "string" ? entry : entry.default);
  if (!existsSync(path)) throw new Error(`${name} has no ${path}`);
  const names = await import(pathToFileURL(path).href);
  return {
    names: names.default && Object.keys(names).length === 1 ? names.default : names,
    version: manifest.version,
  };
}

/** Says that the program is ready, then answers requests until the input ends. */
export async function serve(ready, answer) {
  const say = (value) => process.stdout.write(`MONE ${JSON.stringify(value)}\n`);
  say({ ready: true, ...ready });
  for await (const line of createInterface({ input: process.stdin })) {
    if (line.trim() !== "") say(await answer(JSON.parse(line)));
  }
}

/** Seconds that each of `count` calls takes. */
export async function timeEach(count, work) {
  const seconds = [];
  for (let i = 0; i < count; i++) {
    const start = performance.now();
    await work(i);
    seconds.push((performance.now() - start) / 1000);
  }
  return seconds;
}

/** Token ids below `limit`, in an order that looks random and is the same each time. */
export function tokenSource(limit) {
  let state = 12345;
  return () => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    return (state >>> 8) % limit;
  };
}
