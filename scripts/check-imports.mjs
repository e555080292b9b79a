// Checks which folder of src/ imports which: one direction, no cycles, Node modules only where they may be.
// Reads import statements as text; TypeScript itself checks that they resolve.

import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, posix, sep } from "node:path";
import { fileURLToPath } from "node:url";

/** Each folder may import itself and those before it. */
const order = [
  "kernels",
  "backends",
  "tensor",
  "mone",
  "model",
  "infer",
  "checkpoint",
  "train",
  "evaluate",
  "study",
  "bench",
  "experiment",
  "cli",
];

/** Beside that order: these import no other folder, and only these import them. */
const besides = {
  text: ["infer", "checkpoint", "train", "evaluate", "study", "bench", "experiment", "cli"],
  report: ["train", "evaluate", "study", "bench", "experiment", "cli"],
};

/** They run in browsers too. */
const withoutNode = ["kernels", "backends", "tensor", "mone", "model", "infer", "report"];
const withNode = ["backends/cpu.ts"];

/**
 * What is wrong with the imports below `sourceRoot`, a sentence each; nothing if all is well.
 */
export function checkImports(sourceRoot) {
  const graph = new Map();
  const problems = [];
  for (const file of sourceFiles(sourceRoot)) {
    const targets = [];
    for (const name of importsOf(readFileSync(join(sourceRoot, file), "utf8"))) {
      if (name.startsWith(".")) targets.push(posix.join(posix.dirname(file), name));
      else if (name.startsWith("node:") && mustRunWithoutNode(file)) {
        problems.push(`${file} imports ${name}, but its folder must run in browsers.`);
      }
    }
    graph.set(file, targets);
    for (const target of targets) {
      const problem = explain(file, target);
      if (problem) problems.push(`${file} imports ${target}: ${problem}.`);
    }
  }
  const cycle = findCycle(graph);
  if (cycle) problems.push(`${cycle.join(" -> ")}: a cycle.`);
  return problems;
}

/** Why `file` may not import `target`, if so. Both are paths below src/. */
function explain(file, target) {
  if (target.startsWith("..")) return "it lies outside of src/";
  if (target === "index.ts") return "index.ts is for users of the library only";
  if (file === "index.ts") return undefined;
  const [from, to] = [folderOf(file), folderOf(target)];
  if (from === to || to === "") return undefined;
  if (from === "") return "a file beside the folders imports none of them";
  for (const folder of [from, to]) {
    if (!order.includes(folder) && !(folder in besides))
      return `${folder}/ has no place in check-imports.mjs yet`;
  }
  if (from in besides) return `${from}/ imports no other folder`;
  if (to in besides)
    return besides[to].includes(from) ? undefined : `${to}/ is for ${besides[to].join(", ")} only`;
  return order.indexOf(to) < order.indexOf(from) ? undefined : `${to}/ lies above ${from}/`;
}

function mustRunWithoutNode(file) {
  return withoutNode.includes(folderOf(file)) && !withNode.includes(file);
}

/** The folder of src/ that a file is in; "" for those beside the folders. */
function folderOf(file) {
  return file.includes("/") ? file.slice(0, file.indexOf("/")) : "";
}

/** Paths of all TypeScript files below a folder, relative to it, with slashes. */
function sourceFiles(sourceRoot) {
  return readdirSync(sourceRoot, { recursive: true })
    .map((path) => path.split(sep).join("/"))
    .filter((path) => path.endsWith(".ts"))
    .sort();
}

/** What a source text imports: static, re-exported, dynamic, types included. */
function importsOf(source) {
  const withoutComments = source.replace(/^\s*(\/\/|\/?\*).*$/gm, "");
  const pattern =
    /^\s*(?:import|export)\b[^;"'`]*?\bfrom\s*"([^"]+)"|\bimport\s*\(\s*"([^"]+)"|^\s*import\s*"([^"]+)"/gm;
  return [...withoutComments.matchAll(pattern)].map(([, from, dynamic, bare]) => from ?? dynamic ?? bare);
}

/** Files of one cycle, the first one again at the end. */
function findCycle(graph) {
  const finished = new Set();
  const path = [];
  const visit = (file) => {
    if (finished.has(file)) return undefined;
    if (path.includes(file)) return [...path.slice(path.indexOf(file)), file];
    path.push(file);
    for (const target of graph.get(file) ?? []) {
      const cycle = visit(target);
      if (cycle) return cycle;
    }
    path.pop();
    finished.add(file);
    return undefined;
  };
  for (const file of graph.keys()) {
    const cycle = visit(file);
    if (cycle) return cycle;
  }
  return undefined;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const problems = checkImports(join(dirname(fileURLToPath(import.meta.url)), "..", "src"));
  for (const problem of problems) console.log(problem);
  process.exitCode = problems.length > 0 ? 1 : 0;
}
