// Static pruning: a physically smaller checkpoint of the same family without the neurons that matter least on a text, the same
// ones for every token. They are ranked within each expert by mean |act(g)| (the study's criterion `static`). Any engine
// that loads the family loads the result. Letters: D width, E experts, F neurons, and F' of them that stay.

import { openBackend } from "../backends/cpu.ts";
import { requireNewFolder } from "../checkpoint/atomic.ts";
import { writeModelLike } from "../checkpoint/convert.ts";
import { type NetworkTensor, networkTensor } from "../checkpoint/expertLayout.ts";
import { openStoredModel } from "../checkpoint/loadModel.ts";
import { readConfigs, readTokenizer } from "../checkpoint/modelFolder.ts";
import { requireFloats } from "../checkpoint/quantization.ts";
import type { TensorSource } from "../checkpoint/safetensors.ts";
import { TensorFiles } from "../checkpoint/tensorFiles.ts";
import { throwIfAborted, UsageError } from "../errors.ts";
import { expertWidth, keptNeurons, type ModelConfig } from "../model/config.ts";
import { openCorpus } from "../text/corpus.ts";
import { gatherActivation } from "./activation.ts";
import { readStudyText } from "./text.ts";

export interface PruneOptions {
  /** Share of each expert's neurons to remove, above 0 and below 1; wide experts keep a multiple of 8. */
  readonly share: number;
  /** Text to rank neurons on, as for training. */
  readonly data?: string;
  /** Tokens of it. Default 8192. */
  readonly tokens?: number;
  readonly threads?: number;
  readonly announce?: (line: string) => void;
  readonly onProgress?: (task: string, share: number) => void;
  readonly signal?: AbortSignal;
}

/** Neurons that stay, ascending, of an expert of a layer (of a dense layer: expert 0). */
export type Staying = (layer: number, expert: number) => Uint32Array;

/**
 * Ranks neurons on a text and writes the smaller checkpoint into a new or empty folder.
 * @throws UsageError for a share, text or family that cannot work; RunError for damage or a full disk.
 */
export async function pruneCheckpoint(
  folder: string,
  target: string,
  options: PruneOptions,
): Promise<{ path: string; width: number; before: number }> {
  const { share, tokens = 8192, signal, onProgress } = options;
  const { config, stored } = readConfigs(folder);
  const before = expertWidth(config);
  const width = widthFor(before, share);
  if (!(share > 0 && share < 1) || width < 1 || width === before) {
    throw new UsageError(
      `the share to prune must leave 1 to ${before - 1} of ${before} neurons, not ${share}`,
    );
  }
  requireFloats(stored, folder, "pruned");
  requireNewFolder(target);
  if (stored.model_type === "deepseek_v2") {
    throw new UsageError(
      `${folder}: in deepseek_v2 shared experts are as wide as routed ones, so that these cannot be narrowed alone`,
    );
  }
  const corpus = await openCorpus(options.data, { signal });
  for (const note of corpus.notes) options.announce?.(note);
  const window = Math.min(config.max_position_embeddings, tokens);
  const text = await readStudyText(corpus, readTokenizer(folder), {
    window,
    tokens: window,
    calibrationTokens: tokens,
  });
  const backend = openBackend({ threads: options.threads }, options.announce);
  const staying = new Map<number, Uint32Array[]>();
  try {
    const model = openStoredModel(folder, backend, {}, {}, config);
    const onTokens = (done: number, total: number) => onProgress?.("ranking neurons", done / total);
    for (const one of await gatherActivation(model, text.calibration, keptNeurons(config), {
      signal,
      onTokens,
    })) {
      // All tokens of an expert count alike, so sums rank as means do.
      staying.set(one.layer, largestOf(one.sums, before, width));
    }
    model.close();
  } finally {
    backend.close();
  }
  const keep: Staying = (layer, expert) => {
    const found = staying.get(layer)?.[expert];
    if (!found) throw new Error(`no ranking of expert ${expert} in layer ${layer}`);
    return found;
  };
  await writePruned(folder, target, keep, { width, signal, onProgress });
  return { path: target, width, before };
}

/**
 * Neurons that stay of a share's. A multiple of 8 where it was one: the grouped products of PyTorch, which transformers 5 uses
 * for experts, take only rows of whole 16 bytes.
 */
function widthFor(before: number, share: number): number {
  const exact = before * (1 - share);
  if (before % 8 !== 0 || !(exact >= 8)) return Math.round(exact);
  return Math.min(8 * Math.round(exact / 8), before - 8);
}

/** Of each row of `width` values the indices of the `count` largest (ties: lower index), ascending. */
function largestOf(values: ArrayLike<number>, width: number, count: number): Uint32Array[] {
  return Array.from({ length: values.length / width }, (_, row) => {
    const order = Uint32Array.from({ length: width }, (_, j) => j);
    order.sort((a, b) => values[row * width + b] - values[row * width + a] || a - b);
    return order.slice(0, count).sort();
  });
}

/** Writes the checkpoint with only the neurons that stay, config.json last. */
export async function writePruned(
  folder: string,
  target: string,
  staying: Staying,
  { width, signal, onProgress }: { width: number } & Pick<PruneOptions, "signal" | "onProgress">,
): Promise<void> {
  const { config, stored } = readConfigs(folder);
  const files = TensorFiles.open(folder);
  try {
    const all = [...files.tensors.values()];
    let written = 0;
    const sources = all.map((info): TensorSource => {
      const network = networkTensor(info.name, config.num_experts === 0);
      const read = () => {
        throwIfAborted(signal);
        onProgress?.("writing", ++written / all.length);
        return files.readBytes(info.name);
      };
      if (!network) return { ...info, data: read };
      const axis = info.shape.length - (network.which === "down" ? 1 : 2);
      const before = info.shape[axis];
      const sets = network.which === "gate_up" ? 2 : 1;
      const shape = info.shape.map((size, i) => (i === axis ? sets * width : size));
      return {
        ...info,
        shape,
        data: () =>
          select(read(), { shape: info.shape, axis, sets, before: before / sets, network }, staying),
      };
    });
    await writeModelLike(folder, target, { sources, config: narrowed(stored, config, width) });
  } finally {
    files.close();
  }
}

/** config.json for the new width; K only where it still leaves something out. */
function narrowed(
  stored: Record<string, unknown>,
  config: ModelConfig,
  width: number,
): Record<string, unknown> {
  const own =
    ["qwen3_moe", "qwen2_moe", "mone"].includes(String(stored.model_type)) && config.num_experts > 0;
  const { num_neurons_per_tok: kept, ...rest } = stored;
  const still = typeof kept === "number" && kept < width ? { num_neurons_per_tok: kept } : {};
  return { ...rest, [own ? "moe_intermediate_size" : "intermediate_size"]: width, ...still };
}

interface Selection {
  readonly shape: readonly number[];
  /** Along which neurons lie. */
  readonly axis: number;
  /** Rows of all neurons follow each other so often: gate, then up. */
  readonly sets: number;
  readonly before: number;
  readonly network: NetworkTensor;
}

/** The bytes of a tensor with the neurons that stay. */
function select(
  bytes: Uint8Array,
  { shape, axis, sets, before, network }: Selection,
  staying: Staying,
): Uint8Array {
  const outer = shape.slice(0, axis).reduce((a, b) => a * b, 1);
  const inner = bytes.length / (outer * sets * before); // bytes that follow each other
  const experts = network.expert === undefined && shape.length === 3 ? shape[0] : 1;
  const width = staying(network.layer, network.expert ?? 0).length;
  const out = new Uint8Array(outer * sets * width * inner);
  let at = 0;
  for (let row = 0; row < outer; row++) {
    const keep = staying(network.layer, network.expert ?? Math.floor(row / (outer / experts)));
    for (let set = 0; set < sets; set++) {
      for (const neuron of keep) {
        const from = ((row * sets + set) * before + neuron) * inner;
        out.set(bytes.subarray(from, from + inner), at);
        at += inner;
      }
    }
  }
  return out;
}
