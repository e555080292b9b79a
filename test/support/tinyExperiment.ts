// An experiment of a few seconds that has every kind of run: plain, in phases, pruned when measured.

/** @param data the text. @param changes of the whole. */
export function tinyExperiment(data: string, changes: object = {}): object {
  return {
    name: "tiny",
    data,
    tokens: 1024,
    seeds: [1, 2],
    heldOutTokens: 129,
    measure: ["use"],
    base: {
      preset: "moe-tiny",
      seqLen: 16,
      batch: 4,
      warmup: 1,
      validEvery: 4,
      validTokens: 64,
      model: {
        hidden_size: 16,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        num_experts: 4,
        num_experts_per_tok: 2,
        moe_intermediate_size: 16,
        intermediate_size: 32,
      },
    },
    arms: [
      { name: "MoE", neurons: 1 },
      { name: "MoNE", neurons: 0.25 },
      {
        name: "continued",
        phases: [
          { share: 0.5, neurons: 1 },
          { share: 0.5, neurons: 0.25 },
        ],
      },
      { name: "pruned", neurons: 1, prunedTo: 0.25 },
    ],
    ...changes,
  };
}
