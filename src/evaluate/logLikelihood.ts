// Asks a model about many continuations: in batches of similar length, what several requests begin with only once.
// Not here: where the tokens come from (tokens.ts), and what the answers mean (task.ts, perplexity.ts).

import { damagedWeights, throwIfAborted, UsageError } from "../errors.ts";
import type { Decoder, ScoredRows } from "../infer/decoder.ts";
import type { LanguageModel } from "../infer/languageModel.ts";
import type { TokenRequest } from "./tokens.ts";

export interface LogLikelihood {
  /** Natural logarithm of the continuation's probability. */
  readonly logLikelihood: number;
  /** Whether each of its tokens is the most likely one. */
  readonly greedy: boolean;
}

export interface LogLikelihoodOptions {
  /** Groups of requests at a time; fewer where their caches would take too much memory. Default 16. */
  readonly batch?: number;
  /** Positions that a model is shown; longer contexts lose their beginning. Default: all that it was made for. */
  readonly maxLength?: number;
  readonly signal?: AbortSignal;
  /** Told the answers of a group as soon as they are there. */
  readonly onGroup?: (group: number, answers: readonly LogLikelihood[]) => void;
}

/** Keys and values of a batch take at most so much memory, unless one sequence alone takes more. */
const CACHE_BYTES = 1 << 30;
/** Rows that go through the model at a time, unless one sequence alone has more. */
const MAX_ROWS = 8192;

/** A request, or a piece of one, as the model sees it: the input loses its last token, its last rows are asked about. */
interface Question {
  /** Which of the group's requests. */
  readonly request: number;
  readonly input: Uint32Array;
  /** The first row that is asked about. */
  readonly from: number;
  readonly targets: Uint32Array;
}

interface Plan {
  readonly group: number;
  readonly requests: number;
  readonly questions: readonly Question[];
  /** Rows that all inputs of the group begin with. */
  readonly shared: number;
  /** Longest input. */
  readonly longest: number;
}

/**
 * Log-likelihoods of groups of requests, in their order. Requests of a group should begin alike, as the answers to one
 * question do: what they share is computed once, and what a group shares with one before it is taken from the cache. A continuation that is longer than the model's positions is asked about in
 * pieces of half of them, each after as much as fits before it.
 * @throws UsageError for a continuation that is empty; RunError where the model's answer is not a number.
 */
export async function logLikelihoods(
  model: LanguageModel,
  groups: readonly (readonly TokenRequest[])[],
  options: LogLikelihoodOptions = {},
): Promise<LogLikelihood[][]> {
  const { batch = 16, signal, onGroup } = options;
  const maxLength = checkMaxLength(options.maxLength, model.config.max_position_embeddings);
  const plans = groups
    .map((requests, group) => plan(requests, group, maxLength))
    .sort((a, b) => b.longest - a.longest || a.group - b.group);
  const answers: LogLikelihood[][] = groups.map(() => []);
  let decoder: Decoder | undefined;
  let held: Held = [];
  try {
    for (let next = 0; next < plans.length; ) {
      throwIfAborted(signal);
      const { longest } = plans[next];
      // Inputs come in falling length: a cache that is much too long is replaced by one with more or smaller slots.
      if (!decoder || 2 * longest < decoder.maxPositions) {
        decoder?.close();
        decoder = undefined;
        decoder = model.decoder({
          slots: slotsFor(model, longest, Math.min(batch, plans.length - next)),
          maxPositions: longest,
        });
        held = Array.from({ length: decoder.slots }, () => new Uint32Array(0));
      }
      const taken = takeBatch(plans, next, decoder.slots);
      next += taken.length;
      const results = await askBatch(decoder, taken, held);
      for (const [n, { group }] of taken.entries()) {
        if (results[n].some(({ logLikelihood }) => Number.isNaN(logLikelihood))) {
          throw damagedWeights("the answer is not a number");
        }
        answers[group] = results[n];
        onGroup?.(group, results[n]);
      }
    }
  } finally {
    decoder?.close();
  }
  return answers;
}

/** @throws UsageError if a model has not so many positions. */
export function checkMaxLength(maxLength: number | undefined, positions: number): number {
  if (maxLength === undefined) return positions;
  if (!Number.isInteger(maxLength) || maxLength < 1 || maxLength > positions) {
    throw new UsageError(`the length of a window must be from 1 to the model's ${positions} positions`);
  }
  return maxLength;
}

function plan(requests: readonly TokenRequest[], group: number, maxLength: number): Plan {
  const questions = requests.flatMap((request, n) => questionsOf(request, n, maxLength));
  const [first, ...others] = questions;
  let shared = first?.input.length ?? 0;
  for (const { input } of others) shared = commonLength(input, first.input, shared);
  const longest = Math.max(1, ...questions.map(({ input }) => input.length));
  return { group, requests: requests.length, questions, shared, longest };
}

function questionsOf(
  { context, continuation }: TokenRequest,
  request: number,
  maxLength: number,
): Question[] {
  if (context.length === 0 || continuation.length === 0) {
    throw new UsageError("a continuation to be scored has no token of its own");
  }
  const whole = new Uint32Array(context.length + continuation.length);
  whole.set(context);
  whole.set(continuation, context.length);
  const piece = continuation.length <= maxLength ? maxLength : Math.ceil(maxLength / 2);
  const questions: Question[] = [];
  for (let begin = context.length; begin < whole.length; begin += piece) {
    const end = Math.min(whole.length, begin + piece);
    const input = whole.subarray(Math.max(0, end - maxLength - 1), end - 1);
    const targets = whole.subarray(begin, end);
    questions.push({ request, input, from: input.length - targets.length, targets });
  }
  return questions;
}

function slotsFor(model: LanguageModel, positions: number, batch: number): number {
  const { num_hidden_layers: layers, num_key_value_heads: kvHeads, head_dim: headDim } = model.config;
  const bytes = 2 * layers * kvHeads * headDim * (model.model.isCompressed ? 2 : 4) * positions;
  return Math.max(1, Math.min(batch, Math.floor(CACHE_BYTES / bytes)));
}

function takeBatch(plans: readonly Plan[], first: number, slots: number): Plan[] {
  const taken: Plan[] = [];
  let rows = 0;
  for (const next of plans.slice(first, first + slots)) {
    rows += next.longest;
    if (taken.length > 0 && rows > MAX_ROWS) break;
    taken.push(next);
  }
  return taken;
}

/** By slot: the tokens whose keys and values its cache holds, from position 0 on. */
type Held = Uint32Array[];

/** A group in a slot of the cache. */
interface Placed {
  readonly plan: Plan;
  readonly slot: number;
  /** Rows that the slot holds already, from the group before it. */
  readonly known: number;
  /** Rows that another group may leave behind for this one: nobody asks about them. Whole blocks. */
  readonly reusable: number;
}

/**
 * What is taken from the cache ends with a block of so many rows, and what is computed is cut there whether or not
 * anything was taken: so an answer does not depend on what was asked before, as far as kernels sum rows of a block alike.
 */
const BLOCK = 64;

/** Puts each group where the cache holds most of its beginning: examples before questions are often the same. */
function place(plans: readonly Plan[], held: Held): Placed[] {
  const free = new Set(held.keys());
  return plans.map((plan) => {
    const reusable = wholeBlocks(Math.min(plan.shared, ...plan.questions.map(({ from }) => from)));
    let best = { slot: -1, known: -1 };
    for (const slot of free) {
      const known = wholeBlocks(commonLength(held[slot], plan.questions[0]?.input ?? held[slot], reusable));
      if (known > best.known) best = { slot, known };
    }
    free.delete(best.slot);
    return { plan, reusable, ...best };
  });
}

const wholeBlocks = (rows: number) => rows - (rows % BLOCK);

/** Tokens that two lists begin with alike, at most `limit`. */
function commonLength(a: Uint32Array, b: Uint32Array, limit: number): number {
  const end = Math.min(a.length, b.length, limit);
  for (let i = 0; i < end; i++) if (a[i] !== b[i]) return i;
  return end;
}

/** First what each group shares (whole blocks, then the rest), then the rest of each member in turn, over the same slot. */
async function askBatch(decoder: Decoder, plans: readonly Plan[], held: Held): Promise<LogLikelihood[][]> {
  const sums = plans.map(({ requests }) =>
    Array.from({ length: requests }, () => ({ logLikelihood: 0, greedy: true })),
  );
  const placed = place(plans, held);
  const members = Math.max(...plans.map(({ questions }) => questions.length));
  for (let member = -2; member < members; member++) {
    const entries: ScoredRows[] = [];
    /** Per entry and target, whose it is. */
    const owners: { logLikelihood: number; greedy: boolean }[][] = [];
    for (const [group, { plan, slot, known, reusable }] of placed.entries()) {
      const { questions, shared } = plan;
      const asked = member < 0 ? questions : questions.slice(member, member + 1);
      const parts = [known, reusable, shared, asked[0]?.input.length ?? 0];
      const [begin, end] = parts.slice(Math.min(member, 0) + 2);
      if (asked.length > 0) held[slot] = asked[0].input.subarray(0, end);
      if (asked.length === 0 || end <= begin) continue;
      const pairs = asked.flatMap(({ request, from, targets }) => {
        const owner = sums[group][request];
        return Array.from(
          { length: Math.max(0, Math.min(end, from + targets.length) - Math.max(begin, from)) },
          (_, n) => {
            const row = Math.max(begin, from) + n;
            return { row: row - begin, target: targets[row - from], owner };
          },
        );
      });
      pairs.sort((a, b) => a.row - b.row);
      entries.push({
        slot,
        position: begin,
        ids: asked[0].input.subarray(begin, end),
        rows: Uint32Array.from(pairs, ({ row }) => row),
        targets: Uint32Array.from(pairs, ({ target }) => target),
      });
      owners.push(pairs.map(({ owner }) => owner));
    }
    if (entries.length === 0) continue;
    const scores = await decoder.score(entries);
    for (const [e, { logProbs, greedy }] of scores.entries()) {
      for (const [n, owner] of owners[e].entries()) {
        owner.logLikelihood += logProbs[n];
        if (greedy[n] === 0) owner.greedy = false;
      }
    }
  }
  return sums;
}
