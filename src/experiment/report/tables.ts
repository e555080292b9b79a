// The tables and sentences of an experiment's report, for the terminal, Markdown, CSV and the page alike.

import { arithmeticOf } from "../../backends/backend.ts";
import { formatBytes, formatDuration, formatFixed, formatPercent } from "../../report/format.ts";
import type { Column, Table } from "../../report/table.ts";
import type { Sweep } from "../measures/measure.ts";
import type { Estimate } from "../statistics/paired.ts";
import type { Difference } from "./compareArms.ts";
import type { ArmReport, ExperimentReport } from "./report.ts";

const digits = (value: number) => formatFixed(value, 4);
/** "+0.0012", "-0.0012", "0.0000". */
function signed(value: number): string {
  const text = formatFixed(value, 4);
  if (Number(text) === 0) return text.replace("-", "");
  return value > 0 ? `+${text}` : text;
}

/** "3.2104 +- 0.0087", or the value alone for a single seed. */
function spread({ mean, halfWidth }: Estimate, format: (value: number) => string): string {
  return halfWidth === undefined ? format(mean) : `${format(mean)} \u00b1 ${digits(halfWidth)}`;
}

/** One line an arm: every quantity with its interval over seeds, and the loss's difference with the verdict. */
export function resultTable({ arms, quantities, baseline }: ExperimentReport): Table {
  const present = quantities.filter(({ key, at }) => !at && arms.some((arm) => arm.estimates[key]));
  return {
    title: "Every arm: mean and 95 % interval over seeds",
    columns: [
      { key: "arm", label: "Arm", align: "left" },
      {
        key: "verdict",
        label: "Loss against its reference",
        align: "left",
        note: `By the interval of the difference; the reference is ${baseline} unless the table of differences names another.`,
      },
      { key: "seeds", label: "Seeds", align: "right" },
      ...present.map(
        ({ key, label, note }): Column => ({
          key,
          label,
          align: "right",
          note: `${note} Mean \u00b1 half of the t interval.`,
        }),
      ),
    ],
    rows: arms.map((arm) => ({
      arm: arm.name,
      seeds: arm.runs.length,
      ...Object.fromEntries(
        present.flatMap(({ key }) => (arm.estimates[key] ? [[key, spread(arm.estimates[key], digits)]] : [])),
      ),
      verdict: arm.differences.loss ? verdictInWords(arm.differences.loss) : "",
    })),
  };
}

/** One line an arm and quantity that has a direction. @param sweeps whether also for settings of sweeps. */
export function differenceTable(report: ExperimentReport, sweeps = false): Table {
  const rows = report.arms.flatMap((arm) =>
    report.quantities.flatMap(({ key, label, at }) => {
      const difference = at && !sweeps ? undefined : arm.differences[key];
      return difference ? [{ arm: arm.name, quantity: label, difference }] : [];
    }),
  );
  return {
    title: "Paired differences: same seed, same data order",
    ...differencesAsTable(report, rows, "Corrected for the number of arms."),
  };
}

/** Every two arms' losses; without rows where there are too many arms, or only two. */
export function pairTable(report: ExperimentReport): Table {
  const rows = report.pairs.map(({ arm, ...difference }) => ({ arm, difference }));
  return {
    title: "Every two arms: differences of validation loss",
    ...differencesAsTable(report, rows, "Corrected for all lines of this table."),
  };
}

function differencesAsTable(
  report: ExperimentReport,
  rows: readonly { arm: string; quantity?: string; difference: Difference }[],
  correction: string,
): Pick<Table, "columns" | "rows"> {
  const columns: Column[] = [
    { key: "arm", label: "Arm", align: "left" },
    { key: "against", label: "Against", align: "left" },
    ...(rows.some(({ quantity }) => quantity !== undefined)
      ? [{ key: "quantity", label: "Quantity", align: "left" } satisfies Column]
      : []),
    { key: "verdict", label: "Verdict", align: "left" },
    { key: "pairs", label: "Pairs", align: "right" },
    {
      key: "difference",
      label: "Difference",
      align: "right",
      format: signed,
      note: "Mean of arm minus reference.",
    },
    {
      key: "low",
      label: "Low",
      align: "right",
      format: signed,
      note: `Lower end of the 95 % interval. ${spreadInWords(
        report,
        rows.map(({ difference }) => difference),
      )}`,
    },
    { key: "high", label: "High", align: "right", format: signed, note: "Upper end of it." },
    ...(rows.some(({ difference: { alone } }) => alone) ? aloneColumns : []),
    {
      key: "p",
      label: "p",
      align: "right",
      format: pText,
      note: "Of the t test with the spread of Low and High, two-sided.",
    },
    { key: "holm", label: "p, Holm", align: "right", format: pText, note: correction },
    {
      key: "margin",
      label: "Margin",
      align: "right",
      format: digits,
      note: "The largest difference that counts as none.",
    },
    {
      key: "seeds_for_margin",
      label: "Seeds for the margin",
      align: "right",
      note: "Seeds with which a difference as large as the margin would be seen in 80 % of experiments, if the spread at hand is the true one; from few pairs a rough guess.",
    },
  ];
  return {
    columns,
    rows: rows.map(({ arm, quantity, difference }) => {
      const { against, count, mean, halfWidth, alone, p, holm, margin, seedsForMargin } = difference;
      return {
        arm,
        against,
        quantity,
        pairs: count,
        difference: mean,
        low: halfWidth === undefined ? undefined : mean - halfWidth,
        high: halfWidth === undefined ? undefined : mean + halfWidth,
        ...(alone && { low_alone: mean - alone.halfWidth, high_alone: mean + alone.halfWidth }),
        p,
        holm,
        margin,
        seeds_for_margin: seedsForMargin === null ? "over 1000" : seedsForMargin,
        verdict: verdictInWords(difference),
      };
    }),
  };
}

const aloneColumns: Column[] = [
  {
    key: "low_alone",
    label: "Low, pairs alone",
    align: "right",
    format: signed,
    note: "The same by the spread of these pairs alone (paired t): wider with few seeds, and right whatever the other arms do.",
  },
  { key: "high_alone", label: "High, pairs alone", align: "right", format: signed, note: "Upper end of it." },
];

/** Which spread the intervals of these differences go by. */
function spreadInWords({ spreads }: ExperimentReport, differences: readonly Difference[]): string {
  const { loss } = spreads;
  const alone = "By the spread of these pairs (paired t)";
  if (!loss) return `${alone}.`;
  const { arms, deviation, degrees, pAlike, used } = loss;
  if (!used) {
    return `${alone}: the ${arms} arms scatter too unlike each other (p ${pText(pAlike)}) to be put together.`;
  }
  const together = differences.filter((difference) => difference.alone).length;
  if (together === 0) return `${alone}.`;
  const others =
    together < differences.length ? " Lines without an interval by pairs alone go by their own pairs." : "";
  return `By the spread of single runs around arm and seed, of ${arms} arms together: of the loss ${digits(deviation)} with ${degrees} degrees of freedom. That they scatter alike is assumed; tests, which few seeds seldom let fail, do not refute it (p ${pText(pAlike)}).${others}`;
}

/** A sweep: one line a setting and arm, the arm's value beside its difference from its reference. */
export function sweepTable(
  { arms, quantities }: ExperimentReport,
  { name, title, x, y, percent, note }: Sweep,
): Table {
  const settings = quantities
    .filter(({ at }) => at?.sweep === name)
    .sort((a, b) => (b.at?.x ?? 0) - (a.at?.x ?? 0));
  const areTogether = arms.some(({ differences }) => settings.some(({ key }) => differences[key]?.alone));
  return {
    title,
    columns: [
      {
        key: "setting",
        label: `${x[0].toUpperCase()}${x.slice(1)}`,
        align: "left",
        note,
      },
      { key: "arm", label: "Arm", align: "left" },
      {
        key: "value",
        label: y[0].toUpperCase() + y.slice(1),
        align: "right",
        note: "Mean \u00b1 half of the t interval.",
      },
      {
        key: "difference",
        label: "Difference",
        align: "right",
        format: signed,
        note: "Paired mean of arm minus reference.",
      },
      {
        key: "low",
        label: "Low",
        align: "right",
        format: signed,
        note: `Lower end of the 95 % interval, by the spread of ${areTogether ? "all arms that have runs of their own; differences.csv has it by pairs alone, too" : "these pairs"}.`,
      },
      { key: "high", label: "High", align: "right", format: signed, note: "Upper end of it." },
      {
        key: "holm",
        label: "p, Holm",
        align: "right",
        format: pText,
        note: "Of the t test, corrected for the number of arms and settings of this table.",
      },
      { key: "verdict", label: "Verdict", align: "left" },
    ],
    rows: settings.flatMap(({ key, at }) =>
      arms.flatMap((arm) => {
        const estimate = arm.estimates[key];
        if (!estimate) return [];
        const difference = arm.differences[key];
        const { mean, halfWidth, holm } = difference ?? {};
        return [
          {
            setting: percent ? formatPercent(at?.x ?? 0) : String(at?.x),
            arm: arm.name,
            value: spread(estimate, digits),
            difference: mean,
            ...(mean !== undefined &&
              halfWidth !== undefined && { low: mean - halfWidth, high: mean + halfWidth }),
            holm,
            verdict: difference ? verdictInWords(difference) : "",
          },
        ];
      }),
    ),
  };
}

export function costTable({ arms }: ExperimentReport): Table {
  return {
    title: "What each arm costs",
    columns: [
      { key: "arm", label: "Arm", align: "left" },
      { key: "total", label: "Parameters", align: "right" },
      {
        key: "with_gate",
        label: "Activated, with gate",
        align: "right",
        note: "Weights a token multiplies with, each chosen expert's gate projection in full.",
      },
      {
        key: "without_gate",
        label: "Activated, without gate",
        align: "right",
        note: "The same, of the gate projection only the rows of kept neurons.",
      },
      {
        key: "runs",
        label: "Timed runs",
        align: "right",
        note: "Whose time and memory are known and stand in the next columns: those taken from an older report have none.",
      },
      {
        key: "tokens_per_second",
        label: "Tokens/s",
        align: "right",
        note: "Training speed, median of these runs; not to be compared where other work disturbed them, or several shared the machine (the experiment overhead measures time by turns).",
      },
      {
        key: "seconds",
        label: "Time of a run",
        align: "right",
        format: formatDuration,
        note: "Steps only, median of these runs.",
      },
      {
        key: "peak_bytes",
        label: "Memory",
        align: "right",
        format: formatBytes,
        note: "Largest resident memory of the process while training, least over seeds; runs share a process and may inherit memory, so differences below a tenth mean little.",
      },
    ],
    rows: arms.map(({ name, parameters, cost }) => ({
      arm: name,
      total: parameters.total,
      with_gate: parameters.activatedWithGate,
      without_gate: parameters.activatedWithoutGate,
      runs: cost?.runs ?? 0,
      tokens_per_second: cost?.tokensPerSecond,
      seconds: cost?.seconds,
      peak_bytes: cost?.peakBytes,
    })),
  };
}

/** Every run with every number, for programs; with its backend where there are several. */
export function runsTable({ arms, quantities, backends }: ExperimentReport): Table {
  return {
    title: "All runs",
    columns: [
      { key: "arm", label: "Arm", align: "left" },
      { key: "seed", label: "Seed", align: "right", format: String },
      { key: "run", label: "Run", align: "left" },
      ...quantities.map(({ key, label }): Column => ({ key, label, align: "right", format: digits })),
      ...(backends.length > 1 ? [{ key: "backend", label: "Backend", align: "left" } satisfies Column] : []),
    ],
    rows: arms.flatMap(({ name, runs }) =>
      runs.map(({ seed, hash, values, backend }) => ({ arm: name, seed, run: hash, ...values, backend })),
    ),
  };
}

/** "better", "no difference seen (within 0.0150)", "worse, but not after Holm's correction". */
export function verdictInWords({ verdict, mean, halfWidth, margin, holm }: Difference): string {
  if (verdict === "no difference seen") return `${verdict} (within ${digits(margin)})`;
  if (verdict !== "better" && verdict !== "worse") return verdict;
  // Seen, and yet no larger than what counts as none.
  const isSmall = halfWidth !== undefined && Math.abs(mean) + halfWidth <= margin;
  const size = isSmall ? `, by less than ${digits(margin)}` : "";
  const isWeak = holm !== undefined && holm > 0.05;
  return `${verdict}${size}${isWeak ? ", but not after Holm's correction" : ""}`;
}

/** More arms than this are summed up by verdict; the tables say the rest. */
const SENTENCES = 6;

/** The report's answer: a sentence an arm, or one a verdict, and what is missing. */
export function reportInWords(report: ExperimentReport): string[] {
  const { finished, planned, backends, arms, diverged } = report;
  const compared = arms.filter(({ differences }) => differences.loss);
  const sentences =
    compared.length > SENTENCES
      ? verdictSentences(compared)
      : [compared.flatMap((arm) => sentenceOf(arm) ?? []).join(" ")];
  return [
    ...(finished + diverged.length < planned ? [`Not finished: ${finished} of ${planned} runs.`] : []),
    ...(diverged.length > 0
      ? [
          `Diverged: ${diverged.map(({ arm, seed, reason }) => `${arm}, seed ${seed} (${reason})`).join("; ")}. Their arms are compared over the other seeds only, which flatters them.`,
        ]
      : []),
    ...(compared.length > 0 ? sentences : ["There is nothing to compare yet."]),
    ...(new Set(backends.map(arithmeticOf)).size > 1
      ? [
          `The runs were computed on different backends (${backends.join("; ")}), which agree only to rounding.`,
        ]
      : []),
  ];
}

/** Which arms have which verdict on the loss, and the two ends of the differences. */
function verdictSentences(arms: readonly ArmReport[]): string[] {
  const verdictOf = ({ differences: { loss } }: ArmReport) =>
    loss.verdict === "no difference seen" ? loss.verdict : verdictInWords(loss);
  const sentences = [...new Set(arms.map(verdictOf))].map((verdict) => {
    const names = arms.filter((arm) => verdictOf(arm) === verdict).map(({ name }) => name);
    const who =
      names.length === arms.length
        ? `all ${names.length} arms`
        : `${names.length} of ${arms.length} arms (${names.join("; ")})`;
    return `${verdict[0].toUpperCase()}${verdict.slice(1)}: ${who}.`;
  });
  const sorted = [...arms].sort((a, b) => a.differences.loss.mean - b.differences.loss.mean);
  const ends = [sorted[0], sorted[sorted.length - 1]].flatMap((arm) => sentenceOf(arm) ?? []);
  return [...sentences, `Lowest and highest: ${ends.join(" ")}`];
}

function sentenceOf({ name, differences: { loss } }: ArmReport): string | undefined {
  if (!loss) return undefined;
  const { mean, halfWidth, against } = loss;
  const range =
    halfWidth === undefined
      ? ""
      : ` (95 % interval ${signed(mean - halfWidth)} to ${signed(mean + halfWidth)})`;
  return `${name} against ${against}: ${signed(mean)} nats${range}: ${verdictInWords(loss)}.`;
}

function pText(p: number): string {
  return p < 1e-4 ? "< 0.0001" : formatFixed(p, 4);
}

export function marginInWords(report: ExperimentReport): string {
  return formatPercent(report.margin);
}
