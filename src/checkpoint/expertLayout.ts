// How the experts of a layer lie in a checkpoint: each with tensors of its own, or all in one (`experts.gate_up_proj`
// [E, 2F, D] with gate first, `experts.down_proj` [E, D, F]), as transformers writes and reads both. A plan says, for
// every tensor of the new file, which bytes of the old one follow each other in it.
// Letters: E experts, F neurons, D width.

import { RunError } from "../errors.ts";
import { sizeOf } from "../tensor/tensor.ts";
import type { StoredDType, TensorInfo } from "./safetensors.ts";

export type ExpertLayout = "apart" | "fused";

/** Part of a stored tensor, in elements. */
export interface Piece {
  readonly name: string;
  readonly offset: number;
  readonly length: number;
}

export interface PlannedTensor {
  readonly name: string;
  readonly shape: readonly number[];
  readonly dtype: StoredDType;
  readonly pieces: readonly Piece[];
}

const SINGLE =
  /^(.*\.)(mlp|block_sparse_moe)\.experts\.(\d+)\.(gate_proj|up_proj|down_proj|w1|w3|w2)\.weight$/;
const FUSED = /^(.*\.)mlp\.experts\.(gate_up_proj|down_proj)$/;
const ROUTER = /^(.*\.)(mlp|block_sparse_moe)\.gate\.weight$/;
const PROJECTIONS = { w1: "gate_proj", w3: "up_proj", w2: "down_proj" } as const;

const whole = ({ name, shape }: TensorInfo): Piece => ({ name, offset: 0, length: sizeOf(shape) });

/**
 * The tensors of the new file. @param mixtral whether experts apart have Mixtral's names (w1 gate, w3 up, w2 down).
 * @throws RunError for experts that are not all there or not all alike.
 */
export function planTensors(
  tensors: ReadonlyMap<string, TensorInfo>,
  layout: ExpertLayout | undefined,
  mixtral: boolean,
): PlannedTensor[] {
  const all = [...tensors.values()];
  if (layout === "apart") return all.flatMap((info) => takeApart(info, mixtral));
  if (layout === "fused") return fuse(all);
  return all.map((info) => ({ ...info, pieces: [whole(info)] }));
}

function takeApart(info: TensorInfo, mixtral: boolean): PlannedTensor[] {
  const fused = info.name.match(FUSED);
  const block = mixtral ? "block_sparse_moe" : "mlp";
  if (!fused) {
    const router = info.name.match(ROUTER);
    const name = router ? `${router[1]}${block}.gate.weight` : info.name;
    return [{ ...info, name, pieces: [whole(info)] }];
  }
  const [, layer, which] = fused;
  const [experts, rows, width] = info.shape;
  const names = which === "down_proj" ? ["down_proj"] : ["gate_proj", "up_proj"];
  const high = rows / names.length;
  return Array.from({ length: experts }, (_, e) =>
    names.map((projection, i) => {
      const short = Object.entries(PROJECTIONS).find(([, long]) => long === projection)?.[0];
      const name = `${layer}${block}.experts.${e}.${mixtral ? short : projection}.weight`;
      const length = high * width;
      const piece = { name: info.name, offset: (e * names.length + i) * length, length };
      return { name, dtype: info.dtype, shape: [high, width], pieces: [piece] };
    }),
  ).flat();
}

function fuse(all: readonly TensorInfo[]): PlannedTensor[] {
  const planned: PlannedTensor[] = [];
  /** By layer: for each expert its three tensors. */
  const layers = new Map<string, Map<number, Map<string, TensorInfo>>>();
  for (const info of all) {
    const single = info.name.match(SINGLE);
    if (!single) {
      const router = info.name.match(ROUTER);
      const name = router ? `${router[1]}mlp.gate.weight` : info.name;
      planned.push({ ...info, name, pieces: [whole(info)] });
      continue;
    }
    const [, layer, , expert, short] = single;
    const experts = layers.get(layer) ?? new Map<number, Map<string, TensorInfo>>();
    layers.set(layer, experts);
    const parts = experts.get(Number(expert)) ?? new Map<string, TensorInfo>();
    experts.set(Number(expert), parts);
    parts.set(short in PROJECTIONS ? PROJECTIONS[short as keyof typeof PROJECTIONS] : short, info);
  }
  for (const [layer, experts] of layers) {
    const join = (target: string, names: readonly string[]): PlannedTensor => {
      const infos = Array.from({ length: experts.size }, (_, e) =>
        names.map((name) => {
          const info = experts.get(e)?.get(name);
          if (!info)
            throw new RunError(`${layer}mlp.experts has no ${name} of expert ${e}: the model is incomplete`);
          return info;
        }),
      ).flat();
      const [{ shape, dtype }] = infos;
      const odd = infos.find((info) => info.shape.join() !== shape.join() || info.dtype !== dtype);
      if (odd) throw new RunError(`tensor ${odd.name} is unlike the other experts: they cannot be fused`);
      const [rows, width] = shape;
      return {
        name: `${layer}mlp.experts.${target}`,
        dtype,
        shape: [experts.size, names.length * rows, width],
        pieces: infos.map(whole),
      };
    };
    planned.push(join("gate_up_proj", ["gate_proj", "up_proj"]), join("down_proj", ["down_proj"]));
  }
  return planned;
}

/** Which matrix of which networks a tensor is: of one expert, of all of a layer, or of a dense layer's network. */
export interface NetworkTensor {
  readonly layer: number;
  /** Undefined: of all experts, or of a dense network. */
  readonly expert: number | undefined;
  readonly which: "gate" | "up" | "down" | "gate_up";
}

/** Undefined for a tensor that belongs to no expert, or (`dense`) to no dense layer's network. */
export function networkTensor(name: string, dense: boolean): NetworkTensor | undefined {
  const layer = Number(name.match(/^model\.layers\.(\d+)\./)?.[1]);
  const whole = name.match(FUSED);
  if (whole) return { layer, expert: undefined, which: whole[2] === "down_proj" ? "down" : "gate_up" };
  const single = name.match(SINGLE);
  const short =
    single?.[4] ?? (dense ? name.match(/\.mlp\.(gate_proj|up_proj|down_proj)\.weight$/)?.[1] : undefined);
  if (short === undefined) return undefined;
  const long = short in PROJECTIONS ? PROJECTIONS[short as keyof typeof PROJECTIONS] : short;
  return {
    layer,
    expert: single ? Number(single[3]) : undefined,
    which: long.replace("_proj", "") as "gate",
  };
}
