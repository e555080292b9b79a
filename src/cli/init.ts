// `mone init`: a checkpoint of random weights, for tests and measurements.

import { type Command, Option } from "commander";
import { familyConfig, familyPresets } from "../checkpoint/familyPresets.ts";
import { UsageError } from "../errors.ts";
import { resolveModelConfig } from "../model/config.ts";
import { presetConfig, presetNames } from "../model/presets.ts";
import { formatCount } from "../report/format.ts";
import { action, type Context } from "./action.ts";
import { addCommonOptions, integer, readValue } from "./options.ts";
import { readPairs } from "./settingsInput.ts";

interface InitFlags {
  readonly preset: string;
  readonly set?: readonly string[];
  readonly dtype: "f32" | "bf16";
  readonly seed: number;
}

export function addInitCommand(program: Command): void {
  const command = program
    .command("init")
    .description("write a checkpoint of random weights, of any size, for tests and measurements")
    .argument("<folder>", "where to; new or empty")
    .option(
      "--preset <name>",
      `${presetNames.join(", ")}; or of another family: ${Object.keys(familyPresets).join(", ")}`,
      "mone-small",
    )
    .option("--random", "random weights: what there is without this word, too")
    .option("--set <key=value...>", "keys of the model, e.g. num_hidden_layers=16 vocab_size=50304")
    .addOption(new Option("--dtype <type>", "type on disk").choices(["f32", "bf16"]).default("bf16"))
    .option("--seed <n>", "the same seed gives the same weights", integer(0), 1);
  addCommonOptions(command, "mone init random/large --preset moe-large --set num_experts=64");
  command.action(action(run));
}

/** `key=value` of a config.json. */
function readPair(pair: string): [string, unknown] {
  const at = pair.indexOf("=");
  if (at < 1) throw new UsageError(`--set takes key=value, not ${JSON.stringify(pair)}`);
  return [pair.slice(0, at), readValue(pair.slice(at + 1))];
}

async function run(
  { output, signal }: Context,
  folder: string,
  { preset, set = [], dtype, seed }: InitFlags,
): Promise<void> {
  const { writeRandomCheckpoint } = await import("../checkpoint/randomCheckpoint.ts");
  const { configOfStored } = await import("../checkpoint/modelFolder.ts");
  const family = Object.hasOwn(familyPresets, preset);
  const changes = family ? Object.fromEntries(set.map(readPair)) : undefined;
  const stored = changes && familyConfig(preset, changes);
  const ownConfig = () => {
    const { model = {} } = readPairs(set.map((pair) => `model.${pair}`));
    return resolveModelConfig({ ...presetConfig(preset), ...model }, "init");
  };
  const config = stored ? configOfStored(stored, preset) : ownConfig();
  const onProgress = (done: number, total: number) =>
    output.progress.show("writing", [`${formatCount(done)} of ${formatCount(total)} parameters`]);
  const parameters = await writeRandomCheckpoint(folder, config, {
    ...{ dtype, seed, onProgress, signal, stored },
  });
  output.line(`${folder}: ${formatCount(parameters)} random parameters in ${dtype}`);
  output.json({ path: folder, parameters, dtype, seed });
}
