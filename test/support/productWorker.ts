// A thread of JavaScript that computes the same product again and again: see test/backends.test.ts. It says "ready", waits
// until `start` is set, and posts in how many rounds the result was not the expected one to the last bit.

import { parentPort, workerData } from "node:worker_threads";
import { openBackend } from "../../src/backends/cpu.ts";
import { linear } from "../../src/kernels/linear.ts";

export interface ProductWork {
  readonly shape: { readonly m: number; readonly n: number; readonly k: number };
  readonly x: Float32Array;
  readonly w: Float32Array;
  readonly expected: Float32Array;
  readonly rounds: number;
  readonly start: Int32Array;
}

const { shape, x, w, expected, rounds, start } = workerData as ProductWork;
const backend = openBackend({ threads: 2 });
const [xs, ws, ys] = [x, w, expected].map(({ length }) => backend.allocate("f32", length));
backend.write(xs, x);
backend.write(ws, w);
parentPort!.postMessage("ready");
Atomics.wait(start, 0, 0);
let wrong = 0;
for (let round = 0; round < rounds; round++) {
  backend.run(linear, { x: xs, w: ws, y: ys }, { ...shape, accumulate: 0, bf16: 0 });
  const y = await backend.read(ys);
  if (y.some((value, i) => value !== expected[i])) wrong++;
}
backend.close();
parentPort!.postMessage(wrong);
