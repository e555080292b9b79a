// `mone inspect`: what is in a model folder or a GGUF file.

import type { Command } from "commander";
import { isGguf } from "../checkpoint/ggufTypes.ts";
import type { ModelInspection } from "../checkpoint/inspect.ts";
import { describeNonFinite } from "../checkpoint/nonFinite.ts";
import { RunError, UsageError } from "../errors.ts";
import { expertWidth, keptNeurons } from "../model/config.ts";
import { formatBytes, formatCount, formatPercent } from "../report/format.ts";
import { action, type Context } from "./action.ts";
import { localModel } from "./localModel.ts";
import { addCommonOptions, addModelArgument } from "./options.ts";

export function addInspectCommand(program: Command): void {
  const command = program
    .command("inspect")
    .description("show a model's configuration, parameters, and what a token activates");
  addModelArgument(command).option(
    "--check-values",
    "also read all weights, and fail if one is NaN or infinite",
  );
  addCommonOptions(command, "mone inspect runs/first      (or model.gguf)");
  command.action(action(run));
}

async function run(
  context: Context,
  given: string,
  { checkValues: wanted, offline }: { readonly checkValues?: boolean; readonly offline?: boolean },
): Promise<void> {
  const { output } = context;
  const { checkValues, inspectModel } = await import("../checkpoint/inspect.ts");
  if (isGguf(given)) {
    if (wanted)
      throw new UsageError("--check-values is for model folders: convert the GGUF file to one first");
    return inspectFile(context, given);
  }
  const path = await localModel(context, given, offline);
  const inspection = inspectModel(path);
  if (wanted) {
    inspection.nonFinite = checkValues(path, (done, total) =>
      output.progress.show("checking values", [`${formatBytes(done)} of ${formatBytes(total)}`]),
    );
    output.progress.end();
  }
  output.line(`${inspection.path} (${inspection.dtypes.join(", ")})`);
  output.line();
  for (const line of configurationLines(inspection)) output.line(line);
  output.line();
  output.table({
    columns: [
      { key: "group", label: "Group", align: "left" },
      { key: "name", label: "Tensor", align: "left" },
      { key: "shape", label: "Shape", align: "right" },
      { key: "tensors", label: "Count", align: "right" },
      { key: "parameters", label: "Parameters", align: "right" },
    ],
    rows: inspection.tensors.map((tensor) => ({ ...tensor, shape: tensor.shape.join(" x ") })),
  });
  output.line();
  for (const line of activationLines(inspection)) output.line(line);
  if (wanted) {
    output.line();
    output.line(inspection.nonFinite?.length ? "values:" : "values: all are finite");
    for (const found of inspection.nonFinite ?? []) output.line(`  ${describeNonFinite(found)}`);
  }
  output.json(inspection);
  if (inspection.nonFinite?.length) {
    throw new RunError(
      `${inspection.nonFinite[0].file}: ${describeNonFinite(inspection.nonFinite[0])}; the model cannot work, download or train it again`,
    );
  }
}

async function inspectFile({ output }: Context, path: string): Promise<void> {
  const { inspectGguf } = await import("../checkpoint/inspectGguf.ts");
  const inspection = inspectGguf(path);
  const { version, bytes, keys, tensors, parameters } = inspection;
  output.line(
    `${path}: GGUF version ${version}, ${formatBytes(bytes)}, ${formatCount(parameters)} parameters`,
  );
  output.line();
  for (const [key, value] of Object.entries(keys)) output.line(`${oneLine(key)}: ${oneLine(value)}`);
  output.line();
  output.table({
    columns: [
      { key: "name", label: "Tensor", align: "left" },
      { key: "type", label: "Type", align: "left" },
      { key: "shape", label: "Shape", align: "right" },
      { key: "tensors", label: "Count", align: "right" },
      { key: "parameters", label: "Parameters", align: "right" },
      { key: "bytes", label: "Bytes", align: "right" },
    ],
    rows: tensors.map((tensor) => ({ ...tensor, shape: tensor.shape.join(" x ") })),
  });
  output.json(inspection);
}

/** Texts of files may hold anything. */
function oneLine(value: unknown): string {
  return typeof value === "string" && !/\p{Cc}/u.test(value) ? value : JSON.stringify(value);
}

/** The configuration in brief. */
function configurationLines({ config }: ModelInspection): string[] {
  const { num_experts: experts, num_neurons_per_tok: kept } = config;
  const width = expertWidth(config);
  const neurons = kept === null || kept === width ? `all ${width} neurons` : `${kept} of ${width} neurons`;
  return [
    `layers: ${config.num_hidden_layers} of width ${config.hidden_size}; vocabulary ${config.vocab_size}, ` +
      `${config.max_position_embeddings} positions`,
    `attention: ${config.num_attention_heads} heads of ${config.head_dim}, ` +
      `${config.num_key_value_heads} for keys and values`,
    experts === 0
      ? `no experts; ${neurons} kept per token`
      : `experts: ${config.num_experts_per_tok} of ${experts} per token, ${neurons} kept in each`,
  ];
}

/** Total and activated parameters, in both readings of what the gate projection costs. */
function activationLines({ parameters, config }: ModelInspection): string[] {
  const { total, activatedWithGate, activatedWithoutGate } = parameters;
  const share = (count: number) => `${formatCount(count)} (${formatPercent(count / total)})`;
  const kept = keptNeurons(config) < expertWidth(config);
  return [
    `total                    ${formatCount(total)}`,
    `activated, with gate     ${share(activatedWithGate)}: gate projections counted in full`,
    `activated, without gate  ${share(activatedWithoutGate)}: ${kept ? "only the rows of kept neurons" : "the same, all neurons are kept"}`,
  ];
}
