// `mone generate`: a model continues a text.

import { type Command, Option } from "commander";
import { samplingDefaults } from "../infer/sampling.ts";
import type { WeightFormat } from "../infer/storedWeights.ts";
import { formatCount, formatDuration, formatTokensPerSecond } from "../report/format.ts";
import { action, type Context } from "./action.ts";
import { addCommonOptions, addThreadsOption, integer, neuronsHelp, number, repeated } from "./options.ts";
import { readInput } from "./standardInput.ts";

interface GenerateFlags {
  readonly maxTokens: number;
  readonly temperature: number;
  readonly topK: number;
  readonly topP: number;
  readonly minP: number;
  readonly seed?: number;
  readonly stop?: readonly string[];
  readonly neurons?: string;
  readonly threads?: number;
  readonly dtype: "auto" | WeightFormat;
}

export function addGenerateCommand(program: Command): void {
  const { temperature, topK, topP, minP } = samplingDefaults;
  const command = program
    .command("generate")
    .description("continue a text with a model")
    .argument("<model>", "model folder, or run folder (its best checkpoint)")
    .argument("[prompt]", "text to continue; absent or -: read from standard input")
    .option("--max-tokens <n>", "most tokens to write", integer(0), 256)
    .option("--temperature <t>", "0: always the most likely token", number, temperature)
    .option("--top-k <k>", "only the k most likely tokens; 0: all", integer(0), topK)
    .option("--top-p <p>", "only the most likely tokens that together have this probability", number, topP)
    .option("--min-p <p>", "only tokens with this share of the best one's probability", number, minP)
    .option("--seed <n>", "the same seed gives the same text (default: a new one each time)", integer(0))
    .option("--stop <text>", "stop before this text; may be given several times", repeated)
    .option("--neurons <k>", neuronsHelp)
    .addOption(
      new Option(
        "--dtype <type>",
        "how weights are kept; auto: bf16 for 16-bit checkpoints and where the hardware multiplies it",
      )
        .choices(["auto", "f32", "bf16", "int8"])
        .default("auto", "auto"),
    );
  addThreadsOption(command);
  addCommonOptions(command, 'mone generate runs/first "Once upon a time" --max-tokens 100 --temperature 0.7');
  command.action(action(run));
}

async function run(
  { output, signal }: Context,
  path: string,
  promptArgument: string | undefined,
  { neurons, threads, dtype, ...flags }: GenerateFlags,
): Promise<void> {
  const { loadModel } = await import("../checkpoint/loadModel.ts");
  const prompt = (await readInput(promptArgument, "PROMPT")).replace(/\n$/, "");
  const onProgress = (done: number, total: number) =>
    output.progress.show("loading weights", [`${Math.floor((100 * done) / total)} %`]);
  const model = await loadModel(path, { neurons, threads, dtype, announce: output.note, onProgress });
  output.progress.end();
  try {
    const start = performance.now();
    let text = "";
    let tokens = 0;
    const onToken = () => {
      tokens++;
    };
    for await (const piece of model.generate(prompt, { ...flags, signal, onToken })) {
      text += piece;
      output.write(piece);
    }
    output.line();
    const seconds = (performance.now() - start) / 1000;
    const tokensPerSecond = tokens / seconds;
    output.note(
      `${formatCount(tokens)} tokens in ${formatDuration(seconds)} (${formatTokensPerSecond(tokensPerSecond)}), prompt included`,
    );
    output.json({ prompt, text, tokens, seconds, tokensPerSecond });
  } finally {
    model.close();
  }
}
