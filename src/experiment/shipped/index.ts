// The experiments that come with the package, each in a size to run (`small`) and one for tests (`smoke`).

import type { TrainConfigInput } from "../../train/config.ts";
import type { ArmSpec, ExperimentSize, ExperimentSpec } from "../spec.ts";

/** Tiny everything: it shows that the parts fit together, and no more. */
const smoke: ExperimentSize = {
  tokenizer: "byte",
  tokens: 256,
  seeds: [1, 2],
  heldOutTokens: 129,
  base: {
    preset: "moe-tiny",
    seqLen: 16,
    batch: 4,
    warmup: 1,
    validEvery: 2,
    validTokens: 64,
    model: {
      hidden_size: 16,
      num_hidden_layers: 1,
      num_attention_heads: 2,
      num_experts: 8,
      num_experts_per_tok: 4,
      moe_intermediate_size: 16,
      intermediate_size: 64,
    },
  },
};

/** 3.7 million activated parameters with a BPE of 4,096. @param tokens of each run. */
const small = (tokens: number): ExperimentSize => ({
  tokenizer: "bpe:4096",
  tokens,
  seeds: [1, 2, 3],
  heldOutTokens: 131_072,
  base: {
    preset: "moe-small",
    seqLen: 256,
    batch: 16,
    learningRate: 2e-3,
    warmup: 60,
    validTokens: 32_768,
    model: {
      hidden_size: 192,
      num_hidden_layers: 5,
      num_attention_heads: 6,
      num_experts: 16,
      num_experts_per_tok: 4,
      moe_intermediate_size: 192,
      intermediate_size: 768,
    },
  },
});

const sizes = (tokens: number) => ({ smoke, small: small(tokens) });

const half: ExperimentSpec = {
  name: "half",
  title: "Half of the activated expert parameters, three ways",
  question:
    "Does a MoNE that keeps a quarter of the neurons (half of the activated expert parameters, gate included) match its MoE, " +
    "and does it do better than other ways to halve them?",
  arms: [
    { name: "MoE", description: "Every neuron of the chosen experts acts.", neurons: 1 },
    {
      name: "MoNE K = F/4",
      description: "A quarter of the neurons of each chosen expert acts.",
      neurons: 0.25,
    },
    {
      name: "MoE, half the experts per token",
      description: "Half as many experts per token.",
      times: { model: { num_experts_per_tok: 0.5 } },
    },
    {
      name: "MoE, experts half as wide",
      description:
        "Experts of half the width, which halves all expert parameters, not only the activated ones.",
      times: { model: { moe_intermediate_size: 0.5 } },
    },
  ],
  sizes: sizes(5_000_000),
};

const equal: ExperimentSpec = {
  name: "equal",
  title: "MoE and MoNE at the same activated parameters",
  question:
    "At the same number of activated expert parameters, gate included, is a MoNE with wider experts, or with more experts per token, better than its MoE?",
  arms: [
    { name: "MoE", description: "Every neuron of the chosen experts acts.", neurons: 1 },
    {
      name: "MoNE, experts twice as wide",
      description:
        "Experts of twice the width, of which a quarter acts: the parameters in total double as well.",
      times: { model: { moe_intermediate_size: 2 } },
      neurons: 0.25,
    },
    {
      name: "MoNE, twice the experts per token",
      description:
        "Twice as many experts per token, of each of which a quarter acts; the parameters in total are those of the MoE.",
      times: { model: { num_experts_per_tok: 2 } },
      neurons: 0.25,
    },
    {
      name: "MoE, twice the experts",
      description:
        "A control: as many parameters in total as the MoNE with wider experts, activated as in the MoE.",
      times: { model: { num_experts: 2 } },
      neurons: 1,
    },
  ],
  sizes: sizes(5_000_000),
};

const coefficients = [1e-4, 1e-3, 1e-2, 1e-1];
const balance: ExperimentSpec = {
  name: "balance",
  title: "The neuron balance loss: off, normalised or not, masked or not, weak to strong",
  question: "Does the neuron balance loss lower the loss, and what does it do to the use of neurons?",
  arms: [
    { name: "off", description: "No neuron balance loss.", change: { model: { neuron_aux_loss_coef: 0 } } },
    ...(["l1", "none"] as const).flatMap((normalise) =>
      (["all", "topk"] as const).flatMap((masked) =>
        coefficients.map(
          (coefficient): ArmSpec => ({
            name: `${normalise}, ${masked}, ${coefficient}`,
            description: `Scores ${normalise === "l1" ? "normalised to sum to 1" : "as they are"}, ${masked === "all" ? "of all neurons" : "of the kept neurons only"}, times ${coefficient}.`,
            change: {
              model: { neuron_aux_loss_coef: coefficient, neuron_aux_loss: { normalise, masked } },
            },
          }),
        ),
      ),
    ),
  ].map((arm) => ({ ...arm, neurons: 0.25 })),
  measure: ["use", "stability"],
  sizes: sizes(2_000_000),
};

const shares = [2, 4, 8, 16].map((part) => ({ name: `K = F/${part}`, neurons: 1 / part }));

const ratio: ExperimentSpec = {
  name: "ratio",
  title: "How few neurons: K/F from 1 to 1/16",
  question: "How does the loss grow as fewer neurons of each chosen expert act?",
  arms: [{ name: "MoE", description: "K = F: every neuron acts.", neurons: 1 }, ...shares],
  sizes: sizes(2_000_000),
};

const activation: ExperimentSpec = {
  name: "activation",
  title: "The gate's activation: SiLU, GELU, ReLU, sigmoid",
  question:
    "With which activation of the gate does keeping a quarter of the neurons cost least, against the MoE with that activation?",
  arms: (["silu", "gelu", "relu", "sigmoid"] as const).flatMap((hidden_act): ArmSpec[] => [
    { name: `MoE, ${hidden_act}`, change: { model: { hidden_act } }, neurons: 1 },
    {
      name: `MoNE K = F/4, ${hidden_act}`,
      change: { model: { hidden_act } },
      neurons: 0.25,
      against: `MoE, ${hidden_act}`,
    },
  ]),
  sizes: sizes(2_000_000),
};

const rate: ExperimentSpec = {
  name: "rate",
  title: "The learning rate: does a MoNE want another than its MoE?",
  question:
    "Is the difference between a MoNE and its MoE one of how well the learning rate suits each, and does the MoNE need a search of its own?",
  arms: [1e-3, 2e-3, 4e-3].flatMap((learningRate): ArmSpec[] => {
    const name = `MoE, ${learningRate}`;
    return [
      { name, change: { learningRate }, neurons: 1 },
      { name: `MoNE K = F/4, ${learningRate}`, change: { learningRate }, neurons: 0.25, against: name },
    ];
  }),
  sizes: sizes(2_000_000),
};

const granularity: ExperimentSpec = {
  name: "granularity",
  title: "Finer experts at the same total and activated size",
  question: "Does keeping a quarter of the neurons cost more or less where experts are finer?",
  arms: [1, 2, 4].flatMap((finer): ArmSpec[] => {
    const times = {
      model: { num_experts: finer, num_experts_per_tok: finer, moe_intermediate_size: 1 / finer },
    };
    const suffix = finer === 1 ? "" : `, ${finer} times finer`;
    const name = `MoE${suffix}`;
    return [
      { name, times, neurons: 1 },
      { name: `MoNE K = F/4${suffix}`, times, neurons: 0.25, against: name },
    ];
  }),
  sizes: sizes(2_000_000),
};

// In the arms: a size's number of experts would win over one in the base.
const withoutExperts = { num_experts: 0 };
const dense: ExperimentSpec = {
  name: "dense",
  title: "K/F for a plain SwiGLU transformer, and the neuron balance loss there",
  question:
    "Without experts, how does the loss grow as fewer neurons of each layer act, and is a balance loss needed?",
  arms: [
    {
      name: "dense",
      description: "K = F: every neuron acts.",
      neurons: 1,
      change: { model: withoutExperts },
    },
    ...shares.map(({ name, neurons }) => ({
      name,
      description: "No neuron balance loss.",
      neurons,
      change: { model: { ...withoutExperts, neuron_aux_loss_coef: 0 } },
    })),
    ...shares
      .filter((_, i) => i % 2 === 1)
      .map(({ name, neurons }) => ({
        name: `${name}, balanced`,
        description: "With the neuron balance loss.",
        neurons,
        change: { model: withoutExperts },
      })),
  ],
  measure: ["use"],
  sizes: sizes(2_000_000),
};

const [plain, quarter] = half.arms;

const after: ExperimentSpec = {
  name: "after",
  title: "Pruned after training: MoE and MoNE at the same number of kept neurons",
  question:
    "How many neurons can each leave out once it is trained, and at an equal number of kept neurons, does a MoNE lose less than a MoE that was never trained for it?",
  arms: [plain, quarter],
  measure: ["use", "prune", "prune-random"],
  sizes: half.sizes,
};

/** Continued training: half of the peak learning rate, and few steps of warm-up for the new optimizer. */
const tuning: TrainConfigInput = { learningRate: 1e-3, warmup: 10 };
/** The rate stays until the last phase lowers it. */
const steady: TrainConfigInput = { ...tuning, minLearningRate: 1 };

const convert: ExperimentSpec = {
  name: "convert",
  title: "From a trained MoE to a MoNE",
  question:
    "At the same total of training tokens, is a MoE that is continued as a MoNE as good as a MoNE from scratch, does it help to lower K in steps, and what does training do that pruning does not?",
  arms: [
    { name: "MoNE from scratch", description: "K = F/4 all the time.", neurons: 0.25 },
    {
      name: "MoE, then K = F/2, F/4",
      description: "A MoE for half of the tokens, then a quarter each with K = F/2 and K = F/4.",
      phases: [
        { share: 0.5, neurons: 1 },
        { share: 0.25, neurons: 0.5, change: steady },
        { share: 0.25, neurons: 0.25, change: tuning },
      ],
    },
    {
      name: "MoE, then K = F/4",
      description:
        "A MoE for half of the tokens, then K = F/4 at once, with the learning rates of the arm with steps.",
      phases: [
        { share: 0.5, neurons: 1 },
        { share: 0.25, neurons: 0.25, change: steady },
        { share: 0.25, neurons: 0.25, change: tuning },
      ],
    },
    {
      name: "MoE, continued",
      description: "The control: the same phases and learning rates, every neuron acts in all of them.",
      phases: [
        { share: 0.5, neurons: 1 },
        { share: 0.25, neurons: 1, change: steady },
        { share: 0.25, neurons: 1, change: tuning },
      ],
    },
    { name: "MoE", description: "Every neuron acts, one run.", neurons: 1 },
    {
      name: "MoE, pruned to K = F/4",
      description: "That run, with a quarter of the neurons when it is measured, and no training with them.",
      neurons: 1,
      prunedTo: 0.25,
    },
  ],
  sizes: sizes(2_000_000),
};

export const shippedExperiments: readonly ExperimentSpec[] = [
  half,
  equal,
  balance,
  ratio,
  activation,
  rate,
  granularity,
  dense,
  after,
  convert,
];
