// The finished parts of a study in its folder, so that an interrupted one goes on where it was: one JSON file a part, and a
// file that says what the parts are of.

import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { writeFileAtomic } from "../checkpoint/atomic.ts";
import { damagedWeights, UsageError } from "../errors.ts";

/** Inputs as users know them. */
const inWords: Record<string, string> = {
  checkpoint: "model",
  config: "configuration of the model",
  window: "length of windows",
  wanted: "choice of criteria",
  keptByLayer: "choice of neurons",
  dtype: "type of weights",
  packageVersion: "version of this program",
};

export class StudyParts {
  readonly #folder: string | undefined;
  readonly #known = new Map<string, string>();

  private constructor(folder: string | undefined) {
    this.#folder = folder;
  }

  /** Parts that nothing remains of. */
  static inMemory(): StudyParts {
    return new StudyParts(undefined);
  }

  /**
   * @param inputs everything that results depend on.
   * @throws UsageError if the folder holds parts of other inputs, or something else.
   */
  static async open(folder: string, inputs: object): Promise<StudyParts> {
    const parts = new StudyParts(join(folder, "parts"));
    if (!existsSync(parts.#path("inputs")) && existsSync(folder)) {
      if (readdirSync(folder).some((name) => name !== "parts")) {
        throw new UsageError(`${folder} is not empty, and no study was begun there: name a new folder`);
      }
    }
    const text = JSON.stringify(inputs);
    const known = parts.#read("inputs");
    if (known === undefined) await parts.#write("inputs", text);
    else if (known !== text) {
      const before = JSON.parse(known) as Record<string, unknown>;
      const isSame = ([name, value]: [string, unknown]) =>
        JSON.stringify(before[name]) === JSON.stringify(value);
      const others = Object.entries(JSON.parse(text)).flatMap((one) => (isSame(one) ? [] : one[0]));
      throw new UsageError(
        `${folder} holds a study of another ${others.map((name) => inWords[name] ?? name).join(", ")}: give another --out, or remove it`,
      );
    }
    return parts;
  }

  /**
   * The part of that name, made and kept if it is not there. The same value, whether it was made or read.
   * @param of what the part depends on beside the study's inputs and its name: another value is another part.
   */
  async once<T>(name: string, make: () => Promise<T>, of?: object): Promise<T> {
    const key = of === undefined ? name : `${name}-${hashOf(of)}`;
    let text = this.#read(key);
    if (text === undefined) {
      text = JSON.stringify(await make(), refuseNonFinite);
      await this.#write(key, text);
    }
    return JSON.parse(text) as T;
  }

  #read(key: string): string | undefined {
    if (this.#folder === undefined) return this.#known.get(key);
    const path = this.#path(key);
    return existsSync(path) ? readFileSync(path, "utf8") : undefined;
  }

  async #write(key: string, text: string): Promise<void> {
    if (this.#folder === undefined) this.#known.set(key, text);
    else await writeFileAtomic(this.#path(key), text);
  }

  #path(key: string): string {
    return join(this.#folder as string, `${key}.json`);
  }
}

/** JSON would make null of it, which counts as 0 when it is read. */
function refuseNonFinite(key: string, value: unknown): unknown {
  if (typeof value !== "number" || Number.isFinite(value)) return value;
  throw damagedWeights(`${key} is ${value}`);
}

function hashOf(value: object): string {
  return createHash("sha256").update(JSON.stringify(value)).digest("hex").slice(0, 16);
}
