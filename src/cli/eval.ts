// `mone eval`: perplexity of a text, and tasks.

import { statSync } from "node:fs";
import { basename, join } from "node:path";
import { type Command, Option } from "commander";
import { findModelFolder } from "../checkpoint/loadModel.ts";
import { UsageError } from "../errors.ts";
import type { TaskResult } from "../evaluate/evaluate.ts";
import type { FewshotSampler } from "../evaluate/fewshot.ts";
import type { RequestLog } from "../evaluate/requestLog.ts";
import type { HarnessResults, NamedPerplexity } from "../evaluate/results.ts";
import type { LanguageModel } from "../infer/languageModel.ts";
import type { WeightFormat } from "../infer/storedWeights.ts";
import { formatDuration, formatFixed } from "../report/format.ts";
import type { Row, Table } from "../report/table.ts";
import type { Corpus } from "../text/corpus.ts";
import { packageVersion } from "../version.ts";
import { action, type Context, Interrupted } from "./action.ts";
import { localModel } from "./localModel.ts";
import { addCommonOptions, addModelArgument, addThreadsOption, integer, neuronsHelp } from "./options.ts";

interface EvalFlags {
  readonly data?: string;
  readonly tasks?: string;
  readonly tasksDir: string;
  readonly limit?: number;
  readonly numFewshot: number;
  readonly fewshotSampler: FewshotSampler;
  readonly batch: number;
  readonly maxLength?: number;
  readonly stride?: number;
  readonly bootstrap: number;
  readonly neurons?: string;
  readonly offline?: boolean;
  readonly threads?: number;
  readonly dtype: "auto" | WeightFormat;
  readonly out?: string;
  readonly resume?: boolean;
  readonly logSamples?: boolean;
}

export function addEvalCommand(program: Command): void {
  const command = program
    .command("eval")
    .description("perplexity of a text, and tasks as lm-evaluation-harness scores them");
  addModelArgument(command)
    .option("--data <text>", "text for perplexity and bits per byte: a file, a folder, or a known text")
    .option(
      "--tasks <list>",
      "tasks, separated by commas: arc_easy, piqa, blimp... or YAML files of your own",
    )
    .option("--tasks-dir <folder>", "folder with the tasks' data sets: arc_easy.jsonl.gz...", ".")
    .option("--limit <n>", "only the first n questions of each task, and n documents", integer(1))
    .option("--num-fewshot <n>", "examples before each question", integer(0), 0)
    .addOption(
      new Option(
        "--fewshot-sampler <name>",
        "default: drawn as the harness does; first_n: the first of the file",
      )
        .choices(["default", "first_n"])
        .default("default"),
    )
    .option("--batch <n>", "questions, or windows of text, at a time", integer(1), 16)
    .option("--max-length <n>", "tokens that the model is shown (default: all of its positions)", integer(1))
    .option("--stride <n>", "tokens by which windows of text move (default: their length)", integer(1))
    .option("--bootstrap <n>", "resamples for the standard error of a task's perplexity", integer(0), 100_000)
    .option("--neurons <k>", neuronsHelp)
    .addOption(
      new Option("--dtype <type>", "how weights are kept; f32 for numbers to compare with others")
        .choices(["auto", "f32", "bf16", "int8"])
        .default("auto"),
    )
    .option("--out <file>", "write the results there, in the harness's JSON layout")
    .option("--resume", "go on where an earlier run with the same --out was stopped")
    .option("--log-samples", "write every question and answer beside --out");
  addThreadsOption(command);
  addCommonOptions(
    command,
    "mone eval runs/first --tasks arc_easy,piqa --tasks-dir data --limit 100 --out eval.json",
  );
  command.action(action(run));
}

async function run(context: Context, path: string, flags: EvalFlags): Promise<void> {
  const { output, signal } = context;
  const names = (flags.tasks ?? "").split(",").flatMap((name) => (name.trim() === "" ? [] : [name.trim()]));
  if (names.length === 0 && flags.data === undefined)
    throw new UsageError("nothing to evaluate: give a text with --data, or tasks with --tasks");
  checkOut(flags, names);
  const [{ loadModel }, evaluate, { localTaskFiles }, results] = await Promise.all([
    import("../checkpoint/loadModel.ts"),
    import("../evaluate/evaluate.ts"),
    import("../evaluate/rows.ts"),
    import("../evaluate/results.ts"),
  ]);
  // Mistakes are found before the model is opened.
  const { limit, numFewshot, fewshotSampler: sampler } = flags;
  const files = localTaskFiles(flags.tasksDir);
  const questions = await evaluate.readTasks(names, { files, limit, numFewshot, sampler });
  const { readModelConfig } = await import("../checkpoint/modelFolder.ts");
  const { checkMaxLength } = await import("../evaluate/logLikelihood.ts");
  const { checkWindow } = await import("../evaluate/perplexity.ts");
  const { openCorpus } = await import("../text/corpus.ts");
  const corpus = flags.data === undefined ? undefined : await openCorpus(flags.data, { signal });
  for (const note of corpus?.notes ?? []) output.note(note);
  const folder = findModelFolder(await localModel(context, path, flags.offline));
  const positions = readModelConfig(folder).max_position_embeddings;
  checkWindow(checkMaxLength(flags.maxLength, positions), flags.stride);
  const onLoad = (done: number, total: number) =>
    output.progress.show("loading weights", [`${Math.floor((100 * done) / total)} %`]);
  const { neurons, threads, dtype, batch, maxLength } = flags;
  const model = await loadModel(folder, {
    neurons,
    threads,
    dtype,
    announce: output.note,
    onProgress: onLoad,
  });
  output.progress.end();
  let log: RequestLog | undefined;
  try {
    const start = performance.now();
    log = await openLog(model, folder, flags);
    if (flags.resume && log) output.note(`${log.size} answers of an earlier run are kept.`);
    const shared = { batch, maxLength, signal, log };
    const perplexities = corpus
      ? [await textPerplexity(model, corpus, flags, { ...shared, limit }, output)]
      : [];
    const tasks = await evaluate.evaluateQuestions(model, questions, {
      ...shared,
      resamples: flags.bootstrap,
      onProgress: showQuestions(output.progress),
    });
    output.progress.end();
    const file = results.harnessResults({
      tasks,
      perplexities,
      config: configOf(folder, flags),
      more: {
        mone_version: packageVersion,
        model_source: "mone",
        model_name: path,
        max_length: maxLength ?? model.config.max_position_embeddings,
        eot_token_id: model.tokenizer.eosId ?? null,
        total_evaluation_time_seconds: String((performance.now() - start) / 1000),
      },
    });
    if (flags.out !== undefined)
      await save(flags.out, file, flags.logSamples ? tasks : [], results.sampleLines);
    log?.remove();
    output.table(tableOf(perplexities, tasks, file));
    output.note(`Evaluated in ${formatDuration((performance.now() - start) / 1000)}.`);
    output.json(file);
  } catch (error) {
    if (!(error instanceof Interrupted) || !log) throw error;
    throw new Interrupted("Stopped. To go on: the same command with --resume");
  } finally {
    log?.close();
    model.close();
  }
}

/** @throws UsageError for a place that results cannot go to. */
function checkOut({ out, resume, logSamples }: EvalFlags, names: readonly string[]): void {
  if (out === undefined && (resume || logSamples))
    throw new UsageError(`--${resume ? "resume" : "log-samples"} needs --out, the file that results go to`);
  if (out !== undefined && statSync(out, { throwIfNoEntry: false })?.isDirectory())
    throw new UsageError(`${out} is a folder: name a file for the results, e.g. ${join(out, "eval.json")}`);
  if (logSamples && names.length === 0)
    throw new UsageError("--log-samples writes the questions of tasks: name some with --tasks");
}

/** Answers on disk, if results go there. */
async function openLog(
  { model, config, kept }: LanguageModel,
  folder: string,
  { out, resume = false, maxLength }: EvalFlags,
): Promise<RequestLog | undefined> {
  if (out === undefined) return undefined;
  const [{ fingerprintOf }, { RequestLog }] = await Promise.all([
    import("../checkpoint/fingerprint.ts"),
    import("../evaluate/requestLog.ts"),
  ]);
  const weights = fingerprintOf(folder);
  const identity = { weights, config, kept, dtype: model.head.dtype, maxLength, packageVersion };
  return new RequestLog(`${out}.requests`, JSON.stringify(identity), resume);
}

function configOf(folder: string, flags: EvalFlags): Record<string, unknown> {
  return {
    model: "mone",
    model_args: { pretrained: folder, dtype: flags.dtype, neurons: flags.neurons ?? null },
    batch_size: flags.batch,
    device: "cpu",
    limit: flags.limit ?? null,
    bootstrap_iters: flags.bootstrap,
    fewshot_seed: 1234,
    fewshot_sampler: flags.fewshotSampler,
  };
}

async function textPerplexity(
  model: LanguageModel,
  corpus: Corpus,
  { data, stride }: EvalFlags,
  shared: Omit<import("../evaluate/perplexity.ts").PerplexityOptions, "onProgress">,
  output: Context["output"],
): Promise<NamedPerplexity> {
  const { perplexity } = await import("../evaluate/perplexity.ts");
  const found = await perplexity(model, corpus.documents(), {
    ...shared,
    stride,
    onProgress: ({ bytes, bitsPerByte }) =>
      output.progress.show("perplexity", [
        `${formatFixed(bitsPerByte, 4)} bits per byte`,
        corpus.bytes === undefined ? `${bytes} bytes` : `${Math.floor((100 * bytes) / corpus.bytes)} %`,
      ]),
  });
  const settings = {
    data,
    max_length: shared.maxLength ?? model.config.max_position_embeddings,
    stride: stride ?? null,
  };
  return { name: basename(corpus.name), perplexity: found, settings };
}

function showQuestions(progress: Context["output"]["progress"]) {
  const starts = new Map<string, number>();
  return (task: string, done: number, total: number) => {
    const start = starts.get(task) ?? performance.now();
    starts.set(task, start);
    const seconds = (performance.now() - start) / 1000;
    // The clock starts at the first answer; answers come a batch at a time.
    const left =
      seconds > 0.5 && done < total ? [`ETA ${formatDuration((total - done) * (seconds / done))}`] : [];
    progress.show(task, [`${done} of ${total} questions`, ...left]);
  };
}

async function save(
  out: string,
  file: object,
  logged: readonly TaskResult[],
  lines: (task: TaskResult) => string,
): Promise<void> {
  const { writeFileAtomic } = await import("../checkpoint/atomic.ts");
  const stem = out.replace(/\.json$/i, "");
  for (const task of logged) await writeFileAtomic(`${stem}.samples_${task.name}.jsonl`, lines(task));
  await writeFileAtomic(out, `${JSON.stringify(file, null, 2)}\n`);
}

function tableOf(
  perplexities: readonly NamedPerplexity[],
  tasks: readonly TaskResult[],
  { groups = {}, group_subtasks }: Pick<HarnessResults, "groups" | "group_subtasks">,
): Table {
  const digits = (value: number) => (value < 1e6 ? formatFixed(value, 4) : value.toExponential(4));
  const rows: Row[] = perplexities.flatMap(({ name, perplexity: found }) =>
    [
      ["bits_per_byte", found.bitsPerByte],
      ["byte_perplexity", found.bytePerplexity],
      ["word_perplexity", found.wordPerplexity],
      ["token_perplexity", found.tokenPerplexity],
    ].map(([metric, value]) => ({ task: name, metric, value, questions: String(found.documents) })),
  );
  for (const { name, numFewshot, metrics, samples } of tasks) {
    for (const [metric, { value, standardError }] of Object.entries(metrics)) {
      const questions = String(samples.length);
      rows.push({ task: name, shots: String(numFewshot), metric, value, error: standardError, questions });
    }
  }
  for (const [task, numbers] of Object.entries(groups)) {
    for (const [key, value] of Object.entries(numbers)) {
      const metric = key.match(/^(\w+),none$/)?.[1];
      if (!metric || metric.endsWith("_stderr")) continue;
      const stored = Number(numbers[`${metric}_stderr,none`]);
      const error = Number.isNaN(stored) ? undefined : stored;
      const parts = `${group_subtasks[task].length} tasks`;
      rows.push({ task, metric, value: Number(value), error, questions: parts });
    }
  }
  return {
    columns: [
      { key: "task", label: "Task", align: "left" },
      { key: "shots", label: "Shots", align: "right" },
      { key: "metric", label: "Metric", align: "left" },
      { key: "value", label: "Value", align: "right", format: digits },
      { key: "error", label: "Std. error", align: "right", format: digits },
      { key: "questions", label: "Questions", align: "right" },
    ],
    rows,
  };
}
