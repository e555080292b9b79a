// Tasks with one context and several answers, as lm-evaluation-harness has them (lm_eval/tasks/arc, piqa, hellaswag,
// openbookqa, super_glue/boolq, super_glue/copa, blimp). Layouts: the rows of the hub's data set, then a flat form with
// `query`, `choices` and `gold`, in which several collections of tasks are passed around.

import type { Layout, TaskSpec } from "../task.ts";

const flat = (context: string, more: Partial<Layout> = {}): Layout => ({
  has: ["query", "choices", "gold"],
  context,
  choices: "choices",
  gold: "{{gold}}",
  ...more,
});

const arc = (task: string, name: string): TaskSpec => ({
  task,
  version: 1,
  output: "choices",
  metrics: ["acc", "acc_norm"],
  dataset: { path: "allenai/ai2_arc", name, split: "test", fewshotSplit: "train" },
  layouts: [
    {
      has: ["question", "choices.text", "answerKey"],
      prepare: "answerKey",
      context: "Question: {{question}}\nAnswer:",
      choices: "choices.text",
      gold: "{{gold}}",
    },
    flat("{{query}}\nAnswer:"),
  ],
});

export const arcEasy = arc("arc_easy", "ARC-Easy");
export const arcChallenge = arc("arc_challenge", "ARC-Challenge");

export const piqa: TaskSpec = {
  task: "piqa",
  version: 1,
  output: "choices",
  metrics: ["acc", "acc_norm"],
  dataset: { path: "baber/piqa", split: "validation", fewshotSplit: "train" },
  layouts: [
    {
      has: ["goal", "sol1", "sol2", "label"],
      context: "Question: {{goal}}\nAnswer:",
      choices: ["{{sol1}}", "{{sol2}}"],
      gold: "{{label}}",
    },
    flat("{{query}}\nAnswer:", { prepare: "oneLine" }),
  ],
};

export const hellaswag: TaskSpec = {
  task: "hellaswag",
  version: 1,
  output: "choices",
  metrics: ["acc", "acc_norm"],
  files: ["hellaswag_val", "hellaswag_val_full"],
  dataset: { path: "Rowan/hellaswag", split: "validation", fewshotSplit: "train" },
  layouts: [
    {
      has: ["activity_label", "ctx_a", "ctx_b", "endings", "label"],
      prepare: "hellaswag",
      context: "{{query}}",
      choices: "choices",
      gold: "{{gold}}",
    },
    flat("{{query}}"),
  ],
};

export const openbookqa: TaskSpec = {
  task: "openbookqa",
  version: 1,
  output: "choices",
  metrics: ["acc", "acc_norm"],
  files: ["openbook_qa"],
  dataset: { path: "allenai/openbookqa", name: "main", split: "test", fewshotSplit: "train" },
  layouts: [
    {
      has: ["question_stem", "choices.text", "answerKey"],
      prepare: "answerKey",
      context: "{{question_stem}}",
      choices: "choices.text",
      gold: "{{gold}}",
    },
    flat("{{query}}"),
  ],
};

export const boolq: TaskSpec = {
  task: "boolq",
  version: 2,
  output: "choices",
  metrics: ["acc"],
  dataset: { path: "aps/super_glue", name: "boolq", split: "validation", fewshotSplit: "train" },
  layouts: [
    {
      has: ["passage", "question", "label"],
      context: "{{passage}}\nQuestion: {{question}}?\nAnswer:",
      choices: ["no", "yes"],
      gold: "{{label}}",
    },
    flat("{{query}}\nAnswer:", { prepare: "withoutPassageLabel" }),
  ],
};

/** The harness's choices begin with a space and come after one: two spaces. */
export const copa: TaskSpec = {
  task: "copa",
  version: 1,
  output: "choices",
  metrics: ["acc"],
  dataset: { path: "aps/super_glue", name: "copa", split: "validation", fewshotSplit: "train" },
  layouts: [
    {
      has: ["premise", "question", "choice1", "choice2", "label"],
      prepare: "copa",
      context: "{{query}}",
      choices: "choices",
      gold: "{{label}}",
    },
    flat("{{query}}", { prepare: "copaQuery" }),
  ],
};

export const blimp: TaskSpec = {
  task: "blimp",
  version: 1,
  output: "choices",
  metrics: ["acc"],
  groupBy: "UID",
  groupVersion: 2,
  fewshot: false,
  dataset: { path: "nyu-mll/blimp", split: "train" },
  layouts: [
    {
      has: ["sentence_good", "sentence_bad"],
      context: "",
      choices: ["{{sentence_good}}", "{{sentence_bad}}"],
      gold: 0,
    },
  ],
};
