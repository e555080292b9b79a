// `mone convert`: a checkpoint in another form.

import { existsSync } from "node:fs";
import { type Command, Option } from "commander";
import { isGguf } from "../checkpoint/ggufTypes.ts";
import { UsageError } from "../errors.ts";
import { formatCount, formatPercent } from "../report/format.ts";
import { action, type Context } from "./action.ts";
import { localModel } from "./localModel.ts";
import { addCommonOptions, addModelArgument, addThreadsOption } from "./options.ts";

interface ConvertFlags {
  readonly neurons?: string;
  readonly dtype?: "f32" | "bf16" | "int8" | "q8_0";
  readonly experts?: "apart" | "fused";
  readonly pruneNeurons?: string;
  readonly data?: string;
  readonly offline?: boolean;
  readonly threads?: number;
}

export function addConvertCommand(program: Command): void {
  const command = program
    .command("convert")
    .description(
      "write a checkpoint in another form: fewer neurons, another type, experts apart or fused, to and from GGUF",
    );
  addModelArgument(command)
    .argument("<target>", "new folder, or a file that ends in .gguf; a model that ends so is read")
    .option(
      "--neurons <k>",
      "neurons kept per token in each expert from then on: a share (25%, 0.25), a count (64), or all",
    )
    .addOption(
      new Option(
        "--dtype <type>",
        "type on disk (default: as it is; GGUF: bf16); int8: for mone only; q8_0: GGUF only",
      ).choices(["f32", "bf16", "int8", "q8_0"]),
    )
    .addOption(
      new Option("--experts <layout>", "each expert in tensors of its own, or all of a layer in one").choices(
        ["apart", "fused"],
      ),
    );
  command
    .option(
      "--prune-neurons <share>",
      "remove this share of each expert's neurons for good, e.g. 10%: those with the least mean |gate| on --data",
    )
    .option("--data <text>", "text to rank neurons on, as for mone study");
  addThreadsOption(command);
  addCommonOptions(command, "mone convert runs/first first.gguf --dtype q8_0");
  command.action(action(run));
}

/** "10%" or 0.1. */
function readShare(text: string): number {
  const value = text.endsWith("%") ? Number(text.slice(0, -1)) / 100 : Number(text);
  if (text.trim() === "" || !(value > 0 && value < 1)) {
    throw new UsageError(
      `--prune-neurons must be a share above 0 and below 1, e.g. 10%, not ${JSON.stringify(text)}`,
    );
  }
  return value;
}

const showParameters = (output: Context["output"]) => (done: number, total: number) =>
  output.progress.show("writing", [`${formatCount(done)} of ${formatCount(total)} parameters`]);

/** From a GGUF file to a folder. */
async function importFile(
  { output, signal }: Context,
  path: string,
  target: string,
  { dtype, ...others }: ConvertFlags,
): Promise<void> {
  const { neurons, experts, pruneNeurons, data } = others;
  if ([neurons, experts, pruneNeurons, data].some((value) => value !== undefined) || isGguf(target)) {
    throw new UsageError("a GGUF file becomes a model folder first: convert that in a second step");
  }
  if (dtype === "int8" || dtype === "q8_0") {
    throw new UsageError(
      `--dtype ${dtype} does not apply to reading a GGUF file: leave it out, or take f32 or bf16`,
    );
  }
  const { importGguf } = await import("../checkpoint/importGguf.ts");
  const onProgress = showParameters(output);
  const made = await importGguf(path, target, { dtype, onProgress, announce: output.note, signal });
  output.progress.end();
  output.line(
    `${target}: ${made.family}, ${formatCount(made.parameters)} parameters in ${made.tensors} tensors, ` +
      (made.tokenizer ? "with its tokenizer" : "without a tokenizer"),
  );
  output.json(made);
}

async function run(context: Context, given: string, target: string, flags: ConvertFlags): Promise<void> {
  const { neurons, dtype, experts, pruneNeurons, data, offline, threads } = flags;
  const { output, signal } = context;
  if (isGguf(given)) return importFile(context, given, target, flags);
  const { findModelFolder } = await import("../checkpoint/loadModel.ts");
  const folder = findModelFolder(await localModel(context, given, offline));
  if (pruneNeurons !== undefined) {
    if (neurons !== undefined || experts !== undefined || dtype !== undefined || isGguf(target)) {
      throw new UsageError("--prune-neurons goes alone: convert the pruned checkpoint in a second step");
    }
    const { pruneCheckpoint } = await import("../study/prune.ts");
    const made = await pruneCheckpoint(folder, target, {
      share: readShare(pruneNeurons),
      data,
      threads,
      signal,
      announce: output.note,
      onProgress: (task, share) => output.progress.show(task, [formatPercent(share, 0)]),
    });
    output.progress.end();
    output.line(`${target}: ${made.width} of ${made.before} neurons in each expert`);
    output.json(made);
    return;
  }
  if (data !== undefined || threads !== undefined)
    throw new UsageError(`--${data === undefined ? "threads" : "data"} is for --prune-neurons`);
  const onProgress = showParameters(output);
  if (isGguf(target)) {
    if (existsSync(target)) throw new UsageError(`${target} is there already: name a new file`);
    if (neurons !== undefined || experts !== undefined) {
      throw new UsageError(
        "--neurons and --experts do not apply to a GGUF file: its engines use all neurons",
      );
    }
    if (dtype === "int8") {
      throw new UsageError("--dtype int8 is for a model folder: a GGUF file has bytes as q8_0");
    }
    const { exportGguf } = await import("../checkpoint/exportGguf.ts");
    const type = dtype === "q8_0" ? "Q8_0" : dtype === "f32" ? "F32" : "BF16";
    const exported = await exportGguf(folder, target, { type, onProgress, signal, announce: output.note });
    output.progress.end();
    output.line(`${target}: ${exported.architecture}, ${exported.tensors} tensors, matrices in ${type}`);
    output.json({ path: target, ...exported });
    return;
  }
  if (dtype === "q8_0")
    throw new UsageError("--dtype q8_0 is for a GGUF file: give a target that ends in .gguf");
  const { convertCheckpoint } = await import("../checkpoint/convert.ts");
  const options = { neurons, dtype, experts, onProgress, announce: output.note, signal };
  const made = await convertCheckpoint(folder, target, options);
  output.progress.end();
  output.line(
    `${target}: ${formatCount(made.parameters)} parameters in ${made.tensors} tensors, ` +
      (made.kept < made.width ? `${made.kept} of ${made.width} neurons kept` : `all ${made.width} neurons`),
  );
  output.json(made);
}
