// The check of import directions finds what it is there to find. Not here: running it on the project's own sources,
// which `npm test` does before the tests (scripts/check.mjs).

import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { test } from "node:test";

const { checkImports } = (await import(new URL("../scripts/check-imports.mjs", import.meta.url).href)) as {
  checkImports(sourceRoot: string): string[];
};

/** What is wrong with a tree of these files. */
function problemsOf(files: Record<string, string>): string[] {
  const folder = mkdtempSync(join(tmpdir(), "mone-imports-"));
  try {
    for (const [name, content] of Object.entries(files)) {
      mkdirSync(dirname(join(folder, name)), { recursive: true });
      writeFileSync(join(folder, name), content);
    }
    return checkImports(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

const sound = {
  "errors.ts": "export const e = 1;",
  "index.ts": 'export { train } from "./train/loop.ts";',
  "kernels/add.ts": 'import { e } from "../errors.ts";\nexport const add = e;',
  "backends/cpu.ts":
    'import os from "node:os";\nimport { add } from "../kernels/add.ts";\nexport { add, os };',
  "text/corpus.ts": 'import { readFileSync } from "node:fs";\nexport const c = readFileSync;',
  "report/table.ts": "export const t = 1;",
  "train/loop.ts":
    'import {\n  add,\n} from "../backends/cpu.ts";\nimport { c } from "../text/corpus.ts";\nexport const train = [add, c];',
  "cli/main.ts": 'const { train } = await import("../train/loop.ts");\nexport { train };',
};

test("a tree in which imports point one way passes", () => {
  assert.deepEqual(problemsOf(sound), []);
});

const violations: [string, Record<string, string>, RegExp][] = [
  [
    "upwards",
    { "kernels/up.ts": 'import { add } from "../backends/cpu.ts";' },
    /backends\/ lies above kernels\//,
  ],
  ["a type from above", { "kernels/up.ts": 'import type { A } from "../train/loop.ts";' }, /lies above/],
  ["re-exported from above", { "kernels/up.ts": 'export * from "../train/loop.ts";' }, /lies above/],
  ["dynamic, from above", { "kernels/up.ts": 'const t = await import("../train/loop.ts");' }, /lies above/],
  [
    "text from elsewhere",
    { "text/t.ts": 'import { add } from "../kernels/add.ts";' },
    /text\/ imports no other/,
  ],
  ["text for the model", { "model/m.ts": 'import { c } from "../text/corpus.ts";' }, /text\/ is for/],
  ["a root file's", { "random.ts": 'import { add } from "./kernels/add.ts";' }, /imports none of them/],
  ["index.ts", { "cli/x.ts": 'import { train } from "../index.ts";' }, /users of the library only/],
  [
    "a folder without a place",
    { "new/x.ts": 'import { add } from "../kernels/add.ts";' },
    /new\/ has no place/,
  ],
  ["Node in the model", { "model/m.ts": 'import { join } from "node:path";' }, /must run in browsers/],
  ["Node in another backend", { "backends/gpu.ts": 'import os from "node:os";' }, /must run in browsers/],
  [
    "a cycle",
    { "mone/a.ts": 'import "./b.ts";', "mone/b.ts": 'import "./a.ts";' },
    /mone\/a.ts -> mone\/b.ts -> mone\/a.ts/,
  ],
];

for (const [name, files, expected] of violations) {
  test(`found: ${name}`, () => {
    const problems = problemsOf({ ...sound, ...files });
    assert.equal(problems.length, 1, problems.join("\n"));
    assert.match(problems[0], expected);
  });
}

test("what stands in a comment is no import", () => {
  const comment =
    '// import { add } from "../train/loop.ts";\n/**\n * import { add } from "../train/loop.ts";\n */';
  assert.deepEqual(problemsOf({ ...sound, "kernels/c.ts": comment }), []);
});
