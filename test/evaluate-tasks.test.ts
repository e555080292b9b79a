// What is asked and how answers are counted, against the semantics of lm-evaluation-harness in small cases worked out by
// hand or with Python. Not here: the model's answers (evaluate.test.ts).

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, test } from "node:test";
import { UsageError } from "../src/errors.ts";
import { fewshotContexts } from "../src/evaluate/fewshot.ts";
import { meanStandardError, scoreItem, standardError } from "../src/evaluate/metrics.ts";
import { PythonRandom } from "../src/evaluate/pythonRandom.ts";
import { checkTaskSpec, itemOf, type Row, type TaskSpec } from "../src/evaluate/task.ts";
import { builtInTasks, findTask } from "../src/evaluate/tasks/catalogue.ts";
import { countWords, encodePair, rollingWindows } from "../src/evaluate/tokens.ts";
import { tokenizerFromJson } from "../src/text/tokenizer.ts";
import { holds } from "./support/holds.ts";

describe("tokens", () => {
  const tokenizer = tokenizerFromJson(
    JSON.parse(readFileSync(new URL("fixtures/tokenizer/tokenizer.json", import.meta.url), "utf8")),
  );

  test("spaces at the context's end belong to the continuation", () => {
    const { context, continuation } = encodePair(tokenizer, "Who sat \n", "there");
    assert.deepEqual(context, tokenizer.encode("Who sat"));
    assert.deepEqual([...context, ...continuation], [...tokenizer.encode("Who sat \nthere")]);
    assert.equal(tokenizer.decode(continuation), " \nthere");
  });

  test("an empty context is the end of another text", () => {
    assert.deepEqual(encodePair(tokenizer, "", " there"), {
      context: Uint32Array.of(tokenizer.eosId as number),
      continuation: tokenizer.encode(" there"),
    });
  });

  const windows = (length: number, maxLength: number, stride?: number) =>
    rollingWindows(
      Uint32Array.from({ length }, (_, n) => n),
      99,
      maxLength,
      stride,
    ).map(({ context, continuation }) => [[...context], [...continuation]]);

  test("windows ask about each token once", () => {
    assert.deepEqual(windows(0, 4), []);
    assert.deepEqual(windows(3, 4), [[[99], [0, 1, 2]]]);
    // The last one is moved left to be full.
    assert.deepEqual(windows(10, 4), [
      [[99], [0, 1, 2, 3]],
      [[3], [4, 5, 6, 7]],
      [
        [5, 6, 7],
        [8, 9],
      ],
    ]);
    assert.deepEqual(windows(7, 4, 2), [
      [[99], [0, 1, 2, 3]],
      [
        [1, 2, 3],
        [4, 5],
      ],
      [[2, 3, 4, 5], [6]],
    ]);
  });

  test("words are counted as by re.split", () => {
    assert.equal(countWords("a b\n\nc"), 3);
    assert.equal(countWords(" a "), 3);
    assert.equal(countWords("a\u00a0b\u001cc\ufeffd"), 3);
  });
});

test("random numbers are Python's", () => {
  // python3 -c 'import random; r = random.Random(7); print(...)'
  const random = new PythonRandom(7);
  assert.deepEqual(
    [random.random(), random.random(), random.random()],
    [0.32383276483316237, 0.15084917392450192, 0.6509344730398537],
  );
  assert.deepEqual(
    [1, 2, 10, 1000, 1024].map((count) => random.below(count)),
    [0, 0, 5, 596, 118],
  );
  assert.deepEqual(random.sample(15, 6), [14, 8, 3, 0, 1, 6]);
  assert.deepEqual(random.sample(2000, 6), [856, 143, 492, 185, 1128, 869]);
});

/** What is asked about a row: contexts and continuations, and the right one. */
function asked(task: string, row: Row) {
  const { requests, gold } = itemOf(findTask(task).spec, row, "row");
  return { requests: requests.map(({ context, continuation }) => [context, continuation]), gold };
}

describe("tasks", () => {
  const cases: [task: string, row: Row, requests: string[][], gold: number][] = [
    [
      "arc_easy",
      { question: "Why?", choices: { text: ["x", "y"], label: ["A", "B"] }, answerKey: "B" },
      [
        ["Question: Why?\nAnswer:", " x"],
        ["Question: Why?\nAnswer:", " y"],
      ],
      1,
    ],
    [
      "arc_challenge",
      { query: "Question: Why?", choices: ["x"], gold: 0 },
      [["Question: Why?\nAnswer:", " x"]],
      0,
    ],
    [
      "piqa",
      { goal: "To sit", sol1: "stand", sol2: "sit", label: 1 },
      [
        ["Question: To sit\nAnswer:", " stand"],
        ["Question: To sit\nAnswer:", " sit"],
      ],
      1,
    ],
    [
      "piqa",
      { query: "Question: To sit\n", choices: ["sit"], gold: 0 },
      [["Question: To sit\nAnswer:", " sit"]],
      0,
    ],
    [
      "hellaswag",
      {
        activity_label: "Cooking",
        ctx_a: "[header] A pan [title] is hot.",
        ctx_b: "a Cook",
        endings: ["leaves [step] now.", "stays."],
        label: "1",
      },
      [
        ["Cooking: A pan. is hot. A cook", " leaves now."],
        ["Cooking: A pan. is hot. A cook", " stays."],
      ],
      1,
    ],
    [
      "openbookqa",
      { query: "Fog is", choices: ["wet", "dry"], gold: 0 },
      [
        ["Fog is", " wet"],
        ["Fog is", " dry"],
      ],
      0,
    ],
    [
      "boolq",
      { passage: "All is.", question: "is it", label: 1 },
      [
        ["All is.\nQuestion: is it?\nAnswer:", " no"],
        ["All is.\nQuestion: is it?\nAnswer:", " yes"],
      ],
      1,
    ],
    [
      "boolq",
      { query: "Passage: All is.\nQuestion: is it?", choices: ["no", "yes"], gold: 1 },
      [
        ["All is.\nQuestion: is it?\nAnswer:", " no"],
        ["All is.\nQuestion: is it?\nAnswer:", " yes"],
      ],
      1,
    ],
    [
      "copa",
      { premise: "It rained. ", question: "effect", choice1: "We left.", choice2: "I stayed.", label: 0 },
      [
        ["It rained therefore", "  we left."],
        ["It rained therefore", "  i stayed."],
      ],
      0,
    ],
    [
      "copa",
      { query: "It rained, because", choices: ["of x."], gold: 0 },
      [["It rained because", "  of x."]],
      0,
    ],
    [
      "winogrande",
      { sentence: "Ann saw Bea so _ smiled.", option1: "Ann", option2: "Bea", answer: "2" },
      [
        ["Ann saw Bea so Ann", " smiled."],
        ["Ann saw Bea so Bea", " smiled."],
      ],
      1,
    ],
    [
      "wsc273",
      {
        text: "The men saw the  dogs because their eyes were open.",
        pronoun: "their",
        pronoun_loc: 29,
        options: ["The men", "The dogs"],
        label: 0,
      },
      [
        ["The men saw the dogs because the men's", "  eyes were open."],
        ["The men saw the dogs because the dogs's", "  eyes were open."],
      ],
      0,
    ],
    ["wsc273", { context_options: ["So he"], continuation: "left.", gold: 0 }, [["So he", "  left."]], 0],
    ["wsc273", { context_options: ["So he"], continuation: ".", gold: 0 }, [["So he", " ."]], 0],
    ["lambada_openai", { text: "I care about signs" }, [["I care about", " signs"]], 0],
    ["lambada_openai", { context: "I care about", continuation: "signs" }, [["I care about", " signs"]], 0],
    [
      "blimp",
      { sentence_good: "Who?", sentence_bad: "Whom?", UID: "x" },
      [
        ["", " Who?"],
        ["", " Whom?"],
      ],
      0,
    ],
  ];
  for (const [task, row, requests, gold] of cases) {
    test(`${task} from ${Object.keys(row).join(", ")}`, () =>
      assert.deepEqual(asked(task, row), { requests, gold }));
  }

  test("unknown tasks and rows are named", () => {
    assert.throws(() => findTask("arc_easi"), /no task arc_easi; did you mean arc_easy\?/);
    assert.throws(() => findTask("nothing alike"), /no task nothing alike: known are arc_easy, .*blimp/);
    assert.throws(() => asked("piqa", { goal: "x" }), /no row of the task piqa/);
    assert.throws(
      () => asked("piqa", { goal: "x", sol1: "y", sol2: "z", label: 2 }),
      /the right answer is 2/,
    );
    assert.throws(() => checkTaskSpec({ task: "x", output: "no" }, "x.yaml"), /x.yaml declares no task/);
    // Parts that nobody has answered.
    const open = { activity_label: "A", ctx_a: "b", ctx_b: "c", endings: ["d", "e"], label: "" };
    assert.throws(() => asked("hellaswag", open), /the right answer is "", but there are 2 choices/);
    const gap = { sentence: "no gap", option1: "a", option2: "b", answer: "1" };
    assert.throws(() => asked("winogrande", gap), /has no gap _/);
    assert.throws(
      () => asked("winogrande", { ...gap, sentence: "a _ b", answer: "" }),
      /answer is no number/,
    );
    assert.throws(() => asked("hellaswag", { ...open, endings: "d" }), /endings is no list of texts/);
    assert.equal(new Set(builtInTasks.map(({ task }) => task)).size, 11);
  });

  test("declarations are checked", () => {
    const layout = { has: ["a"], target: "{{ a }}" };
    const spec = { task: "own", output: "completion", metrics: ["acc"], layouts: [layout] };
    const refused = (change: object, message: RegExp) =>
      assert.throws(() => checkTaskSpec({ ...spec, ...change }, "own.yaml"), message);
    const inLayout = (change: object, message: RegExp) =>
      refused({ layouts: [{ ...layout, ...change }] }, message);
    const item = itemOf(checkTaskSpec(spec, "own.yaml"), { a: "b" }, "");
    assert.equal(item.target, "b", "spaces inside the braces");
    refused({ metrics: ["acc", "acc_norm"] }, /`metrics` of completion must be a list of acc, perplexity/);
    refused({ output: "choices", metrics: ["perplexity"] }, /must be a list of acc, acc_norm, acc_bytes/);
    refused({ layots: [] }, /"layots" means nothing; is it layouts\?/);
    refused({ layouts: [null] }, /needs the list of fields `has`/);
    refused({ files: "x" }, /`files` must be a list/);
    refused({ delimiter: 1 }, /`delimiter` must be text/);
    inLayout({ target: "{{ a | trim }}" }, /"\{\{ a \| trim \}\}" is more than texts/);
    inLayout({ context: "{% if a %}x" }, /is more than texts/);
    inLayout({ target: 1 }, /`target` must be text/);
    inLayout({ prepare: "toString" }, /`prepare` must be one of/);
    inLayout({ choices: [1] }, /`choices` must be the name of a field, or a list of texts/);
    inLayout({ gold: -1 }, /`gold` must be a number from 0/);
  });

  test("accuracy by sums and by characters", () => {
    const item = itemOf(
      findTask("arc_easy").spec,
      { query: "Q", choices: ["\u{1F600}", "long one"], gold: 1 },
      "row",
    );
    const answers = [-2, -9].map((logLikelihood) => ({ logLikelihood, greedy: false }));
    // -2 / 1 against -9 / 8; by bytes -2 / 4 against -9 / 8.
    const spec: TaskSpec = { ...findTask("arc_easy").spec, metrics: ["acc", "acc_norm", "acc_bytes"] };
    assert.deepEqual(scoreItem(spec, item, answers), { acc: 0, acc_norm: 1, acc_bytes: 0 });
  });

  test("examples are those that Python's random.sample draws", () => {
    const { spec } = findTask("lambada_openai"); // a test part: as many as are shown
    const items = Array.from({ length: 50 }, (_, n) =>
      itemOf(spec, { context: `c${n}`, continuation: `w${n}` }, ""),
    );
    // python3 -c 'import random; r = random.Random(1234); print(r.sample(range(50), 2), r.sample(range(50), 2))'
    const drawn = new PythonRandom(1234);
    const [a, b] = drawn.sample(50, 2);
    const expected = `c${a}  w${a}\n\nc${b}  w${b}\n\n`;
    assert.equal(fewshotContexts(spec, [items[10]], items, 2)[0], expected);
    // The question is not left out of a test part.
    assert.equal(fewshotContexts(spec, [items[0]], items, 2, "first_n")[0], "c0  w0\n\nc1  w1\n\n");
    const { spec: validated } = findTask("piqa");
    const two = ["a", "b"].map((goal) => itemOf(validated, { goal, sol1: "y", sol2: "z", label: 0 }, ""));
    const other = itemOf(validated, { goal: "c", sol1: "y", sol2: "z", label: 0 }, "");
    assert.match(fewshotContexts(validated, [other], two, 2, "first_n")[0], /a.*b/s, "all that there are");
    // It is where they have a part of their own, which is only not at hand.
    const { spec: arc } = findTask("arc_easy");
    const arcs = [0, 1, 2].map((n) => itemOf(arc, { query: `q${n}`, choices: ["x"], gold: 0 }, ""));
    assert.match(fewshotContexts(arc, [arcs[0]], arcs, 2, "first_n")[0], /^q1.*q2/s);
    const { spec: piqa } = findTask("piqa"); // no test part: one more is drawn
    assert.equal(piqa.dataset?.split, "validation");
    const rows = [0, 1, 2].map((n) => itemOf(piqa, { goal: `g${n}`, sol1: "a", sol2: "b", label: 0 }, ""));
    assert.match(
      fewshotContexts(piqa, [rows[0]], rows, 2, "first_n")[0],
      /^Question: g1\nAnswer: a\n\nQuestion: g2/,
    );
    assert.throws(() => fewshotContexts(piqa, rows, rows, 3), UsageError);
    // A question that is there twice: drawn again from the others.
    const twice = [rows[0], rows[0], rows[1], rows[2]];
    const contexts = fewshotContexts(piqa, Array(20).fill(rows[0]), twice, 2);
    for (const context of contexts) assert.match(context, /^(?!.*g0)(?=.*g1)(?=.*g2)/s);
    assert.match(fewshotContexts(piqa, [rows[0]], twice, 2, "first_n")[0], /g1.*g2/s);
  });
});

test("standard errors", async () => {
  assert.equal(await standardError("acc", [1], 1000), undefined);
  holds(Math.abs(((await standardError("acc", [1, 0, 0, 1], 0)) as number) - Math.sqrt(1 / 3 / 4)) < 1e-12);
  // python3: random.Random(i).choices(xs, k=4) for i in range(2), 1000 draws each, sample deviation of exp(-mean).
  const error = (await standardError("perplexity", [-1, -2, -4, -3], 2000)) as number;
  assert.ok(Math.abs(error - 8.18064932525548) < 1e-9, String(error));
  // lm_eval 0.4.13: np.sqrt(0.1 ** 2 + 0.2 ** 2) / 2, whatever the sizes of the parts.
  holds(Math.abs(meanStandardError([0.1, 0.2]) - 0.11180339887498948) < 1e-12);
});
