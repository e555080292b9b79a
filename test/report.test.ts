// The report: number formats, tables in four forms, plots, and the page of a comparison, made from invented runs.
// Not here: what the page looks like. With REPORT_PAGE=/some/page.html the invented page is written there to be looked at.

import assert from "node:assert/strict";
import { writeFile } from "node:fs/promises";
import { describe, test } from "node:test";
import { UsageError } from "../src/errors.ts";
import { RandomStream } from "../src/random.ts";
import {
  type ArmResult,
  type Comparison,
  comparisonInWords,
  comparisonTable,
} from "../src/report/comparison.ts";
import { comparisonPage } from "../src/report/comparisonPage.ts";
import {
  formatBytes,
  formatCount,
  formatDuration,
  formatFixed,
  formatPercent,
  formatTokensPerSecond,
} from "../src/report/format.ts";
import { type Block, renderPage } from "../src/report/page.ts";
import { barPlot, linePlot } from "../src/report/plot.ts";
import { renderCsv, renderHtml, renderMarkdown, renderText, type Table } from "../src/report/table.ts";

test("numbers are formatted for people", () => {
  const counts = [0, 950, 999.6, 1230, 12_340_000, 999_960, 1.75e9, 2e15, -4200, Number.NaN];
  assert.deepEqual(counts.map(formatCount), [
    "0",
    "950",
    "1.00 k",
    "1.23 k",
    "12.3 M",
    "1.00 M",
    "1.75 B",
    "2000 T",
    "-4.20 k",
    "n/a",
  ]);
  assert.equal(formatTokensPerSecond(12_340), "12.3 k tok/s");
  assert.equal(formatTokensPerSecond(87), "87 tok/s");
  assert.deepEqual([512, 1023, 1024, 12.3 * 2 ** 20].map(formatBytes), [
    "512 B",
    "1023 B",
    "1.00 KiB",
    "12.3 MiB",
  ]);
  const durations = [
    0.42,
    0.9999,
    4.25,
    42,
    59.7,
    125,
    3599.8,
    3725,
    86_399,
    273_600,
    Number.POSITIVE_INFINITY,
  ];
  assert.deepEqual(durations.map(formatDuration), [
    "420 ms",
    "1.0 s",
    "4.3 s",
    "42 s",
    "1 min 00 s",
    "2 min 05 s",
    "1 h 00 min",
    "1 h 02 min",
    "1 d 00 h",
    "3 d 04 h",
    "n/a",
  ]);
  assert.equal(formatPercent(0.4166), "41.7 %");
  assert.equal(formatPercent(-0.00001), "0.0 %");
  assert.equal(formatFixed(1.23456, 2), "1.23");
});

describe("tables", () => {
  const table: Table = {
    title: 'Arms & "more"',
    columns: [
      { key: "name", label: "Arm", align: "left" },
      {
        key: "loss",
        label: "Loss",
        align: "right",
        format: (v) => v.toFixed(2),
        note: "In nats; <lower> is better.",
      },
      { key: "size", label: "Parameters", align: "right" },
    ],
    rows: [
      { name: "MoE, plain", loss: 3.14592, size: 12_340_000 },
      { name: "a|b <c>", loss: 10, size: undefined },
    ],
  };

  test("as text, in columns", () => {
    assert.equal(
      renderText(table),
      [
        'Arms & "more"',
        "",
        "Arm          Loss  Parameters",
        "----------  -----  ----------",
        "MoE, plain   3.15      12.3 M",
        "a|b <c>     10.00           -",
        "",
        "Loss: In nats; <lower> is better.",
      ].join("\n"),
    );
  });

  test("as text, turned and in blocks where the width is short", () => {
    assert.equal(
      renderText(table, { width: 22 }),
      [
        'Arms & "more"',
        "",
        "Arm         MoE, plain",
        "----------  ----------",
        "Loss              3.15",
        "Parameters      12.3 M",
        "",
        "Arm         a|b <c>",
        "----------  -------",
        "Loss          10.00",
        "Parameters        -",
        "",
        "Loss: In nats; <lower>",
        "  is better.",
      ].join("\n"),
    );
    const wide = {
      columns: ["a", "b", "c", "d"].map((key) => ({ key, label: key, align: "left" as const })),
      rows: [],
    };
    const rows = ["1", "2", "3"].map((digit) => ({ a: digit, b: digit, c: digit, d: digit }));
    assert.equal(
      renderText({ ...wide, rows }, { width: 9 }).split("\n")[0],
      "a  1  2",
      "two rows side by side",
    );
  });

  test("as Markdown", () => {
    assert.equal(
      renderMarkdown(table),
      [
        '**Arms & "more"**',
        "",
        "| Arm | Loss | Parameters |",
        "| :--- | ---: | ---: |",
        "| MoE, plain | 3.15 | 12.3 M |",
        "| a\\|b \\<c\\> | 10.00 | - |",
        "",
        "* Loss: In nats; \\<lower\\> is better.",
      ].join("\n"),
    );
  });

  test("as CSV, with raw numbers", () => {
    assert.equal(renderCsv(table), 'name,loss,size\n"MoE, plain",3.14592,12340000\na|b <c>,10,\n');
  });

  test("as HTML, escaped", () => {
    const html = renderHtml(table);
    assertHas(html, "<caption>Arms &amp; &quot;more&quot;</caption>");
    assertHas(html, '<th scope="row">a|b &lt;c&gt;</th><td class="number">10.00</td>');
    assertHas(html, "<dd>In nats; &lt;lower&gt; is better.</dd>");
    assert.equal(count(html, "<tr>"), 3);
  });

  test("without rows", () => {
    const empty = { ...table, title: undefined, rows: [] };
    assert.equal(renderText(empty).split("\n")[0], "Arm  Loss  Parameters");
    assert.equal(count(renderText(empty, { width: 5 }), "Parameters"), 1);
    assert.equal(renderCsv(empty), "name,loss,size\n");
  });
});

describe("plots", () => {
  const frame = { title: "Loss <1>", x: { label: "step" }, y: { label: "loss" } };

  test("a line a series, a dot a point, a band, a legend entry a name", () => {
    const svg = linePlot({
      ...frame,
      series: [
        { name: "one", points: curve(1, 2, 4), band: [0, 1, Number.NaN, 3, 4].map((x) => [x, 1, 2]) },
        { name: "one", points: curve(1, 3), line: "none", dots: true },
        { name: "two", points: curve(3, 2), line: "dashed" },
      ],
    });
    assertDrawn(svg);
    assert.equal(count(svg, '<path class="line solid c0"'), 1);
    assert.equal(count(svg, '<path class="line dashed c1"'), 1);
    assert.equal(count(svg, '<path class="band c0"'), 1);
    assert.equal(count(pathOf(svg, "band c0"), "M"), 2, "the band has a gap");
    assert.equal(count(svg, "<circle"), 2 + 1, "two points and the legend");
    assert.equal(count(svg, "<g transform"), 2, "legend");
    assertHas(svg, 'role="img"');
    assertHas(svg, "<title>Loss &lt;1&gt;</title><desc>Line plot of loss against step. one: 5 values");
  });

  test("gaps split the line, and a lone point becomes a dot", () => {
    const points = curve(1, 2, Number.NaN, 3, Number.POSITIVE_INFINITY, 1, 2);
    const svg = linePlot({ ...frame, series: [{ name: "one", points }] });
    assertDrawn(svg);
    assert.equal(count(pathOf(svg, "line solid c0"), "M"), 3);
    assert.equal(count(svg, "<circle"), 1);
  });

  test("nothing, one point, equal values, and values outside a logarithmic axis", () => {
    for (const series of [[], [{ name: "one", points: [] }]]) {
      const svg = linePlot({ ...frame, series });
      assertDrawn(svg);
      assertHas(svg, "no data");
    }
    for (const points of [curve(Number.NaN, 7), curve(5, 7, -2)]) {
      const axes = { x: { label: "x", log: true }, y: { label: "y", log: true } };
      const svg = linePlot({ ...frame, ...axes, series: [{ name: "one", points }] });
      assertDrawn(svg);
      assert.equal(count(svg, "<circle"), 1);
      assert.deepEqual(yLabels(svg), ["5", "10"], "room around 7");
    }
    const flat = linePlot({ ...frame, series: [{ name: "flat", points: curve(0, 0) }] });
    assertDrawn(flat);
    assert.deepEqual(yLabels(flat), ["0", "1"]);
  });

  test("ticks stay few and distinct over any range", () => {
    const small = [curve(0, 1), curve(1e-9, 3e-9), curve(3.2101, 3.2109), curve(5, 7), curve(0.025, 95)];
    const large = [curve(-1e12, 1e12), curve(0, 123_456), curve(1e-3, 1e30)];
    for (const points of [...small, ...large]) {
      for (const log of points[0][1] > 0 ? [false, true] : [false]) {
        const svg = linePlot({ ...frame, y: { label: "y", log }, series: [{ name: "one", points }] });
        assertDrawn(svg);
        const labels = yLabels(svg);
        assert.ok(labels.length >= 2 && labels.length <= 12, `${points}, log ${log}: ${labels}`);
        assert.equal(new Set(labels).size, labels.length, `${labels}`);
      }
    }
  });

  test("ticks of whole numbers are whole", () => {
    const svg = linePlot({ ...frame, series: [{ name: "one", points: curve(0.5, 0.6, 0.1) }] });
    assert.deepEqual(xLabels(svg), ["0", "1", "2"]);
  });

  test("text stays inside the drawing", () => {
    const words = "a long name of an arm that says a great deal about itself".repeat(3);
    for (const width of [160, 440]) {
      const svg = linePlot({
        title: words,
        x: { label: words },
        y: { label: words },
        width,
        series: [0, 1, 2, 3].map((i) => ({ name: `${i} ${words}`, points: curve(i, 1e6) })),
      });
      for (const [, attributes, text] of svg.matchAll(/<text([^>]*)>([^<]*)</g)) {
        const x = Number(/x="([^"]*)"/.exec(attributes)?.[1]);
        const length = text.length * 6.5;
        const share = attributes.includes("end") ? 1 : attributes.includes("middle") ? 0.5 : 0;
        const start = x - share * length;
        assert.ok(start >= -1 && start + length <= width + 1, `${text} from ${start} to ${start + length}`);
      }
    }
  });

  test("bars, one for every interval, never upside down", () => {
    const bars = [4, 0, 100, 1].map((value, i) => ({ from: i, to: i + 1, value }));
    for (const log of [false, true]) {
      const svg = barPlot({
        ...frame,
        y: { label: "share", log },
        bars,
        references: [{ axis: "x", at: 1, label: "uniform" }],
      });
      assertDrawn(svg);
      assert.equal(count(svg, '<rect class="bar c0"'), log ? 3 : 4, "0 has no place on a logarithmic axis");
      assertLacks(svg, /(width|height)="-/);
      assert.equal(count(svg, ">uniform<"), 1, "legend");
    }
    assertDrawn(barPlot({ ...frame, y: { label: "share", log: true }, bars: [] }));
  });

  test("bars of small multiples stand on the axis, logarithmic or not", () => {
    const y = { label: "share", log: true, include: [0.01, 100] };
    const svg = barPlot({ ...frame, y, bars: [{ from: 0, to: 1, value: 7 }] });
    const [, top, height] = /<rect[^>]* y="([^"]*)"[^>]* height="([^"]*)"/.exec(svg) ?? [];
    const axis = /<line class="axis"[^>]* y1="([^"]*)"/.exec(svg)?.[1];
    assert.ok(Math.abs(Number(top) + Number(height) - Number(axis)) < 0.2, `${top} + ${height}, ${axis}`);
  });
});

describe("page", () => {
  test("every text is escaped", () => {
    const evil = "<script>\"'&";
    const table: Table = {
      title: evil,
      columns: [{ key: "a", label: evil, align: "left", note: evil }],
      rows: [{ a: evil }],
    };
    const names = [evil, `2${evil}`];
    const series = names.map((name) => ({ name, points: curve(1) }));
    const svg = linePlot({ title: evil, x: { label: evil }, y: { label: evil }, series });
    const blocks: Block[] = [
      { kind: "prose", paragraphs: [evil], lead: true },
      { kind: "table", table },
      { kind: "figures", caption: evil, figures: [{ caption: evil, svg }] },
      { kind: "sample", title: evil, prompt: evil, text: evil },
      { kind: "code", title: evil, text: evil },
      { kind: "facts", facts: { [evil]: evil } },
    ];
    const sections = [{ heading: evil, blocks }];
    const html = renderPage({ title: evil, subtitle: evil, generatedAt: evil, sections });
    assertLacks(html, /<script/);
    assert.equal(count(html, "&lt;script&gt;&quot;&#39;&amp;"), 34, "each place where a text may stand");
    assertWellFormed(html);
  });
});

describe("comparison", () => {
  const comparison = inventedComparison();

  test("the table states both readings of activated", () => {
    const { rows } = comparisonTable(comparison);
    const mone = rows[1];
    assert.equal(rows.length, 3);
    assert.equal(mone.expert_share, 0.5);
    assert.equal(mone.expert_share_without_gate, 0.25);
    const { activated, activatedExpertsWithGate } = comparison.arms[1].parameters;
    assert.equal(mone.activated_without_gate, activated - activatedExpertsWithGate / 2);
    assert.equal(rows[0].neuron_entropy, undefined);
    assert.equal(typeof mone.neuron_entropy, "number");
  });

  test("the sentence has the sign right and does not claim too much", () => {
    const words = comparisonInWords(comparison);
    assert.match(
      words,
      /^MoE reaches a validation loss of 3\.2260 nats after 19\.7 M tokens; MoNE K = 64 ends 0\.0140 nats lower and MoE top-2 ends 0\.0710 nats higher\./,
    );
    assert.match(words, /One seed per arm decides nothing/);
    const alone = comparisonInWords({ ...comparison, arms: comparison.arms.slice(0, 1) });
    assert.equal(alone, "MoE reaches a validation loss of 3.2260 nats after 19.7 M tokens.");
    assert.throws(() => comparisonInWords({ ...comparison, arms: [] }), UsageError);
  });

  test("the page has every section, every mark and no request", async () => {
    const html = comparisonPage(comparison);
    if (process.env.REPORT_PAGE) await writeFile(process.env.REPORT_PAGE, html);
    const headings = [...html.matchAll(/<h2>([^<]*)</g)].map((match) => match[1]);
    assert.deepEqual(headings, [
      "Result",
      "Loss",
      "Loss for the cost",
      "Balance during training",
      "Neuron use, layer by layer",
      "Expert use",
      "Samples",
      "How to read &quot;activated&quot;",
      "Configuration",
    ]);
    assertWellFormed(html);
    assertLacks(html, /NaN|Infinity|undefined/);
    assertLacks(html, /(src|href)\s*=\s*["']?\s*(https?:|\/\/)|url\(|@import|<script/i);
    assert.equal(count(html, "<svg"), 2 + 2 + 2 + 8 + 2);
    assert.equal(count(html, "<blockquote>"), 3);
    assert.equal(count(html, '<rect class="bar c1"'), 4 * 12 + 4 * 24, "in the colour of their arm");
    assert.ok(html.length < 300_000, `${html.length} characters`);
    for (const text of [
      "Once upon a time",
      "mone compare --preset small",
      "K\u00a0=\u00a0F/4",
      "mone-small",
    ]) {
      assertHas(html, text);
    }
  });

  test("layers are drawn on the same axes", () => {
    const panels = comparisonPage(comparison)
      .split("<svg")
      .filter((svg) => svg.includes("<title>Layer"));
    assert.equal(panels.length, 8);
    for (const panel of panels) {
      assert.deepEqual([xLabels(panel), yLabels(panel)], [xLabels(panels[0]), yLabels(panels[0])]);
    }
  });

  test("the training loss is smoothed, and drawn at a few hundred places", () => {
    const enlarged = comparisonPage(comparison).split("<svg")[2];
    const heights = [...pathOf(enlarged, "line solid c0").matchAll(/,([\d.]+)/g)].map((match) =>
      Number(match[1]),
    );
    assert.ok(heights.length > 200 && heights.length <= 340, `${heights.length} places`);
    const jumps = heights.slice(1).map((height, index) => Math.abs(height - heights[index]));
    assert.ok(Math.max(...jumps) < 20, `a jump of ${Math.max(...jumps)} in a plot 210 high`);
  });

  test("a page without neurons to choose from, without balance and with a diverged arm", () => {
    const [moe] = comparison.arms;
    const training = [1, 2, 3].map((step) => ({ step, tokens: step, loss: Number.NaN, tokensPerSecond: 1 }));
    const final = { loss: Number.NaN, bitsPerByte: Number.NaN };
    const diverged = { ...moe, name: "diverged", training, validation: [], final };
    const html = comparisonPage({ ...comparison, arms: [moe, diverged] });
    assertWellFormed(html);
    assertLacks(html, /NaN/);
    assertHas(html, "diverged has no finite loss");
    assertHas(html, "all neurons of a chosen expert act");
  });
});

/** Points at 0, 1, 2 and so on. */
function curve(...values: number[]): [x: number, y: number][] {
  return values.map((value, x) => [x, value]);
}

function pathOf(svg: string, classes: string): string {
  return new RegExp(`class="${classes}" d="([^"]*)"`).exec(svg)?.[1] ?? "";
}

function yLabels(svg: string): string[] {
  return [...svg.matchAll(/<text class="muted end"[^>]*>([^<]*)</g)].map((match) => match[1]);
}

function xLabels(svg: string): string[] {
  return [...svg.matchAll(/<text class="muted middle"[^>]*>(\d[^<]*)</g)].map((match) => match[1]);
}

function count(text: string, part: string): number {
  return text.split(part).length - 1;
}

function assertHas(markup: string, text: string): void {
  assert.ok(markup.includes(text), `lacks ${text}`);
}

function assertLacks(markup: string, pattern: RegExp): void {
  assert.equal(pattern.exec(markup)?.[0], undefined);
}

function assertDrawn(svg: string): void {
  assertLacks(svg, /NaN|Infinity|undefined|null/);
  assertWellFormed(svg);
}

/** Every tag that opens is closed, in order; the tags that HTML leaves open are named here. */
function assertWellFormed(markup: string): void {
  const open: string[] = [];
  for (const [, close, name, rest] of markup.matchAll(/<(\/?)([a-z][a-z0-9]*)((?:"[^"]*"|[^>"])*)>/gi)) {
    if (close) assert.equal(open.pop(), name);
    else if (!rest.endsWith("/") && !["meta", "link"].includes(name)) open.push(name);
  }
  assert.deepEqual(open, []);
}

/** Three arms with curves such as small models draw: power-law decay, noise, experts that even out. */
function inventedComparison(): Comparison {
  const arm = (
    name: string,
    seed: number,
    finalLoss: number,
    neurons?: { kept: number; width: number },
    topK = 4,
  ): ArmResult => {
    const random = new RandomStream(seed, "test/report");
    const noise = new Float64Array(2400);
    random.fillNormal(noise);
    const steps = 1200;
    const lossAt = (step: number) => finalLoss + 9.5 / (step + 3) ** 0.42 - 9.5 / 1203 ** 0.42;
    const use = (evenness: number, index: number) => ({
      entropy: Math.min(1, evenness + 0.012 * noise[index]),
      dead: Math.max(0, 0.004 + 0.012 * noise[index + 40]),
    });
    const share = neurons ? neurons.kept / neurons.width : 1;
    const experts = 7_077_888;
    const chosen = (experts * topK) / 32;
    return {
      name,
      description: neurons
        ? `4 of 32 experts a token, and in each of them the ${neurons.kept} of ${neurons.width} neurons with the largest gate values.`
        : `${topK} of 32 experts a token, all neurons of each.`,
      training: Array.from({ length: steps }, (_, index) => ({
        step: index + 1,
        tokens: (index + 1) * 16_384,
        loss: lossAt(index + 1) + 0.07 * noise[index],
        tokensPerSecond: 41_000 + 1500 * seed + 900 * noise[index],
        expertBalance: 1.04 + 0.05 * seed + 1.6 / (1 + index / 30) + 0.015 * noise[index],
        neuronBalance: neurons && 1.21 + 0.9 / (1 + index / 90) + 0.01 * noise[index + 1],
      })),
      validation: [1, 100, 200, 400, 600, 800, 1000, 1200].map((step, index) => ({
        step,
        loss: lossAt(step) + (step === steps ? 0 : 0.01 * noise[index]),
        bitsPerByte: lossAt(step) / 2.9,
      })),
      final: { loss: finalLoss, bitsPerByte: finalLoss / 2.9 },
      parameters: {
        total: 11_800_000,
        activated: 4_700_000 + chosen * (1 / 3 + (2 / 3) * share),
        experts,
        activatedExpertsWithGate: chosen * (1 / 3 + (2 / 3) * share),
        activatedExpertsWithoutGate: chosen * share,
      },
      tokensPerSecond: 41_000 + 1500 * seed,
      seconds: 471 - 13 * seed,
      trainedTokens: steps * 16_384,
      expertUse: {
        ...use(0.97, 3),
        layers: Array.from({ length: 8 }, (_, layer) => use(0.94 + 0.005 * layer, layer)),
      },
      neuronUse: neurons && {
        entropy: 0.956,
        dead: 0.011,
        layers: Array.from({ length: 8 }, (_, layer) => ({
          ...use(0.93, layer + 9),
          histogram: {
            edges: Array.from({ length: 13 + 12 * (layer % 2) }, (_, index) => index / 6),
            counts: Array.from({ length: 12 + 12 * (layer % 2) }, (_, index) =>
              Math.round(
                900 * Math.exp(-((index - 5 + layer / 4) ** 2) / (9 + 4 * layer)) +
                  30 * random.uniform(index),
              ),
            ),
          },
        })),
      },
      sample: {
        prompt: "Once upon a time",
        text: ', there was a little girl named Lily. She liked to play in the garden with her dog.\nOne day she found a shiny stone & said, "Look, Max, a star fell down!" Max barked and ran around the tree.\n\nThey took the stone home and put it by the window.',
      },
    };
  };
  return {
    title: "MoE and MoNE with the same weights",
    corpus: {
      name: "tiny-stories.txt",
      trainTokens: 21_300_000,
      validTokens: 412_000,
      tokenizer: "byte-pair, 4096 tokens",
    },
    arms: [
      arm("MoE", 0, 3.226),
      arm("MoNE K = 64", 1, 3.212, { kept: 64, width: 256 }),
      arm("MoE top-2", 2, 3.297, undefined, 2),
    ],
    machine: {
      Processor: "16 cores, AVX-512",
      Backend: "cpu, bf16 products",
      "Node.js": "20.19.4",
      Seed: "1",
    },
    command: "mone compare --preset small --data tiny-stories.txt --steps 1200",
    finishedAt: "2025-11-22 03:40 UTC",
    config: {
      preset: "mone-small",
      num_experts: 32,
      num_experts_per_tok: 4,
      moe_intermediate_size: 256,
      hidden_size: 288,
      steps: 1200,
      seed: 1,
    },
  };
}
