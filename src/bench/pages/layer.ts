// The layer benchmark as people see it.

import type { NamedFigure } from "../../report/page.ts";
import { linePlot } from "../../report/plot.ts";
import type { LayerBench, LayerCase, Sweep } from "../layer.ts";
import { columns, limitsInWords, type Presentation, spreadText } from "./presentation.ts";

const axisOf: Record<
  Sweep,
  { key: keyof LayerCase & ("kept" | "neurons" | "experts" | "tokens"); label: string }
> = {
  K: { key: "kept", label: "K, neurons kept" },
  F: { key: "neurons", label: "F, neurons of an expert" },
  E: { key: "experts", label: "E, experts" },
  T: { key: "tokens", label: "T, tokens" },
};

export function presentLayer(result: LayerBench): Presentation {
  const { cases, dtype, peers, stored } = result;
  const shape = cases[0];
  const rows = cases.map((one) => ({
    sweep: one.sweep,
    neurons: one.neurons,
    experts: one.experts,
    tokens: one.tokens,
    kept: one.kept,
    forward: one.seconds.forward.median,
    both: one.seconds.both.median,
    ratioForward: spreadText(one.ratio.forward, 3),
    ratioBoth: spreadText(one.ratio.both, 3),
    gigaflops: one.gigaflops,
    shareOfPeak: one.shareOfPeak,
  }));
  const ratioNote =
    "Time relative to the same layer with K = F in the same round: the overhead of selection.";
  return {
    heading: "One layer",
    prose: [
      `A mixture-of-experts layer of width ${shape?.width}, ${shape?.active} experts per token, ${dtype} products, on ` +
        `${result.backend}: forward alone, and forward with backward as in training, balance losses included; and its experts ` +
        "as decoding reads them, with weights too large for any cache. " +
        limitsInWords(result),
    ],
    tables: [
      {
        title: `One layer, D ${shape?.width}, ${dtype}, medians of ${result.rounds} rounds by turns`,
        columns: [
          columns.text("sweep", "Over"),
          columns.integer("neurons", "F"),
          columns.integer("experts", "E"),
          columns.integer("tokens", "T"),
          columns.integer("kept", "K"),
          columns.seconds("forward", "forward"),
          columns.seconds("both", "forward + backward"),
          columns.text("ratioForward", "forward / K = F", ratioNote),
          columns.text("ratioBoth", "both / K = F", ratioNote),
          columns.fixed("gigaflops", "GFLOP/s", 1, "Products with all neurons, forward and backward."),
          columns.share("shareOfPeak", "of peak"),
        ],
        rows,
      },
      {
        title: `Experts read from memory, one token, D ${stored[0]?.width}, F ${stored[0]?.neurons}`,
        columns: [
          columns.text("dtype", "Weights"),
          columns.integer("kept", "K"),
          columns.seconds("seconds", "a call"),
          columns.text("speedup", "speed-up", "Over K = F in the same round."),
          columns.fixed("ideal", "by bytes", 2, "What the bytes alone would allow."),
          columns.fixed("megabytes", "MB read", 1),
          columns.fixed("gigabytesPerSecond", "GB/s", 1),
          columns.text("shareOfRead", "of read", "Of the rate of plain reads of memory in the same round."),
        ],
        rows: stored.map((one) => ({
          ...one,
          seconds: one.seconds.median,
          megabytes: one.bytes / 1e6,
          speedup: spreadText(one.speedup, 2),
          shareOfRead: spreadText(one.shareOfRead, 2),
          ideal: (3 * one.neurons) / (one.neurons + 2 * one.kept),
        })),
      },
      ...(peers.length === 0
        ? []
        : [
            {
              title: "The same work in other engines, by turns",
              columns: [
                columns.text("engine", "Engine"),
                columns.text("version", "Version"),
                columns.text("work", "Work", "A whole layer, or one dense SwiGLU expert on all tokens."),
                columns.integer("kept", "K"),
                columns.seconds("forward", "forward"),
                columns.seconds("both", "forward + backward"),
              ],
              rows: peers.map(({ seconds, ...row }) => ({
                ...row,
                forward: seconds.forward?.median,
                both: seconds.both?.median,
              })),
            },
          ]),
    ],
    figures: [
      ...storedFigures(result),
      ...(Object.keys(axisOf) as Sweep[]).flatMap((sweep) => figuresOf(result, sweep)),
    ],
  };
}

/** What fewer neurons gain where memory limits. */
function storedFigures({ stored }: LayerBench): NamedFigure[] {
  if (stored.length === 0) return [];
  const of = (dtype: string) => stored.filter((one) => one.dtype === dtype);
  const share = ({ kept, neurons }: (typeof stored)[number]) => kept / neurons;
  const svg = linePlot({
    title: "Experts read from memory: speed-up over K = F",
    x: { label: "K / F", log: true },
    y: { label: "times", include: [1] },
    series: [
      ...["bf16", "int8"].map((dtype) => ({
        name: dtype,
        dots: true,
        points: of(dtype).map((one) => [share(one), one.speedup.median] as const),
        band: of(dtype).map((one) => [share(one), one.speedup.min, one.speedup.max] as const),
      })),
      {
        name: "what the bytes allow",
        points: of("bf16").map((one) => [share(one), 3 / (1 + 2 * share(one))] as const),
      },
    ],
  });
  return [
    { name: "stored-k", svg, caption: "Weights too large for any cache; bands reach from least to most." },
  ];
}

/** Time, and overhead, against one size. */
function figuresOf({ cases }: LayerBench, sweep: Sweep): NamedFigure[] {
  const { key, label } = axisOf[sweep];
  const chosen = cases.filter((one) => one.sweep === sweep);
  if (chosen.length === 0) return [];
  const selected = sweep === "K" ? chosen : chosen.filter((one) => one.kept < one.neurons);
  const all = sweep === "K" ? [] : chosen.filter((one) => one.kept === one.neurons);
  const line = (name: string, of: readonly LayerCase[], value: (one: LayerCase) => number) => ({
    name,
    dots: true,
    points: of.map((one) => [one[key], value(one)] as const).sort((a, b) => a[0] - b[0]),
  });
  const time = linePlot({
    title: `Time of a layer against ${sweep}`,
    x: { label, log: true },
    y: { label: "ms", log: sweep !== "K", ...(sweep === "K" && { include: [0] }) },
    series: (["forward", "both"] as const).flatMap((pass) => {
      const words = pass === "both" ? "forward + backward" : "forward";
      const ms = (one: LayerCase) => 1000 * one.seconds[pass].median;
      return sweep === "K"
        ? [line(words, selected, ms)]
        : [line(`${words}, K = F`, all, ms), line(`${words}, K = F/4`, selected, ms)];
    }),
  });
  const ratio = linePlot({
    title: `Time relative to K = F against ${sweep}`,
    x: { label, log: true },
    y: { label: "ratio", include: [0.9, 1.1] },
    references: [{ axis: "y", at: 1, label: "K = F" }],
    series: (["forward", "both"] as const).map((pass) => ({
      ...line(pass === "both" ? "forward + backward" : "forward", selected, (one) => one.ratio[pass].median),
      band: selected
        .map((one) => [one[key], one.ratio[pass].min, one.ratio[pass].max] as const)
        .sort((a, b) => a[0] - b[0]),
    })),
  });
  const name = { K: "k", F: "f", E: "e", T: "tokens" }[sweep];
  return [
    { name: `time-${name}`, svg: time },
    { name: `ratio-${name}`, svg: ratio, caption: "Bands reach from the least to the most of the rounds." },
  ];
}
