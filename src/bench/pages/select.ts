// The selection benchmark as people see it.

import { linePlot, type Series } from "../../report/plot.ts";
import type { SelectBench, SelectCase } from "../select.ts";
import { columns, limitsInWords, type Presentation } from "./presentation.ts";

const shares = [2, 4, 8] as const;

export function presentSelect(result: SelectBench): Presentation {
  const { cases, dtype } = result;
  const rows = cases.map((one) => ({
    width: one.width,
    kept: one.kept,
    whole: one.microsecondsPerRow.median,
    selection: one.selectionPerRow.median,
    nanoseconds: one.nanosecondsPerNeuron,
    share: one.shareOfProducts,
    sorted: one.sortedPerRow.median,
    faster: one.sortedPerRow.median / one.microsecondsPerRow.median,
  }));
  const series = (value: (one: SelectCase) => number): Series[] =>
    shares.map((share) => ({
      name: `K = F/${share}`,
      dots: true,
      points: cases
        .filter((one) => Math.round(one.width / one.kept) === share)
        .map((one) => [one.width, value(one)] as const),
    }));
  const sorted: Series = {
    name: "sorting in JavaScript",
    dots: true,
    line: "dashed",
    points: [...new Map(cases.map((one) => [one.width, one.sortedPerRow.median] as const))],
  };
  return {
    heading: "Selection of neurons",
    prose: [
      `The kernel that applies the activation, selects the K largest of F magnitudes exactly, and multiplies by up, on ` +
        `${result.backend}, ${cases[0]?.rows} rows a call. Selection is what it takes longer than with K = F. ` +
        limitsInWords(result),
    ],
    tables: [
      {
        title: "Selection alone, per row",
        columns: [
          columns.integer("width", "F"),
          columns.integer("kept", "K"),
          columns.fixed(
            "whole",
            "kernel, us",
            3,
            "Activation, selection and product with up, all threads together.",
          ),
          columns.fixed(
            "selection",
            "selection, us",
            3,
            "Without the time of K = F; 0 where noise is larger.",
          ),
          columns.fixed("nanoseconds", "ns a neuron", 3),
          columns.share(
            "share",
            "of products",
            `Relative to gate, up and down of a square expert in ${dtype}.`,
          ),
          columns.fixed("sorted", "sorted, us", 1, "Sorting in JavaScript, one thread."),
          columns.fixed("faster", "times faster", 0),
        ],
        rows,
      },
    ],
    figures: [
      {
        name: "time",
        svg: linePlot({
          title: "Time of a row",
          x: { label: "F, neurons of an expert", log: true },
          y: { label: "us", log: true },
          series: [...series((one) => one.microsecondsPerRow.median), sorted],
        }),
      },
      {
        name: "share",
        svg: linePlot({
          title: "Selection relative to the expert's products",
          x: { label: "F, neurons of an expert", log: true },
          y: { label: "% of the time of the products", include: [0] },
          series: series((one) => 100 * one.shareOfProducts),
        }),
      },
    ],
  };
}
