// The kernel benchmark as people see it.

import { type RooflinePoint, rooflinePlot } from "../../report/roofline.ts";
import type { KernelBench, KernelTiming } from "../kernels.ts";
import { columns, limitsInWords, type Presentation } from "./presentation.ts";

export function presentKernels(result: KernelBench): Presentation {
  const { limits, timings } = result;
  return {
    heading: "Kernels",
    prose: [
      `Every kernel alone on shapes of real work, on ${result.backend}; median times. ${limitsInWords(result)}`,
      "Bytes count every buffer once. Where that says more than 100 % of the bandwidth, caches held the buffers.",
    ],
    tables: [
      {
        title: `Kernels on ${result.backend}, median`,
        columns: [
          columns.text("kernel", "Kernel"),
          columns.text("sample", "Sample"),
          columns.fixed("microseconds", "us", 1),
          columns.fixed("gigaflops", "GFLOP/s", 1),
          columns.fixed("gigabytesPerSecond", "GB/s", 2),
          ...(limits
            ? [
                columns.share("shareOfPeak", "of peak", "Of the multiplication measured in registers."),
                columns.share("shareOfBandwidth", "of read", "Of the read bandwidth measured in memory."),
              ]
            : []),
        ],
        rows: timings.map(({ spread: _, ...cells }) => cells),
      },
    ],
    figures: [],
    wideFigures: limits ? [{ name: "roofline", ...roofline(timings, limits) }] : [],
  };
}

function roofline(timings: readonly KernelTiming[], limits: NonNullable<KernelBench["limits"]>) {
  // One point a kernel and type: that of its sample with the most operations.
  const best = new Map<string, KernelTiming>();
  for (const timing of timings) {
    const key = `${timing.kernel} ${timing.dtype}`;
    const known = best.get(key);
    if (timing.gigaflops === undefined || timing.kernel.startsWith("probe")) continue;
    if (!known || operations(timing) > operations(known)) best.set(key, timing);
  }
  const named = [...best.values()];
  const points = named.map((timing): RooflinePoint => {
    const { kernel, dtype, gigaflops = 0, bytes } = timing;
    const both = named.some((other) => other.kernel === kernel && other.dtype !== dtype);
    return {
      name: both ? `${kernel} ${dtype}` : kernel,
      intensity: (operations(timing) * 1e3) / bytes,
      gigaflops,
      colour: dtype === "bf16" ? 1 : 0,
    };
  });
  return {
    svg: rooflinePlot({
      title: "Where each kernel stands below what the machine can do",
      gigabytes: limits.readGigabytes.all,
      roofs: [
        { name: "f32", gigaflops: limits.gigaflops.f32.all },
        { name: "bf16", gigaflops: limits.gigaflops.bf16.all },
      ],
      points,
    }),
    caption:
      "Products only, each kernel on its largest sample. Above the slope are kernels whose buffers stay in caches; " +
      "int8 is multiplied as bf16.",
  };
}

/** Thousands of operations of a call. */
const operations = ({ gigaflops = 0, microseconds }: KernelTiming) => gigaflops * microseconds;
