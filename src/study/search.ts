// How few neurons stay within a tolerance, by what was measured and some more passes.

import type { SettingResult } from "./result.ts";
import { GIVEN } from "./settings.ts";

/** Where the verdict's search ends: K to within this share of the model's own. */
const SEARCH_PRECISION = 1 / 256;

type Searched = Pick<SettingResult, "name" | "kind" | "criterion" | "ratio">;

/**
 * The smallest mean K within the tolerance: between the last one measured that is and the first one that is not, which is
 * looked for among all K where none was measured.
 * @param own the K of the model as it is. @param run measures another one.
 */
export async function searchKept(
  own: number,
  results: Iterable<Searched>,
  kind: "neurons" | "per-layer",
  tolerance: number,
  run: (kept: number) => Promise<Pick<SettingResult, "ratio">>,
): Promise<number> {
  const isWithin = ({ ratio }: Pick<SettingResult, "ratio">) => ratio <= 1 + tolerance;
  const grid = [...results]
    .filter((one) => one.kind === kind && one.criterion === "gate" && !one.name.startsWith(GIVEN))
    .map((one) => ({ kept: Number(one.name.slice(one.name.lastIndexOf("k") + 1)), fits: isWithin(one) }))
    .filter(({ kept }) => kept < own)
    .sort((a, b) => b.kept - a.kept);
  let high = own;
  let low: number | undefined;
  for (const { kept, fits } of grid) {
    if (!fits) {
      low = kept;
      break;
    }
    high = kept;
  }
  if (low === undefined && high > 1) {
    if (isWithin(await run(1))) return 1;
    low = 1;
  }
  while (low !== undefined && high - low > Math.max(1, own * SEARCH_PRECISION)) {
    const middle = Math.round((low + high) / 2);
    if (isWithin(await run(middle))) high = middle;
    else low = middle;
  }
  return high;
}
