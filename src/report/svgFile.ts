// A plot as a file of its own: with its name space, and with the style that a page would otherwise give it.

import { plotStyle } from "./plot.ts";

/** From the drawing of plot.ts or roofline.ts to the text of an .svg file, for light and dark surroundings. */
export function svgFile(svg: string): string {
  const style = `
svg { --paper: #ffffff; --ink: #17202a; --muted: #5a6672; --rule: #dde3e8; background: var(--paper); }
@media (prefers-color-scheme: dark) { svg { --paper: #12171d; --ink: #e4e9ee; --muted: #9aa6b2; --rule: #2c3641; } }
${plotStyle}`;
  return `<?xml version="1.0" encoding="UTF-8"?>\n${svg
    .replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ')
    .replace(/(<desc>[^<]*<\/desc>)/, `$1\n<style>${style}</style>`)}\n`;
}
