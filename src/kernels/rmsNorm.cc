// RMSNorm over rows and its gradient. See rmsNorm.ts. Per-head norms have millions of rows of two to eight vectors,
// so what is done once a row must be cheap: the roots of kLanes rows are taken as one vector.

#define rmsNorm_INTERFACE(B, P) \
  B(in, f32, x) B(in, f32, weight) B(out, f32, y) B(out, f32, rstd) P(int, rows) P(int, width) P(float, eps)
KERNEL(rmsNorm) {
  parallelRange(a.rows, streamGrain(2 * a.width), [&](int64_t begin, int64_t end) {
    for (int64_t first = begin; first < end; first += kLanes) {
      const int64_t count = std::min<int64_t>(end - first, kLanes);
      const float* x = a.x + first * a.width;
      float* y = a.y + first * a.width;
      float scale[kLanes] = {};
      for (int64_t r = 0; r < count; r++) scale[r] = sumOfSquares(x + r * a.width, a.width);
      const vf rstd = 1.0f / vsqrt(load(scale) / float(a.width) + float(a.eps));
      store(scale, rstd);
      storePart(a.rstd + first, rstd, count);
      for (int64_t r = 0; r < count; r++, x += a.width, y += a.width) {
        const vf rowScale = splat(scale[r]);
        eachVector(a.width, [&](int64_t i, auto lanes) {
          lanes.put(y + i, lanes.get(x + i) * rowScale * lanes.get(a.weight + i));
        });
      }
    }
  });
}

#define rmsNormGrad_INTERFACE(B, P)                                                                            \
  B(in, f32, x) B(in, f32, weight) B(in, f32, rstd) B(in, f32, dy) B(inout, f32, dx) B(inout, f32, dweight)    \
  P(int, rows) P(int, width) P(int, accumulateX) P(int, accumulateWeight)
KERNEL(rmsNormGrad) {
  // dweight sums over rows: a partial sum per chunk of rows, added in order. At most 256 of them bounds the memory.
  constexpr int64_t kMaxChunks = 256;
  const int64_t chunk = std::max(streamGrain(4 * a.width), ceilDivide(a.rows, kMaxChunks));
  const int64_t chunks = ceilDivide(a.rows, chunk);
  float* partial = static_cast<float*>(threadScratch(0, 4 * chunks * a.width));
  parallelRange(a.rows, chunk, [&](int64_t begin, int64_t end) {
    float* total = partial + begin / chunk * a.width;
    std::memset(total, 0, 4 * a.width);
    for (int64_t n = begin; n < end; n++) {
      const float *x = a.x + n * a.width, *dy = a.dy + n * a.width;
      float* dx = a.dx + n * a.width;
      const float rstd = a.rstd[n];
      vf dots{};
      eachVector(a.width, [&](int64_t i, auto lanes) {
        const vf product = lanes.get(dy + i) * lanes.get(x + i);
        dots += product * lanes.get(a.weight + i);
        lanes.put(total + i, lanes.get(total + i) + product * rstd);
      });
      const float shared = sum(dots) * rstd * rstd * rstd / float(a.width);
      eachVector(a.width, [&](int64_t i, auto lanes) {
        const vf value = lanes.get(dy + i) * lanes.get(a.weight + i) * rstd - lanes.get(x + i) * shared;
        lanes.update(dx + i, value, a.accumulateX);
      });
    }
  });
  eachVector(a.width, [&](int64_t i, auto lanes) {
    vf total{};
    for (int64_t c = 0; c < chunks; c++) total += lanes.get(partial + c * a.width + i);
    lanes.update(a.dweight + i, total, a.accumulateWeight);
  });
}
