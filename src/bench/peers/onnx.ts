// One SwiGLU expert as an ONNX model, encoded by hand: y = (silu(x G) * (x U)) D with G, U [D, F] and D [F, D] as inputs of
// the graph, so that the file stays small. Protocol buffers are fields of (number, kind): 0 a varint, 2 bytes with a length.

/** Of onnx.proto: the numbers of the fields used here. */
const FLOAT = 1;
const IR_VERSION = 8;
const OPERATOR_SET = 13;

/** The model's bytes. Inputs: x [tokens, width], gate and up [width, neurons], down [neurons, width]; output: y. */
export function swigluOnnx({
  width,
  neurons,
  tokens,
}: {
  width: number;
  neurons: number;
  tokens: number;
}): Uint8Array {
  const node = (type: string, inputs: readonly string[], output: string) =>
    message([...inputs.map((input) => text(1, input)), text(2, output), text(4, type)]);
  const graph = message([
    ...[
      node("MatMul", ["x", "gate"], "g"),
      node("MatMul", ["x", "up"], "u"),
      node("Sigmoid", ["g"], "s"),
      node("Mul", ["g", "s"], "a"),
      node("Mul", ["a", "u"], "h"),
      node("MatMul", ["h", "down"], "y"),
    ].map((one) => bytes(1, one)),
    text(2, "swiglu"),
    ...[
      valueInfo("x", [tokens, width]),
      valueInfo("gate", [width, neurons]),
      valueInfo("up", [width, neurons]),
      valueInfo("down", [neurons, width]),
    ].map((one) => bytes(11, one)),
    bytes(12, valueInfo("y", [tokens, width])),
  ]);
  const operators = message([text(1, ""), integer(2, OPERATOR_SET)]);
  return message([integer(1, IR_VERSION), text(2, "neuron-experts"), bytes(7, graph), bytes(8, operators)]);
}

function valueInfo(name: string, shape: readonly number[]): Uint8Array {
  const dims = shape.map((size) => bytes(1, message([integer(1, size)])));
  const tensor = message([integer(1, FLOAT), bytes(2, message(dims))]);
  return message([text(1, name), bytes(2, message([bytes(1, tensor)]))]);
}

function integer(field: number, value: number): Uint8Array {
  return Uint8Array.from([...varint(field << 3), ...varint(value)]);
}

function bytes(field: number, content: Uint8Array): Uint8Array {
  return message([Uint8Array.from([...varint((field << 3) | 2), ...varint(content.length)]), content]);
}

function text(field: number, content: string): Uint8Array {
  return bytes(field, new TextEncoder().encode(content));
}

/** Seven bits a byte, the lowest first; all but the last have the top bit. */
function varint(value: number): number[] {
  const digits: number[] = [];
  for (let rest = value; ; rest = Math.floor(rest / 128)) {
    if (rest < 128) return [...digits, rest];
    digits.push((rest % 128) | 128);
  }
}

function message(fields: readonly Uint8Array[]): Uint8Array {
  const all = new Uint8Array(fields.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const field of fields) {
    all.set(field, at);
    at += field.length;
  }
  return all;
}
