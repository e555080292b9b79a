// Work by formula against the parameters of every family. (Formulas against values computed by hand: bench.test.ts.)

import assert from "node:assert/strict";
import { test } from "node:test";
import { familyConfig, familyPresets } from "../src/checkpoint/familyPresets.ts";
import { configOfStored } from "../src/checkpoint/modelFolder.ts";
import { countParameters, parameterSpecs } from "../src/model/parameters.ts";
import { decodeBytes, forwardFlops } from "../src/model/work.ts";

test("every family: operations and bytes are those of the weights that a token multiplies with", () => {
  const changes: [string, Record<string, unknown>][] = [
    ...Object.keys(familyPresets).map((name): [string, Record<string, unknown>] => [name, {}]),
    ["deepseek_v2-tiny", { q_lora_rank: 24, n_shared_experts: 2, v_head_dim: 12 }],
    ["qwen2_moe-tiny", { num_neurons_per_tok: 8 }],
    ["deepseek_v2-tiny", { num_neurons_per_tok: 8 }],
    ["llama-tiny", { num_neurons_per_tok: 24 }],
  ];
  for (const [name, keys] of changes) {
    const family = configOfStored(familyConfig(name, keys), name);
    const vectors = parameterSpecs(family)
      .filter(({ shape }) => shape.length === 1)
      .reduce((sum, { shape }) => sum + shape[0], 0);
    const multiplied = countParameters(family).activatedWithGate - vectors;
    const { projections, router, keptExperts, head } = forwardFlops(family, 1);
    assert.equal(projections + router + keptExperts + head, 2 * multiplied, name);
    assert.equal(decodeBytes(family, "f32").total, 4 * multiplied, name);
  }
});

test("latent attention: scores over whole heads, mixtures of values, which are narrower", () => {
  const latent = configOfStored(familyConfig("deepseek_v2-tiny", {}), "deepseek");
  // 2 layers, 4 heads; queries and keys of 16 + 8, values of 16; 3 positions on average.
  assert.equal(forwardFlops(latent, 5).attention, 2 * 2 * 4 * (24 + 16) * 3);
});
