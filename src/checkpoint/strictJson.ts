// JSON from strangers: what JSON.parse hides or chokes on is a problem in words here. Not here: what the values mean.

import { quote } from "../errors.ts";

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Either the value or, in words that follow a subject ("is not JSON"), why there is none. */
export type ParsedJson = { value: unknown; problem?: undefined } | { value?: undefined; problem: string };

/**
 * Parses UTF-8 JSON and refuses a key given twice (of which JSON.parse silently takes the last), objects and lists in
 * more than `maxNesting` levels, and a byte order mark.
 * @param leastEntryBytes what an entry of the outermost object takes at least: more entries than fit so are refused before
 *   they cost memory, which is many times that of their text.
 */
export function parseStrictJson(bytes: Uint8Array, maxNesting: number, leastEntryBytes = 0): ParsedJson {
  try {
    const json = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    const maxEntries =
      leastEntryBytes > 0 ? FEW_ENTRIES + bytes.length / leastEntryBytes : Number.POSITIVE_INFINITY;
    const problem = findHiddenProblem(json, maxNesting, maxEntries);
    return problem === undefined ? { value: JSON.parse(json) } : { problem };
  } catch {
    return { problem: "is not JSON" };
  }
}

/** What is wrong with a few of them is said in better words. */
const FEW_ENTRIES = 1000;

/** Text that is not JSON may pass; JSON.parse has the last word on it. */
function findHiddenProblem(json: string, maxNesting: number, maxEntries: number): string | undefined {
  const open: Set<string>[] = []; // keys of the objects (of arrays: none) around position i
  const colon = /[ \t\r\n]*:/y;
  for (let i = 0; i < json.length; i++) {
    const character = json[i];
    if (character === "{" || character === "[") {
      if (open.push(new Set()) > maxNesting) return "is nested too deeply";
    } else if (character === "}" || character === "]") open.pop();
    else if (character === '"') {
      const begin = i++;
      while (i < json.length && json[i] !== '"') i += json[i] === "\\" ? 2 : 1;
      colon.lastIndex = i + 1;
      if (!colon.test(json)) continue;
      const key: string = JSON.parse(json.slice(begin, i + 1)); // undoes escapes: "\u0061" is "a"
      const keys = open.at(-1);
      if (keys?.has(key)) return `has the key ${quote(key)} twice`;
      keys?.add(key);
      if (open.length === 1 && keys && keys.size > maxEntries) return "has entries that are too short";
    }
  }
  return undefined;
}
