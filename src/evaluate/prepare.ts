// Named functions that add to a row what a task's templates need: how EleutherAI's lm-evaluation-harness prepares the
// rows of those data sets whose prompts are more than fields put together. Not here: the tasks themselves (tasks/).

import { quote, UsageError } from "../errors.ts";

type Fields = Readonly<Record<string, unknown>>;

export type Preparation = keyof typeof preparations;

export const preparations = {
  /** Answer keys are A, B... or 1, 2...: `gold` is the key's index among `choices.label`. */
  answerKey(row: Fields): Fields {
    const labels = (row.choices as { label?: unknown } | undefined)?.label;
    const key = text(row, "answerKey").trimStart();
    return { ...row, gold: Array.isArray(labels) ? labels.indexOf(key) : -1 };
  },

  /** A question without the line break after it. */
  oneLine(row: Fields): Fields {
    return { ...row, query: text(row, "query").replace(/\n+$/, "") };
  },

  /** `query` is "Passage: ...", of which the prompt has no label. */
  withoutPassageLabel(row: Fields): Fields {
    return { ...row, query: text(row, "query").replace(/^Passage: /, "") };
  },

  /** The premise without its period, and a word that says what is looked for; choices begin in lower case. */
  copa(row: Fields): Fields {
    const connector = text(row, "question") === "cause" ? "because" : "therefore";
    const choices = ["choice1", "choice2"].map((field) => ` ${lowerFirst(text(row, field))}`);
    return { ...row, query: `${text(row, "premise").trim().slice(0, -1)} ${connector}`, choices };
  },

  /** The same from a `query` that ends in ", because" or ", therefore". */
  copaQuery(row: Fields): Fields {
    const choices = texts(row, "choices").map((choice) => ` ${lowerFirst(choice)}`);
    return { ...row, query: text(row, "query").replace(/, (because|therefore)$/, " $1"), choices };
  },

  /** Marks of WikiHow removed; the second half of a context begins with a capital. */
  hellaswag(row: Fields): Fields {
    const second = text(row, "ctx_b");
    const capital = second.slice(0, 1).toUpperCase() + second.slice(1).toLowerCase();
    const query = withoutMarks(`${text(row, "activity_label")}: ${text(row, "ctx_a")} ${capital}`);
    return { ...row, query, choices: texts(row, "endings").map(withoutMarks), gold: row.label };
  },

  /** Up to the gap and an option; what is scored is all after the gap. `answer` is 1 or 2. */
  winogrande(row: Fields): Fields {
    const sentence = text(row, "sentence");
    const gap = sentence.indexOf("_");
    if (gap < 0) throw new UsageError(`a row's sentence has no gap _: ${quote(sentence)}`);
    const contexts = ["option1", "option2"].map((option) => sentence.slice(0, gap) + text(row, option));
    return { ...row, contexts, rest: sentence.slice(gap + 1).trim(), gold: number(row, "answer") - 1 };
  },

  /** Up to the pronoun and an option in its place; the rest keeps the space it begins with. */
  wsc273(row: Fields): Fields {
    const sentence = text(row, "text").replaceAll("  ", " ");
    const at = number(row, "pronoun_loc");
    const pronoun = text(row, "pronoun");
    const contexts = texts(row, "options").map(
      (option) => sentence.slice(0, at) + optionFor(option, pronoun, sentence[at - 2] === "."),
    );
    return { ...row, contexts, rest: sentence.slice(at + pronoun.length) };
  },

  /** The same from contexts that are made already; the space that a word begins with is put back. */
  wsc273Contexts(row: Fields): Fields {
    const rest = text(row, "continuation");
    return { ...row, contexts: row.context_options, rest: /^[\p{L}\p{N}]/u.test(rest) ? ` ${rest}` : rest };
  },

  /** The last word, with the space before it, and all before it. */
  lastWord(row: Fields): Fields {
    const whole = text(row, "text");
    const cut = whole.lastIndexOf(" ");
    return { ...row, context: whole.slice(0, Math.max(0, cut)), continuation: whole.slice(cut + 1) };
  },
} satisfies Record<string, (row: Fields) => Fields>;

const POSSESSIVES = ["my", "his", "her", "our", "their"];
const LOWERED = ["A", "An", "The", "She", "He", "It", "They", "My", "His", "Her", "Their"];

function optionFor(option: string, pronoun: string, startsSentence: boolean): string {
  const whole = POSSESSIVES.includes(pronoun.toLowerCase()) ? `${option}'s` : option;
  const first = whole.trim().split(/\s+/)[0];
  return !startsSentence && LOWERED.includes(first) ? whole.replaceAll(first, first.toLowerCase()) : whole;
}

function withoutMarks(marked: string): string {
  return marked
    .trim()
    .replaceAll(" [title]", ". ")
    .replace(/\[.*?\]/g, "")
    .replaceAll("  ", " ");
}

function lowerFirst(word: string): string {
  return word.slice(0, 1).toLowerCase() + word.slice(1);
}

function text(row: Fields, field: string): string {
  const value = row[field];
  if (typeof value !== "string") throw new UsageError(`a row's field ${field} is no text`);
  return value;
}

export function isTexts(value: unknown): value is string[] {
  return Array.isArray(value) && value.every((one) => typeof one === "string");
}

function texts(row: Fields, field: string): string[] {
  const value = row[field];
  if (isTexts(value)) return value;
  throw new UsageError(`a row's field ${field} is no list of texts`);
}

/** A whole number from 0, which data sets also write as text. */
function number(row: Fields, field: string): number {
  const value = row[field];
  if (/^\d+$/.test(String(value))) return Number(value);
  throw new UsageError(`a row's field ${field} is no number: ${quote(value)}`);
}
