// One HTML file that needs nothing else: style inside, no scripts, no requests. Light and dark, phone to wide screen, paper.
// Not here: what a particular report says (comparison.ts), and how plots and tables are drawn.

import { escapeMarkup } from "./markup.ts";
import { plotStyle } from "./plot.ts";
import { renderHtml, type Table } from "./table.ts";

export interface Page {
  title: string;
  subtitle: string;
  /** When the numbers were made, in words or as ISO 8601. */
  generatedAt: string;
  sections: Section[];
}

export interface Section {
  heading: string;
  blocks: Block[];
}

export type Block =
  /** Paragraphs; `lead` ones are larger. */
  | { kind: "prose"; paragraphs: string[]; lead?: boolean }
  | { kind: "table"; table: Table }
  /** Side by side where there is room: two in a row, many `small` ones, or one `wide` one. */
  | { kind: "figures"; figures: Figure[]; caption?: string; small?: boolean; wide?: boolean }
  /** Text of a model, line breaks kept, after the prompt that it continues. */
  | { kind: "sample"; title: string; prompt: string; text: string }
  | { kind: "code"; title: string; text: string }
  | { kind: "facts"; facts: Record<string, string> };

export interface Figure {
  /** From linePlot or barPlot. The one string that is not escaped. */
  svg: string;
  caption?: string;
}

/** A figure that is a file of its own, too. */
export interface NamedFigure extends Figure {
  /** Of the file, without ending. */
  name: string;
}

/** The whole HTML document. All text of the caller is escaped. */
export function renderPage(page: Page): string {
  const { title, subtitle, generatedAt, sections } = page;
  const links = sections.map(
    (section, index) => `<li><a href="#s${index}">${escapeMarkup(section.heading)}</a></li>`,
  );
  const bodies = sections.map(
    (section, index) =>
      `<section id="s${index}">\n<h2>${escapeMarkup(section.heading)}</h2>\n${section.blocks.map(renderBlock).join("\n")}\n</section>`,
  );
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<link rel="icon" href="data:,">
<title>${escapeMarkup(title)}</title>
<style>${pageStyle}${plotStyle}</style>
</head>
<body>
<header>
<h1>${escapeMarkup(title)}</h1>
<p class="subtitle">${escapeMarkup(subtitle)}</p>
<p class="date">${escapeMarkup(generatedAt)}</p>
<nav aria-label="Sections"><ul>${links.join("")}</ul></nav>
</header>
<main>
${bodies.join("\n")}
</main>
</body>
</html>
`;
}

function renderBlock(block: Block): string {
  switch (block.kind) {
    case "prose":
      return block.paragraphs
        .map((text) => `<p${block.lead ? ' class="lead"' : ""}>${proseMarkup(text)}</p>`)
        .join("\n");
    case "table":
      return renderHtml(block.table);
    case "figures": {
      const figures = block.figures.map(renderFigure).join("\n");
      const caption =
        block.caption === undefined ? "" : `<p class="caption">${proseMarkup(block.caption)}</p>`;
      return `<div class="figures${block.small ? " small" : ""}${block.wide ? " wide" : ""}">\n${figures}\n</div>\n${caption}`;
    }
    case "sample":
      return `<figure class="sample"><figcaption>${escapeMarkup(block.title)}</figcaption><blockquote><b>${escapeMarkup(block.prompt)}</b>${escapeMarkup(block.text)}</blockquote></figure>`;
    case "code":
      return `<figure class="code"><figcaption>${escapeMarkup(block.title)}</figcaption><pre tabindex="0">${escapeMarkup(block.text)}</pre></figure>`;
    case "facts": {
      const facts = Object.entries(block.facts).map(
        ([name, value]) => `<div><dt>${escapeMarkup(name)}</dt><dd>${escapeMarkup(value)}</dd></div>`,
      );
      return `<dl class="facts">${facts.join("\n")}</dl>`;
    }
  }
}

function renderFigure({ svg, caption }: Figure): string {
  const text = caption === undefined ? "" : `<figcaption>${proseMarkup(caption)}</figcaption>`;
  return `<figure class="plot-box">${svg}${text}</figure>`;
}

/** Escaped, and with no line break before a unit ("1.1 %", "19.7 M") or beside an equals sign ("K = 64"). */
function proseMarkup(text: string): string {
  return escapeMarkup(text.replace(/(?<=\d) (?=%|[kMBT]\b)| (?==)|(?<==) /g, "\u00a0"));
}

const pageStyle = `
:root {
  color-scheme: light dark;
  --paper: #ffffff; --panel: #f5f7f9; --ink: #17202a; --muted: #5a6672; --rule: #dde3e8; --link: #005a8e;
}
@media screen and (prefers-color-scheme: dark) {
  :root { --paper: #12171d; --panel: #1a2129; --ink: #e4e9ee; --muted: #9aa6b2; --rule: #2c3641; --link: #7cc4ee; }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: clamp(1rem, 4vw, 3rem) clamp(1rem, 4vw, 2.5rem) 4rem; max-width: 80rem;
  background: var(--paper); color: var(--ink); font: 1rem/1.55 system-ui, sans-serif;
}
h1 { margin: 0; font-size: clamp(1.5rem, 1.2rem + 1.6vw, 2.1rem); line-height: 1.2; letter-spacing: -0.015em; text-wrap: balance; }
h2 { margin: 0 0 0.75rem; font-size: 1.2rem; line-height: 1.3; }
p, .notes dl { max-width: 44rem; }
p { margin: 0 0 0.9rem; text-wrap: pretty; }
a { color: var(--link); }
.subtitle { margin: 0.4rem 0 0; font-size: 1.05rem; color: var(--muted); }
.date { margin: 0.15rem 0 0; font-size: 0.875rem; color: var(--muted); }
nav ul { display: flex; flex-wrap: wrap; gap: 0.3rem 1.1rem; margin: 1rem 0 0; padding: 0; list-style: none; font-size: 0.9rem; }
section { margin-top: 2.25rem; padding-top: 1.5rem; border-top: 1px solid var(--rule); }
.lead { font-size: 1.15rem; line-height: 1.5; }
.scroll { overflow-x: auto; border: 1px solid var(--rule); border-radius: 6px; }
.scroll:focus-visible, pre:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
table { width: 100%; border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
caption { padding: 0.6rem 0.8rem 0; text-align: left; font-weight: 600; }
th, td { padding: 0.5rem 0.8rem; text-align: left; vertical-align: baseline; border-bottom: 1px solid var(--rule); }
tbody tr:last-child > * { border-bottom: 0; }
thead th { vertical-align: bottom; color: var(--muted); font-weight: 500; line-height: 1.3; }
tbody th { font-weight: 600; }
tbody th, .number, .short { white-space: nowrap; }
thead .number { white-space: normal; }
td:not(.number, .short) { min-width: 14rem; }
th:first-child { position: sticky; left: 0; background: var(--paper); }
.number { text-align: right; }
.notes { margin: 0.6rem 0 1rem; font-size: 0.9rem; }
.notes summary { color: var(--muted); cursor: pointer; }
.notes dt { margin-top: 0.5rem; font-weight: 600; }
.notes dd { margin: 0; color: var(--muted); }
figure { margin: 0; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1.75rem 2rem; margin: 1rem 0; align-items: start; }
.figures.small { grid-template-columns: repeat(auto-fill, minmax(max(9.25rem, 21%), 1fr)); gap: 1.25rem 1rem; }
.figures.wide { grid-template-columns: 1fr; }
.figures.wide .plot-box { max-width: 64rem; }
.plot-box { max-width: 34rem; break-inside: avoid; }
figcaption, .caption { color: var(--muted); font-size: 0.9rem; }
.plot-box figcaption { margin-top: 0.4rem; }
.sample, .code { margin: 1rem 0; break-inside: avoid; }
.sample figcaption, .code figcaption { margin-bottom: 0.3rem; font-weight: 600; color: var(--ink); }
blockquote, pre { margin: 0; padding: 0.8rem 1rem; background: var(--panel); border-radius: 6px; }
blockquote { max-width: 46rem; white-space: pre-wrap; overflow-wrap: anywhere; font: 0.95rem/1.6 ui-serif, Georgia, serif; }
pre { overflow-x: auto; font: 0.85rem/1.5 ui-monospace, monospace; }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 15rem), 1fr)); gap: 0.75rem 1.5rem; margin: 1rem 0; }
.facts dt { color: var(--muted); font-size: 0.85rem; }
.facts dd { margin: 0; overflow-wrap: anywhere; }
@media screen and (max-width: 40rem) {
  th, td { padding: 0.45rem 0.55rem; }
  tbody th { min-width: 7rem; max-width: 9rem; white-space: normal; }
}
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  nav { display: none; }
  section { margin-top: 1.25rem; padding-top: 1rem; }
  h2 { break-after: avoid; }
  .scroll, pre { overflow: visible; }
  table { font-size: 7.5pt; }
  th, td { padding: 0.25rem 0.35rem; }
  pre { white-space: pre-wrap; }
  .figures { grid-template-columns: 1fr 1fr; }
  .figures.small { grid-template-columns: repeat(4, 1fr); }
}
`;
