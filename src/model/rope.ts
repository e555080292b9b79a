// The table of rotation angles that the rope kernels read: a row [cos ; sin] for each position, angle
// position * frequency_i. Scaled variants are other tables, not other kernels.
// Formulas: those of transformers' modeling_rope_utils (llama3; yarn, arXiv 2309.00071).

export type RopeScaling =
  | { readonly type: "linear"; readonly factor: number }
  | {
      readonly type: "llama3";
      readonly factor: number;
      readonly low: number;
      readonly high: number;
      readonly original: number;
    }
  | {
      readonly type: "yarn";
      readonly factor: number;
      readonly betaFast: number;
      readonly betaSlow: number;
      readonly original: number;
      readonly truncate: boolean;
      /** Multiplies cosines and sines. */
      readonly attentionFactor: number;
    };

/** yarn's m(s, k): how much scores grow for a context `s` times as long. */
export function yarnMagnitude(factor: number, k = 1): number {
  return factor <= 1 ? 1 : 0.1 * k * Math.log(factor) + 1;
}

/** Frequencies of the `dim / 2` pairs. */
export function ropeFrequencies(dim: number, theta: number, scaling?: RopeScaling): Float32Array {
  const plain = Float32Array.from({ length: dim / 2 }, (_, i) => theta ** ((-2 * i) / dim));
  switch (scaling?.type) {
    case undefined:
      return plain;
    case "linear":
      return plain.map((frequency) => frequency / scaling.factor);
    case "llama3": {
      const { factor, low, high, original } = scaling;
      return plain.map((frequency) => {
        const turns = (original * frequency) / (2 * Math.PI); // within the original context
        if (turns > high) return frequency;
        if (turns < low) return frequency / factor;
        const share = (turns - low) / (high - low);
        return ((1 - share) * frequency) / factor + share * frequency;
      });
    }
    case "yarn": {
      const { factor, betaFast, betaSlow, original, truncate } = scaling;
      /** The pair that turns so often within the original context. */
      const pair = (turns: number) =>
        (dim * Math.log(original / (2 * Math.PI * turns))) / (2 * Math.log(theta));
      const first = truncate ? Math.floor(pair(betaFast)) : pair(betaFast);
      const last = truncate ? Math.ceil(pair(betaSlow)) : pair(betaSlow);
      const low = Math.max(first, 0);
      let high = Math.min(last, dim - 1);
      if (high === low) high += 0.001;
      return plain.map((frequency, i) => {
        const ramp = Math.min(1, Math.max(0, (i - low) / (high - low)));
        return (frequency / factor) * ramp + frequency * (1 - ramp);
      });
    }
  }
}

/** [positions, dim] */
export function ropeTable(
  positions: number,
  dim: number,
  theta: number,
  scaling?: RopeScaling,
): Float32Array {
  const half = dim / 2;
  const table = new Float32Array(positions * dim);
  const frequencies = ropeFrequencies(dim, theta, scaling);
  const factor = scaling?.type === "yarn" ? scaling.attentionFactor : 1;
  for (let i = 0; i < half; i++) {
    const frequency = frequencies[i];
    for (let p = 0; p < positions; p++) {
      // Angles are f32 products, as in transformers: at large positions the rounding is visible.
      const angle = Math.fround(p * frequency);
      table[p * dim + i] = factor * Math.cos(angle);
      table[p * dim + half + i] = factor * Math.sin(angle);
    }
  }
  return table;
}
