// The memory benchmark as people see it.

import { formatBytes } from "../../report/format.ts";
import { linePlot } from "../../report/plot.ts";
import type { MemoryBench, MemoryCase } from "../memory.ts";
import { columns, type Presentation } from "./presentation.ts";

const nameOf = ({ kind, kept, neurons, recompute }: MemoryCase) =>
  kind === "decode"
    ? "decoding"
    : `training, ${kept < neurons ? "MoNE" : "MoE"}${recompute ? ", recompute" : ""}`;

export function presentMemory(result: MemoryBench): Presentation {
  const { cases } = result;
  const bytes = (key: string, label: string, note?: string) => ({
    ...columns.count(key, label, note),
    format: formatBytes,
  });
  const names = [...new Set(cases.map((one) => `${nameOf(one)}, ${one.dtype}`))];
  const several = new Set(cases.map(({ width }) => width)).size > 1;
  return {
    heading: "Memory",
    prose: [
      "Peak resident memory of a process that does nothing else: three training steps, or a prompt of 512 tokens and a few " +
        "more with stored weights. Random text; the batch sizes are those of the training benchmark.",
    ],
    tables: [
      {
        title: "Peak memory",
        columns: [
          columns.text("size", "Size"),
          columns.text("work", "Work"),
          columns.text("dtype", "Type"),
          columns.integer("kept", "K"),
          columns.count("parameters", "Parameters"),
          bytes("peak", "peak", "Of the whole process, as the system counts it."),
          bytes(
            "least",
            "at least",
            "Weights in their form; when training, 16 bytes a parameter: weight, gradient, moments.",
          ),
          columns.fixed("ratio", "peak / least", 2),
          bytes("start", "of that before", "Node, this program and its addon."),
        ],
        rows: cases.map((one) => ({
          size: one.size,
          work: nameOf(one),
          dtype: one.dtype,
          kept: one.kept,
          parameters: one.parameters,
          peak: one.peakBytes,
          least: one.leastBytes,
          ratio: one.peakBytes / one.leastBytes,
          start: one.startBytes,
        })),
      },
    ],
    figures: several
      ? [
          {
            name: "peak",
            svg: linePlot({
              title: "Peak memory",
              x: { label: "D, width of the model", log: true },
              y: { label: "GiB", log: true },
              series: names.map((name) => ({
                name,
                dots: true,
                points: cases
                  .filter((one) => `${nameOf(one)}, ${one.dtype}` === name)
                  .map((one) => [one.width, one.peakBytes / 2 ** 30] as const),
              })),
            }),
          },
        ]
      : [],
  };
}
