// The tables of a study: for the terminal, the page and CSV files.

import { formatCount, formatFixed, formatPercent } from "../report/format.ts";
import { type Row, renderCsv, type Table } from "../report/table.ts";
import { quantilesShown, thresholdsShown } from "./activation.ts";
import { meanKept, type SettingResult, type StudyResult, type Timing } from "./result.ts";

const percent = (value: number) => formatPercent(value, 1);
const three = (value: number) => formatFixed(value, 3);
const four = (value: number) => formatFixed(value, 4);

/** The gate's settings from few to many neurons pruned, the rivals below. */
export function summaryTable({ settings }: StudyResult): Table {
  const shown = settings.filter(({ kind, criterion }) => kind !== "neurons" || criterion === "gate");
  return settingsTable(
    [...shown].sort(
      (a, b) => order(a) - order(b) || a.prunedShare - b.prunedShare || (b.active ?? 0) - (a.active ?? 0),
    ),
    "By gate, K per layer, and fewer experts",
  );
}

const order = ({ kind }: SettingResult) => ["reference", "neurons", "per-layer", "experts"].indexOf(kind);

export function settingsTable(settings: readonly SettingResult[], title?: string): Table {
  return {
    title,
    columns: [
      { key: "name", label: "Setting", align: "left" },
      {
        key: "prunedShare",
        label: "Pruned",
        align: "right",
        format: percent,
        note: "Share of the neurons of visited experts that are not used.",
      },
      { key: "perplexity", label: "Perplexity", align: "right", format: three },
      {
        key: "rise",
        label: "Rise",
        align: "right",
        format: (v) => formatPercent(v, 2),
        note: "Of perplexity against the model as it is, with its 95 % interval.",
      },
      { key: "low", label: "from", align: "right", format: (v) => formatPercent(v, 2) },
      { key: "high", label: "to", align: "right", format: (v) => formatPercent(v, 2) },
      { key: "bitsPerByte", label: "Bits/byte", align: "right", format: four },
      {
        key: "divergence",
        label: "KL",
        align: "right",
        format: four,
        note: "Divergence from the model as it is, nats per token.",
      },
      {
        key: "agreement",
        label: "Top-1",
        align: "right",
        format: percent,
        note: "Share of tokens for which both find the same next token most likely.",
      },
      {
        key: "activatedParameters",
        label: "Activated",
        align: "right",
        format: formatCount,
        note: "Weights that a token multiplies with.",
      },
    ],
    rows: settings.map((one) => ({ ...rowOf(one) })),
  };
}

function rowOf(one: SettingResult): Row {
  return {
    name: one.name,
    prunedShare: one.prunedShare,
    perplexity: one.perplexity,
    rise: one.ratio - 1,
    low: one.ratioInterval.low - 1,
    high: one.ratioInterval.high - 1,
    bitsPerByte: one.bitsPerByte,
    divergence: one.divergence,
    agreement: one.agreement,
    activatedParameters: one.activatedParameters,
  };
}

export function layersTable({ activation }: StudyResult): Table {
  const { kept, layers } = activation;
  return {
    title: "Gates by layer",
    columns: [
      { key: "layer", label: "Layer", align: "right", format: String },
      { key: "mean", label: "Mean |G|", align: "right", format: four },
      { key: "maximum", label: "Maximum", align: "right", format: three },
      ...quantilesShown
        .map((share, i) => ({
          key: `q${i}`,
          label: formatPercent(share, 0),
          align: "right" as const,
          format: four,
          note: "|G| below which this share of values lies.",
        }))
        .filter((_, i) => [1, 3, 5].includes(i)),
      ...thresholdsShown.map((share, i) => ({
        key: `below${i}`,
        label: `<\u00a0${share} mean`,
        align: "right" as const,
        format: percent,
        note: "Share of |G| below this multiple of the layer's mean.",
      })),
      {
        key: "effective",
        label: "Effective neurons",
        align: "right",
        format: (v: number) => v.toFixed(1),
        note: "(sum |G|)^2 / sum G^2 of a token in an expert, on average.",
      },
      {
        key: "overlap",
        label: "Overlap",
        align: "right",
        format: percent,
        note: `Of the ${kept} largest with those of the token before in the same expert.`,
      },
      {
        key: "entropy",
        label: "Use of neurons",
        align: "right",
        format: three,
        note: "Entropy relative to uniform: 1 when all neurons are used alike.",
      },
      { key: "gini", label: "Gini", align: "right", format: three },
      { key: "maxOverMean", label: "Max/mean", align: "right", format: (v: number) => v.toFixed(2) },
      {
        key: "dead",
        label: "Dead",
        align: "right",
        format: percent,
        note: `Neurons never among the ${kept} largest, in experts with at least 64 tokens.`,
      },
      { key: "alwaysOn", label: "Always on", align: "right", format: percent },
      { key: "expertEntropy", label: "Use of experts", align: "right", format: three },
    ],
    rows: layers.map(
      (one): Row => ({
        layer: one.layer,
        mean: one.mean,
        maximum: one.maximum,
        ...Object.fromEntries(one.quantiles.map((value, i) => [`q${i}`, value])),
        ...Object.fromEntries(one.below.map((value, i) => [`below${i}`, value])),
        effective: one.effectiveNeurons,
        overlap: one.overlap,
        ...one.neuronUse,
        entropy: one.neuronUse.entropy,
        expertEntropy: one.expertUse?.entropy,
      }),
    ),
  };
}

export function speedsTable({ speeds, timing }: StudyResult): Table {
  return {
    title: `Decoding, one sequence, ${timingText(timing)}`,
    columns: [
      { key: "name", label: "What", align: "left" },
      { key: "prunedShare", label: "Pruned", align: "right", format: percent },
      { key: "activatedParameters", label: "Activated", align: "right", format: formatCount },
      { key: "tokensPerSecond", label: "Tokens/s", align: "right", format: formatCount, note: "Median." },
      { key: "least", label: "least", align: "right", format: formatCount },
      { key: "most", label: "most", align: "right", format: formatCount },
      { key: "speedup", label: "Speed-up", align: "right", format: (v) => `${v.toFixed(2)}x` },
    ],
    rows: speeds.map((one) => ({ ...one })),
  };
}

/** "7 turns of 96 tokens each". */
export function timingText({ turns, tokens }: Timing): string {
  return `${turns} turns of ${tokens} token${tokens === 1 ? "" : "s"} each`;
}

/** CSV files by name. */
export function studyCsv(study: StudyResult): [name: string, content: string][] {
  const errors: Row[] = study.settings.flatMap(({ name, layerErrors }) =>
    layerErrors.map((error, i) => ({ setting: name, layer: study.activation.layers[i]?.layer ?? i, error })),
  );
  const settings = settingsTable(study.settings);
  settings.columns.splice(1, 0, { key: "kept", label: "K", align: "right" });
  settings.rows = settings.rows.map((row, i) => ({
    ...row,
    kept: meanKept(study.model.config, study.settings[i].kept),
  }));
  const errorTable: Table = {
    columns: ["setting", "layer", "error"].map((key) => ({ key, label: key, align: "left" })),
    rows: errors,
  };
  return [
    ["settings.csv", renderCsv(settings)],
    ["layer-errors.csv", renderCsv(errorTable)],
    ["activation.csv", renderCsv(layersTable(study))],
    ["speeds.csv", renderCsv(speedsTable(study))],
  ];
}
