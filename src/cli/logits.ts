// `mone logits`: logits of every position, to compare a model with another implementation.

import type { Command } from "commander";
import { UsageError } from "../errors.ts";
import type { WeightFormat } from "../infer/storedWeights.ts";
import { action, type Context } from "./action.ts";
import { localModel } from "./localModel.ts";
import { addCommonOptions, addModelArgument, addThreadsOption, dtypeOption, neuronsHelp } from "./options.ts";

interface LogitsFlags {
  readonly ids: string;
  readonly neurons?: string;
  readonly router?: boolean;
  readonly threads?: number;
  readonly offline?: boolean;
  readonly dtype?: "auto" | WeightFormat;
}

export function addLogitsCommand(program: Command): void {
  const command = program
    .command("logits")
    .description("print the logits of every position, to compare with another implementation");
  addModelArgument(command)
    .requiredOption("--ids <list>", "tokens by number, e.g. 1,2,3")
    .option("--neurons <k>", neuronsHelp)
    .option("--router", "also router logits, chosen experts and their weights, layer by layer")
    .addOption(dtypeOption("f32, int8 for a checkpoint of int8"));
  addThreadsOption(command);
  addCommonOptions(command, "mone logits runs/first --ids 1,2,3 --router --json");
  command.action(action(run));
}

async function run(
  context: Context,
  given: string,
  { ids: list, neurons, router, threads, offline, dtype }: LogitsFlags,
): Promise<void> {
  const { output } = context;
  const { findModelFolder, openStoredModel } = await import("../checkpoint/loadModel.ts");
  const { resolveNeurons } = await import("../model/neurons.ts");
  const { readNeuronsOption } = await import("../checkpoint/studyFile.ts");
  const { holdsInt8, readModelConfig } = await import("../checkpoint/modelFolder.ts");
  const { openBackend } = await import("../backends/cpu.ts");
  const { textLogits } = await import("../infer/logits.ts");
  const { refuseNaN } = await import("../infer/sampling.ts");
  const folder = findModelFolder(await localModel(context, given, offline));
  const config = readModelConfig(folder);
  const ids = readIds(list, config.vocab_size, config.max_position_embeddings);
  const kept = neurons === undefined ? undefined : resolveNeurons(readNeuronsOption(neurons), config);
  const backend = openBackend({ threads }, output.note);
  try {
    const format = dtype ?? (holdsInt8(folder) ? "int8" : "f32");
    const model = openStoredModel(folder, backend, { dtype: format, announce: output.note }, {}, config);
    try {
      const { logits, routing } = await textLogits(model, ids, { router, kept });
      refuseNaN(logits);
      const rows = (values: Float32Array | Uint32Array) => {
        const width = values.length / ids.length;
        return Array.from({ length: ids.length }, (_, i) => [...values.subarray(i * width, (i + 1) * width)]);
      };
      for (const [i, row] of rows(logits).entries()) output.line(`${ids[i]}: ${row.map(short).join(" ")}`);
      for (const { layer, ...found } of routing) {
        output.line();
        output.line(`layer ${layer}: expert and weight of each choice, then router logits`);
        const [chosen, weights, scores] = [found.ids, found.weights, found.logits].map(rows);
        for (const [i, experts] of chosen.entries()) {
          const choices = experts.map((expert, slot) => `${expert} ${short(weights[i][slot])}`).join(", ");
          output.line(`${ids[i]}: ${choices}; ${scores[i].map(short).join(" ")}`);
        }
      }
      output.json({
        ids: [...ids],
        logits: rows(logits),
        ...(router && {
          routing: routing.map(({ layer, ...found }) => ({
            layer,
            logits: rows(found.logits),
            experts: rows(found.ids),
            weights: rows(found.weights),
          })),
        }),
      });
    } finally {
      model.close();
    }
  } finally {
    backend.close();
  }
}

const short = (value: number) => value.toPrecision(7);

/** @throws UsageError for what is no list of tokens of this model. */
function readIds(list: string, vocabulary: number, positions: number): Uint32Array {
  const ids = list.split(/[\s,]+/).filter((id) => id !== "");
  const wrong = ids.find((id) => !/^\d+$/.test(id) || Number(id) >= vocabulary);
  if (wrong !== undefined || ids.length === 0) {
    throw new UsageError(
      `--ids must be tokens by number, each below the vocabulary's ${vocabulary}, e.g. 1,2,3, not ${JSON.stringify(wrong ?? list)}`,
    );
  }
  if (ids.length > positions) {
    throw new UsageError(`--ids has ${ids.length} tokens, but the model has ${positions} positions`);
  }
  return Uint32Array.from(ids, Number);
}
