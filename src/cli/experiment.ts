// `mone experiment`: arms and seeds from a file or a shipped experiment, trained, measured and compared.

import { availableParallelism } from "node:os";
import { join } from "node:path";
import type { Command } from "commander";
import { UsageError } from "../errors.ts";
import type { Table } from "../report/table.ts";
import { action, type Context, commandLine, Interrupted } from "./action.ts";
import { Companions } from "./companions.ts";
import { addCommonOptions, addThreadsOption, integer, number } from "./options.ts";
import { showSteps, showText } from "./progress.ts";
import { stopped } from "./train.ts";

interface ExperimentFlags {
  readonly size?: string;
  readonly resume?: boolean;
  readonly list?: boolean;
  readonly status?: boolean;
  readonly root?: string;
  readonly data?: string;
  readonly validData?: string;
  readonly tokenizer?: string;
  readonly tokens?: number;
  readonly seeds?: number[];
  readonly reuse?: string[];
  readonly threads?: number;
  readonly processes?: number;
}

/** Not a file of arms and seeds, but run and reported like one (experiment/overhead/overhead.ts). */
const overheadName = "overhead";

const seedList = (text: string) => text.split(",").map(Number);

export function addExperimentCommand(program: Command): void {
  const command = program
    .command("experiment")
    .description("train several arms with several seeds, measure, and say what differs; stops and resumes")
    .argument("[file]", "YAML, JSON or a module (.mjs, .ts), or the name of a shipped experiment (--list)")
    .option("--size <name>", "a size of the file (default: small, where there is one)")
    .option("--resume", "go on with the experiment: finished runs are kept, the others continue")
    .option("--list", "the shipped experiments")
    .option("--status", "how far the experiments of this root are")
    .option("--root <folder>", "folder of all experiments and their runs (default: runs/experiments)")
    .option("--data <source>", "text to train on: file, folder, URL or name")
    .option("--valid-data <source>", "text that is held out (default: a share of the data)")
    .option("--tokenizer <spec>", "byte, bpe:N, or the path of a tokenizer.json")
    .option("--tokens <n>", "training tokens of each run", number)
    .option("--seeds <list>", "seeds, e.g. 1,2,3", seedList)
    .option(
      "--reuse <report...>",
      "report.json of earlier experiments: runs that stand there with all that is measured are not computed again",
    )
    .option(
      "--processes <n>",
      "processes that share the runs; small models gain more by this than by threads",
      integer(1),
    );
  addThreadsOption(command);
  addCommonOptions(command, "mone experiment half --size small --data texts.jsonl.gz");
  command.action(action(run));
}

async function run(context: Context, file: string | undefined, flags: ExperimentFlags): Promise<void> {
  const { list, status } = flags;
  if (list) return listShipped(context);
  if (status) return showStatus(context, flags.root);
  if (file === undefined) {
    throw new UsageError("Name a file or a shipped experiment; mone experiment --list shows these.");
  }
  return file === overheadName ? runOverhead(context, flags) : runExperiment(context, file, flags);
}

/** Measures time instead of training arms, so it has few of the options. */
async function runOverhead({ output, signal }: Context, flags: ExperimentFlags): Promise<void> {
  const { size, resume, root, data, threads, validData, tokenizer, tokens, seeds, reuse, processes } = flags;
  if ([validData, tokenizer, tokens, seeds, reuse, processes].some((value) => value !== undefined)) {
    throw new UsageError(
      "overhead measures time: it takes --size, --data, --threads, --root and --resume only.",
    );
  }
  const [{ overhead }, { overheadInWords, overheadTable }] = await Promise.all([
    import("../experiment/overhead/overhead.ts"),
    import("../experiment/overhead/page.ts"),
  ]);
  const { report, reportPath } = await overhead({
    size,
    resume,
    root,
    data,
    threads,
    signal,
    onProgress: (task, details) => output.progress.show(task, details),
    announce: output.note,
  });
  output.line();
  output.table(overheadTable(report));
  output.line();
  for (const sentence of overheadInWords(report)) output.line(sentence);
  output.line(`\nreport: ${reportPath}`);
  output.json({ ...report, reportPath });
}

async function runExperiment(
  { output, signal }: Context,
  file: string,
  flags: ExperimentFlags,
): Promise<void> {
  const [{ experiment }, { defaultRoot }] = await Promise.all([
    import("../experiment/run.ts"),
    import("../experiment/store.ts"),
  ]);
  const { differenceTable, reportInWords, resultTable, sweepTable } = await import(
    "../experiment/report/tables.ts"
  );
  const { root = defaultRoot, size, resume, list: _list, status: _status, processes = 1, ...rest } = flags;
  const threads = flags.threads ?? (processes > 1 ? shareOfCores(processes) : undefined);
  /** What another process, or another day, goes on with. */
  const again = ["experiment", file, ...(size ? ["--size", size] : []), "--root", root, "--resume"];
  const companions = new Companions(output.note, signal);
  let name = "";
  let step: number | undefined;
  /** Training steps of later runs, this process's share. */
  let ahead = 0;
  const show = showSteps(
    output.progress,
    () => name,
    () => ahead,
  );
  try {
    const { report, reportPath } = await experiment(file, {
      ...rest,
      root,
      size,
      resume,
      signal,
      threads,
      onPlanned(folder, open) {
        for (let number = 2; number <= Math.min(processes, open); number++) {
          const args = [...again, "--threads", String(threads), "--json"];
          companions.start(args, join(folder, `process-${number}.log`));
        }
      },
      onRun({ arm, seed, index, count, reused, from, ...run }) {
        output.progress.end();
        ahead = run.ahead / processes;
        name = `${arm}, seed ${seed} (${index + 1} of ${count})`;
        if (reused) output.note(`${name}: ${from === undefined ? "finished earlier" : `taken from ${from}`}`);
      },
      onStep(record, steps) {
        step = record.step;
        show(record, steps);
      },
      onProgress: showText(output.progress),
      announce: output.note,
    });
    await companions.ended();
    output.line();
    output.table(resultTable(report));
    output.line();
    output.table(differenceTable(report));
    output.line();
    for (const sweep of report.sweeps) {
      output.table(sweepTable(report, sweep));
      output.line();
    }
    for (const sentence of reportInWords(report)) output.line(sentence);
    output.line(`\nreport: ${reportPath}`);
    output.json({ ...report, reportPath });
  } catch (error) {
    await companions.stop();
    if (!(error instanceof Interrupted)) throw error;
    throw stopped(step, root, processes > 1 ? [...again, "--processes", String(processes)] : again);
  }
}

/** Threads of each of several processes. */
function shareOfCores(processes: number): number {
  return Math.max(1, Math.floor(availableParallelism() / processes));
}

async function listShipped({ output }: Context): Promise<void> {
  const [{ shippedExperiments }, { overheadSizes, overheadTitle }] = await Promise.all([
    import("../experiment/shipped/index.ts"),
    import("../experiment/overhead/report.ts"),
  ]);
  const rows = [
    ...shippedExperiments.map(({ name, title = "", arms, sizes = {} }) => ({
      name,
      arms: arms.length,
      sizes: Object.keys(sizes),
      title,
    })),
    { name: overheadName, arms: 2, sizes: Object.keys(overheadSizes), title: overheadTitle },
  ];
  const table: Table = {
    columns: [
      { key: "name", label: "Experiment", align: "left" },
      { key: "arms", label: "Arms", align: "right" },
      { key: "sizes", label: "Sizes", align: "left" },
      { key: "title", label: "What it compares", align: "left" },
    ],
    rows: rows.map((row) => ({ ...row, sizes: row.sizes.join(", ") })),
  };
  output.table(table);
  output.line(`\ntry: ${commandLine(["experiment", "half", "--size", "smoke"])}`);
  output.json({ experiments: rows });
}

async function showStatus({ output }: Context, root: string | undefined): Promise<void> {
  const [{ experimentStatus, overheadStatus }, { defaultRoot }] = await Promise.all([
    import("../experiment/status.ts"),
    import("../experiment/store.ts"),
  ]);
  const experiments = experimentStatus(root);
  const overheads = overheadStatus(root);
  if (experiments.length + overheads.length === 0)
    output.line(`No experiment was begun in ${root ?? defaultRoot}.`);
  for (const { folder, title, runs } of experiments) {
    const finished = runs.filter(({ state }) => state === "finished").length;
    output.line(`${folder}: ${title}; ${finished} of ${runs.length} runs finished`);
    for (const { arm, seed, state, steps, of } of runs) {
      if (state === "begun") output.line(`  ${arm}, seed ${seed}: step ${steps} of ${of}`);
      if (state === "diverged") output.line(`  ${arm}, seed ${seed}: diverged after step ${steps}`);
    }
  }
  for (const { folder, title, measured, of } of overheads) {
    output.line(`${folder}: ${title}; ${measured} of ${of} benchmarks done`);
  }
  output.json({ experiments, overheads });
}
