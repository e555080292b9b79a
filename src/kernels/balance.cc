// The balance loss over the neurons inside each expert: see balance.ts. What it is made of, usage and scores, comes from
// neuronTopK.cc. (The balance of experts is in expertBalance.cc.)

/** Calls f(first element, F / (K T_e^2 experts in use)) for every expert; 0 for one without rows. */
template <class Args, class F>
static void forExpertWeights(const Args& a, F&& f) {
  double used = 0;
  for (int64_t e = 0; e < a.groups; e++) used += a.offsets[e + 1] > a.offsets[e];
  for (int64_t e = 0; e < a.groups; e++) {
    const double tokens = double(a.offsets[e + 1]) - double(a.offsets[e]);
    f(e * a.width, tokens > 0 ? double(a.width) / (double(a.kept) * tokens * tokens * used) : 0.0);
  }
}

/** Counts as numbers. */
template <class Lanes>
static inline vf countsOf(const uint32_t* usage, Lanes lanes) {
  return __builtin_convertvector(vi(lanes.get(reinterpret_cast<const float*>(usage))), vf);  // bits are copied
}

#define neuronBalance_INTERFACE(B, P)                                                                  \
  B(in, f32, scores) B(in, u32, usage) B(in, u32, offsets) B(out, f32, loss) P(int, groups) P(int, width) P(int, kept)
KERNEL(neuronBalance) {
  double loss = 0;
  forExpertWeights(a, [&](int64_t first, double weight) {
    vf products{};
    eachVector(a.width, [&](int64_t j, auto lanes) {
      products += lanes.get(a.scores + first + j) * countsOf(a.usage + first + j, lanes);
    });
    loss += weight * sum(products);
  });
  a.loss[0] = float(loss);
}

#define neuronBalanceGrad_INTERFACE(B, P)                                                               \
  B(in, u32, usage) B(in, u32, offsets) B(in, f32, dloss) B(inout, f32, dscores) P(int, groups) P(int, width) \
  P(int, kept) P(int, accumulate)
KERNEL(neuronBalanceGrad) {
  forExpertWeights(a, [&](int64_t first, double weight) {
    const float factor = float(a.dloss[0] * weight);
    eachVector(a.width, [&](int64_t j, auto lanes) {
      lanes.update(a.dscores + first + j, factor * countsOf(a.usage + first + j, lanes), a.accumulate);
    });
  });
}
