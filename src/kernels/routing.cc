// The router's decision and its bookkeeping. See routing.ts. Rows are short (8 to 256 experts), so the best experts
// are found one after the other: a scan of a few vectors each.

#include "../../native/rank.h"

#define routerTopK_INTERFACE(B, P)                                                                           \
  B(in, f32, logits) B(out, f32, probs) B(out, u32, ids) B(out, f32, weights) P(int, tokens) P(int, experts) \
  P(int, active) P(int, normalise)
KERNEL(routerTopK) {
  parallelRange(a.tokens, kRouterGrain, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
      const float* logits = a.logits + t * a.experts;
      float *probs = a.probs + t * a.experts, *weights = a.weights + t * a.active;
      Ranked best = nextLargest(logits, a.experts, {INFINITY, -1});
      const float largest = best.value;
      vf totals{};
      eachVector(a.experts, [&](int64_t i, auto lanes) {
        const vf e = vexp(lanes.get(logits + i, splat(-INFINITY)) - largest);
        lanes.put(probs + i, e);
        totals += e;
      });
      const float total = sum(totals);
      float chosen = 0;
      for (int64_t k = 0; k < a.active; k++) {
        a.ids[t * a.active + k] = uint32_t(best.index);
        weights[k] = probs[best.index];
        chosen += weights[k];
        if (k + 1 < a.active) best = nextLargest(logits, a.experts, best);
      }
      const float mass = a.normalise ? chosen : total;
      for (int64_t k = 0; k < a.active; k++) weights[k] /= mass;
      eachVector(a.experts, [&](int64_t i, auto lanes) { lanes.put(probs + i, lanes.get(probs + i) / total); });
    }
  });
}

#define routerTopKGrad_INTERFACE(B, P)                                                                     \
  B(in, f32, probs) B(in, u32, ids) B(in, f32, weights) B(in, f32, dprobs) B(in, f32, dweights)             \
  B(inout, f32, dlogits) P(int, tokens) P(int, experts) P(int, active) P(int, normalise) P(int, accumulate)
KERNEL(routerTopKGrad) {
  parallelRange(a.tokens, kRouterGrain, [&](int64_t begin, int64_t end) {
    float* total = static_cast<float*>(threadScratch(0, 4 * a.experts));  // with respect to the probabilities
    for (int64_t t = begin; t < end; t++) {
      const float *probs = a.probs + t * a.experts, *weights = a.weights + t * a.active;
      const float* dweights = a.dweights + t * a.active;
      const uint32_t* ids = a.ids + t * a.active;
      float mass = 0, dot = 0;
      for (int64_t k = 0; k < a.active; k++) {
        mass += probs[ids[k]];
        dot += dweights[k] * weights[k];
      }
      std::memcpy(total, a.dprobs + t * a.experts, 4 * a.experts);
      for (int64_t k = 0; k < a.active; k++)
        total[ids[k]] += a.normalise ? (dweights[k] - dot) / mass : dweights[k];
      vf means{};
      eachVector(a.experts, [&](int64_t i, auto lanes) { means += lanes.get(probs + i) * lanes.get(total + i); });
      const float mean = sum(means);
      eachVector(a.experts, [&](int64_t i, auto lanes) {
        const vf value = lanes.get(probs + i) * (lanes.get(total + i) - mean);
        lanes.update(a.dlogits + t * a.experts + i, value, a.accumulate);
      });
    }
  });
}

#define groupByExpert_INTERFACE(B, P)                                                               \
  B(in, u32, ids) B(out, u32, offsets) B(out, u32, rowOfSlot) B(out, u32, slotOfRow) P(int, tokens) \
  P(int, experts) P(int, active)
KERNEL(groupByExpert) {
  // A counting sort of one or two nanoseconds a slot: not worth a second thread.
  const int64_t slots = a.tokens * a.active;
  std::memset(a.offsets, 0, 4 * (a.experts + 1));
  for (int64_t s = 0; s < slots; s++) a.offsets[a.ids[s] + 1]++;
  for (int64_t e = 0; e < a.experts; e++) a.offsets[e + 1] += a.offsets[e];
  uint32_t* next = static_cast<uint32_t*>(threadScratch(0, 4 * a.experts));
  std::memcpy(next, a.offsets, 4 * a.experts);
  for (int64_t s = 0; s < slots; s++) {
    const uint32_t row = next[a.ids[s]]++;
    a.rowOfSlot[s] = row;
    a.slotOfRow[row] = uint32_t(s);
  }
}
