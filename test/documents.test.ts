// What documents say about the code is true: quoted lines exist, links lead somewhere, versions agree.

import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { packageVersion } from "../src/version.ts";

const root = new URL("..", import.meta.url).pathname;
const squeeze = (text: string) => text.replace(/\s+/g, " ");

test("src/mone/README.md quotes code that exists", () => {
  const path = join(root, "src/mone/README.md");
  let rows = 0;
  for (const line of readFileSync(path, "utf8").split("\n")) {
    const row = line.match(/\| \[[^\]]+\]\(([^)]+)\) \| `(.+)` \|$/);
    if (!row) continue;
    rows++;
    const [, file, code] = row;
    const source = squeeze(readFileSync(join(dirname(path), file), "utf8"));
    assert.ok(source.includes(squeeze(code.replaceAll("\\|", "|"))), `${file} does not contain: ${code}`);
  }
  assert.ok(rows >= 20, `only ${rows} rows were found`);
});

for (const document of [
  "README.md",
  "CONTRIBUTING.md",
  "docs/LOG.md",
  "docs/CHECKPOINTS.md",
  "src/mone/README.md",
]) {
  test(`links of ${document} lead somewhere`, () => {
    const text = readFileSync(join(root, document), "utf8");
    for (const [, target] of text.matchAll(/\]\(([^)#]+)(?:#[^)]*)?\)/g)) {
      if (/^https?:/.test(target)) continue;
      assert.ok(existsSync(join(root, dirname(document), target)), `${document} links to ${target}`);
    }
  });
}

test("the version is the same in code and package", () => {
  assert.equal(JSON.parse(readFileSync(join(root, "package.json"), "utf8")).version, packageVersion);
});
