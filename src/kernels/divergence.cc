// How far predictions are from those of another model: see divergence.ts.

#include "../../native/softmax.h"

/** The first index of the largest value. */
static inline int64_t firstLargest(const float* x, int64_t n) {
  vf largests = splat(-INFINITY);
  eachVector(n, [&](int64_t i, auto lanes) { largests = vmax(largests, lanes.get(x + i, largests)); });
  const float largest = maximum(largests);
  for (int64_t i = 0; i < n; i++)
    if (x[i] == largest) return i;
  return 0;
}

#define logitDivergence_INTERFACE(B, P)                                                                        \
  B(in, f32, logits) B(in, f32, expected) B(in, u32, targets) B(out, f32, losses) B(out, f32, divergence)      \
  B(out, u32, agrees) P(int, tokens) P(int, vocab)
KERNEL(logitDivergence) {
  parallelRange(a.tokens, streamGrain(4 * a.vocab), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
      const float *q = a.logits + t * a.vocab, *p = a.expected + t * a.vocab;
      const float lseQ = logSumExp(q, a.vocab), lseP = logSumExp(p, a.vocab);
      vf sums{};
      eachVector(a.vocab, [&](int64_t v, auto lanes) {
        const vf logP = lanes.get(p + v, splat(-INFINITY)) - lseP;
        const vf difference = logP - (lanes.get(q + v, splat(-INFINITY)) - lseQ);
        const vf term = vexp(logP) * difference;
        // Beyond the row's end both are minus infinity, and the term is no number.
        sums += a.vocab - v < kLanes ? keepLanes(firstBits(a.vocab - v), term) : term;
      });
      a.divergence[t] = sum(sums);
      a.losses[t] = a.targets[t] < a.vocab ? lseQ - q[a.targets[t]] : 0;
      a.agrees[t] = firstLargest(q, a.vocab) == firstLargest(p, a.vocab);
    }
  });
}
