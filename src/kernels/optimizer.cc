// AdamW in one pass over memory, and the sum of squares for the gradient norm. See optimizer.ts.

#define sumSquares_INTERFACE(B, P) B(in, f32, x) B(inout, f32, total) P(int, n) P(int, accumulate)
KERNEL(sumSquares) {
  // f32 within a block, double from block to block: as exact as double throughout, at the speed of memory.
  constexpr int64_t kBlock = 1 << 12, kPiece = 1 << 16;
  const double squares = parallelSum(a.n, kPiece, [&](int64_t begin, int64_t end) {
    double piece = 0;
    for (int64_t i = begin; i < end; i += kBlock) piece += sumOfSquares(a.x + i, std::min(end - i, kBlock));
    return piece;
  });
  a.total[0] = float((a.accumulate ? a.total[0] : 0.0) + squares);
}

#define adamW_INTERFACE(B, P)                                                                                    \
  B(inout, f32, param) B(inout, f32, m) B(inout, f32, v) B(in, f32, grad) B(in, f32, normSquared) P(int, n)     \
  P(int, step) P(float, lr) P(float, beta1) P(float, beta2) P(float, eps) P(float, weightDecay) P(float, maxNorm)
KERNEL(adamW) {
  const double ratio = a.maxNorm / (std::sqrt(double(a.normSquared[0])) + 1e-6);
  const float clip = a.maxNorm > 0 && !(ratio > 1) ? float(ratio) : 1.0f;  // a norm of NaN stays one
  const float unbias1 = float(1 / (1 - std::pow(a.beta1, double(a.step))));
  const float unbias2 = float(1 / (1 - std::pow(a.beta2, double(a.step))));
  const float beta1 = float(a.beta1), gain1 = float(1 - a.beta1), beta2 = float(a.beta2), gain2 = float(1 - a.beta2);
  const float lr = float(a.lr), eps = float(a.eps), decay = float(a.weightDecay);
  parallelRange(a.n, streamGrain(8), [&](int64_t begin, int64_t end) {
    eachVector(end - begin, [&](int64_t i, auto lanes) {
      i += begin;
      const vf g = lanes.get(a.grad + i) * clip;
      const vf m = lanes.get(a.m + i) * beta1 + g * gain1;
      const vf v = lanes.get(a.v + i) * beta2 + g * g * gain2;
      const vf param = lanes.get(a.param + i);
      const vf update = m * unbias1 / (vsqrt(v * unbias2) + eps);
      lanes.put(a.m + i, m);
      lanes.put(a.v + i, v);
      // Not param * (1 - lr * decay): that factor, rounded to f32, would lose most digits of a small lr * decay.
      lanes.put(a.param + i, param - lr * (update + decay * param));
    });
  });
}
