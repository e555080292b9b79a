// Where a parameter lies on disk: families name tensors in their own ways, and some files hold all experts of a layer as
// one tensor. Not here: what is done with the bytes (checkpointSource.ts).
// Letters: E experts, F neurons, D width.

import { RunError } from "../errors.ts";
import type { ParameterSpec } from "../model/parameters.ts";
import { families } from "./families.ts";
import { storedParts } from "./modelFolder.ts";
import type { PlacedTensor, TensorFiles } from "./tensorFiles.ts";

/** What a family calls the tensor that is `ours` in a qwen3_moe checkpoint. */
export function familyName(ours: string, family: string | undefined): string {
  const renames = (family !== undefined && families[family]?.names) || [];
  return renames.reduce((name, [from, to]) => name.replace(from, to), ours);
}

/**
 * The tensor of a parameter, or of one expert of it; or the part of a larger tensor in which it lies, under that one's name.
 * @throws RunError if there is none, or it has another shape.
 */
export function findPart(
  { path, tensors }: Pick<TensorFiles, "path" | "tensors">,
  spec: Pick<ParameterSpec, "name" | "shape">,
  expert: number,
  family?: string,
): PlacedTensor {
  const { name: ours, shape } = storedParts(spec)[expert];
  const theirs = familyName(ours, family);
  const info = tensors.get(theirs) ?? tensors.get(ours);
  if (!info) {
    const part = fusedPart(path, tensors, spec, expert);
    if (part) return part;
    throw new RunError(`${path} has no tensor "${theirs}", which its config.json asks for`);
  }
  if (info.shape.join() !== shape.join()) {
    throw new RunError(
      `${path}: tensor ${info.name} has shape [${info.shape}], but config.json asks for [${shape}]`,
    );
  }
  return info;
}

/** One expert in `experts.gate_up_proj` [E, 2F, D], gate first, or `experts.down_proj` [E, D, F]. */
function fusedPart(
  path: string,
  tensors: TensorFiles["tensors"],
  { name, shape }: Pick<ParameterSpec, "name" | "shape">,
  expert: number,
): PlacedTensor | undefined {
  const match = name.match(/^(.*\.mlp\.experts)\.(gate|up|down)_proj$/);
  if (!match) return undefined;
  const [, prefix, which] = match;
  const down = which === "down";
  const info = tensors.get(`${prefix}.${down ? "down_proj" : "gate_up_proj"}`);
  if (!info) return undefined;
  const [experts, rows, width] = shape;
  const whole = [experts, down ? rows : 2 * rows, width];
  if (info.shape.join() !== whole.join()) {
    throw new RunError(
      `${path}: tensor ${info.name} has shape [${info.shape}], but config.json asks for [${whole}]`,
    );
  }
  const parts = down ? experts : 2 * experts;
  const size = (info.end - info.begin) / parts;
  const begin = info.begin + (down ? expert : 2 * expert + (which === "up" ? 1 : 0)) * size;
  return { ...info, shape: [rows, width], begin, end: begin + size };
}
