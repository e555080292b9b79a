// Settings of a run that takes about a second: every part of a real one, small.

import { writeFileSync } from "node:fs";
import type { TrainConfigInput } from "../../src/train/config.ts";

/** Text with enough structure to learn from: short sentences from a small grammar, the same at each call. */
export function toyText(sentences: number): string {
  const subjects = ["the cat", "a dog", "my sister", "the old king"];
  const verbs = ["sees", "follows", "paints", "forgets"];
  const objects = ["the moon", "a river", "two apples", "that song"];
  let state = 12345;
  const pick = (words: string[]) => {
    state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff;
    return words[(state >> 16) % words.length];
  };
  return Array.from({ length: sentences }, () => `${pick(subjects)} ${pick(verbs)} ${pick(objects)}.\n`).join(
    "",
  );
}

/** Writes the toy text to a file and gives its path back. */
export function writeToyText(path: string, sentences = 600): string {
  writeFileSync(path, toyText(sentences));
  return path;
}

export const tinyRun: TrainConfigInput = {
  preset: "mone-tiny",
  data: process.env.TOY_TEXT,
  steps: 24,
  seqLen: 32,
  batch: 4,
  warmup: 4,
  learningRate: 3e-3,
  validEvery: 8,
  validTokens: 256,
  checkpointEvery: 3,
  model: {
    num_hidden_layers: 2,
    hidden_size: 32,
    num_attention_heads: 2,
    num_experts: 4,
    num_experts_per_tok: 2,
    moe_intermediate_size: 32,
    num_neurons_per_tok: 8,
  },
};
