// What an experiment says: types only. Reading and checking: file.ts.

import type { TrainConfigInput } from "../train/config.ts";

/** A part of a run's tokens, trained with settings of its own from the weights of the phase before. */
export interface PhaseSpec {
  /** Of the run's tokens; those of all phases add up to 1. */
  readonly share: number;
  /** As in an arm, and instead of the arm's. */
  readonly neurons?: number;
  /** On top of the arm's. */
  readonly change?: TrainConfigInput;
}

export interface ArmSpec {
  readonly name: string;
  /** One sentence: what it is. */
  readonly description?: string;
  /** Settings of training and, under `model`, of the model, on top of the base. */
  readonly change?: TrainConfigInput;
  /** Factors of the base's numbers, e.g. `{ model: { num_experts_per_tok: 0.5 } }`; the products must be whole. */
  readonly times?: { readonly model?: Readonly<Record<string, number>> };
  /** Neurons kept per token: a share of the expert's width up to 1 (1: all, a plain MoE), or a count. */
  readonly neurons?: number;
  /**
   * Trained in so many runs, one after the other: each starts from the weights of the one before, goes on in the data
   * order, and has its own optimizer and learning rates.
   */
  readonly phases?: readonly PhaseSpec[];
  /** Measured with fewer neurons than it was trained with: a share or a count, as `neurons`. */
  readonly prunedTo?: number;
  /** The arm that this one is compared with; default: the experiment's baseline. */
  readonly against?: string;
}

/** The keys that a size may change. */
export interface ExperimentSize {
  /** As `mone train --data` takes it; null: the type declarations of installed packages. */
  readonly data?: string | null;
  /** Text that is held out; default: a share of `data`. */
  readonly validData?: string | null;
  readonly validShare?: number;
  /** Most tokens of the held-out part that are used, from its start. */
  readonly heldOutTokens?: number;
  /** `byte`, `bpe:N`, or the path of a tokenizer.json. */
  readonly tokenizer?: string;
  /** Settings of all arms. */
  readonly base?: TrainConfigInput;
  /** Training tokens of each run. */
  readonly tokens?: number;
  readonly seeds?: readonly number[];
}

export interface ExperimentSpec extends ExperimentSize {
  readonly name: string;
  readonly title?: string;
  /** What it is to find out, for the report. */
  readonly question?: string;
  readonly arms: readonly ArmSpec[];
  /** Name of the arm that others are compared with; default: the first. */
  readonly baseline?: string;
  /** The largest difference that counts as none, as a share of the baseline's value. Default 0.005. */
  readonly margin?: number;
  /** What to measure after training, besides the loss: names of measures (measures.ts). */
  readonly measure?: readonly string[];
  readonly sizes?: Readonly<Record<string, ExperimentSize>>;
}

/** A size applied, and all defaults filled in. */
export interface Experiment extends Required<Omit<ExperimentSpec, "sizes" | "base">> {
  readonly base: TrainConfigInput;
  /** Of `sizes`; "" where the file has none. */
  readonly size: string;
}
