// The benchmarks: formulas against values computed by hand, turns and spreads, the plots and the page. Each runs once as a
// smoke test; nothing here asserts how long anything takes. (cli.test.ts runs the commands.)

import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, describe, test } from "node:test";
import { benchDecode } from "../src/bench/decode.ts";
import { benchKernels } from "../src/bench/kernels.ts";
import { benchLayer, type LayerBench, layerFlops } from "../src/bench/layer.ts";
import { median, ratioOf, spreadOf, takeTurns } from "../src/bench/measure.ts";
import { benchMemory } from "../src/bench/memory.ts";
import { nodePeer } from "../src/bench/peers/find.ts";
import { swigluOnnx } from "../src/bench/peers/onnx.ts";
import { PeerProcess } from "../src/bench/peers/process.ts";
import type { BenchOptions } from "../src/bench/result.ts";
import { type BenchResult, benchPage, presentBench, saveBench } from "../src/bench/save.ts";
import { benchSelect } from "../src/bench/select.ts";
import { parseSizes, seriesWidths } from "../src/bench/sizes.ts";
import { benchTrain } from "../src/bench/train.ts";
import { torchRunners } from "../src/bench/trainPeers.ts";
import { UsageError } from "../src/errors.ts";
import { resolveModelConfig } from "../src/model/config.ts";
import { countOfNeurons } from "../src/model/neurons.ts";
import { sizedConfig } from "../src/model/presets.ts";
import { decodeBytes, forwardFlops, trainingFlops } from "../src/model/work.ts";
import { rooflinePlot } from "../src/report/roofline.ts";
import { svgFile } from "../src/report/svgFile.ts";
import { holds } from "./support/holds.ts";

describe("work by formula", () => {
  // D 8, 2 heads and 1 key/value head of 4, E 4, A 2, F 6, K 3, V 10, 3 layers.
  const config = resolveModelConfig({
    vocab_size: 10,
    hidden_size: 8,
    num_hidden_layers: 3,
    num_attention_heads: 2,
    num_key_value_heads: 1,
    head_dim: 4,
    num_experts: 4,
    num_experts_per_tok: 2,
    moe_intermediate_size: 6,
    num_neurons_per_tok: 3,
  });

  test("operations of a token", () => {
    const flops = forwardFlops(config, 5);
    assert.deepEqual(flops, {
      projections: 3 * 2 * 8 * (4 + 2) * 4, // q 8 x 8, k and v 8 x 4, o 8 x 8
      attention: 3 * 4 * 8 * 3, // positions 1 to 5: 3 on average
      router: 3 * 2 * 8 * 4,
      experts: 3 * 2 * 6 * 8 * 6,
      keptExperts: 3 * 2 * 2 * 8 * (6 + 2 * 3),
      head: 2 * 8 * 10,
      total: 1152 + 288 + 192 + 1728 + 160,
    });
    assert.equal(trainingFlops(config, 5), 3 * 3520);
    // A window of 2 over 5 tokens: 1, 2, 2, 2, 2.
    holds(Math.abs(forwardFlops({ ...config, sliding_window: 2 }, 5).attention - 3 * 4 * 8 * (9 / 5)) < 1e-9);
  });

  test("dense layers and shared experts have all their neurons", () => {
    const dense = forwardFlops({ ...config, mlp_only_layers: [0], intermediate_size: 7 }, 5);
    assert.equal(dense.experts, 6 * 8 * 7 + 2 * 2 * 6 * 8 * 6);
    assert.equal(dense.keptExperts, 6 * 8 * 7 + 2 * 2 * 2 * 8 * 12);
    assert.equal(dense.router, 2 * 2 * 8 * 4);
    const shared = forwardFlops({ ...config, shared_expert_intermediate_size: 5 }, 5);
    assert.equal(shared.experts, 1728 + 3 * 6 * 8 * 5);
  });

  test("bytes of a decoded token", () => {
    assert.deepEqual(decodeBytes(config, "bf16"), {
      attention: 3 * 2 * (64 + 32 + 32 + 64),
      router: 3 * 4 * 32,
      experts: 3 * 2 * 2 * 8 * (6 + 6),
      head: 2 * 80,
      total: 1152 + 384 + 1152 + 160,
    });
    // With a scale of 4 bytes for each row: 8 + 4 + 4 + 8 of attention, 12 of an expert, 10 of the head.
    const int8 = decodeBytes(config, "int8");
    assert.equal(int8.attention, 3 * (192 + 4 * 24));
    assert.equal(int8.experts, 3 * 2 * 12 * (8 + 4));
    assert.equal(int8.head, 10 * (8 + 4));
  });

  test("the large model reads 384 MiB of bf16 a token besides head and router, 240 MiB with K = F / 4", () => {
    const mebibytes = (kept: number) => {
      const large = resolveModelConfig({ ...sizedConfig(1024), num_neurons_per_tok: kept });
      const { attention, experts } = decodeBytes(large, "bf16");
      return (attention + experts) / 2 ** 20;
    };
    assert.equal(mebibytes(1024), 384);
    assert.equal(mebibytes(256), 240);
  });

  test("a layer", () => {
    const shape = { width: 8, neurons: 6, experts: 4, active: 2, tokens: 5, kept: 3 };
    assert.equal(layerFlops(shape), 5 * (2 * 8 * 4 + 2 * 3 * 2 * 8 * 6));
  });
});

describe("measuring", () => {
  test("medians, spreads, ratios of the same round", () => {
    assert.equal(median([3, 1, 2]), 2);
    assert.equal(median([4, 1, 2, 3]), 2.5);
    assert.deepEqual(spreadOf([5, 1, 3]), { median: 3, min: 1, max: 5 });
    // A slow round is slow for both, and its ratio is as that of the others.
    assert.deepEqual(ratioOf([2, 20, 4], [1, 10, 2]), { median: 2, min: 2, max: 2 });
  });

  test("contenders take turns, round by round", async () => {
    const order: string[] = [];
    const contender = (name: string) => ({ name, run: async () => order.push(name) });
    const results = await takeTurns([contender("A"), contender("B")], { rounds: 3 });
    assert.deepEqual(order, ["A", "B", "A", "B", "A", "B"]);
    assert.deepEqual(results, [
      [1, 3, 5],
      [2, 4, 6],
    ]);
  });

  test("an interruption ends them", async () => {
    const controller = new AbortController();
    const contender = { name: "A", run: async () => controller.abort(new Error("enough")) };
    await assert.rejects(takeTurns([contender], { rounds: 2, signal: controller.signal }), /enough/);
  });
});

test("sizes and K as users say them", () => {
  assert.deepEqual(parseSizes(["small", "192"]), [
    { name: "small", width: 256 },
    { name: "D 192", width: 192 },
  ]);
  assert.deepEqual(
    parseSizes(["all"]).map(({ width }) => width),
    [...seriesWidths],
  );
  holds(seriesWidths.length >= 6);
  assert.throws(() => parseSizes(["smal"]), /did you mean "small"/);
  assert.throws(() => parseSizes(["100"]), UsageError);
  assert.equal(countOfNeurons(0.25, 256), 64);
  assert.equal(countOfNeurons(64, 256), 64);
  for (const wrong of [0, 257, 1.5, -0.25, Number.NaN])
    assert.throws(() => countOfNeurons(wrong, 256), UsageError);
});

/** Every tag is closed, and no number is missing. */
function assertSound(svg: string): void {
  assert.doesNotMatch(svg, /NaN|undefined|Infinity/);
  const open: string[] = [];
  for (const [, close, name, self] of svg.matchAll(/<(\/?)([a-z]+)[^>]*?(\/?)>/g)) {
    if (close) assert.equal(open.pop(), name);
    else if (!self) open.push(name);
  }
  assert.deepEqual(open, []);
}

describe("roofline", () => {
  const points = Array.from({ length: 40 }, (_, i) => ({
    name: `kernel number ${i}`,
    intensity: 20 + (i % 7) * 4,
    gigaflops: 100 + (i % 5) * 30 + i,
    colour: i % 2,
  }));
  const plot = rooflinePlot({
    title: "Roofs & kernels",
    gigabytes: 20,
    roofs: [
      { name: "f32", gigaflops: 220 },
      { name: "bf16", gigaflops: 900 },
    ],
    points,
  });

  test("is well-formed, on a page and as a file", () => {
    assertSound(plot);
    const file = svgFile(plot);
    assert.match(file, /^<\?xml[^>]*>\n<svg xmlns=/);
    assert.match(file, /<style>[^<]*\.dot/);
  });

  test("names every point, and no name lies on another", () => {
    const names = [
      ...plot.matchAll(
        /<text class="name c\d"[^>]* x="([\d.-]+)" y="([\d.-]+)">(kernel number \d+)<\/text>/g,
      ),
    ].map(([, x, y, name]) => ({ x: Number(x), y: Number(y), width: 6.6 * name.length }));
    assert.equal(names.length, 40);
    for (const [i, a] of names.entries()) {
      assert.ok(a.x >= 0 && a.x + a.width <= 900, "inside the drawing");
      for (const b of names.slice(i + 1)) {
        const apart = a.x + a.width <= b.x + 0.1 || b.x + b.width <= a.x + 0.1 || Math.abs(a.y - b.y) >= 13.9;
        assert.ok(apart, `${JSON.stringify(a)} lies on ${JSON.stringify(b)}`);
      }
    }
  });
});

describe("peers", () => {
  test("that are missing are told of in one line, with what to install", () => {
    const missing = nodePeer("some engine", "no-such-package", "onnx_expert.mjs", {});
    holds("reason" in missing);
    assert.match(missing.reason, /npm install no-such-package .* MONE_PEERS/);
  });

  const program = (code: string) => ({ name: "a peer", command: process.execPath, args: ["-e", code] });

  test("answer what they are asked", async () => {
    const peer = await PeerProcess.start(
      program(`console.log("words"); console.log('MONE {"ready":true,"version":"9"}');
        process.stdin.on("data", (line) => console.log("MONE " + JSON.stringify({ seconds: [JSON.parse(line).n] })));`),
    );
    assert.equal(peer.about.version, "9");
    assert.deepEqual(await peer.seconds({ n: 3 }), [3]);
    assert.deepEqual(await peer.seconds({ n: 4 }), [4]);
    peer.close();
  });

  test("that fail say why", async () => {
    await assert.rejects(
      PeerProcess.start(program(`console.error("no such device"); process.exit(3)`)),
      /a peer ended with status 3: no such device/,
    );
    await assert.rejects(
      PeerProcess.start({ name: "a peer", command: "no-such-command", args: [] }),
      /a peer cannot be started/,
    );
    await assert.rejects(
      PeerProcess.start(program(`process.kill(process.pid, "SIGKILL")`)),
      /a peer was ended by SIGKILL, as a system does that runs out of memory/,
    );
  });

  /** Instead of Python: says its number as the time of each step, and is no longer there once it is closed. */
  const pythonLike = `#!${process.execPath}
if (process.argv[2] === "-c") process.exit(0);
console.log('MONE {"ready":true,"version":"torch of a test"}');
process.stdin.on("data", (line) =>
  console.log("MONE " + JSON.stringify({ seconds: Array(JSON.parse(line).steps).fill(process.pid), peakBytes: 7 })));
`;

  for (const [memory, stays] of [
    [1e12, true],
    [1, false],
  ] as const) {
    test(`of a training step ${stays ? "stay while memory holds all" : "are started for each turn where memory does not hold all"}`, async () => {
      const folder = mkdtempSync(join(tmpdir(), "mone-peers-"));
      const python = join(folder, "python");
      writeFileSync(python, pythonLike, { mode: 0o755 });
      const before = process.env.MONE_PYTHON;
      process.env.MONE_PYTHON = python;
      try {
        const runners = await torchRunners({
          size: parseSizes(["32"])[0],
          arms: [{ arm: "MoE", kept: 32 }],
          seq: 8,
          batch: 2,
          tokens: "no file",
          threads: 1,
          memory,
          own: 0,
          miss: ({ reason }) => assert.fail(reason),
        });
        assert.deepEqual(
          runners.map(({ row }) => [row.arm, row.dtype, row.version]),
          [
            ["MoE", "f32", "torch of a test"],
            ["MoE", "bf16", "torch of a test"],
          ],
        );
        const alive = (id: number) => {
          try {
            return process.kill(id, 0);
          } catch {
            return false;
          }
        };
        const ids: number[] = [];
        for (const _ of [1, 2]) {
          const seconds = await runners[0].steps(3);
          assert.equal(seconds.length, 3);
          assert.equal(alive(seconds[0]), stays);
          ids.push(seconds[0]);
        }
        assert.equal(ids[0] === ids[1], stays);
        assert.equal(await runners[0].peakBytes(), 7);
        for (const runner of runners) runner.close();
      } finally {
        if (before === undefined) delete process.env.MONE_PYTHON;
        else process.env.MONE_PYTHON = before;
        rmSync(folder, { recursive: true });
      }
    });
  }

  test("the ONNX model of an expert is made of the operators it needs", () => {
    const bytes = Buffer.from(swigluOnnx({ width: 300, neurons: 8, tokens: 2 }));
    for (const word of ["MatMul", "Sigmoid", "Mul", "swiglu"]) assert.ok(bytes.includes(word), word);
    assert.deepEqual([...bytes.subarray(0, 2)], [8, 8]); // field 1, IR version 8
    holds(bytes.includes(Buffer.from([8, 172, 2]))); // a dimension of 300
  });
});

describe("smoke tests", () => {
  const folder = mkdtempSync(join(tmpdir(), "mone-bench-test-"));
  after(() => rmSync(folder, { recursive: true, force: true }));
  const results: BenchResult[] = [];
  const options: BenchOptions = { quick: true, threads: 2, command: "mone bench <test>" };
  const benches: [BenchResult["bench"], () => Promise<BenchResult>][] = [
    ["kernels", () => benchKernels(options)],
    ["layer", () => benchLayer(options)],
    ["select", () => benchSelect(options)],
    ["train", () => benchTrain({ ...options, sizes: ["tiny", "32"], profile: true })],
    ["decode", () => benchDecode(options)],
    ["memory", () => benchMemory(options)],
  ];
  for (const [name, run] of benches) {
    test(name, async () => {
      const result = await run();
      results.push(result);
      assert.equal(result.bench, name);
      assert.equal(result.quick, true);
      assert.equal(result.threads, 2);
      holds(result.machine.cores > 0 && result.machine.memoryBytes > 0);
      assert.match(result.date, /^\d{4}-/);
      holds(result.limits && result.limits.readGigabytes.all > 0 && result.limits.gigaflops.bf16.one > 0);
      const { figures, wideFigures = [], tables } = presentBench(result);
      holds(tables.length > 0 && tables[0].rows.length > 0);
      for (const { svg } of [...figures, ...wideFigures]) assertSound(svg);
      const page = await saveBench(folder, result);
      assert.match(readFileSync(page, "utf8"), /its figures mean nothing/);
      assert.deepEqual(JSON.parse(readFileSync(join(folder, `${name}.json`), "utf8")), result);
    });
  }

  test("experts from memory: bytes by K, and K = F the reference", () => {
    const { stored } = results.find(({ bench }) => bench === "layer") as LayerBench;
    assert.deepEqual(
      stored.map(({ dtype, kept, bytes }) => [dtype, kept, bytes]),
      [
        ["bf16", 32, 2 * 3 * 32 * 32 * 2],
        ["bf16", 16, 2 * 2 * 32 * 32 * 2],
        ["bf16", 8, 2 * 1.5 * 32 * 32 * 2],
        ["bf16", 4, 2 * 1.25 * 32 * 32 * 2],
        ["int8", 32, 2 * 3 * 32 * 36],
        ["int8", 16, 2 * 2 * 32 * 36],
        ["int8", 8, 2 * 1.5 * 32 * 36],
        ["int8", 4, 2 * 1.25 * 32 * 36],
      ],
    );
    for (const { kept, neurons, speedup } of stored)
      if (kept === neurons) assert.deepEqual(speedup, { median: 1, min: 1, max: 1 });
  });

  test("all stand on one page, which needs nothing else", () => {
    const page = readFileSync(join(folder, "index.html"), "utf8");
    assert.equal(
      page,
      benchPage(
        ["train", "decode", "layer", "select", "kernels", "memory"].map(
          (name) => results.find(({ bench }) => bench === name) as BenchResult,
        ),
      ),
    );
    assert.equal(page.match(/<section /g)?.length, 6);
    assert.doesNotMatch(page, /NaN|undefined|src=|https?:/);
    holds(page.includes("mone bench &lt;test&gt;"));
    holds(readdirSync(folder).includes("kernels-roofline.svg"));
  });

  test("the profile of a step accounts for it", () => {
    const train = results.find((result) => result.bench === "train");
    holds(train?.bench === "train");
    const [first] = train.cases;
    assert.deepEqual(
      first.profiles.map(({ arm }) => arm),
      ["MoE", "MoNE"],
    );
    const phases = first.profiles[1].rows.map(({ phase, pass }) => `${phase} ${pass}`);
    for (const expected of [
      "experts forward",
      "experts backward",
      "selection forward",
      "optimiser update",
      "data -",
    ]) {
      assert.ok(phases.includes(expected), expected);
    }
  });
});
