// Rotary position embedding, half-split form. See rope.ts.

#define rope_INTERFACE(B, P)                                                                          \
  B(in, f32, x) B(in, f32, table) B(in, u32, positions) B(inout, f32, y) P(int, tokens) P(int, heads) \
  P(int, headDim) P(int, maxPositions) P(int, inverse) P(int, accumulate)
KERNEL(rope) {
  const int64_t half = a.headDim / 2, width = a.heads * a.headDim;
  const float direction = a.inverse ? -1.0f : 1.0f;
  parallelRange(a.tokens, streamGrain(2 * width), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
      const float *cosines = a.table + a.positions[t] * a.headDim, *sines = cosines + half;
      for (int64_t at = t * width; at < (t + 1) * width; at += a.headDim) {
        const float *first = a.x + at, *second = first + half;
        float* y = a.y + at;
        eachVector(half, [&](int64_t i, auto lanes) {
          const vf cosine = lanes.get(cosines + i), sine = lanes.get(sines + i) * direction;
          const vf p = lanes.get(first + i), q = lanes.get(second + i);
          lanes.update(y + i, p * cosine - q * sine, a.accumulate);
          lanes.update(y + half + i, q * cosine + p * sine, a.accumulate);
        });
      }
    }
  });
}
