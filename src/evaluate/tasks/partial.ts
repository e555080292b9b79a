// Tasks that score one continuation, after several contexts or after one, as lm-evaluation-harness has them
// (lm_eval/tasks/winogrande, wsc273, lambada). Layouts: the rows of the hub's data set, then a flat form.

import type { TaskSpec } from "../task.ts";

export const winogrande: TaskSpec = {
  task: "winogrande",
  version: 1,
  output: "contexts",
  metrics: ["acc"],
  dataset: { path: "allenai/winogrande", name: "winogrande_xl", split: "validation", fewshotSplit: "train" },
  layouts: [
    {
      has: ["sentence", "option1", "option2", "answer"],
      prepare: "winogrande",
      choices: "contexts",
      target: "{{rest}}",
      gold: "{{gold}}",
    },
    {
      has: ["context_options", "continuation", "gold"],
      choices: "context_options",
      target: "{{continuation}}",
      gold: "{{gold}}",
    },
  ],
};

/** The harness's target begins with a space and comes after one: two spaces. */
export const wsc273: TaskSpec = {
  task: "wsc273",
  version: 1,
  output: "contexts",
  metrics: ["acc"],
  files: ["winograd_wsc"],
  dataset: { path: "lighteval/winograd_wsc", name: "wsc273", split: "test" },
  layouts: [
    {
      has: ["text", "pronoun", "pronoun_loc", "options", "label"],
      prepare: "wsc273",
      choices: "contexts",
      target: "{{rest}}",
      gold: "{{label}}",
    },
    {
      has: ["context_options", "continuation", "gold"],
      prepare: "wsc273Contexts",
      choices: "contexts",
      target: "{{rest}}",
      gold: "{{gold}}",
    },
  ],
};

export const lambadaOpenai: TaskSpec = {
  task: "lambada_openai",
  version: 1,
  output: "completion",
  metrics: ["perplexity", "acc"],
  dataset: { path: "EleutherAI/lambada_openai", name: "default", split: "test" },
  layouts: [
    { has: ["text"], prepare: "lastWord", context: "{{context}}", target: " {{continuation}}" },
    { has: ["context", "continuation"], context: "{{context}}", target: " {{continuation}}" },
  ],
};
