// The balance loss over experts and its gradient, declared in balance.ts (whose neuron kernels are in balance.cc).
// The gradient with respect to the probabilities is the same row for every token, and the loss, which is linear in
// them, is the sum of their products with that row.

/** Fills row[e] = scale * E f_e / T, with f_e the share of slots that expert e received. */
static void expertShares(const uint32_t* offsets, double scale, float* row, int64_t tokens, int64_t experts,
                         int64_t active) {
  const double perSlot = scale * double(experts) / (double(tokens) * double(active) * double(tokens));
  for (int64_t e = 0; e < experts; e++) row[e] = float(perSlot * (offsets[e + 1] - offsets[e]));
}

#define expertBalance_INTERFACE(B, P) \
  B(in, f32, probs) B(in, u32, offsets) B(out, f32, loss) P(int, tokens) P(int, experts) P(int, active)
KERNEL(expertBalance) {
  float* shares = static_cast<float*>(threadScratch(1, 4 * a.experts));
  expertShares(a.offsets, 1, shares, a.tokens, a.experts, a.active);
  a.loss[0] = float(parallelSum(a.tokens, streamGrain(a.experts), [&](int64_t begin, int64_t end) {
    double total = 0;
    for (int64_t t = begin; t < end; t++) {
      const float* probs = a.probs + t * a.experts;
      vf products{};
      eachVector(a.experts, [&](int64_t i, auto lanes) { products += lanes.get(probs + i) * lanes.get(shares + i); });
      total += sum(products);
    }
    return total;
  }));
}

#define expertBalanceGrad_INTERFACE(B, P)                                                                \
  B(in, u32, offsets) B(in, f32, dloss) B(inout, f32, dprobs) P(int, tokens) P(int, experts) P(int, active) \
  P(int, accumulate)
KERNEL(expertBalanceGrad) {
  float* row = static_cast<float*>(threadScratch(0, 4 * a.experts));
  expertShares(a.offsets, a.dloss[0], row, a.tokens, a.experts, a.active);
  parallelRange(a.tokens, streamGrain(2 * a.experts), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
      float* dprobs = a.dprobs + t * a.experts;
      eachVector(a.experts, [&](int64_t i, auto lanes) { lanes.update(dprobs + i, lanes.get(row + i), a.accumulate); });
    }
  });
}
