// What `mone compare` has to say about several arms trained alike: the facts of each arm, the table and the sentence.
// Not here: the page around them (comparisonPage.ts), and the training itself.

import { UsageError } from "../errors.ts";
import { formatCount, formatFixed, formatPercent } from "./format.ts";
import type { Table } from "./table.ts";

/** Several models trained on the same tokens; the first arm is the one that the others are measured against. */
export interface Comparison {
  title: string;
  corpus: { name: string; trainTokens: number; validTokens: number; tokenizer: string };
  arms: ArmResult[];
  /** Name and value of each thing worth knowing about where this ran. */
  machine: Record<string, string>;
  /** The command line that repeats it. */
  command: string;
  finishedAt: string;
  config: Record<string, unknown>;
}

/** Losses are in nats a token. */
export interface ArmResult {
  /** Short: "MoE", "MoNE K = 64", "MoE top-2". */
  name: string;
  /** One sentence: what it is. */
  description: string;
  training: TrainingPoint[];
  validation: { step: number; loss: number; bitsPerByte: number }[];
  final: { loss: number; bitsPerByte: number };
  parameters: {
    total: number;
    /** What one token multiplies with in the whole model, the experts' gate projections counted in full. */
    activated: number;
    /** Parameters of all routed experts. */
    experts: number;
    /** Routed experts' part of `activated`: the share 1/3 + 2/3 K/F of each chosen expert. */
    activatedExpertsWithGate: number;
    /** The same if only the kept neurons' rows count, in all three matrices: K/F of each chosen expert. */
    activatedExpertsWithoutGate: number;
  };
  tokensPerSecond: number;
  seconds: number;
  trainedTokens: number;
  expertUse: Use & { layers: Use[] };
  /** Absent where every neuron of a chosen expert acts. */
  neuronUse?: Use & { layers: (Use & { histogram: Histogram })[] };
  sample: { prompt: string; text: string };
}

export interface TrainingPoint {
  step: number;
  tokens: number;
  loss: number;
  tokensPerSecond: number;
  /** Balance losses before their coefficient; 1 is perfect balance. */
  expertBalance?: number;
  neuronBalance?: number;
}

/** How evenly something is used. */
export interface Use {
  /** Entropy of the use divided by that of uniform use, 0..1. */
  entropy: number;
  /** Share that was never used, 0..1. */
  dead: number;
}

/** Count of neurons by use ratio, which is a neuron's keep rate divided by K/F: uniform use is 1. */
export interface Histogram {
  /** One more than counts. */
  edges: number[];
  counts: number[];
}

/** One line an arm: what it reached, what it activates (in both readings), how fast and how evenly. */
export function comparisonTable(comparison: Comparison): Table {
  const first = firstArm(comparison);
  const nats = (value: number) => formatFixed(value, 4);
  const entropy = (value: number) => formatFixed(value, 3);
  return {
    columns: [
      { key: "arm", label: "Arm", align: "left" },
      {
        key: "loss",
        label: "Validation loss",
        align: "right",
        format: nats,
        note: "Cross entropy at the end of training, in nats a token; lower is better.",
      },
      {
        key: "bits_per_byte",
        label: "Bits per byte",
        align: "right",
        format: nats,
        note: "The same loss in bits for each byte of text, which does not depend on the tokenizer.",
      },
      {
        key: "parameters",
        label: "Parameters",
        align: "right",
        note: "All weights of the model.",
      },
      {
        key: "activated",
        label: "Activated, with gate",
        align: "right",
        note: "Weights that one token multiplies with, the gate projection of each chosen expert counted in full.",
      },
      {
        key: "activated_without_gate",
        label: "Activated, without gate",
        align: "right",
        note: "The same, of the gate projection only the rows of the neurons that are kept.",
      },
      {
        key: "expert_share",
        label: "Expert share, with gate",
        align: "right",
        format: formatPercent,
        note: `Activated weights of the routed experts, as a share of those of ${first.name}.`,
      },
      {
        key: "expert_share_without_gate",
        label: "Expert share, without gate",
        align: "right",
        format: formatPercent,
        note: "The same in the other reading.",
      },
      {
        key: "tokens_per_second",
        label: "Tokens/s",
        align: "right",
        note: "Training speed, mean of the run.",
      },
      {
        key: "expert_entropy",
        label: "Expert entropy",
        align: "right",
        format: entropy,
        note: "Entropy of the use of experts on the validation text, relative to uniform use: 1 is perfect balance.",
      },
      {
        key: "experts_dead",
        label: "Dead experts",
        align: "right",
        format: formatPercent,
        note: "Share of the experts that no token of the validation text goes to.",
      },
      {
        key: "neuron_entropy",
        label: "Neuron entropy",
        align: "right",
        format: entropy,
        note: "The same over the neurons inside an expert, mean over experts; absent where every neuron acts.",
      },
      {
        key: "neurons_dead",
        label: "Dead neurons",
        align: "right",
        format: formatPercent,
        note: "Share of the neurons that no token of their expert keeps.",
      },
    ],
    rows: comparison.arms.map((arm) => {
      const { total, activated, activatedExpertsWithGate, activatedExpertsWithoutGate } = arm.parameters;
      return {
        arm: arm.name,
        loss: arm.final.loss,
        bits_per_byte: arm.final.bitsPerByte,
        parameters: total,
        activated,
        activated_without_gate: activated - activatedExpertsWithGate + activatedExpertsWithoutGate,
        expert_share: activatedExpertsWithGate / first.parameters.activatedExpertsWithGate,
        expert_share_without_gate: activatedExpertsWithoutGate / first.parameters.activatedExpertsWithoutGate,
        tokens_per_second: arm.tokensPerSecond,
        expert_entropy: arm.expertUse.entropy,
        experts_dead: arm.expertUse.dead,
        neuron_entropy: arm.neuronUse?.entropy,
        neurons_dead: arm.neuronUse?.dead,
      };
    }),
  };
}

/** What the losses show, in words, and what they do not. */
export function comparisonInWords(comparison: Comparison): string {
  const first = firstArm(comparison);
  const reached = `${first.name} reaches a validation loss of ${formatFixed(first.final.loss, 4)} nats after ${formatCount(first.trainedTokens)} tokens`;
  const others = comparison.arms.slice(1).map((arm) => differenceInWords(arm, first));
  if (others.length === 0) return `${reached}.`;
  const list = others.length === 1 ? others[0] : `${others.slice(0, -1).join(", ")} and ${others.at(-1)}`;
  return `${reached}; ${list}. One seed per arm decides nothing: two runs of the same arm already differ when only the seed does.`;
}

function differenceInWords(arm: ArmResult, first: ArmResult): string {
  const difference = arm.final.loss - first.final.loss;
  if (!Number.isFinite(difference)) return `${arm.name} has no finite loss to compare`;
  const size = formatFixed(Math.abs(difference), 4);
  if (Number(size) === 0) return `${arm.name} ends equal to four decimals`;
  return `${arm.name} ends ${size} nats ${difference < 0 ? "lower" : "higher"}`;
}

function firstArm(comparison: Comparison): ArmResult {
  if (comparison.arms.length === 0) {
    throw new UsageError(`The comparison "${comparison.title}" has no arms; give it at least one.`);
  }
  return comparison.arms[0];
}
