// Philox against the known answers of its authors' library (Random123 1.14, kat_vectors, philox4x32-10).

import assert from "node:assert/strict";
import { test } from "node:test";
import { philox, RandomStream } from "../src/random.ts";
import { holds } from "./support/holds.ts";

test("philox4x32-10 known answers", () => {
  const ones = 0xffffffff;
  assert.deepEqual(philox([0, 0, 0, 0], [0, 0]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
  assert.deepEqual(
    philox([ones, ones, ones, ones], [ones, ones]),
    [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd],
  );
  assert.deepEqual(
    philox([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0]),
    [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
  );
});

test("streams: uniform, normal, and independent of each other", () => {
  const stream = new RandomStream(7, "a");
  const n = 20000;
  let mean = 0;
  for (let i = 0; i < n; i++) {
    const u = stream.uniform(i);
    holds(u >= 0 && u < 1);
    mean += u / n;
  }
  holds(Math.abs(mean - 0.5) < 0.01);
  const normals = new Float32Array(n + 1);
  stream.fillNormal(normals, 2);
  const variance = normals.reduce((sum, x) => sum + x * x, 0) / normals.length;
  holds(Math.abs(variance - 4) < 0.2);
  assert.notDeepEqual(new RandomStream(7, "b").words(0), stream.words(0));
  assert.notDeepEqual(new RandomStream(8, "a").words(0), stream.words(0));
});
