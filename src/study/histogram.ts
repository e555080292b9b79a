// Histograms of magnitudes on a grid that follows floating-point numbers: 32 bins an octave, from 2^-24 to 2^8. Smaller ones,
// zero included, count in the first bin, larger ones in the last.

const LOWEST = -24;
const OCTAVES = 32;
const PER_OCTAVE = 32;
const BINS = OCTAVES * PER_OCTAVE;
/** Bits of a float below those that number its bin: 23 of the mantissa, less 5. */
const SHIFT = 18;
const OFFSET = (LOWEST + 127) * PER_OCTAVE;

export class GateHistogram {
  readonly #counts = new Float64Array(BINS);
  #total = 0;

  /** Counts the magnitudes of all values. */
  add(values: Float32Array): void {
    const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
    for (const word of bits) {
      const bin = ((word & 0x7fffffff) >>> SHIFT) - OFFSET;
      this.#counts[bin < 0 ? 0 : bin < BINS ? bin : BINS - 1]++;
    }
    this.#total += values.length;
  }

  merge(other: GateHistogram): void {
    for (let i = 0; i < BINS; i++) this.#counts[i] += other.#counts[i];
    this.#total += other.#total;
  }

  get total(): number {
    return this.#total;
  }

  /** The magnitude below which a share of the values lies, straight between a bin's edges; 0 for an empty histogram. */
  quantile(share: number): number {
    const wanted = share * this.#total;
    let before = 0;
    for (let i = 0; i < BINS; i++) {
      if (before + this.#counts[i] >= wanted && this.#counts[i] > 0) {
        const inside = Math.max(0, wanted - before) / this.#counts[i];
        return edge(i) + inside * (edge(i + 1) - edge(i));
      }
      before += this.#counts[i];
    }
    return 0;
  }

  /** The share of values below a magnitude. */
  below(size: number): number {
    if (this.#total === 0) return 0;
    let count = 0;
    for (let i = 0; i < BINS && edge(i) < size; i++) {
      const inside = Math.min(1, (size - edge(i)) / (edge(i + 1) - edge(i)));
      count += inside * this.#counts[i];
    }
    return count / this.#total;
  }

  /** Shares of values by octave, without empty octaves at both ends. `first`: the power of two where they begin. */
  octaves(): { first: number; shares: number[] } {
    const shares = Array.from({ length: OCTAVES }, (_, o) => {
      let sum = 0;
      for (let i = 0; i < PER_OCTAVE; i++) sum += this.#counts[o * PER_OCTAVE + i];
      return sum / Math.max(1, this.#total);
    });
    const first = shares.findIndex((share) => share > 0);
    if (first < 0) return { first: 0, shares: [] };
    const last = shares.findLastIndex((share) => share > 0);
    return { first: LOWEST + first, shares: shares.slice(first, last + 1) };
  }
}

/** Where a bin begins; the first one begins at 0. */
function edge(bin: number): number {
  if (bin === 0) return 0;
  return 2 ** (LOWEST + Math.floor(bin / PER_OCTAVE)) * (1 + (bin % PER_OCTAVE) / PER_OCTAVE);
}
