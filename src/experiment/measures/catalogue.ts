// What is measured after training, by name; new measures register here. Not here: what a measure is (measure.ts).

import { UsageError } from "../../errors.ts";
import type { Measure, Quantity } from "./measure.ts";
import { prune, pruneRandom } from "./prune.ts";
import { stability } from "./stability.ts";

export type { Measure, MeasureContext, Measured, Quantity, Sweep } from "./measure.ts";

/** Neurons of all layers by their keep rate relative to K / F, added up. */
export interface UseDetail {
  readonly histogram: { readonly edges: readonly number[]; readonly counts: readonly number[] };
}

/** Always measured. */
const loss: Measure = {
  quantities: [
    {
      key: "loss",
      label: "Validation loss",
      better: "lower",
      note: "Cross entropy on held-out text after the last step, in nats a token.",
    },
    {
      key: "bits_per_byte",
      label: "Bits per byte",
      better: "lower",
      note: "The same loss in bits for each byte of text, which does not depend on the tokenizer.",
    },
  ],
  async run({ result: { validation } }) {
    return { values: { loss: validation.loss, bits_per_byte: validation.bitsPerByte } };
  },
};

const use: Measure = {
  quantities: [
    {
      key: "expert_entropy",
      label: "Expert entropy",
      note: "Of the use of experts, relative to uniform use (1).",
    },
    { key: "dead_experts", label: "Dead experts", note: "Share of experts that no held-out token goes to." },
    {
      key: "neuron_entropy",
      label: "Neuron entropy",
      note: "Of the use of neurons inside an expert, relative to uniform use; absent where every neuron acts.",
    },
    {
      key: "dead_neurons",
      label: "Dead neurons",
      note: "Share of neurons that no token of their expert keeps.",
    },
  ],
  async run({ result: { validation } }) {
    const { expertUse, neuronUse } = validation;
    const values = {
      ...(expertUse && { expert_entropy: expertUse.entropy, dead_experts: expertUse.dead }),
      ...(neuronUse && { neuron_entropy: neuronUse.entropy, dead_neurons: neuronUse.dead }),
    };
    if (!neuronUse) return { values };
    const [first] = neuronUse.layers;
    const counts = first.histogram.counts.map((_, bin) =>
      neuronUse.layers.reduce((sum, { histogram }) => sum + histogram.counts[bin], 0),
    );
    const detail: UseDetail = { histogram: { edges: first.histogram.edges, counts } };
    return { values, detail };
  },
};

const measures = new Map<string, Measure>([
  ["loss", loss],
  ["use", use],
  ["prune", prune],
  ["prune-random", pruneRandom],
  ["stability", stability],
]);

export function measureNames(): string[] {
  return [...measures.keys()];
}

/** @throws UsageError if there is none of that name. */
export function measureNamed(name: string): Measure {
  const found = measures.get(name);
  if (!found) throw new UsageError(`There is no measure "${name}"; there are ${measureNames().join(", ")}.`);
  return found;
}

/** Of these measures and the loss, in order. */
export function quantitiesOf(names: readonly string[]): Quantity[] {
  return withLoss(names).flatMap((name) => measureNamed(name).quantities);
}

/** The loss is always measured. */
export function withLoss(names: readonly string[]): string[] {
  return [...new Set(["loss", ...names])];
}

/** Makes a measure known to experiment files. @throws UsageError if the name is taken. */
export function registerMeasure(name: string, measure: Measure): void {
  if (measures.has(name)) throw new UsageError(`There is a measure "${name}" already; name yours otherwise.`);
  measures.set(name, measure);
}
