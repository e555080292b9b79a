// Turns the samples of the catalogue into arrays: the shared ground of the parity test, the gradient check and the
// benchmark. Not here: the samples themselves (each kernel declares its own), and backends.

import { RandomStream } from "../random.ts";
import { catalogue } from "./catalogue.ts";
import {
  type AnyKernel,
  type ArrayOf,
  accessOf,
  arrayTypes,
  type DType,
  dtypeOf,
  type Sample,
  toBf16,
} from "./kernel.ts";

export type Arrays = Record<string, ArrayOf<DType> | Float64Array>;

/** All kernels, with their types forgotten: generic code treats them alike. */
export const allKernels = Object.values(catalogue) as unknown as AnyKernel[];

export type AnySample = Sample<AnyKernel["buffers"], AnyKernel["params"]>;

/**
 * Fresh arrays for one sample: given inputs, normal numbers for other float inputs, whole numbers for stored bytes, 7.5
 * in pure outputs.
 */
export function makeArrays(kernel: AnyKernel, sample: AnySample, precision: "f32" | "f64"): Arrays {
  const sizes = kernel.sizes(sample.params);
  const arrays: Arrays = {};
  const inputs = typeof sample.inputs === "function" ? sample.inputs() : sample.inputs;
  for (const [name, decl] of Object.entries(kernel.buffers)) {
    const dtype = dtypeOf(decl);
    const array =
      dtype === "f32" && precision === "f64"
        ? new Float64Array(sizes[name])
        : new arrayTypes[dtype](sizes[name]);
    const given = inputs?.[name];
    if (given) {
      if (given.length !== sizes[name])
        throw new Error(
          `${kernel.name}, ${sample.name}: ${name} has ${given.length} values, needs ${sizes[name]}`,
        );
      for (let i = 0; i < given.length; i++) array[i] = given[i];
      // Both precisions must start from the same numbers.
      if (array instanceof Float64Array) array.set(Float32Array.from(array));
    } else if (accessOf(decl) === "out") {
      if (dtype === "f32") array.fill(7.5);
    } else if (dtype === "u32") {
      if (accessOf(decl) === "in")
        throw new Error(`${kernel.name}, ${sample.name}: integer input ${name} must be given`);
    } else {
      const normals = new Float32Array(sizes[name]);
      new RandomStream(1, `${kernel.name}/${name}`).fillNormal(normals);
      if (dtype === "bf16") array.set(normals.map(toBf16));
      else if (dtype === "i8")
        array.set(normals.map((x) => Math.max(-127, Math.min(127, Math.round(40 * x)))));
      else array.set(normals);
    }
    arrays[name] = array;
  }
  return arrays;
}
