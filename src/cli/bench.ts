// `mone bench`: how fast this machine is. So far kernel by kernel.

import type { Command } from "commander";
import { formatFixed } from "../report/format.ts";
import { action, type Context } from "./action.ts";
import { addCommonOptions, addExample, addThreadsOption } from "./options.ts";

export function addBenchCommand(program: Command): void {
  const command = program.command("bench").description("measure the speed of this machine");
  addExample(command, "mone bench kernels");
  const kernels = command
    .command("kernels")
    .description("time each kernel on shapes of real work")
    .option("--kernel <name...>", "only these kernels");
  addThreadsOption(kernels);
  addCommonOptions(kernels, "mone bench kernels --kernel linear groupedLinear --threads 2");
  kernels.action(action(runKernels));
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
