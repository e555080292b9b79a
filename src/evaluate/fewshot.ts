// Which examples stand before a question. The same rows and the same number give what lm-evaluation-harness draws
// (lm_eval/api/samplers.py, seed 1234): question by question, from one stream of Python's random numbers.

import { UsageError } from "../errors.ts";
import { PythonRandom } from "./pythonRandom.ts";
import type { Item, TaskSpec } from "./task.ts";

export type FewshotSampler = "default" | "first_n";

const SEED = 1234;

/**
 * The text before each question: examples and a blank line after each. An example that is the question itself is left
 * out, and what is left is the first `count` of them.
 * @param examples what they are drawn from, in the order of its file.
 * @throws UsageError if there are too few.
 */
export function fewshotContexts(
  spec: TaskSpec,
  questions: readonly Item[],
  examples: readonly Item[],
  count: number,
  sampler: FewshotSampler = "default",
): string[] {
  if (count === 0) return questions.map(() => "");
  // A task without a test part draws one more than it shows, whether or not the question can be among them.
  const drawn = spec.dataset?.split === "test" ? count : count + 1;
  if (drawn > examples.length) {
    throw new UsageError(
      `the task ${spec.task} has ${examples.length} examples to choose from, too few for ${count}`,
    );
  }
  const random = new PythonRandom(SEED);
  const first = Array.from({ length: drawn }, (_, n) => n);
  return questions.map(({ row }) => {
    const chosen = sampler === "first_n" ? first : random.sample(examples.length, drawn);
    const same = JSON.stringify(row);
    return chosen
      .map((n) => examples[n])
      .filter((example) => JSON.stringify(example.row) !== same)
      .slice(0, count)
      .map(({ example }) => `${example}\n\n`)
      .join("");
  });
}
