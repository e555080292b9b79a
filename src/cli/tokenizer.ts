// `mone tokenizer`: train one, and look at what it makes of a text.

import { statSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { dirname } from "node:path";
import type { Command } from "commander";
import { writeFileAtomic } from "../checkpoint/atomic.ts";
import { findModelFolder } from "../checkpoint/loadModel.ts";
import { readTokenizer } from "../checkpoint/modelFolder.ts";
import { openCorpus } from "../text/corpus.ts";
import { byteTokenizer, type Tokenizer } from "../text/tokenizer.ts";
import { trainTokenizer } from "../text/trainTokenizer.ts";
import { settings } from "../train/config.ts";
import { readTokenizerFile } from "../train/data.ts";
import { action, type Context } from "./action.ts";
import { addCommonOptions, addExample, integer } from "./options.ts";
import { showText } from "./progress.ts";
import { readInput } from "./standardInput.ts";

export function addTokenizerCommand(program: Command): void {
  const command = program
    .command("tokenizer")
    .description("train a tokenizer, or turn text into ids and back");
  addExample(command, 'mone tokenizer encode --tokenizer byte "Once upon a time"');

  const training = command
    .command("train")
    .description("train a byte-level BPE vocabulary on a text")
    .option("--data <source>", settings.data.help)
    .requiredOption("--vocab-size <n>", "tokens wanted", integer(1))
    .requiredOption("--out <file>", "tokenizer.json to write");
  addCommonOptions(training, "mone tokenizer train --data input.txt --vocab-size 4096 --out tokenizer.json");
  training.action(action(runTraining));

  const encoding = command
    .command("encode")
    .description("print the ids of a text")
    .argument("[text]", "absent or -: read from standard input")
    .requiredOption("--tokenizer <file>", "a tokenizer.json, a model or run folder, or byte");
  addCommonOptions(encoding, 'mone tokenizer encode --tokenizer tokenizer.json "Once upon a time"');
  encoding.action(action(runEncoding));

  const decoding = command
    .command("decode")
    .description("print the text of ids")
    .argument("<ids...>", "the ids", (id: string, earlier: number[] = []) => [...earlier, integer(0)(id)])
    .requiredOption("--tokenizer <file>", "a tokenizer.json, a model or run folder, or byte");
  addCommonOptions(decoding, "mone tokenizer decode --tokenizer byte 79 110 99 101");
  decoding.action(action(runDecoding));
}

async function runTraining(
  { output, signal }: Context,
  { data, vocabSize, out }: { data?: string; vocabSize: number; out: string },
): Promise<void> {
  const onProgress = showText(output.progress);
  const corpus = await openCorpus(data, { signal, onProgress });
  for (const note of corpus.notes) output.note(note);
  const tokenizer = await trainTokenizer(corpus, vocabSize, { signal, onProgress });
  await mkdir(dirname(out), { recursive: true });
  await writeFileAtomic(out, JSON.stringify(tokenizer));
  const isSmaller = tokenizer.vocabSize < vocabSize;
  output.line(`${out}: ${tokenizer.vocabSize} tokens${isSmaller ? ", all that the text has pairs for" : ""}`);
  output.json({ path: out, vocabSize: tokenizer.vocabSize });
}

async function runEncoding(
  { output }: Context,
  argument: string | undefined,
  { tokenizer }: { tokenizer: string },
): Promise<void> {
  const ids = [...openTokenizer(tokenizer).encode(await readInput(argument, "TEXT"))];
  output.line(ids.join(" "));
  output.json({ ids });
}

async function runDecoding(
  { output }: Context,
  ids: number[],
  { tokenizer }: { tokenizer: string },
): Promise<void> {
  const text = openTokenizer(tokenizer).decode(ids);
  output.line(text);
  output.json({ text });
}

function openTokenizer(spec: string): Tokenizer {
  if (spec === "byte") return byteTokenizer();
  if (statSync(spec, { throwIfNoEntry: false })?.isDirectory()) return readTokenizer(findModelFolder(spec));
  return readTokenizerFile(spec);
}
