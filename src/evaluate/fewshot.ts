// Which examples stand before a question. The same rows and the same number give what lm-evaluation-harness draws
// (lm_eval/api/samplers.py, seed 1234): question by question, from one stream of Python's random numbers.

import { UsageError } from "../errors.ts";
import { PythonRandom } from "./pythonRandom.ts";
import type { Item, TaskSpec } from "./task.ts";

export type FewshotSampler = "default" | "first_n";

const SEED = 1234;

/**
 * The text before each question: examples and a blank line after each. For tasks without a test part one example more is
 * drawn, the question itself is left out, and what is left is the first `count`. Where the test part has to serve for
 * examples (wsc273, lambada_openai), the harness draws `count` and leaves the question among them.
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
  const hasTest = spec.dataset?.split === "test";
  const testServes = hasTest && spec.dataset?.fewshotSplit === undefined;
  const drawn = hasTest ? count : count + 1;
  if ((sampler === "first_n" ? count : drawn) > examples.length) throw tooFew(spec, examples.length, count);
  const random = new PythonRandom(SEED);
  const first = Array.from({ length: Math.min(drawn, examples.length) }, (_, n) => n);
  return questions.map(({ row }) => {
    const chosen = sampler === "first_n" ? first : random.sample(examples.length, drawn);
    const same = JSON.stringify(row);
    const differs = (n: number) => testServes || JSON.stringify(examples[n].row) !== same;
    let shown = chosen.filter(differs).slice(0, count);
    if (shown.length < count) {
      // The question was drawn more often than expected: drawn again from all others, as the harness does.
      const others = examples.map((_, n) => n).filter(differs);
      if (count > others.length) throw tooFew(spec, others.length, count);
      const picked = sampler === "first_n" ? first.slice(0, count) : random.sample(others.length, count);
      shown = picked.map((n) => others[n]);
    }
    return shown.map((n) => `${examples[n].example}\n\n`).join("");
  });
}

function tooFew(spec: TaskSpec, found: number, count: number): UsageError {
  return new UsageError(`the task ${spec.task} has ${found} examples to choose from, too few for ${count}`);
}
