// `mone generate`: a model continues a text.

import type { Command } from "commander";
import type { GenerationEnd } from "../infer/languageModel.ts";
import { checkSampling, samplingDefaults } from "../infer/sampling.ts";
import type { WeightFormat } from "../infer/storedWeights.ts";
import { formatCount, formatDuration, formatTokensPerSecond } from "../report/format.ts";
import { action, type Context } from "./action.ts";
import { localModel } from "./localModel.ts";
import {
  addCommonOptions,
  addModelArgument,
  addThreadsOption,
  dtypeOption,
  integer,
  neuronsHelp,
  number,
  repeated,
} from "./options.ts";
import { readInput } from "./standardInput.ts";

interface GenerateFlags {
  readonly maxTokens: number;
  readonly temperature?: number;
  readonly topK?: number;
  readonly topP?: number;
  readonly minP: number;
  readonly seed?: number;
  readonly stop?: readonly string[];
  readonly neurons?: string;
  readonly threads?: number;
  readonly offline?: boolean;
  readonly chat?: boolean;
  readonly dtype: "auto" | WeightFormat;
}

/** Where a default comes from; a flag wins over both. */
const fromModel = (fallback: number) =>
  `(default: that of the model's generation_config.json, else ${fallback})`;

export function addGenerateCommand(program: Command): void {
  const { temperature, topK, topP, minP } = samplingDefaults;
  const command = program.command("generate").description("continue a text with a model");
  addModelArgument(command)
    .argument("[prompt]", "text to continue; absent or -: read from standard input")
    .option("--max-tokens <n>", "most tokens to write", integer(0), 256)
    .option("--chat", "the prompt is a message that the model answers, in the form of its chat template")
    .option("--temperature <t>", `0: always the most likely token ${fromModel(temperature)}`, number)
    .option("--top-k <k>", `only the k most likely tokens; 0: all ${fromModel(topK)}`, integer(0))
    .option(
      "--top-p <p>",
      `only the most likely tokens that together have this probability ${fromModel(topP)}`,
      number,
    )
    .option("--min-p <p>", "only tokens with this share of the best one's probability", number, minP)
    .option("--seed <n>", "the same seed gives the same text (default: a new one each time)", integer(0))
    .option("--stop <text>", "stop before this text; may be given several times", repeated)
    .option("--neurons <k>", neuronsHelp)
    .addOption(dtypeOption());
  addThreadsOption(command);
  addCommonOptions(command, 'mone generate runs/first "Once upon a time" --max-tokens 100 --temperature 0.7');
  command.action(action(run));
}

const endings: Record<GenerationEnd["reason"], string> = {
  end: "ended by the model",
  stop: "ended at --stop",
  length: "ended at --max-tokens",
  positions: "ended where the model has no more positions",
};

async function run(
  context: Context,
  path: string,
  promptArgument: string | undefined,
  { neurons, threads, dtype, offline, chat, ...flags }: GenerateFlags,
): Promise<void> {
  const { output, signal } = context;
  const { findModelFolder, loadModel } = await import("../checkpoint/loadModel.ts");
  const prompt = (await readInput(promptArgument, "PROMPT")).replace(/\n$/, "");
  const onProgress = (done: number, total: number) =>
    output.progress.show("loading weights", [`${Math.floor((100 * done) / total)} %`]);
  const folder = findModelFolder(await localModel(context, path, offline));
  const { readGenerationDefaults, renderChat } = await import("../checkpoint/generation.ts");
  checkSampling(flags, readGenerationDefaults(folder)); // before the weights are loaded
  const asked = chat ? await renderChat(folder, [{ role: "user", content: prompt }]) : prompt;
  const model = await loadModel(folder, { neurons, threads, dtype, announce: output.note, onProgress });
  output.progress.end();
  try {
    const start = performance.now();
    let text = "";
    let tokens = 0;
    let promptSeconds = 0;
    let end: GenerationEnd | undefined;
    const onToken = () => {
      if (tokens++ === 0) promptSeconds = (performance.now() - start) / 1000;
    };
    const onEnd = (how: GenerationEnd) => {
      end = how;
    };
    for await (const piece of model.generate(asked, { ...flags, signal, onToken, onEnd })) {
      text += piece;
      output.write(piece);
    }
    output.line();
    const seconds = (performance.now() - start) / 1000;
    // The first token comes with the prompt.
    const tokensPerSecond = tokens > 1 ? (tokens - 1) / (seconds - promptSeconds) : 0;
    const { reason = "end", promptTokens = 0, seed = flags.seed } = end ?? {};
    output.note(
      `${formatCount(tokens)} tokens in ${formatDuration(seconds)}: ${formatTokensPerSecond(tokensPerSecond)} ` +
        `after a prompt of ${formatCount(promptTokens)} tokens in ${formatDuration(promptSeconds)}; ` +
        `${endings[reason]}; --seed ${seed}`,
    );
    output.json({
      ...{ prompt, text, tokens, seconds, tokensPerSecond },
      ...{ promptTokens, promptSeconds, reason, seed },
    });
  } finally {
    model.close();
  }
}
