// The table of rotation angles that the rope kernel reads: a row [cos ; sin] for each position, angle
// position * theta^(-2i / head_dim). Scaled variants (yarn, llama3) will be other tables, not other kernels.

/** [positions, headDim] */
export function ropeTable(positions: number, headDim: number, theta: number): Float32Array {
  const half = headDim / 2;
  const table = new Float32Array(positions * headDim);
  for (let i = 0; i < half; i++) {
    const frequency = Math.fround(theta ** ((-2 * i) / headDim));
    for (let p = 0; p < positions; p++) {
      // Angles are f32 products, as in transformers: at large positions the rounding is visible.
      const angle = Math.fround(p * frequency);
      table[p * headDim + i] = Math.cos(angle);
      table[p * headDim + half + i] = Math.sin(angle);
    }
  }
  return table;
}
