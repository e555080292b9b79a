// What configurations are refused for, and in which words.

import assert from "node:assert/strict";
import { test } from "node:test";
import { type ModelConfig, resolveModelConfig } from "../src/model/config.ts";
import { presetConfig } from "../src/model/presets.ts";
import { checkSettings } from "../src/train/config.ts";

/** Fails unless `attempt` throws a UsageError with exactly this sentence. */
function refuses(attempt: () => unknown, message: string): void {
  assert.throws(attempt, { name: "UsageError", message });
}

test("numbers of a model: the bounds that are named are those that hold", () => {
  const cases: [Partial<Record<keyof ModelConfig, unknown>>, string][] = [
    [{ head_dim: 512 }, "head_dim must be an integer from 2 to 256, not 512"],
    [{ head_dim: 0 }, "head_dim must be an integer from 2 to 256, not 0"],
    [{ vocab_size: 0 }, "vocab_size must be an integer of at least 1, not 0"],
    [{ vocab_size: 2 ** 32 }, "vocab_size must be an integer from 1 to 2147483648, not 4294967296"],
    [{ vocab_size: "9" }, 'vocab_size must be an integer of at least 1, not "9"'],
    [{ rope_theta: 0 }, "rope_theta must be a number above 0, not 0"],
    [{ rope_theta: -1 }, "rope_theta must be a number above 0, not -1"],
    [{ rope_theta: "big" }, 'rope_theta must be a number above 0, not "big"'],
  ];
  for (const [given, message] of cases) refuses(() => resolveModelConfig(given, "here"), `here: ${message}`);
  resolveModelConfig({ head_dim: 256 });
});

test("settings of AdamW that would give NaN at the first step", () => {
  for (const name of ["beta1", "beta2"]) {
    for (const value of [1, -0.1, "0.9"]) {
      refuses(
        () => checkSettings({ [name]: value }, "here"),
        `here: ${name} must be a number from 0 to below 1, not ${JSON.stringify(value)}`,
      );
    }
    checkSettings({ [name]: 0 });
  }
  for (const value of [0, -1e-8, 2, 1e-300]) {
    refuses(
      () => checkSettings({ epsilon: value }, "here"),
      `here: epsilon must be a number above 0 and at most 1, not ${value}`,
    );
  }
  checkSettings({ epsilon: 1e-30 });
});

test("an unknown preset: the nearest one, if one is near, and all of them", () => {
  assert.throws(() => presetConfig("zzz"), /^UsageError: Unknown preset "zzz"\. There are: moe-tiny, .*\.$/);
  assert.throws(() => presetConfig("moe-tini"), /"moe-tini"; did you mean "moe-tiny"\? There are: .*\.$/);
});
