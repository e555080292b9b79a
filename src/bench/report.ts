// Benchmark results for people: tables and plots of each kind, and one page of all of them with the JSON and SVG beside
// it. Not here: measuring.

import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { writeFileAtomic } from "../checkpoint/atomic.ts";
import { formatCount, formatFixed, formatPercent } from "../report/format.ts";
import { renderPage, type Section } from "../report/page.ts";
import { linePlot, plotStyle } from "../report/plot.ts";
import type { Column, Table } from "../report/table.ts";
import type { DecodeBench } from "./decode.ts";
import type { PeerTiming } from "./decodePeers.ts";
import type { LayerBench } from "./layer.ts";
import type { MachineDescription, MachineLimits } from "./machine.ts";
import type { MissingPeer } from "./peers/process.ts";
import type { SelectBench } from "./select.ts";
import type { TrainBench, TrainTiming } from "./train.ts";

/** A result in the form that is shown and written. */
export interface BenchReport {
  readonly name: string;
  readonly title: string;
  readonly machine: MachineDescription;
  readonly limits?: MachineLimits;
  readonly tables: readonly Table[];
  readonly plots: readonly { readonly name: string; readonly svg: string }[];
  /** Engines that were asked for and are not here. */
  readonly missingPeers?: readonly MissingPeer[];
  /** Everything that was measured. */
  readonly data: object;
}

const digits = (count: number) => (value: number) => formatFixed(value, count);
const percent = (value: number) => formatPercent(value, 1);
const times = (value: number) => `${formatFixed(value, 2)}x`;
const right = (key: string, label: string, format?: Column["format"], note?: string): Column => ({
  key,
  label,
  align: "right",
  ...(format && { format }),
  ...(note && { note }),
});

export function decodeReport(bench: DecodeBench): BenchReport {
  const { timings, config, dtype, limits } = bench;
  const table: Table = {
    title: `Decoding in ${dtype}: ${config.num_hidden_layers} layers of ${config.hidden_size}, ${config.num_experts_per_tok} of ${config.num_experts} experts of ${config.moe_intermediate_size}`,
    columns: [
      { key: "kept", label: "K", align: "left", note: "neurons kept per token in each expert" },
      right("batch", "Sequences"),
      right("tokensPerSecond", "tok/s", digits(1), "of all sequences together, from the median step"),
      right("bestTokensPerSecond", "fastest tenth", digits(1)),
      right("speedup", "against first K", times),
      right("mebibytes", "MiB/token", digits(0), "weights that one token reads"),
      right("gigabytesPerSecond", "GB/s", digits(1)),
      right("bandwidthShare", "of bandwidth", percent, "of the read bandwidth measured between the rounds"),
      right("promptTokensPerSecond", "prompt tok/s", digits(0)),
    ],
    rows: timings.map(({ bytesPerToken, range: _, ...timing }) => ({
      ...timing,
      mebibytes: bytesPerToken && bytesPerToken / 2 ** 20,
    })),
  };
  const kept = [...new Set(timings.map((timing) => timing.kept))];
  const batches = [...new Set(timings.map((timing) => timing.batch))];
  const plots = [];
  if (kept.length > 1) {
    const series = batches.map((batch) => ({
      name: `${batch} at once`,
      dots: true,
      points: timings.filter((t) => t.batch === batch).map((t) => [t.kept, t.tokensPerSecond] as const),
    }));
    const x = { label: "neurons kept", log: true };
    plots.push({
      name: "decode-neurons",
      svg: linePlot({
        title: "Decoding against kept neurons",
        x,
        y: { label: "tokens/s", include: [0] },
        series,
      }),
    });
  }
  if (batches.length > 1) {
    const series = kept.map((K) => ({
      name: `K = ${K}`,
      dots: true,
      points: timings.filter((t) => t.kept === K).map((t) => [t.batch, t.tokensPerSecond] as const),
    }));
    const x = { label: "sequences at once", log: true };
    plots.push({
      name: "decode-batch",
      svg: linePlot({
        title: "Decoding against sequences",
        x,
        y: { label: "tokens/s", include: [0] },
        series,
      }),
    });
  }
  const { machine, peers, missingPeers } = bench;
  const tables = peers ? [table, peerTable(bench, peers)] : [table];
  return { name: "decode", title: "Decoding", machine, limits, tables, plots, missingPeers, data: bench };
}

/** Other engines, each beside ours with the same kept neurons and with a quarter of them. */
function peerTable({ timings, config }: DecodeBench, peers: readonly PeerTiming[]): Table {
  const ours = (kept: number) => timings.find((timing) => timing.kept === kept && timing.batch === 1);
  const quarter = ours(config.moe_intermediate_size / 4);
  return {
    title: "Other engines, in turn with ours, one sequence",
    columns: [
      { key: "name", label: "Engine", align: "left" },
      { key: "version", label: "Version", align: "left" },
      right("kept", "K"),
      right("tokensPerSecond", "tok/s", digits(1)),
      right("mebibytes", "MiB/token", digits(0)),
      right("gigabytesPerSecond", "GB/s", digits(1)),
      right("promptTokensPerSecond", "prompt tok/s", digits(0)),
      right("ratio", "ours, same K", times),
      right("quarterRatio", "ours, K = F/4", times),
      right("promptRatio", "our prompt", times),
    ],
    rows: peers.map(
      ({
        name,
        version,
        kept,
        tokensPerSecond,
        bytesPerToken,
        gigabytesPerSecond,
        promptTokensPerSecond,
      }) => {
        const same = ours(kept);
        return {
          name,
          version,
          kept,
          tokensPerSecond,
          mebibytes: bytesPerToken / 2 ** 20,
          gigabytesPerSecond,
          promptTokensPerSecond,
          ratio: same && same.tokensPerSecond / tokensPerSecond,
          quarterRatio: quarter && quarter.tokensPerSecond / tokensPerSecond,
          promptRatio: same && same.promptTokensPerSecond / promptTokensPerSecond,
        };
      },
    ),
  };
}

export function trainReport(bench: TrainBench): BenchReport {
  const { timings, dtype, machine, limits, peakMemory, missingPeers } = bench;
  const table: Table = {
    title: `Training step in ${dtype}; peak memory ${formatCount(peakMemory / 2 ** 20)} MiB`,
    columns: [
      { key: "size", label: "Size", align: "left" },
      right("parameters", "Parameters"),
      right("moe", "MoE tok/s", digits(0)),
      right("mone", "MoNE tok/s", digits(0)),
      right("kept", "K"),
      right("stepRatio", "step time", times, "of the MoNE over the MoE, balance loss of neurons included"),
      right("gigaflops", "GFLOP/s", digits(0), "of the MoE's products, counted, not measured"),
      right("peakShare", "of peak", percent, "of products in registers, measured between the rounds"),
    ],
    rows: timings.map(({ size, parameters, moe, mone, stepRatio }) => ({
      size,
      parameters,
      moe: moe.tokensPerSecond,
      mone: mone.tokensPerSecond,
      kept: mone.kept,
      stepRatio,
      gigaflops: moe.gigaflops,
      peakShare: moe.peakShare,
    })),
  };
  const tables = [
    table,
    ...timings.filter((timing) => timing.peers).map(trainPeerTable),
    ...timings.filter((timing) => timing.profile).map(profileTable),
  ];
  const plots = [];
  if (timings.length > 1) {
    const x = { label: "width", log: true };
    const arm = (name: "moe" | "mone", label: string) => ({
      name: label,
      dots: true,
      points: timings.map((t) => [t.width, t[name].tokensPerSecond] as const),
    });
    const series = [arm("moe", "MoE"), arm("mone", "MoNE")];
    plots.push({
      name: "train-size",
      svg: linePlot({ title: "Training against size", x, y: { label: "tokens/s", log: true }, series }),
    });
    const ratio = [
      { name: "MoNE / MoE", dots: true, points: timings.map((t) => [t.width, t.stepRatio] as const) },
    ];
    const y = { label: "step time, ratio", include: [0.9, 1.1] };
    const references = [{ axis: "y" as const, at: 1 }];
    plots.push({
      name: "train-ratio",
      svg: linePlot({ title: "The price of choosing neurons", x, y, series: ratio, references }),
    });
  }
  return { name: "train", title: "Training", machine, limits, tables, plots, missingPeers, data: bench };
}

function trainPeerTable({ size, moe, mone, peers = [] }: TrainTiming): Table {
  return {
    title: `PyTorch on the same steps, in turn with ours, size ${size}`,
    columns: [
      { key: "name", label: "Engine", align: "left" },
      { key: "version", label: "Version", align: "left" },
      right("kept", "K"),
      right("tokensPerSecond", "tok/s", digits(0)),
      right("ratio", "ours", times, "our rate with the same K over this one"),
      right("mebibytes", "peak MiB", digits(0)),
    ],
    rows: peers.map(({ name, version, kept, tokensPerSecond, peakMemory }) => ({
      name,
      version,
      kept,
      tokensPerSecond,
      ratio: (kept === moe.kept ? moe : mone).tokensPerSecond / tokensPerSecond,
      mebibytes: peakMemory / 2 ** 20,
    })),
  };
}

/** Phases by passes: milliseconds a step, and the rate of the products in them. */
function profileTable({ size, profile = [] }: TrainTiming): Table {
  const total = profile.reduce((sum, line) => sum + line.seconds, 0);
  const phases = [...new Set(profile.map((line) => line.phase))];
  const rows = phases.map((phase) => {
    const lines = profile.filter((line) => line.phase === phase);
    const seconds = (pass?: string) =>
      lines.filter((line) => !pass || line.pass === pass).reduce((sum, line) => sum + line.seconds, 0);
    const products = lines.filter((line) => line.flops > 0);
    const flops = products.reduce((sum, line) => sum + line.flops, 0);
    return {
      phase,
      forward: 1e3 * seconds("forward"),
      backward: 1e3 * seconds("backward"),
      update: 1e3 * seconds("update"),
      share: seconds() / total,
      gigaflops: flops > 0 ? flops / 1e9 / products.reduce((sum, line) => sum + line.seconds, 0) : undefined,
    };
  });
  rows.sort((a, b) => b.share - a.share);
  const milliseconds = digits(1);
  return {
    title: `Where a step of the MoNE goes, size ${size}: ${formatFixed(1e3 * total, 0)} ms in kernels`,
    columns: [
      { key: "phase", label: "Phase", align: "left" },
      right("forward", "forward ms", milliseconds),
      right("backward", "backward ms", milliseconds),
      right("update", "update ms", milliseconds),
      right("share", "share", percent),
      right("gigaflops", "GFLOP/s", digits(0)),
    ],
    rows,
  };
}

export function layerReport(bench: LayerBench): BenchReport {
  const { shape, trained, storedShape, stored, machine, limits } = bench;
  const training: Table = {
    title: `One layer in training: ${shape.tokens} tokens of ${shape.width}, ${shape.active} of ${shape.experts} experts of ${shape.neurons}`,
    columns: [
      { key: "kept", label: "K", align: "left" },
      right("forward", "forward ms", digits(2)),
      right("forwardRatio", "forward, ratio", times),
      right("both", "forward + backward ms", digits(2)),
      right("bothRatio", "both, ratio", times),
    ],
    rows: trained.map((timing) => ({ ...timing })),
  };
  const inference: Table = {
    title: `One layer in inference, one token: ${storedShape.active} experts of ${storedShape.width} x ${storedShape.neurons}, from memory`,
    columns: [
      { key: "dtype", label: "Weights", align: "left" },
      right("kept", "K"),
      right("microseconds", "us", digits(1)),
      right("gigabytesPerSecond", "GB/s", digits(1)),
      right("bandwidthShare", "of bandwidth", percent),
      right("speedup", "speed-up", times),
      right("ideal", "ideal", times),
    ],
    rows: stored.map((timing) => ({ ...timing })),
  };
  const series = ["bf16", "int8"].map((dtype) => ({
    name: dtype,
    dots: true,
    points: stored
      .filter((t) => t.dtype === dtype)
      .map((t) => [t.kept / storedShape.neurons, t.speedup] as const),
  }));
  const ideal = {
    name: "ideal",
    line: "dashed" as const,
    points: stored
      .filter((t) => t.dtype === "bf16")
      .map((t) => [t.kept / storedShape.neurons, t.ideal] as const),
  };
  const x = { label: "share of neurons kept", log: true };
  const svg = linePlot({
    title: "Experts read from memory",
    x,
    y: { label: "speed-up", include: [1] },
    series: [...series, ideal],
  });
  return {
    name: "layer",
    title: "A layer",
    machine,
    limits,
    tables: [training, inference],
    plots: [{ name: "layer-speedup", svg }],
    data: bench,
  };
}

export function selectReport(bench: SelectBench): BenchReport {
  const table: Table = {
    title: "Selection of neurons, a row",
    columns: [
      { key: "width", label: "F", align: "left" },
      right("kept", "K"),
      right("microseconds", "us", digits(3), "activation, selection and product with up"),
      right("selection", "selection us", digits(3), "more than with K = F"),
      right("sorting", "sorting us", digits(1), "the same magnitudes, sorted in JavaScript"),
    ],
    rows: bench.timings.map((timing) => ({ ...timing })),
  };
  const { machine } = bench;
  return { name: "select", title: "Selection", machine, tables: [table], plots: [], data: bench };
}

/** Writes NAME.json, NAME.html and the plots as SVG files. @returns the path of the page. */
export async function writeBenchReport(
  folder: string,
  report: BenchReport,
  command: string,
): Promise<string> {
  mkdirSync(folder, { recursive: true });
  const { name, title, machine, limits, tables, plots, data } = report;
  await writeFileAtomic(join(folder, `${name}.json`), `${JSON.stringify({ command, ...data }, null, 2)}\n`);
  for (const plot of plots) {
    // Alone, a plot has to bring its own colours.
    const alone = plot.svg.replace(
      /^<svg([^>]*)>/,
      `<svg$1 xmlns="http://www.w3.org/2000/svg"><style>${plotStyle}</style>`,
    );
    await writeFileAtomic(join(folder, `${plot.name}.svg`), alone);
  }
  const sections: Section[] = [
    {
      heading: title,
      blocks: [
        ...tables.map((table) => ({ kind: "table" as const, table })),
        ...(plots.length > 0
          ? [{ kind: "figures" as const, figures: plots.map(({ svg }) => ({ svg })) }]
          : []),
      ],
    },
    {
      heading: "Machine",
      blocks: [
        {
          kind: "facts",
          facts: {
            CPU: `${machine.cpu}, ${machine.cores} cores, ${machine.memoryGiB} GiB`,
            Backend: machine.backend,
            "Node.js": `${machine.node}, ${machine.platform}`,
            Version: machine.version,
            ...(limits && {
              "Read bandwidth": `${formatFixed(limits.gigabytesPerSecond, 1)} GB/s`,
              "Products in registers": `${formatFixed(limits.gigaflopsF32, 0)} GFLOP/s in f32, ${formatFixed(limits.gigaflopsBf16, 0)} in bf16`,
            }),
          },
        },
        { kind: "code", title: "Command", text: command },
      ],
    },
  ];
  const path = join(folder, `${name}.html`);
  const subtitle = `neuron-experts ${machine.version} on ${machine.cpu}`;
  await writeFileAtomic(path, renderPage({ title, subtitle, generatedAt: machine.date, sections }));
  return path;
}
