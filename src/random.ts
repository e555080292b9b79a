// Counter-based random numbers (Philox 4x32-10, Salmon et al. 2011): a pure function of key and counter, so
// that a draw depends on what it is for (seed, stream, index) and never on how many draws came before it.
// The same integers come out of any language that follows the paper.

const M0 = 0xd2511f53;
const M1 = 0xcd9e8d57;
const W0 = 0x9e3779b9;
const W1 = 0xbb67ae85;

/** High and low 32 bits of the product of two unsigned 32-bit integers. */
function mulHiLo(a: number, b: number): [hi: number, lo: number] {
  const aLo = a & 0xffff;
  const aHi = a >>> 16;
  const bLo = b & 0xffff;
  const bHi = b >>> 16;
  const lowLow = aLo * bLo;
  const mid = aHi * bLo + (lowLow >>> 16);
  const mid2 = aLo * bHi + (mid & 0xffff);
  const hi = (aHi * bHi + Math.floor(mid / 0x10000) + (mid2 >>> 16)) >>> 0;
  return [hi, Math.imul(a, b) >>> 0];
}

/** Four uniform 32-bit words for a 128-bit counter and a 64-bit key. */
export function philox(
  counter: readonly [number, number, number, number],
  key: readonly [number, number],
): [number, number, number, number] {
  let [c0, c1, c2, c3] = counter;
  let [k0, k1] = key;
  for (let round = 0; round < 10; round++) {
    const [hi0, lo0] = mulHiLo(M0, c0);
    const [hi1, lo1] = mulHiLo(M1, c2);
    [c0, c1, c2, c3] = [(hi1 ^ c1 ^ k0) >>> 0, lo1, (hi0 ^ c3 ^ k1) >>> 0, lo0];
    k0 = (k0 + W0) >>> 0;
    k1 = (k1 + W1) >>> 0;
  }
  return [c0, c1, c2, c3];
}

/** FNV-1a over UTF-16 units: turns a stream's name into a counter word. */
function hashName(name: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < name.length; i++) hash = Math.imul(hash ^ name.charCodeAt(i), 0x01000193);
  return hash >>> 0;
}

/** One named stream of random numbers; every draw is addressed by an index. */
export class RandomStream {
  readonly #key: readonly [number, number];
  readonly #stream: number;

  /** @param seed any integer up to 2^53; @param stream what the numbers are for, e.g. `"init/embedding"`. */
  constructor(seed: number, stream: string) {
    this.#key = [seed >>> 0, Math.floor(seed / 2 ** 32) >>> 0];
    this.#stream = hashName(stream);
  }

  /** Four 32-bit words of draw `index` (an integer up to 2^53). */
  words(index: number): [number, number, number, number] {
    return philox([index >>> 0, Math.floor(index / 2 ** 32) >>> 0, this.#stream, 0], this.#key);
  }

  /** Uniform in [0, 1) with 53 bits. */
  uniform(index: number): number {
    const [a, b] = this.words(index);
    return (a * 2 ** 21 + (b >>> 11)) / 2 ** 53;
  }

  /** Uniform integer in [0, n), n up to 2^32; the bias is below n / 2^53. */
  integer(index: number, n: number): number {
    return Math.floor(this.uniform(index) * n);
  }

  /** Standard normals (Box-Muller, four from one draw's words), times `scale`, into `out`. */
  fillNormal(out: Float32Array | Float64Array, scale = 1): void {
    for (let i = 0; i < out.length; i += 4) {
      const words = this.words(i / 4);
      for (let pair = 0; pair < 2; pair++) {
        const radius = Math.sqrt(-2 * Math.log((words[2 * pair] + 0.5) / 2 ** 32));
        const angle = (2 * Math.PI * words[2 * pair + 1]) / 2 ** 32;
        const at = i + 2 * pair;
        if (at < out.length) out[at] = scale * radius * Math.cos(angle);
        if (at + 1 < out.length) out[at + 1] = scale * radius * Math.sin(angle);
      }
    }
  }
}

/**
 * One long row of normal numbers, of which matrices are pieces at random places: fills any amount of memory with values
 * that repeat, in the time of a copy. For measuring speed, which does not depend on values.
 */
export class NormalRow {
  /** As many as the longest piece, and what places add to it. */
  readonly values: Float32Array;
  readonly #places: RandomStream;
  readonly #choices: number;
  readonly #step: number;

  /** @param spread places begin below it, @param step at multiples of this, which divides it. */
  constructor(
    seed: number,
    name: string,
    longest: number,
    { deviation = 1, spread = 2 ** 20, step = 1 } = {},
  ) {
    this.values = new Float32Array(Math.ceil((longest + spread) / step) * step);
    new RandomStream(seed, name).fillNormal(this.values, deviation);
    this.#places = new RandomStream(seed, `${name}/places`);
    this.#choices = spread / step;
    this.#step = step;
  }

  /** Where piece `index` begins. */
  place(index: number): number {
    return this.#places.integer(index, this.#choices) * this.#step;
  }
}
