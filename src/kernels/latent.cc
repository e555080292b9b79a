// Pieces of latent attention: copies and a small rotation. See latent.ts.

#define rowPart_INTERFACE(B, P) \
  B(in, f32, x) B(out, f32, y) P(int, rows) P(int, width) P(int, first) P(int, count)
KERNEL(rowPart) {
  parallelRange(a.rows, streamGrain(2 * a.count), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; n++)
      std::memcpy(a.y + n * a.count, a.x + n * a.width + a.first, 4 * a.count);
  });
}

#define latentKeyValue_INTERFACE(B, P)                                                                        \
  B(in, f32, expanded) B(in, f32, latent) B(out, f32, k) B(out, f32, v) P(int, tokens) P(int, heads)          \
  P(int, plain) P(int, rotated) P(int, rank) P(int, value)
KERNEL(latentKeyValue) {
  const int64_t width = a.plain + a.rotated;
  parallelRange(a.tokens, streamGrain(4 * a.heads * width), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
      const float* shared = a.latent + t * (a.rank + a.rotated) + a.rank;
      for (int64_t head = t * a.heads; head < (t + 1) * a.heads; head++) {
        const float* from = a.expanded + head * (a.plain + a.value);
        float *k = a.k + head * width, *v = a.v + head * width;
        std::memcpy(k, from, 4 * a.plain);
        std::memcpy(k + a.plain, shared, 4 * a.rotated);
        std::memcpy(v, from + a.plain, 4 * a.value);
        std::memset(v + a.value, 0, 4 * (width - a.value));
      }
    }
  });
}

#define ropeInterleaved_INTERFACE(B, P)                                                              \
  B(in, f32, x) B(in, f32, table) B(in, u32, positions) B(out, f32, y) P(int, tokens) P(int, heads)  \
  P(int, headDim) P(int, rotated) P(int, maxPositions)
KERNEL(ropeInterleaved) {
  const int64_t plain = a.headDim - a.rotated, half = a.rotated / 2;
  parallelRange(a.tokens, streamGrain(2 * a.heads * a.headDim), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
      const float *cosines = a.table + a.positions[t] * a.rotated, *sines = cosines + half;
      for (int64_t head = t * a.heads; head < (t + 1) * a.heads; head++) {
        const float* x = a.x + head * a.headDim;
        float* y = a.y + head * a.headDim;
        std::memcpy(y, x, 4 * plain);
        x += plain, y += plain;
        for (int64_t i = 0; i < half; i++) {
          y[2 * i] = x[2 * i] * cosines[i] - x[2 * i + 1] * sines[i];
          y[2 * i + 1] = x[2 * i + 1] * cosines[i] + x[2 * i] * sines[i];
        }
      }
    }
  });
}
