// The finished parts of a study in its folder, so that an interrupted one goes on where it was: one JSON file a part, and a
// file that says what the parts are of.

import { createHash } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { writeFileAtomic } from "../checkpoint/atomic.ts";
import { UsageError } from "../errors.ts";

export class StudyParts {
  readonly #folder: string;

  private constructor(folder: string) {
    this.#folder = folder;
  }

  /**
   * @param inputs everything that results depend on.
   * @throws UsageError if the folder holds parts of other inputs.
   */
  static async open(folder: string, inputs: object): Promise<StudyParts> {
    const parts = new StudyParts(join(folder, "parts"));
    const path = parts.#path("inputs");
    const text = JSON.stringify(inputs);
    if (!existsSync(path)) await writeFileAtomic(path, text);
    else if (readFileSync(path, "utf8") !== text) {
      throw new UsageError(
        `${folder} holds a study of another model, text or choice of options: give another --out, or remove it`,
      );
    }
    return parts;
  }

  /**
   * The part of that name, made and kept if it is not there. The same value, whether it was made or read.
   * @param of what the part depends on beside the study's inputs and its name: another value is another part.
   */
  async once<T>(name: string, make: () => Promise<T>, of?: object): Promise<T> {
    const path = this.#path(of === undefined ? name : `${name}-${hashOf(of)}`);
    if (!existsSync(path)) await writeFileAtomic(path, JSON.stringify(await make()));
    return JSON.parse(readFileSync(path, "utf8")) as T;
  }

  #path(name: string): string {
    return join(this.#folder, `${name}.json`);
  }
}

function hashOf(value: object): string {
  return createHash("sha256").update(JSON.stringify(value)).digest("hex").slice(0, 16);
}
