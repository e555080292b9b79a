// What benchmarks of training share: the text, the shape of a batch for each size, and a trainer on them.

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Backend } from "../backends/backend.ts";
import { type TokenDataset, tokenDatasetFromMemory } from "../text/dataset.ts";
import { resolveTrainConfig, type TrainConfigInput } from "../train/config.ts";
import { prepareData } from "../train/data.ts";
import { Trainer } from "../train/trainer.ts";
import { type BenchSize, configOf } from "./sizes.ts";

/** A text as bytes: in memory for trainers, and as a file of one byte a token for peers. */
export interface BenchText {
  readonly name: string;
  readonly dataset: TokenDataset;
  readonly path: string;
  close(): void;
}

const MOST_TOKENS = 1 << 24;

/** Opens a text; a smoke test makes one of its own. @throws UsageError for one that cannot be used. */
export async function openBenchText({
  data,
  quick,
  signal,
  announce,
}: {
  data?: string;
  quick?: boolean;
  signal?: AbortSignal;
  announce?: (line: string) => void;
}): Promise<BenchText> {
  const folder = mkdtempSync(join(tmpdir(), "mone-bench-"));
  const close = () => rmSync(folder, { recursive: true, force: true });
  try {
    const dataset =
      quick && data === undefined
        ? smokeText()
        : (
            await prepareData(folder, {
              data: data ?? null,
              tokenizer: "byte",
              validShare: 0.1,
              signal,
              announce,
            })
          ).dataset;
    const path = join(folder, "tokens.bin");
    const tokens = dataset.train.read(0, Math.min(dataset.train.length, MOST_TOKENS));
    writeFileSync(
      path,
      Uint8Array.from(tokens, (id) => id % 256),
    );
    return { name: dataset.name, dataset, path, close };
  } catch (error) {
    close();
    throw error;
  }
}

function smokeText(): TokenDataset {
  const ids = Array.from({ length: 4096 }, (_, i) => (i * i) % 251);
  return tokenDatasetFromMemory(ids, ids, { vocabSize: 256, name: "numbers of a smoke test" });
}

/** Tokens of a sequence and sequences of a step. */
export function batchOf({ width }: BenchSize, quick: boolean): { seq: number; batch: number } {
  if (quick) return { seq: 16, batch: 1 };
  return width >= 512 ? { seq: 512, batch: 8 } : { seq: 256, batch: 16 };
}

export interface TrainerPlan {
  readonly size: BenchSize;
  readonly kept: number;
  readonly text: BenchText;
  readonly quick: boolean;
  readonly dtype?: "auto" | "f32" | "bf16";
  readonly recompute?: boolean;
}

/** A trainer with its first weights. */
export function trainerOf(backend: Backend, plan: TrainerPlan): Trainer {
  const { size, kept, text, quick, dtype = "auto", recompute = false } = plan;
  const { seq, batch } = batchOf(size, quick);
  const small = quick ? { num_hidden_layers: 2, num_experts: 4, num_experts_per_tok: 2 } : {};
  const model = configOf(size, kept, { vocab_size: 256, max_position_embeddings: seq, ...small });
  const input: TrainConfigInput = {
    preset: "moe-tiny",
    seqLen: seq,
    batch,
    steps: 1_000_000, // the learning rate of a long run
    dtype,
    recompute,
    model,
  };
  const trainer = new Trainer(resolveTrainConfig(input, 256), text.dataset, backend);
  trainer.initialise();
  return trainer;
}
