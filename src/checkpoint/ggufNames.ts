// What a parameter of model/parameters.ts is called in a GGUF file, and the order of rows where that differs: both ways, so
// that files that are written and files that are read agree. Not here: keys (ggufKeys.ts, ggufConfig.ts).

import { UsageError } from "../errors.ts";
import type { ModelConfig } from "../model/config.ts";
import type { ParameterSpec } from "../model/parameters.ts";

const names: Readonly<Record<string, string>> = {
  "model.embed_tokens.weight": "token_embd",
  "model.norm.weight": "output_norm",
  "lm_head.weight": "output",
  input_layernorm: "attn_norm",
  "self_attn.q_proj": "attn_q",
  "self_attn.k_proj": "attn_k",
  "self_attn.v_proj": "attn_v",
  "self_attn.o_proj": "attn_output",
  "self_attn.q_norm": "attn_q_norm",
  "self_attn.k_norm": "attn_k_norm",
  post_attention_layernorm: "ffn_norm",
  "mlp.gate": "ffn_gate_inp",
  "mlp.experts.gate_proj": "ffn_gate_exps",
  "mlp.experts.up_proj": "ffn_up_exps",
  "mlp.experts.down_proj": "ffn_down_exps",
  "mlp.gate_proj": "ffn_gate",
  "mlp.up_proj": "ffn_up",
  "mlp.down_proj": "ffn_down",
};

/** Kinds of tokens in a GGUF file's tokenizer. */
export const tokenTypes = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const;

/** The tensor of a parameter, with its ending. @throws UsageError if there is no place for it. */
export function ggufName(name: string): string {
  const layer = name.match(/^model\.layers\.(\d+)\.(.*?)(\.weight)?$/);
  const known = names[layer ? layer[2] : name];
  if (known === undefined) throw new UsageError(`${name} has no place in a GGUF file`);
  return `${layer ? `blk.${layer[1]}.${known}` : known}.weight`;
}

type RowShape = Pick<ParameterSpec, "name" | "shape">;

/** Rows of llama's queries and keys: halves of a head that are rotated with each other lie side by side there. */
export function interleavedRows(spec: RowShape, values: Float32Array, config: ModelConfig): Float32Array {
  return movedRows(spec, values, config, (out, row, width, to) =>
    out.set(values.subarray(row * width, (row + 1) * width), to * width),
  );
}

/** The other way: from a file of llama's to halves that follow each other. */
export function halvedRows<Values extends Float32Array | Uint16Array>(
  spec: RowShape,
  values: Values,
  config: ModelConfig,
): Values {
  return movedRows(spec, values, config, (out, row, width, from) =>
    out.set(values.subarray(from * width, (from + 1) * width), row * width),
  );
}

/** `move` is told each row in halves and its place side by side. */
function movedRows<Values extends Float32Array | Uint16Array>(
  { name, shape }: RowShape,
  values: Values,
  { head_dim: C }: ModelConfig,
  move: (out: Values, row: number, width: number, interleaved: number) => void,
): Values {
  if (!/self_attn\.[qk]_proj/.test(name)) return values;
  const [rows, width] = shape;
  const out = values.slice() as Values;
  for (let row = 0; row < rows; row++) {
    const [head, within] = [Math.floor(row / C), row % C];
    const half = within < C / 2 ? 0 : 1;
    move(out, row, width, head * C + 2 * (within - (half * C) / 2) + half);
  }
  return out;
}
