// The random numbers of Python's `random` module (MT19937), as far as the lm-evaluation-harness uses them: which
// examples are shown before a question, and bootstrapped standard errors, come out the same.
// Sources: Matsumoto and Nishimura 1998 (mt19937ar); CPython's Lib/random.py and Modules/_randommodule.c.
// Not here: this project's own randomness (src/random.ts).

const SIZE = 624;
const SHIFT = 397;

export class PythonRandom {
  readonly #state = new Uint32Array(SIZE);
  #next = SIZE;

  /** As `random.Random(seed)`, for an integer from 0 to 2^32 - 1. */
  constructor(seed: number) {
    const state = this.#state;
    state[0] = 19650218;
    for (let i = 1; i < SIZE; i++) state[i] = Math.imul(1812433253, mixed(state[i - 1])) + i;
    // init_by_array with one key.
    let i = 1;
    for (let k = 0; k < SIZE; k++) {
      state[i] = (state[i] ^ Math.imul(mixed(state[i - 1]), 1664525)) + seed;
      if (++i === SIZE) i = this.#wrap();
    }
    for (let k = 0; k < SIZE - 1; k++) {
      state[i] = (state[i] ^ Math.imul(mixed(state[i - 1]), 1566083941)) - i;
      if (++i === SIZE) i = this.#wrap();
    }
    state[0] = 0x80000000;
  }

  #wrap(): 1 {
    this.#state[0] = this.#state[SIZE - 1];
    return 1;
  }

  /** 32 random bits. */
  #bits(): number {
    if (this.#next === SIZE) this.#refill();
    let y = this.#state[this.#next++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }

  #refill(): void {
    const state = this.#state;
    for (let i = 0; i < SIZE; i++) {
      const y = (state[i] & 0x80000000) | (state[i + 1 < SIZE ? i + 1 : 0] & 0x7fffffff);
      const shifted = state[i + SHIFT < SIZE ? i + SHIFT : i + SHIFT - SIZE];
      state[i] = shifted ^ (y >>> 1) ^ (-(y & 1) & 0x9908b0df);
    }
    this.#next = 0;
  }

  /** `random()`: uniform in [0, 1), 53 bits. */
  random(): number {
    const high = this.#bits() >>> 5;
    return (high * 67108864 + (this.#bits() >>> 6)) / 9007199254740992;
  }

  /** `randrange(count)`, for counts from 1 to 2^31. */
  below(count: number): number {
    const bits = 32 - Math.clz32(count);
    let drawn: number;
    do drawn = this.#bits() >>> (32 - bits);
    while (drawn >= count);
    return drawn;
  }

  /** `sample(range(count), size)`: `size` different indices. */
  sample(count: number, size: number): number[] {
    // Python keeps a pool where that is smaller than a set of what was drawn; the draws differ.
    const setSize = size > 5 ? 21 + 4 ** Math.ceil(Math.log(size * 3) / Math.log(4)) : 21;
    if (count <= setSize) {
      const pool = Array.from({ length: count }, (_, i) => i);
      return Array.from({ length: size }, (_, i) => {
        const at = this.below(count - i);
        const drawn = pool[at];
        pool[at] = pool[count - i - 1];
        return drawn;
      });
    }
    const drawn = new Set<number>();
    while (drawn.size < size) drawn.add(this.below(count));
    return [...drawn];
  }
}

const mixed = (word: number) => word ^ (word >>> 30);
