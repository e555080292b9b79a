// What a measure is: types only. A measure reads a finished run (its result, its model folder) and gives numbers; they are
// kept in the run folder, so a measure that is added later works on finished runs.

import type { Backend } from "../../backends/backend.ts";
import type { TrainConfig } from "../../train/config.ts";
import type { PreparedData } from "../../train/data.ts";
import type { TrainResult } from "../../train/loop.ts";

/** A number that a measure gives. */
export interface Quantity {
  readonly key: string;
  readonly label: string;
  /** Which direction is good; a quantity without one gets no verdict. */
  readonly better?: "lower" | "higher";
  readonly note: string;
  /** Where it lies in its measure's sweep, if it is part of one. */
  readonly at?: { readonly sweep: string; readonly x: number };
}

/** One quantity at several settings: the report draws a line for each arm, and corrects p values over all settings. */
export interface Sweep {
  readonly name: string;
  readonly title: string;
  /** What the settings are, as an axis and as a column. */
  readonly x: string;
  /** How a setting is written in a table. */
  readonly percent?: boolean;
  readonly log?: boolean;
  readonly y: string;
  readonly note: string;
}

export interface MeasureContext {
  readonly result: TrainResult;
  /** The run's configuration. */
  readonly config: TrainConfig;
  /** The model after the last step. */
  readonly checkpoint: string;
  readonly prepared: PreparedData;
  readonly backend: Backend;
  readonly signal?: AbortSignal;
}

export interface Measured {
  /** By key of a quantity; one that does not apply to this model is absent. */
  readonly values: Readonly<Record<string, number>>;
  /** Anything else worth keeping, as JSON. */
  readonly detail?: unknown;
}

export interface Measure {
  readonly quantities: readonly Quantity[];
  /** What quantities with `at` belong to. */
  readonly sweep?: Sweep;
  run(context: MeasureContext): Promise<Measured>;
}
