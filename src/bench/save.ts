// Results as files: NAME.json, a plot each as .svg, and one self-contained page of everything that lies in the folder, so
// that benchmarks may run one after the other and end up on one page.

import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { writeFileAtomic } from "../checkpoint/atomic.ts";
import { RunError } from "../errors.ts";
import { formatBytes } from "../report/format.ts";
import { type Block, renderPage, type Section } from "../report/page.ts";
import { svgFile } from "../report/svgFile.ts";
import type { DecodeBench } from "./decode.ts";
import type { KernelBench } from "./kernels.ts";
import type { LayerBench } from "./layer.ts";
import type { MemoryBench } from "./memory.ts";
import { presentDecode } from "./pages/decode.ts";
import { presentKernels } from "./pages/kernels.ts";
import { presentLayer } from "./pages/layer.ts";
import { presentMemory } from "./pages/memory.ts";
import type { Presentation } from "./pages/presentation.ts";
import { presentSelect } from "./pages/select.ts";
import { presentTrain } from "./pages/train.ts";
import type { SelectBench } from "./select.ts";
import type { TrainBench } from "./train.ts";

/** The result of any benchmark. */
export type BenchResult = KernelBench | LayerBench | SelectBench | TrainBench | DecodeBench | MemoryBench;

/** In the order of the page. */
const names = [
  "train",
  "decode",
  "layer",
  "select",
  "kernels",
  "memory",
] as const satisfies readonly BenchResult["bench"][];

/** A result as tables and plots. */
export function presentBench(result: BenchResult): Presentation {
  switch (result.bench) {
    case "kernels":
      return presentKernels(result);
    case "layer":
      return presentLayer(result);
    case "select":
      return presentSelect(result);
    case "train":
      return presentTrain(result);
    case "decode":
      return presentDecode(result);
    case "memory":
      return presentMemory(result);
  }
}

/**
 * Writes a result and its plots, and makes the page of the folder anew. @returns the page's path.
 * @throws RunError when the disk is full, or if another result in the folder is damaged.
 */
export async function saveBench(folder: string, result: BenchResult): Promise<string> {
  const { figures, wideFigures = [] } = presentBench(result);
  await writeFileAtomic(join(folder, `${result.bench}.json`), `${JSON.stringify(result, null, 2)}\n`);
  for (const { name, svg } of [...figures, ...wideFigures]) {
    await writeFileAtomic(join(folder, `${result.bench}-${name}.svg`), svgFile(svg));
  }
  const path = join(folder, "index.html");
  await writeFileAtomic(path, benchPage(names.flatMap((name) => readResult(join(folder, `${name}.json`)))));
  return path;
}

function readResult(path: string): BenchResult[] {
  if (!existsSync(path)) return [];
  try {
    return [JSON.parse(readFileSync(path, "utf8")) as BenchResult];
  } catch (error) {
    throw new RunError(`${path} is no result of a benchmark: delete it.`, { cause: error });
  }
}

/** Results as one HTML document. */
export function benchPage(results: readonly BenchResult[]): string {
  const machines = [
    ...new Set(results.map(({ machine, level }) => `${machine.cpu}, ${machine.cores} cores, ${level}`)),
  ];
  const dates = results.map(({ date }) => date.slice(0, 10)).sort();
  return renderPage({
    title: "Benchmarks of neuron-experts",
    subtitle: machines.join("; "),
    generatedAt: [...new Set([dates[0], dates[dates.length - 1]])].join(" to "),
    sections: results.map(sectionOf),
  });
}

function sectionOf(result: BenchResult): Section {
  const { heading, prose, tables, figures, wideFigures = [] } = presentBench(result);
  const { machine, versions, missing } = result;
  const warning = "This was a smoke test (--quick): its figures mean nothing.";
  return {
    heading,
    blocks: [
      { kind: "prose", paragraphs: [...(result.quick ? [warning] : []), ...prose] },
      ...wideFigures.map((figure): Block => ({ kind: "figures", figures: [figure], wide: true })),
      ...tables.map((table): Block => ({ kind: "table", table })),
      ...(figures.length > 0 ? [{ kind: "figures", figures: [...figures] } satisfies Block] : []),
      ...missing.map(
        ({ peer, reason }): Block => ({ kind: "prose", paragraphs: [`${peer} is missing here: ${reason}`] }),
      ),
      {
        kind: "facts",
        facts: {
          Command: result.command,
          Machine: `${machine.cpu}, ${machine.cores} cores, ${formatBytes(machine.memoryBytes)}, ${machine.system}`,
          "Instruction level": result.level,
          Threads: String(result.threads),
          Rounds: String(result.rounds),
          Versions: `neuron-experts ${versions.package}, Node ${versions.node}`,
          Date: result.date,
        },
      },
    ],
  };
}
