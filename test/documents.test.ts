// What documents say about the code is true: quoted lines exist, links lead somewhere, figures are those of the reports, versions agree.

import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { drawClaims } from "../scripts/draw-claims.ts";
import type { Difference } from "../src/experiment/report/compareArms.ts";
import type { ExperimentReport } from "../src/experiment/report/report.ts";
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

const documents = readdirSync(join(root, "docs"), { recursive: true, encoding: "utf8" })
  .filter((path) => path.endsWith(".md"))
  .map((path) => join("docs", path));
for (const document of ["README.md", "CONTRIBUTING.md", "src/mone/README.md", ...documents]) {
  test(`links of ${document} lead somewhere`, () => {
    const text = readFileSync(join(root, document), "utf8");
    for (const [, target] of text.matchAll(/\]\(([^)#]+)(?:#[^)]*)?\)/g)) {
      if (/^https?:/.test(target)) continue;
      assert.ok(existsSync(join(root, dirname(document), target)), `${document} links to ${target}`);
    }
  });
}

/** Everything that a row of CLAIMS.md may quote from a report. */
function quotable({ arms, pairs }: ExperimentReport): number[] {
  const ends = ({ mean, halfWidth = 0, alone }: Difference) =>
    [mean, mean - halfWidth, mean + halfWidth].concat(
      alone ? [mean - alone.halfWidth, mean + alone.halfWidth] : [],
    );
  return [
    ...arms.flatMap(({ differences }) => Object.values(differences)).flatMap(ends),
    ...pairs.flatMap(ends),
    // What is lost by pruning is counted from the same arm with all its neurons.
    ...arms.flatMap(({ estimates }) =>
      Object.values(estimates).flatMap(({ mean }) => [mean, mean - estimates.loss.mean]),
    ),
  ];
}

test("figures of docs/CLAIMS.md are those of the reports it links to", () => {
  let checked = 0;
  for (const line of readFileSync(join(root, "docs/CLAIMS.md"), "utf8").split("\n")) {
    const [, claim, measured, interval] = line.split("|");
    const link = line.match(/\]\(results\/([^)]+)\/report\.md\)/);
    if (!link) continue;
    const path = join(root, "docs/results", link[1], "report.json");
    const values = quotable(JSON.parse(readFileSync(path, "utf8")) as ExperimentReport);
    for (const [figure, decimals] of `${measured} ${interval}`.matchAll(/[+-]?\d\.(\d{3,})/g)) {
      checked++;
      // A pair may be told either way round.
      const isThere = values.some((value) =>
        [value, -value].some((one) => Number(one.toFixed(decimals.length)) === Number(figure)),
      );
      assert.ok(isThere, `${figure} (${claim.trim()}) is not in ${path}`);
    }
  }
  assert.ok(checked > 100, `only ${checked} figures were found`);
});

test("docs/claims.svg is drawn from the reports", () => {
  assert.equal(readFileSync(join(root, "docs/claims.svg"), "utf8"), drawClaims());
});

test("the version is the same in code and package", () => {
  assert.equal(JSON.parse(readFileSync(join(root, "package.json"), "utf8")).version, packageVersion);
});
