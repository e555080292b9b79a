// Puts GGUF files together byte by byte, wrong ones too.

/** A value of a key, by the code of its type. */
export type TestValue =
  | { readonly u32: number }
  | { readonly f32: number }
  | { readonly text: string }
  | { readonly raw: Buffer; readonly type: number };

export interface TestTensor {
  readonly name: string;
  /** As in the file: innermost first. */
  readonly dims: readonly number[];
  readonly type: number;
  readonly offset: number;
}

export const u32 = (value: number) => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
};
export const u64 = (value: number | bigint) => {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
};
export const text = (value: string) => Buffer.concat([u64(Buffer.byteLength(value)), Buffer.from(value)]);

function valueBytes(value: TestValue): Buffer {
  if ("raw" in value) return Buffer.concat([u32(value.type), value.raw]);
  if ("text" in value) return Buffer.concat([u32(8), text(value.text)]);
  if ("u32" in value) return Buffer.concat([u32(4), u32(value.u32)]);
  const bytes = Buffer.alloc(4);
  bytes.writeFloatLE(value.f32);
  return Buffer.concat([u32(6), bytes]);
}

export interface TestGguf {
  readonly magic?: string;
  readonly version?: number;
  readonly keys?: readonly (readonly [string, TestValue])[];
  readonly tensors?: readonly TestTensor[];
  readonly tensorCount?: number | bigint;
  readonly keyCount?: number | bigint;
  readonly data?: Uint8Array;
}

export function ggufBytes({
  magic = "GGUF",
  version = 3,
  keys = [],
  tensors = [],
  data,
  ...counts
}: TestGguf) {
  const header = Buffer.concat([
    Buffer.from(magic),
    u32(version),
    u64(counts.tensorCount ?? tensors.length),
    u64(counts.keyCount ?? keys.length),
    ...keys.map(([key, value]) => Buffer.concat([text(key), valueBytes(value)])),
    ...tensors.map(({ name, dims, type, offset }) =>
      Buffer.concat([text(name), u32(dims.length), ...dims.map(u64), u32(type), u64(offset)]),
    ),
  ]);
  const padding = Buffer.alloc((32 - (header.length % 32)) % 32);
  return Buffer.concat([header, padding, data ?? Buffer.alloc(0)]);
}
