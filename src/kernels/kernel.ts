// What a kernel is: a declaration from which everything else follows. The declaration names buffers and
// parameters, carries the readable reference implementation, the gradient rule and samples; the parity test,
// the finite-difference check, the benchmark and the check of the native table are all generated from it.
// Not here: memory, backends, tensors. A kernel knows arrays and numbers only.

/** `bf16` as its 16 bits, `i8` as signed bytes: weights stored for inference. */
export type DType = "f32" | "u32" | "bf16" | "i8";

/** How elements of a type lie in the host's memory. */
export type ArrayOf<D extends DType> = {
  f32: Float32Array;
  u32: Uint32Array;
  bf16: Uint16Array;
  i8: Int8Array;
}[D];

/** The constructor of each type's array. */
export const arrayTypes = {
  f32: Float32Array,
  u32: Uint32Array,
  bf16: Uint16Array,
  i8: Int8Array,
} as const;

/** Float32Array in use; Float64Array when the gradient rule is checked against finite differences. */
export type FloatArray = Float32Array | Float64Array;

/** `in` is read, `out` is overwritten, `inout` is read and written (accumulated into, or updated). */
export type BufferDecl = `${"in" | "out" | "inout"} ${DType}`;
export type BufferDecls = Readonly<Record<string, BufferDecl>>;
export type ParamDecls = Readonly<Record<string, "int" | "float">>;

export type ParamsOf<P extends ParamDecls> = { readonly [K in keyof P]: number };
export type ArraysOf<B extends BufferDecls> = {
  readonly [K in keyof B]: B[K] extends `${string} f32`
    ? FloatArray
    : B[K] extends `${string} ${infer D extends DType}`
      ? ArrayOf<D>
      : never;
};
export type SizesOf<B extends BufferDecls> = { readonly [K in keyof B]: number };
export type KeysOf<B extends BufferDecls, Access extends string> = {
  [K in keyof B]: B[K] extends `${Access} ${DType}` ? K : never;
}[keyof B] &
  string;

/** Values of the inputs that matter to a sample; a function where making them takes long. */
export type SampleInputs<B extends BufferDecls> = Partial<Record<keyof B & string, ArrayLike<number>>>;

/**
 * One call with concrete parameters. Float inputs that are left out are filled with normal numbers, so a
 * sample lists only what must be special (ids, magnitudes that keep a selection stable).
 */
export interface Sample<B extends BufferDecls, P extends ParamDecls> {
  readonly name: string;
  readonly params: ParamsOf<P>;
  readonly inputs?: SampleInputs<B> | (() => SampleInputs<B>);
  /** True where the kernel is not differentiable (a tie, NaN) or slow: not for finite differences. */
  readonly kink?: boolean;
  /** True for shapes of real work: timed by the benchmark, too large for finite differences. */
  readonly large?: boolean;
}

/** What a gradient rule may do. `Ref` is whatever the caller uses for a buffer. */
export interface GradientContext<Ref, B extends BufferDecls, P extends ParamDecls> {
  readonly params: ParamsOf<P>;
  /** The value of an input or output, as it was in the forward call. */
  value(name: keyof B & string): Ref;
  /** Gradient of the objective with respect to an output; zeros if nothing depends on it. */
  grad(output: keyof B & string): Ref;
  /** 1 if the objective depends on an output; 0 if its gradient is zeros, so that work on it can be left out. */
  flows(output: keyof B & string): 0 | 1;
  /** Where the gradient with respect to an input goes. */
  target(input: keyof B & string): Ref;
  /** 1 if the target already holds a part of the gradient, to be added to; 0 if it must be overwritten. */
  accumulate(input: keyof B & string): 0 | 1;
  /** The gradient of an input is that of an output: the same as running `copy`, but it may be handed on instead. */
  passOn(output: keyof B & string, input: keyof B & string): void;
  /** Memory for `length` floats with undefined content, until the rule ends. */
  scratch(length: number): Ref;
  /** Runs another kernel. */
  run<B2 extends BufferDecls, P2 extends ParamDecls>(
    kernel: Kernel<string, B2, P2>,
    buffers: { readonly [K in keyof B2]: Ref },
    params: ParamsOf<P2>,
  ): void;
}

export interface GradientRule<B extends BufferDecls, P extends ParamDecls> {
  /** Outputs that carry gradients; the others are bookkeeping. */
  readonly of: readonly (keyof B & string)[];
  /** Inputs that receive gradients. The rule writes the target of every one of them. */
  readonly wrt: readonly (keyof B & string)[];
  /** Inputs whose gradient may take the place of their value, where nobody else needs that. */
  readonly inPlace?: readonly (keyof B & string)[];
  rule<Ref>(context: GradientContext<Ref, B, P>): void;
}

export interface Kernel<N extends string, B extends BufferDecls, P extends ParamDecls> {
  readonly name: N;
  /** One sentence for tables and help. */
  readonly summary: string;
  readonly buffers: B;
  readonly params: P;
  /** Written buffers that may be the same memory as a read one, because an element is read before it is written. */
  readonly inPlace?: { readonly [K in keyof B]?: keyof B & string };
  /** Smallest number of elements of each buffer. */
  sizes(params: ParamsOf<P>): SizesOf<B>;
  /** The arbiter of what is right: plain loops, double-precision arithmetic in between. */
  reference(buffers: ArraysOf<B>, params: ParamsOf<P>): void;
  /** Made when they are asked for: they take longer to make than a small model to open. */
  samples(): readonly Sample<B, P>[];
  /** Floating-point operations of one call (multiply and add count as two); memory-bound kernels leave it out. */
  flops?(params: ParamsOf<P>): number;
  readonly gradient?: GradientRule<B, P>;
}

/** A kernel that a tape may record. Passing one without a rule does not compile. */
export interface DifferentiableKernel<N extends string, B extends BufferDecls, P extends ParamDecls>
  extends Kernel<N, B, P> {
  readonly gradient: GradientRule<B, P>;
}

/** Any kernel, for code that treats all of them alike. */
export type AnyKernel = Kernel<string, BufferDecls, ParamDecls>;

/** Declares a kernel that has no gradient (bookkeeping, optimiser, gradients of other kernels). */
export function defineKernel<const N extends string, const B extends BufferDecls, const P extends ParamDecls>(
  kernel: Kernel<N, B, P> & { readonly gradient?: undefined },
): Kernel<N, B, P> {
  return kernel;
}

/** Declares a kernel with a gradient rule. */
export function defineDifferentiable<
  const N extends string,
  const B extends BufferDecls,
  const P extends ParamDecls,
>(kernel: DifferentiableKernel<N, B, P>): DifferentiableKernel<N, B, P> {
  return kernel;
}

/**
 * The kernel's interface as one line, e.g. `scale: in f32 x; out f32 y; int n; float factor;`. The native table
 * carries the same line, made from the C++ declaration; the CPU backend refuses to load when they differ.
 */
export function signature(kernel: Pick<AnyKernel, "name" | "buffers" | "params">): string {
  const buffers = Object.entries(kernel.buffers).map(([name, decl]) => `${decl} ${name};`);
  const params = Object.entries(kernel.params).map(([name, kind]) => `${kind} ${name};`);
  return [`${kernel.name}:`, ...buffers, ...params].join(" ");
}

export function dtypeOf(decl: BufferDecl): DType {
  return decl.slice(decl.indexOf(" ") + 1) as DType;
}

export function accessOf(decl: BufferDecl): "in" | "out" | "inout" {
  return decl.slice(0, decl.indexOf(" ")) as "in" | "out" | "inout";
}

/** Rounds to the nearest bfloat16 (ties to even), as a number. NaN stays NaN. */
export function roundToBf16(value: number): number {
  if (Number.isNaN(value)) return value;
  scratchFloat[0] = value;
  const bits = scratchBits[0];
  scratchBits[0] = (bits + 0x7fff + ((bits >>> 16) & 1)) & 0xffff0000;
  return scratchFloat[0];
}

/** The number that a bfloat16's bits stand for. */
export function fromBf16(bits: number): number {
  scratchBits[0] = bits << 16;
  return scratchFloat[0];
}

/** The bits of the nearest bfloat16 (ties to even). */
export function toBf16(value: number): number {
  scratchFloat[0] = roundToBf16(Math.fround(value));
  return scratchBits[0] >>> 16;
}

/** The bits of all of them. (Not Uint16Array.from, which makes a list of its own first: ten times slower, and five times the memory.) */
export function toBf16s(values: Float32Array): Uint16Array<ArrayBuffer> {
  const halves = new Uint16Array(values.length);
  for (let i = 0; i < halves.length; i++) halves[i] = toBf16(values[i]);
  return halves;
}
const scratchFloat = new Float32Array(1);
const scratchBits = new Uint32Array(scratchFloat.buffer);
