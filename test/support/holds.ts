import assert from "node:assert/strict";

/**
 * assert.ok for a condition without a message of its own. assert.ok would make one from the source: Node 20 looks for the
 * column in the text of the file, tsx hands it code of one line, and a test that fails then hangs for minutes (nodejs/node#52677).
 */
export function holds(condition: unknown): asserts condition {
  assert.ok(condition, "the condition does not hold");
}
