// Draws docs/claims.svg, the differences of docs/CLAIMS.md in one plot, from the reports in docs/results:
//   node --import tsx scripts/draw-claims.ts
// A test compares the file with what this draws.

import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { ExperimentReport } from "../src/experiment/report/report.ts";
import { type Interval, intervalPlot } from "../src/report/intervals.ts";
import { svgFile } from "../src/report/svgFile.ts";

const root = fileURLToPath(new URL("..", import.meta.url));

/** What is shown: an arm against its reference, or against another arm, with the words for it. */
const shown: readonly {
  experiment: string;
  differences: readonly { words: string; arm: string; against?: string }[];
}[] = [
  {
    experiment: "half",
    differences: [{ words: "MoNE K = F/4 against MoE", arm: "MoNE K = F/4" }],
  },
  {
    experiment: "equal",
    differences: [
      { words: "MoNE, experts twice as wide, against MoE", arm: "MoNE, experts twice as wide" },
      { words: "MoNE, twice the experts per token, against MoE", arm: "MoNE, twice the experts per token" },
    ],
  },
  {
    experiment: "ratio",
    differences: ["F/2", "F/4", "F/8", "F/16"].map((k) => ({
      words: `MoNE K = ${k} against MoE`,
      arm: `K = ${k}`,
    })),
  },
  {
    experiment: "activation",
    differences: ["gelu", "relu", "sigmoid"].map((gate) => ({
      words: `MoNE K = F/4 against MoE, both with ${gate}`,
      arm: `MoNE K = F/4, ${gate}`,
    })),
  },
  {
    experiment: "dense",
    differences: ["F/4", "F/16"].map((k) => ({ words: `dense, K = ${k} against K = F`, arm: `K = ${k}` })),
  },
  {
    experiment: "balance",
    differences: ["0.01", "0.1"].map((coefficient) => ({
      words: `MoNE, neuron balance loss ${coefficient} against none`,
      arm: `l1, all, ${coefficient}`,
    })),
  },
  {
    experiment: "granularity",
    differences: ["2", "4"].map((finer) => ({
      words: `MoNE K = F/4 against MoE, both with experts ${finer} times finer`,
      arm: `MoNE K = F/4, ${finer} times finer`,
    })),
  },
  {
    experiment: "convert",
    differences: [
      {
        words: "MoE continued with K = F/4 against all neurons",
        arm: "MoE, then K = F/4",
        against: "MoE, continued",
      },
    ],
  },
];

/** The text of docs/claims.svg. @throws Error if a report has no such difference. */
export function drawClaims(): string {
  const intervals = shown.flatMap(({ experiment, differences }, colour) => {
    const path = join(root, "docs", "results", `${experiment}-small`, "report.json");
    const report = JSON.parse(readFileSync(path, "utf8")) as ExperimentReport;
    return differences.map(({ words, arm, against }): Interval => {
      const { mean, halfWidth } = differenceOf(report, arm, against);
      const name = `${words} (${experiment}, ${report.tokens / 1e6} M tokens, ${report.seeds.length} seeds)`;
      return { name, mean, low: mean - halfWidth, high: mean + halfWidth, colour };
    });
  });
  return svgFile(
    intervalPlot({
      title: "Differences of held-out loss, with 95 % intervals over seeds",
      label: "nats a token; left of 0 the first named is better; shaded: 0.5 % of a loss of 4",
      intervals,
      margin: 0.02,
      width: 640,
    }),
  );
}

/** Pairs stand in a report one way round only. */
function differenceOf({ name, arms, pairs }: ExperimentReport, arm: string, against?: string) {
  const own = arms.find((one) => one.name === arm)?.differences.loss;
  const pair = pairs.find((one) => one.arm === arm && one.against === against);
  const turned = pairs.find((one) => one.arm === against && one.against === arm);
  const found = against === undefined ? own : (pair ?? turned);
  if (found?.halfWidth === undefined) {
    throw new Error(`${name} has no interval of ${arm} against ${against ?? "its reference"}`);
  }
  return { mean: found === turned ? -found.mean : found.mean, halfWidth: found.halfWidth };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  writeFileSync(join(root, "docs", "claims.svg"), drawClaims());
}
