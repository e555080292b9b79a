// The decoding benchmark as people see it.

import { formatBytes } from "../../report/format.ts";
import type { NamedFigure } from "../../report/page.ts";
import { linePlot } from "../../report/plot.ts";
import type { Table } from "../../report/table.ts";
import type { DecodeBench, DecodeCase, DecodeRow } from "../decode.ts";
import { columns, limitsInWords, type Presentation, spreadText } from "./presentation.ts";

const nameOf = ({ engine, dtype }: DecodeRow) => `${engine} ${dtype}`;

export function presentDecode(result: DecodeBench): Presentation {
  const { cases } = result;
  return {
    heading: "Decoding",
    prose: [
      `Greedy steps of one and of several sequences on ${result.backend}, random weights, fed tokens chosen beforehand so ` +
        `that experts vary. ${limitsInWords(result)}`,
      "Bytes a token: attention D (2 H + 2 G) C, router D E in f32, A experts D (F + 2 K), head D V, each element once in its " +
        "form, int8 with 4 bytes of scale a row (q8_0 has 2 for each 32 elements). Cache and norms are left out.",
      ...cases.map(gainInWords).filter((text) => text !== ""),
    ],
    tables: [
      ...cases.map((one) => singleTable(one, result)),
      ...cases.filter(hasBatches).map((one) => batchTable(one, result)),
    ],
    figures: cases.flatMap(figuresOf),
  };
}

const hasBatches = ({ rows }: DecodeCase) => rows.some(({ batches }) => batches.length > 1);

/** What leaving neurons out gains, for each form of the weights. */
function gainInWords({ size, neurons, rows }: DecodeCase): string {
  const gains = rows
    .filter(({ kept }) => kept < neurons)
    .flatMap((row) => {
      const full = rows.find((other) => nameOf(other) === nameOf(row) && other.kept === neurons);
      if (!full) return [];
      const gain = row.tokensPerSecond.median / full.tokensPerSecond.median;
      return [`${nameOf(row)}, K = ${row.kept}: ${gain.toFixed(2)} times the tokens of K = ${neurons}`];
    });
  return gains.length === 0 ? "" : `${size}: ${gains.join("; ")}.`;
}

function singleTable({ size, prompt, context, tokens, rows }: DecodeCase, { rounds }: DecodeBench): Table {
  return {
    title: `Decoding, ${size}, one sequence, medians of ${rounds} rounds by turns`,
    columns: [
      columns.text("engine", "Engine"),
      columns.integer("kept", "K"),
      columns.text("tokens", "tokens/s", `${tokens} tokens after ${context}.`),
      { ...columns.count("bytes", "weights a token"), format: formatBytes },
      columns.fixed("gigabytes", "GB/s", 1),
      columns.share("share", "of read", "Of the read bandwidth measured in the same run."),
      columns.text("prefill", "prefill tokens/s", `A prompt of ${prompt} tokens from an empty cache.`),
      columns.fixed("gigaflops", "prefill GFLOP/s", 1, "Products with all neurons."),
      columns.text("version", "Version"),
    ],
    rows: rows.map((row) => ({
      engine: nameOf(row),
      kept: row.kept,
      tokens: spreadText(row.tokensPerSecond, 1),
      bytes: row.bytesPerToken,
      gigabytes: row.gigabytesPerSecond,
      share: row.shareOfBandwidth,
      prefill: spreadText(row.prefillPerSecond, 0),
      gigaflops: row.prefillGigaflops,
      version: row.version,
    })),
  };
}

function batchTable({ size, rows }: DecodeCase, { rounds }: DecodeBench): Table {
  const batched = rows.filter(({ batches }) => batches.length > 1);
  const sizes = batched[0].batches.map(({ batch }) => batch);
  return {
    title: `Decoding, ${size}, several sequences at once, tokens/s together, medians of ${rounds} rounds`,
    columns: [
      columns.text("engine", "Engine"),
      columns.integer("kept", "K"),
      ...sizes.map((batch) => columns.fixed(`b${batch}`, String(batch), 1)),
    ],
    rows: batched.map((row) => ({
      engine: nameOf(row),
      kept: row.kept,
      ...Object.fromEntries(row.batches.map((one) => [`b${one.batch}`, one.tokensPerSecond.median])),
    })),
  };
}

function figuresOf({ size, neurons, rows, width }: DecodeCase): NamedFigure[] {
  const file = `d${width}`;
  const label = (row: DecodeRow) => `${nameOf(row)}, K ${row.kept === neurons ? "= F" : row.kept}`;
  const batched = rows.filter(({ batches }) => batches.length > 1);
  const byBytes = {
    name: `bytes-${file}`,
    svg: linePlot({
      title: `${size}: speed against the weights a token reads`,
      x: { label: "MiB of weights a token", log: true },
      y: { label: "tokens/s", log: true },
      series: [...new Set(rows.map(nameOf))].map((name) => ({
        name,
        dots: true,
        points: rows
          .filter((row) => nameOf(row) === name)
          .map((row) => [row.bytesPerToken / 2 ** 20, row.tokensPerSecond.median] as const)
          .sort((a, b) => a[0] - b[0]),
      })),
    }),
    caption: "From left to right: more neurons kept. Engines without selection have one point.",
  };
  if (batched.length === 0) return [byBytes];
  const batches = {
    name: `batch-${file}`,
    svg: linePlot({
      title: `${size}: tokens/s of all sequences together`,
      x: { label: "sequences at once", log: true },
      y: { label: "tokens/s", log: true },
      series: batched.map((row) => ({
        name: label(row),
        dots: true,
        points: row.batches.map((one) => [one.batch, one.tokensPerSecond.median] as const),
      })),
    }),
  };
  return [byBytes, batches];
}
