// Native backends side by side in one process: of different levels, and in worker threads that compute at once. Each must
// give the bits that it gives alone.

import assert from "node:assert/strict";
import { once } from "node:events";
import { test } from "node:test";
import { Worker } from "node:worker_threads";
import type { Backend } from "../src/backends/backend.ts";
import { cpuLevels, openBackend } from "../src/backends/cpu.ts";
import { linear } from "../src/kernels/linear.ts";
import { RandomStream } from "../src/random.ts";
import type { ProductWork } from "./support/productWorker.ts";

const shape = { m: 96, n: 256, k: 200 };

function normals(length: number, seed: string): Float32Array {
  const values = new Float32Array(length);
  new RandomStream(1, seed).fillNormal(values);
  return values;
}
const x = normals(shape.m * shape.k, "x");
const w = normals(shape.n * shape.k, "w");

/** A backend with a product to compute, called directly or as a captured program. */
function productOn(backend: Backend) {
  const buffers = {
    x: backend.allocate("f32", x.length),
    w: backend.allocate("f32", w.length),
    y: backend.allocate("f32", shape.m * shape.n),
  };
  backend.write(buffers.x, x);
  backend.write(buffers.w, w);
  const call = () => backend.run(linear, buffers, { ...shape, accumulate: 0, bf16: 0 });
  const program = backend.capture(call);
  const result = async (how: () => void) => {
    backend.write(buffers.y, new Float32Array(buffers.y.length));
    how();
    return backend.read(buffers.y);
  };
  return { direct: () => result(call), captured: () => result(() => program.run()) };
}

/** A worker does not inherit what lets this process load TypeScript. */
function asTypeScript(file: string): string {
  const url = JSON.stringify(new URL(file, import.meta.url).href);
  return `import("tsx/esm/api").then(({ register }) => { register(); return import(${url}); });`;
}

const levels = cpuLevels();
const skip = levels.length === 0 && "the native addon is not built";

test("backends of different levels and numbers of threads live side by side", {
  skip: skip || (levels.length === 1 && "this machine has one level"),
}, async () => {
  const best = openBackend({ level: levels[0], threads: 2 });
  const first = productOn(best);
  const expected = await first.direct();
  const portable = openBackend({ level: "portable", threads: 1 });
  const second = productOn(portable);
  const other = await second.direct();
  assert.notDeepEqual(other, expected, "the levels differ in bits, or this test tells nothing");
  for (let round = 0; round < 3; round++) {
    assert.deepEqual(await first.direct(), expected);
    assert.deepEqual(await second.captured(), other);
    assert.deepEqual(await first.captured(), expected);
    assert.deepEqual(await second.direct(), other);
  }
  portable.close();
  assert.deepEqual(await first.direct(), expected);
  best.close();
});

test("worker threads that compute at once give the bits of one alone", { skip }, async () => {
  const alone = openBackend({ threads: 2 });
  const expected = (await productOn(alone).direct()) as Float32Array;
  alone.close();
  const start = new Int32Array(new SharedArrayBuffer(4));
  const workerData: ProductWork = { shape, x, w, expected, rounds: 1000, start };
  const workers = [0, 1].map(
    () => new Worker(asTypeScript("./support/productWorker.ts"), { eval: true, workerData }),
  );
  await Promise.all(workers.map((worker) => once(worker, "message")));
  const answers = workers.map((worker) => once(worker, "message"));
  Atomics.store(start, 0, 1);
  Atomics.notify(start, 0);
  for (const answer of answers) assert.deepEqual(await answer, [0], "no round went wrong");
  await Promise.all(workers.map((worker) => worker.terminate()));
});
