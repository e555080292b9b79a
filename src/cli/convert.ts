// `mone convert`: a checkpoint in another form.

import { type Command, Option } from "commander";
import { UsageError } from "../errors.ts";
import { formatCount } from "../report/format.ts";
import { action, type Context } from "./action.ts";
import { addCommonOptions, addModelArgument } from "./options.ts";

interface ConvertFlags {
  readonly neurons?: string;
  readonly dtype?: "f32" | "bf16" | "q8_0";
  readonly experts?: "apart" | "fused";
  readonly offline?: boolean;
}

export function addConvertCommand(program: Command): void {
  const command = program
    .command("convert")
    .description(
      "write a checkpoint in another form: fewer neurons, another type, experts apart or fused, GGUF",
    );
  addModelArgument(command)
    .argument("<target>", "new folder, or a file that ends in .gguf")
    .option(
      "--neurons <k>",
      "neurons kept per token in each expert from then on: a share (25%, 0.25), a count (64), or all",
    )
    .addOption(
      new Option("--dtype <type>", "type on disk (default: as it is; GGUF: bf16); q8_0: GGUF only").choices([
        "f32",
        "bf16",
        "q8_0",
      ]),
    )
    .addOption(
      new Option("--experts <layout>", "each expert in tensors of its own, or all of a layer in one").choices(
        ["apart", "fused"],
      ),
    );
  addCommonOptions(command, "mone convert runs/first first.gguf --dtype q8_0");
  command.action(action(run));
}

async function run(
  { output, signal }: Context,
  given: string,
  target: string,
  { neurons, dtype, experts, offline }: ConvertFlags,
): Promise<void> {
  const { findModelFolder } = await import("../checkpoint/loadModel.ts");
  const { resolveModelPath } = await import("../checkpoint/hub.ts");
  const folder = findModelFolder(await resolveModelPath(given, { offline, signal, announce: output.note }));
  const onProgress = (done: number, total: number) =>
    output.progress.show("writing", [`${formatCount(done)} of ${formatCount(total)} parameters`]);
  if (target.toLowerCase().endsWith(".gguf")) {
    if (neurons !== undefined || experts !== undefined) {
      throw new UsageError(
        "--neurons and --experts do not apply to a GGUF file: its engines use all neurons",
      );
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
  const made = await convertCheckpoint(folder, target, { neurons, dtype, experts, onProgress, signal });
  output.progress.end();
  output.line(
    `${target}: ${formatCount(made.parameters)} parameters in ${made.tensors} tensors, ` +
      (made.kept < made.width ? `${made.kept} of ${made.width} neurons kept` : `all ${made.width} neurons`),
  );
  output.json(made);
}
