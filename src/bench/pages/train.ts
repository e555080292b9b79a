// The training benchmark as people see it.

import { formatBytes } from "../../report/format.ts";
import type { NamedFigure } from "../../report/page.ts";
import { linePlot, type Series } from "../../report/plot.ts";
import type { Table } from "../../report/table.ts";
import type { TrainBench, TrainCase, TrainRow } from "../train.ts";
import { columns, limitsInWords, type Presentation, spreadText } from "./presentation.ts";

const engineOf = (row: TrainRow) => `${row.engine} ${row.dtype}${row.recompute ? ", recomputed" : ""}`;

export function presentTrain(result: TrainBench): Presentation {
  const { cases } = result;
  return {
    heading: "Training",
    prose: [
      `Whole training steps on ${result.backend}: forward, losses, backward, AdamW. MoE and MoNE have the same ` +
        `configuration but for K, and take turns. Text: ${result.data}. ${limitsInWords(result)}`,
      "GFLOP/s count the products of the model with all neurons, three times the forward pass.",
    ],
    tables: [stepTable(result), ratioTable(result), ...cases.flatMap(profileTables)],
    figures: scaleFigures(cases),
  };
}

function stepTable({ cases, rounds }: TrainBench): Table {
  return {
    title: `Training, medians of ${rounds} rounds by turns`,
    columns: [
      columns.text("size", "Size"),
      columns.text("arm", "Model"),
      columns.text("engine", "Engine"),
      columns.integer("kept", "K"),
      columns.text("tokens", "tokens/s"),
      columns.seconds("step", "step"),
      columns.fixed("ratio", "/ best peer", 2, "tokens/s relative to the fastest peer with the same model."),
      columns.fixed("gigaflops", "GFLOP/s", 1),
      columns.share("share", "of peak"),
      { key: "memory", label: "peak memory", align: "right", format: formatBytes },
    ],
    rows: cases.flatMap(({ size, rows }) =>
      rows.map((row) => {
        const peers = rows.filter((other) => other.arm === row.arm && other.engine !== "neuron-experts");
        const best = Math.max(...peers.map((peer) => peer.tokensPerSecond.median));
        return {
          size,
          arm: row.arm,
          engine: engineOf(row),
          kept: row.kept,
          tokens: spreadText(row.tokensPerSecond, 0),
          step: row.secondsPerStep.median,
          ...(row.engine === "neuron-experts" &&
            peers.length > 0 && { ratio: row.tokensPerSecond.median / best }),
          gigaflops: row.gigaflops,
          share: row.shareOfPeak,
          memory: row.peakBytes,
        };
      }),
    ),
  };
}

function ratioTable({ cases }: TrainBench): Table {
  return {
    title: "What the selection costs: MoNE's step time relative to MoE's",
    columns: [
      columns.text("size", "Size"),
      columns.integer("width", "D"),
      columns.count("parameters", "Parameters"),
      columns.text("batch", "tokens a step"),
      columns.text("kept", "K of F"),
      columns.text("ratio", "step time ratio", "Round by round: median, least and most."),
      columns.share("keptShare", "kept products", "What would remain if only kept neurons were multiplied."),
    ],
    rows: cases.map((one) => ({
      size: one.size,
      width: one.width,
      parameters: one.parameters,
      batch: `${one.batch} x ${one.seq}`,
      kept: `${one.kept} of ${one.neurons}`,
      ratio: spreadText(one.stepRatio, 3),
      keptShare: one.keptShareOfFlops,
    })),
  };
}

function profileTables({ size, profiles }: TrainCase): Table[] {
  return profiles.map(({ arm, rows }) => ({
    title: `Where a step goes: ${size}, ${arm}`,
    columns: [
      columns.text("phase", "Part"),
      columns.text("pass", "Pass"),
      columns.fixed("milliseconds", "ms a step", 2),
      columns.share("share", "of step"),
      columns.fixed("calls", "calls", 0),
      columns.fixed("gigaflops", "GFLOP/s", 1),
      columns.share("shareOfPeak", "of peak"),
    ],
    rows: rows.map((row) => ({
      phase: row.phase,
      pass: row.pass,
      milliseconds: row.millisecondsPerStep,
      share: row.shareOfStep,
      calls: row.calls,
      gigaflops: row.gigaflops,
      shareOfPeak: row.shareOfPeak,
    })),
  }));
}

/** Against the width, where there are several sizes. */
function scaleFigures(cases: readonly TrainCase[]): NamedFigure[] {
  if (cases.length < 2) return [];
  const x = { label: "D, width of the model", log: true };
  const keys = [...new Set(cases.flatMap(({ rows }) => rows.map((row) => `${row.arm}, ${engineOf(row)}`)))];
  const speeds = keys.map(
    (key): Series => ({
      name: key,
      dots: true,
      line: key.includes("neuron-experts") ? "solid" : "dashed",
      points: cases.flatMap(({ width, rows }) =>
        rows
          .filter((row) => `${row.arm}, ${engineOf(row)}` === key)
          .map((row) => [width, row.tokensPerSecond.median] as const),
      ),
    }),
  );
  return [
    {
      name: "ratio",
      svg: linePlot({
        title: "MoNE's step time relative to MoE's",
        x,
        y: { label: "ratio", include: [0.9, 1.1] },
        references: [{ axis: "y", at: 1, label: "MoE" }],
        series: [
          {
            name: "MoNE",
            dots: true,
            points: cases.map(({ width, stepRatio }) => [width, stepRatio.median] as const),
            band: cases.map(({ width, stepRatio }) => [width, stepRatio.min, stepRatio.max] as const),
          },
        ],
      }),
      caption: "The band reaches from the least to the most of the rounds.",
    },
    {
      name: "tokens",
      svg: linePlot({ title: "Training speed", x, y: { label: "tokens/s", log: true }, series: speeds }),
    },
    {
      name: "peak",
      svg: linePlot({
        title: "Share of the machine's peak",
        x,
        y: { label: "%", include: [0] },
        series: keys
          .filter((key) => key.includes("neuron-experts"))
          .map((key) => ({
            name: key,
            dots: true,
            points: cases.flatMap(({ width, rows }) =>
              rows
                .filter((row) => `${row.arm}, ${engineOf(row)}` === key)
                .map((row) => [width, 100 * row.shareOfPeak] as const),
            ),
          })),
      }),
    },
  ];
}
