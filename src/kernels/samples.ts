// Turns the samples of the catalogue into arrays: the shared ground of the parity test, the gradient check and the
// benchmark. Not here: the samples themselves (each kernel declares its own), and backends.

import { RandomStream } from "../random.ts";
import { catalogue } from "./catalogue.ts";
import { type AnyKernel, accessOf, dtypeOf, type Sample } from "./kernel.ts";

export type Arrays = Record<string, Float32Array | Float64Array | Uint32Array>;

/** All kernels, with their types forgotten: generic code treats them alike. */
export const allKernels = Object.values(catalogue) as unknown as AnyKernel[];

export type AnySample = Sample<AnyKernel["buffers"], AnyKernel["params"]>;

/** Fresh arrays for one sample: given inputs, normal numbers for other float inputs, 7.5 in pure outputs. */
export function makeArrays(kernel: AnyKernel, sample: AnySample, precision: "f32" | "f64"): Arrays {
  const sizes = kernel.sizes(sample.params);
  const arrays: Arrays = {};
  const inputs = typeof sample.inputs === "function" ? sample.inputs() : sample.inputs;
  for (const [name, decl] of Object.entries(kernel.buffers)) {
    const FloatType = precision === "f32" ? Float32Array : Float64Array;
    const array = dtypeOf(decl) === "u32" ? new Uint32Array(sizes[name]) : new FloatType(sizes[name]);
    const given = inputs?.[name];
    if (given) {
      if (given.length !== sizes[name])
        throw new Error(
          `${kernel.name}, ${sample.name}: ${name} has ${given.length} values, needs ${sizes[name]}`,
        );
      for (let i = 0; i < given.length; i++) array[i] = given[i];
      // Both precisions must start from the same numbers.
      if (array instanceof Float64Array) array.set(Float32Array.from(array));
    } else if (array instanceof Uint32Array) {
      if (accessOf(decl) === "in")
        throw new Error(`${kernel.name}, ${sample.name}: integer input ${name} must be given`);
    } else if (accessOf(decl) === "out") {
      array.fill(7.5);
    } else {
      const normals = new Float32Array(sizes[name]);
      new RandomStream(1, `${kernel.name}/${name}`).fillNormal(normals);
      array.set(normals);
    }
    arrays[name] = array;
  }
  return arrays;
}
