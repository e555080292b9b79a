// `mone bench`: how fast this machine is, from single kernels to whole training steps and decoding, with other engines
// beside it where that is asked for.

import { type Command, InvalidArgumentError, Option } from "commander";
import type { BenchOptions } from "../bench/result.ts";
import type { BenchResult } from "../bench/save.ts";
import { action, type Context, commandLine } from "./action.ts";
import { addCommonOptions, addExample, addThreadsOption, integer } from "./options.ts";

interface CommonFlags {
  readonly threads?: number;
  readonly rounds?: number;
  readonly quick?: boolean;
  readonly out?: string;
}

export function addBenchCommand(program: Command): void {
  const command = program.command("bench").description("measure the speed of this machine");
  addExample(command, "mone bench kernels");
  addKernels(command);
  addLayer(command);
  addSelect(command);
  addTrain(command);
  addDecode(command);
  addMemory(command);
}

/** A subcommand with the options of all of them, and what it does with its flags. */
function addBench<Flags extends CommonFlags>(
  parent: Command,
  {
    name,
    description,
    example,
    options,
    run,
  }: {
    name: string;
    description: string;
    example: string;
    options: (command: Command) => void;
    run: (flags: Flags, common: BenchOptions, context: Context) => Promise<BenchResult>;
  },
): void {
  const command = parent.command(name).description(description);
  options(command);
  addThreadsOption(command)
    .option("--rounds <n>", "rounds in which what is compared takes turns", integer(1))
    .option("--quick", "a smoke test of seconds; its figures mean nothing")
    .option("--out <folder>", "also write the result as JSON, plots as SVG, and a page of all results there");
  addCommonOptions(command, example);
  command.action(
    action(async (context: Context, flags: Flags) => {
      const { output, signal } = context;
      const common: BenchOptions = {
        threads: flags.threads,
        rounds: flags.rounds,
        quick: flags.quick,
        command: commandLine(process.argv.slice(2)),
        signal,
        onProgress: (task, details) => output.progress.show(task, details),
        announce: output.note,
      };
      await report(context, await run(flags, common, context), flags.out);
    }),
  );
}

/** Prints a result, and saves it where that is asked for. */
async function report({ output }: Context, result: BenchResult, folder: string | undefined): Promise<void> {
  const { presentBench, saveBench } = await import("../bench/save.ts");
  const { prose, tables } = presentBench(result);
  for (const table of tables) {
    output.table(table);
    output.line();
  }
  for (const text of prose) output.line(text);
  if (result.quick) output.line("This was a smoke test (--quick): its figures mean nothing.");
  if (folder !== undefined) output.line(`Page: ${await saveBench(folder, result)}`);
  output.json(result);
}

const dtypeOption = () =>
  new Option("--dtype <type>", "operands of large products").choices(["auto", "f32", "bf16"]).default("auto");
const peersOption = () => new Option("--peers", "run other engines beside it, as far as they are installed");
const sizeOption = (fallback: string) =>
  new Option("--size <name...>", `tiny, quick, small, medium, large, a width, or all (default: ${fallback})`);

interface KernelFlags extends CommonFlags {
  readonly kernel?: string[];
}

function addKernels(parent: Command): void {
  addBench<KernelFlags>(parent, {
    name: "kernels",
    description: "time each kernel on shapes of real work, and its share of what the machine can do",
    example: "mone bench kernels --kernel linear groupedLinear --threads 2",
    options: (command) => command.option("--kernel <name...>", "only these kernels"),
    async run({ kernel: kernels }, common, { output }) {
      const { benchKernels } = await import("../bench/kernels.ts");
      return benchKernels({
        ...common,
        kernels,
        onSample: ({ kernel, sample, index, count }) =>
          output.progress.show("timing", [`${index + 1} of ${count}`, `${kernel} ${sample}`]),
      });
    },
  });
}

interface LayerFlags extends CommonFlags {
  readonly dtype: "auto" | "f32" | "bf16";
  readonly width?: number;
  readonly expertWidth?: number;
  readonly experts?: number;
  readonly tokens?: number;
  readonly peers?: boolean;
}

function addLayer(parent: Command): void {
  addBench<LayerFlags>(parent, {
    name: "layer",
    description:
      "time one mixture-of-experts layer against K, F, E and the number of tokens, and its experts read from memory",
    example: "mone bench layer --width 512 --tokens 2048 --out bench",
    options: (command) =>
      command
        .option("--width <n>", "D (default: 512; experts from memory: 1024)", integer(1))
        .option(
          "--expert-width <n>",
          "F that the sweeps start from (default: 512; experts from memory: 1024)",
          integer(1),
        )
        .option("--experts <n>", "E that the sweeps start from (default: 16)", integer(1))
        .option("--tokens <n>", "T that the sweeps start from (default: 1024)", integer(1))
        .addOption(dtypeOption())
        .addOption(peersOption()),
    async run({ dtype, width, expertWidth: neurons, experts, tokens, peers }, common) {
      const { benchLayer } = await import("../bench/layer.ts");
      return benchLayer({ ...common, dtype, width, neurons, experts, tokens, peers });
    },
  });
}

interface SelectFlags extends CommonFlags {
  readonly width?: number[];
  readonly rows?: number;
}

function addSelect(parent: Command): void {
  addBench<SelectFlags>(parent, {
    name: "select",
    description: "time the selection of neurons alone, beside the products of its expert and beside sorting",
    example: "mone bench select --width 512 1024",
    options: (command) =>
      command
        .option("--width <n...>", "F of the rows (default: 256 to 4096)", listOf(integer(8)))
        .option("--rows <n>", "rows of a call (default: 1024)", integer(1)),
    async run({ width: widths, rows }, common) {
      const { benchSelect } = await import("../bench/select.ts");
      return benchSelect({ ...common, widths, rows });
    },
  });
}

interface TrainFlags extends CommonFlags {
  readonly size?: string[];
  readonly neurons?: string;
  readonly data?: string;
  readonly dtype: "auto" | "f32" | "bf16";
  readonly profile?: boolean;
  readonly recompute?: boolean;
  readonly peers?: boolean;
}

function addTrain(parent: Command): void {
  addBench<TrainFlags>(parent, {
    name: "train",
    description: "time training steps of MoE and MoNE by turns",
    example: "mone bench train --size all --data input.txt --profile --out bench",
    options: (command) =>
      command
        .addOption(sizeOption("small"))
        .option("--neurons <k>", "neurons that the MoNE keeps: a share (25%, 0.25) or a count (default: 25%)")
        .option("--data <source>", "text to train on, as for mone train")
        .addOption(dtypeOption())
        .option("--profile", "also say where the time of a step goes")
        .option("--recompute", "also time the MoNE with activations computed again for the backward pass")
        .addOption(peersOption()),
    async run({ size: sizes, neurons, data, dtype, profile, recompute, peers }, common) {
      const { benchTrain } = await import("../bench/train.ts");
      return benchTrain({ ...common, sizes, neurons, data, dtype, profile, recompute, peers });
    },
  });
}

interface DecodeFlags extends CommonFlags {
  readonly size?: string[];
  readonly neurons?: string[];
  readonly dtype?: ("f32" | "bf16" | "int8")[];
  readonly batch?: number[];
  readonly prompt?: number;
  readonly tokens?: number;
  readonly peers?: boolean;
}

function addDecode(parent: Command): void {
  addBench<DecodeFlags>(parent, {
    name: "decode",
    description: "time decoding and prompts with stored weights, and the bandwidth that it makes use of",
    example: "mone bench decode --size large --dtype bf16 int8 --batch 1 8 32 --peers --out bench",
    options: (command) =>
      command
        .addOption(sizeOption("large"))
        .option(
          "--neurons <k...>",
          "K besides all: shares (25%, 0.25) or counts (default: 25%)",
          listOf(String),
        )
        .addOption(
          new Option("--dtype <type...>", "forms of the weights (default: bf16 int8)").choices([
            "f32",
            "bf16",
            "int8",
          ]),
        )
        .option("--batch <n...>", "sequences at once (default: 1 2 4 8 16 32)", listOf(integer(1)))
        .option("--prompt <n>", "tokens of the prompt that is timed (default: 512)", integer(1))
        .option("--tokens <n>", "tokens that are decoded in a turn (default: 64)", integer(1))
        .addOption(peersOption()),
    async run({ size: sizes, neurons, dtype: dtypes, batch: batches, prompt, tokens, peers }, common) {
      const { benchDecode } = await import("../bench/decode.ts");
      return benchDecode({ ...common, sizes, neurons, dtypes, batches, prompt, tokens, peers });
    },
  });
}

interface MemoryFlags extends CommonFlags {
  readonly size?: string[];
  readonly neurons?: string;
}

function addMemory(parent: Command): void {
  addBench<MemoryFlags>(parent, {
    name: "memory",
    description: "peak memory of training and of decoding, each in a process of its own",
    example: "mone bench memory --size small medium --out bench",
    options: (command) =>
      command
        .addOption(sizeOption("small medium"))
        .option(
          "--neurons <k>",
          "neurons that the MoNE keeps: a share (25%, 0.25) or a count (default: 25%)",
        ),
    async run({ size: sizes, neurons }, common) {
      const { benchMemory } = await import("../bench/memory.ts");
      return benchMemory({ ...common, sizes, neurons });
    },
  });
}

/** Reads an option with several values, also written with commas: `1,2,4`. */
function listOf<T>(read: (text: string) => T): (text: string, earlier?: readonly T[]) => T[] {
  return (text, earlier = []) => {
    const words = text.split(",").filter((word) => word !== "");
    if (words.length === 0) throw new InvalidArgumentError("It must be a list of numbers.");
    return [...earlier, ...words.map(read)];
  };
}
