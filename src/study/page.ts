// The page of a study: verdict first, then quality against what is pruned, rivals, layers (layerFigures.ts), activations
// (activationFigures.ts). Not here: the look (report/).

import { formatCount, formatFixed, formatPercent } from "../report/format.ts";
import { type Block, renderPage, type Section } from "../report/page.ts";
import { type Frame, linePlot, type Series } from "../report/plot.ts";
import { activationSections } from "./activationFigures.ts";
import { layerSection } from "./layerFigures.ts";
import type { SettingResult, StudyResult } from "./result.ts";
import { type Criterion, criteria } from "./settings.ts";
import { settingsTable, speedsTable, summaryTable, timingText } from "./tables.ts";

/** Shares that the paper names: negligible loss up to the first, substantial drops beyond the second (its abstract). */
const paperShares = [0.6, 0.9] as const;
/** The rise of perplexity up to which the enlarged plot goes. */
const ENLARGED = 0.15;

/** The self-contained HTML page. @param file where study.json lies, for the command that applies it. */
export function studyPage(study: StudyResult, file: string): string {
  return renderPage({
    title: "How sparse are the experts?",
    subtitle: `${study.model.path ?? "a model"}, measured on ${study.text.name}`,
    generatedAt: study.createdAt,
    sections: [
      result(study, file),
      quality(study),
      rivals(study),
      layerSection(study),
      ...activationSections(study),
      howMeasured(study),
      { heading: "All settings", blocks: [{ kind: "table", table: settingsTable(study.settings) }] },
    ],
  });
}

function result(study: StudyResult, file: string): Section {
  return {
    heading: "Result",
    blocks: [
      { kind: "prose", paragraphs: [study.verdict.text], lead: true },
      {
        kind: "code",
        title: "Apply it",
        text: `mone generate ${study.model.path ?? "MODEL"} --neurons ${file}`,
      },
      { kind: "table", table: summaryTable(study) },
    ],
  };
}

const percentOf = (share: number) => 100 * share;
/** Not above the reference, or beyond a logarithmic axis: a gap. */
const gap = Number.NaN;

/** Settings of a criterion from few to many neurons pruned, the model as it is first. */
function curveOf(study: StudyResult, criterion: Criterion): SettingResult[] {
  return study.settings
    .filter((one) => one.kind === "reference" || (one.kind === "neurons" && one.criterion === criterion))
    .sort((a, b) => a.prunedShare - b.prunedShare);
}

function curves(
  study: StudyResult,
  of: (one: SettingResult) => number,
  band?: (one: SettingResult) => [number, number],
): Series[] {
  return criteria.flatMap((criterion, colour): Series[] => {
    const points = curveOf(study, criterion);
    if (!points.some((one) => one.kind === "neurons")) return [];
    return [
      {
        name: criterion,
        colour,
        dots: criterion === "gate",
        line: criterion === "gate" || criterion === "threshold" ? "solid" : "dashed",
        points: points.map((one) => [percentOf(one.prunedShare), of(one)]),
        ...(band &&
          criterion === "gate" && { band: points.map((one) => [percentOf(one.prunedShare), ...band(one)]) }),
      },
    ];
  });
}

function quality(study: StudyResult): Section {
  const references: Frame["references"] = paperShares.map((share, i) => ({
    axis: "x",
    at: percentOf(share),
    ...(i === 0 && { label: "60 % and 90 %" }),
  }));
  const x = { label: "neurons pruned, %", include: [0, 100] };
  const rise = (one: SettingResult) => percentOf(one.ratio - 1);
  const interval = (one: SettingResult): [number, number] => [
    percentOf(one.ratioInterval.low - 1),
    percentOf(one.ratioInterval.high - 1),
  ];
  const enlarged = curves(study, rise, interval).map((series) => ({
    ...series,
    points: series.points.filter(([, value]) => value <= percentOf(ENLARGED)),
    band: series.band?.filter(([, , high]) => high <= percentOf(ENLARGED)),
  }));
  const positive = (of: (one: SettingResult) => number) => (one: SettingResult) =>
    of(one) > 0 ? of(one) : gap;
  return {
    heading: "Quality against neurons pruned",
    blocks: [
      {
        kind: "figures",
        figures: [
          {
            svg: linePlot({
              title: "Rise of perplexity, enlarged",
              x,
              y: { label: "above the model as it is, %" },
              references: [
                ...references,
                { axis: "y", at: percentOf(study.options.tolerance), label: "tolerance" },
              ],
              series: enlarged,
            }),
          },
          {
            svg: linePlot({
              title: "Perplexity",
              x,
              y: { label: "perplexity (logarithmic)", log: true },
              references,
              series: curves(study, (one) => one.perplexity),
            }),
          },
          {
            svg: linePlot({
              title: "Divergence from the model as it is",
              x,
              y: { label: "KL, nats per token (logarithmic)", log: true },
              references,
              series: curves(
                study,
                positive((one) => one.divergence),
                (one) => [one.divergenceInterval.low, one.divergenceInterval.high],
              ),
            }),
          },
          {
            svg: linePlot({
              title: "Same most likely next token",
              x,
              y: { label: "tokens, %", include: [0, 100] },
              references,
              series: curves(study, (one) => percentOf(one.agreement)),
            }),
          },
        ],
        caption:
          "Band: 95 % interval of gate. Marked: the shares up to which the abstract of arXiv 2510.05781 reports negligible " +
          "loss (60 %) and beyond which substantial drops (90 %).",
      },
      {
        kind: "facts",
        facts: {
          gate: "the K neurons of largest |act(g)|, per token: what a MoNE does, and the only one that runs fast",
          oracle: "the K largest |act(g) u|: needs all of up",
          "oracle-norm":
            "the same times the norm of the down column: the contributions that are dropped are smallest",
          threshold: "|act(g)| above one threshold a layer, calibrated: the number kept varies",
          random: "K at random, for every token others: the floor",
          static: "the K of largest mean |act(g)| on calibration text, for every token the same",
        },
      },
    ],
  };
}

function rivals(study: StudyResult): Section {
  const { settings, speeds } = study;
  const of = (kind: SettingResult["kind"], criterion: Criterion) =>
    settings
      .filter((one) => one.kind === "reference" || (one.kind === kind && one.criterion === criterion))
      .sort((a, b) => a.activatedParameters - b.activatedParameters);
  const arms: [name: string, colour: number, points: SettingResult[]][] = [
    ["K by gate", 0, of("neurons", "gate")],
    ["K per layer", 1, of("per-layer", "gate")],
    ["fewer experts", 2, of("experts", "gate")],
    ["static", 3, of("neurons", "static")],
  ];
  const shown = arms.filter(([, , points]) => points.length > 1);
  const y = { label: "perplexity (logarithmic)", log: true };
  const forWeights = linePlot({
    title: "Against activated parameters",
    x: { label: "weights that a token multiplies with" },
    y,
    series: shown.map(
      ([name, colour, points]): Series => ({
        name,
        colour,
        dots: true,
        points: points.map((one) => [one.activatedParameters, one.perplexity]),
      }),
    ),
  });
  const kinds = [
    ["K by gate", 0, "neurons"],
    ["fewer experts", 2, "experts"],
    ["static", 3, "static"],
  ] as const;
  const reference = speeds.filter(({ setting }) => setting === "reference");
  const forSpeed = linePlot({
    title: "Against measured decoding speed",
    x: { label: "tokens per second, one sequence" },
    y,
    series: kinds.map(
      ([name, colour, kind]): Series => ({
        name,
        colour,
        dots: true,
        // In the order of what is dropped, so that a line leads from the model as it is to the least one.
        points: [
          ...reference,
          ...speeds.filter((one) => one.kind === kind && one.setting !== "reference"),
        ].flatMap(({ setting, tokensPerSecond }): [number, number][] => {
          const result = settings.find((one) => one.name === setting);
          return result ? [[tokensPerSecond, result.perplexity]] : [];
        }),
      }),
    ),
  });
  const blocks: Block[] = [
    {
      kind: "prose",
      paragraphs: [
        "Two simpler ways to compute less: send every token to fewer experts, or drop the same neurons for all tokens. " +
          "Lower and further left (weights), or further right (speed), is better.",
      ],
    },
    { kind: "figures", figures: [{ svg: forWeights }, { svg: forSpeed }] },
    { kind: "table", table: speedsTable(study) },
  ];
  return { heading: "Rivals", blocks };
}

function howMeasured(study: StudyResult): Section {
  const { text, unit, options, settings, model, timing } = study;
  const reference = settings.find(({ kind }) => kind === "reference");
  return {
    heading: "How it was measured",
    blocks: [
      {
        kind: "facts",
        facts: {
          text: `${formatCount(text.tokens)} tokens (${formatCount(text.bytes)} bytes) of ${text.name}, ${text.documents} document${text.documents === 1 ? "" : "s"}, in ${text.windows} windows of at most ${text.window} tokens that do not overlap`,
          calibration: `${formatCount(text.calibrationTokens)} other tokens: thresholds, ranks of static pruning, K per layer`,
          "model as it is": reference
            ? `perplexity ${formatFixed(reference.perplexity, 3)}, ${formatFixed(reference.bitsPerByte, 4)} bits per byte; weights as ${model.dtype}`
            : "",
          intervals: `95 %, bootstrap over ${unit.count} ${unit.kind}s${unit.kind === "window" ? " (there are too few documents)" : ""}, seed ${options.seed}`,
          tolerance: formatPercent(options.tolerance, 1),
          speed: `medians of ${timingText(timing)}, one after the other`,
          machine: study.machine,
          version: study.packageVersion,
        },
      },
    ],
  };
}
