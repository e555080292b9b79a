// `mone bench`: how fast this machine is, and what choosing neurons costs and gains on it.

import { type Command, Option } from "commander";
import type { BenchReport } from "../bench/report.ts";
import { UsageError } from "../errors.ts";
import { formatFixed } from "../report/format.ts";
import { action, type Context, commandLine } from "./action.ts";
import { addCommonOptions, addExample, addThreadsOption, integer, number } from "./options.ts";

interface CommonFlags {
  readonly threads?: number;
  readonly rounds: number;
  readonly out?: string;
  readonly quick?: boolean;
}

/** What a quick look measures: small sizes, once, to see whether everything works. */
const QUICK_PROBE = 2 ** 24;

export function addBenchCommand(program: Command): void {
  const command = program.command("bench").description("measure the speed of this machine");
  addExample(command, "mone bench decode --dtype int8 --neurons 1,0.25");

  const kernels = command
    .command("kernels")
    .description("time each kernel on shapes of real work")
    .option("--kernel <name...>", "only these kernels");
  addThreadsOption(kernels);
  addCommonOptions(kernels, "mone bench kernels --kernel linear groupedLinear --threads 2");
  kernels.action(action(runKernels));

  addBench(
    command,
    "decode",
    "tokens a second against kept neurons and sequences at once",
    3,
    (sub) =>
      sub
        .option("--size <name>", "tiny, quick, small, medium, large, or a width", "large")
        .option(
          "--neurons <list>",
          "kept neurons, shares or counts; the first is the base",
          numbers,
          [1, 0.5, 0.25, 0.125],
        )
        .option("--batch <list>", "sequences at once", numbers, [1])
        .addOption(
          new Option("--dtype <type>", "form of the weights")
            .choices(["f32", "bf16", "int8"])
            .default("bf16"),
        )
        .option("--prompt <n>", "tokens of a prompt", integer(1), 32)
        .option("--tokens <n>", "tokens after it", integer(1), 64)
        .option("--peers", "run PyTorch and llama.cpp beside ours, where they are installed"),
    "mone bench decode --size large --dtype int8 --batch 1,4,16 --out bench",
  ).action(action(runDecode));

  addBench(
    command,
    "train",
    "training steps of a MoE and a MoNE, by turns",
    3,
    (sub) =>
      sub
        .option("--size <list>", "sizes or widths; all: eight widths from 64 to 512", "small")
        .option("--neurons <k>", "kept neurons of the MoNE, a share or a count", number, 0.25)
        .option("--batch <n>", "sequences a step (default: 16, from width 512 on 8)", integer(1))
        .option("--seq-len <n>", "tokens of a sequence (default: 256, from width 512 on 512)", integer(1))
        .option("--steps <n>", "timed steps of each in a round", integer(1), 5)
        .addOption(
          new Option("--dtype <type>", "operands of products")
            .choices(["auto", "f32", "bf16"])
            .default("auto"),
        )
        .option("--recompute", "forget each layer's intermediates and compute them again")
        .option("--data <file>", "text (default: type declarations of the installed packages)")
        .option("--profile", "where the time of a step goes")
        .option("--peers", "run PyTorch beside ours, where it is installed"),
    "mone bench train --size small,medium --profile",
  ).action(action(runTrain));

  addBench(
    command,
    "layer",
    "one layer of experts: the price of choosing in training, the gain in inference",
    5,
    (sub) =>
      sub
        .option("--tokens <n>", "tokens", integer(1), 4096)
        .option("--width <n>", "hidden size", integer(1), 256)
        .option("--experts <n>", "experts", integer(1), 16)
        .option("--active <n>", "experts per token", integer(1), 4)
        .option("--neurons <n>", "neurons of an expert", integer(1), 256),
    "mone bench layer --width 512 --neurons 512 --experts 32",
  ).action(action(runLayer));

  addBench(
    command,
    "select",
    "the selection of neurons alone",
    5,
    (sub) => sub.option("--widths <list>", "neurons of an expert", numbers, [256, 512, 1024, 1408, 2048]),
    "mone bench select --widths 512,1024",
  ).action(action(runSelect));
}

function addBench(
  parent: Command,
  name: string,
  description: string,
  rounds: number,
  options: (command: Command) => Command,
  example: string,
): Command {
  const command = options(parent.command(name).description(description));
  command
    .option("--rounds <n>", "everything is measured so many times, by turns", integer(1), rounds)
    .option("--out <folder>", "write JSON, plots and a page there")
    .option("--quick", "smallest sizes, once: to see that it works");
  addThreadsOption(command);
  return addCommonOptions(command, example);
}

/** Numbers with commas between them. */
function numbers(text: string): number[] {
  return text.split(",").map(number);
}

/** Shows and writes a result. */
async function finish({ output }: Context, report: BenchReport, { out }: CommonFlags): Promise<void> {
  const { machine, limits, tables } = report;
  output.line(`${machine.cpu}, ${machine.backend}`);
  if (limits) {
    const [read, f32, bf16] = [limits.gigabytesPerSecond, limits.gigaflopsF32, limits.gigaflopsBf16];
    output.line(
      `limits: ${formatFixed(read, 1)} GB/s read, ${formatFixed(f32, 0)} GFLOP/s in f32, ${formatFixed(bf16, 0)} in bf16`,
    );
  }
  for (const table of tables) {
    output.line();
    output.table(table);
  }
  for (const { peer, reason } of report.missingPeers ?? []) output.note(`not run: ${peer} (${reason})`);
  const command = commandLine(process.argv.slice(2));
  let page: string | undefined;
  if (out !== undefined) {
    const { writeBenchReport } = await import("../bench/report.ts");
    page = await writeBenchReport(out, report, command);
    output.line(`\npage: ${page}`);
  }
  output.json({ command, page, ...report.data });
}

const progressOf = ({ output, signal }: Context) => ({
  signal,
  announce: output.note,
  onStep: (done: number, total: number, what: string) =>
    output.progress.show("timing", [`${done + 1} of ${total}`, what]),
});

async function runDecode(
  context: Context,
  flags: CommonFlags & {
    size: string;
    neurons: number[];
    batch: number[];
    dtype: "f32" | "bf16" | "int8";
    peers?: boolean;
    prompt: number;
    tokens: number;
  },
): Promise<void> {
  const { benchDecode } = await import("../bench/decode.ts");
  const { decodeReport } = await import("../bench/report.ts");
  if (!flags.batch.every((count) => Number.isInteger(count) && count >= 1)) {
    throw new UsageError(`--batch must be counts with commas between them, not ${flags.batch}`);
  }
  const quick = flags.quick && { size: "tiny", prompt: 4, tokens: 6, rounds: 1, probeBytes: QUICK_PROBE };
  await finish(
    context,
    decodeReport(await benchDecode({ ...flags, ...quick, ...progressOf(context) })),
    flags,
  );
}

async function runTrain(
  context: Context,
  flags: CommonFlags & {
    size: string;
    neurons: number;
    steps: number;
    batch?: number;
    seqLen?: number;
    dtype: "auto" | "f32" | "bf16";
    recompute?: boolean;
    data?: string;
    profile?: boolean;
    peers?: boolean;
  },
): Promise<void> {
  const { benchTrain } = await import("../bench/train.ts");
  const { trainReport } = await import("../bench/report.ts");
  const all = ["64", "96", "128", "192", "256", "320", "384", "512"];
  const sizes = flags.size === "all" ? all : flags.size.split(",");
  const quick = flags.quick && {
    sizes: ["32"],
    batch: 2,
    seqLen: 16,
    steps: 1,
    rounds: 1,
    probeBytes: QUICK_PROBE,
  };
  await finish(
    context,
    trainReport(await benchTrain({ ...flags, sizes, ...quick, ...progressOf(context) })),
    flags,
  );
}

async function runLayer(
  context: Context,
  {
    tokens,
    width,
    experts,
    active,
    neurons,
    ...flags
  }: CommonFlags & { tokens: number; width: number; experts: number; active: number; neurons: number },
): Promise<void> {
  const { benchLayer } = await import("../bench/layer.ts");
  const { layerReport } = await import("../bench/report.ts");
  if (active > experts) throw new UsageError(`--active ${active} is more than --experts ${experts}`);
  const shape = { tokens, width, experts, active, neurons };
  const quick = flags.quick && {
    shape: { tokens: 8, width: 32, experts: 4, active: 2, neurons: 32 },
    rounds: 1,
    memoryBytes: QUICK_PROBE,
  };
  await finish(
    context,
    layerReport(await benchLayer({ shape, ...flags, ...quick, ...progressOf(context) })),
    flags,
  );
}

async function runSelect(context: Context, flags: CommonFlags & { widths: number[] }): Promise<void> {
  const { benchSelect } = await import("../bench/select.ts");
  const { selectReport } = await import("../bench/report.ts");
  const quick = flags.quick && { widths: [64], rounds: 1 };
  await finish(
    context,
    selectReport(await benchSelect({ ...flags, ...quick, ...progressOf(context) })),
    flags,
  );
}

async function runKernels(
  { output, signal }: Context,
  { kernel: kernels, threads }: { kernel?: string[]; threads?: number },
): Promise<void> {
  const { benchKernels } = await import("../bench/kernels.ts");
  const result = await benchKernels({
    kernels,
    threads,
    signal,
    onSample: ({ kernel, sample, index, count }) =>
      output.progress.show("timing", [`${index + 1} of ${count}`, `${kernel} ${sample}`]),
    announce: output.note,
  });
  const digits = (count: number) => (value: number) => formatFixed(value, count);
  output.table({
    title: `Kernels on ${result.backend}, median`,
    columns: [
      { key: "kernel", label: "Kernel", align: "left" },
      { key: "sample", label: "Sample", align: "left" },
      { key: "microseconds", label: "us", align: "right", format: digits(1) },
      { key: "gigaflops", label: "GFLOP/s", align: "right", format: digits(1) },
      { key: "gigabytesPerSecond", label: "GB/s", align: "right", format: digits(2) },
    ],
    rows: result.timings.map((timing) => ({ ...timing })),
  });
  output.json(result);
}
