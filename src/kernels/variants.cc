// Small steps that some families of models add. See variants.ts.

#include "../../native/rank.h"

#define addBias_INTERFACE(B, P) B(in, f32, x) B(in, f32, bias) B(out, f32, y) P(int, rows) P(int, width)
KERNEL(addBias) {
  parallelRange(a.rows, streamGrain(2 * a.width), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; n++) {
      const float* x = a.x + n * a.width;
      float* y = a.y + n * a.width;
      eachVector(a.width, [&](int64_t i, auto lanes) { lanes.put(y + i, lanes.get(x + i) + lanes.get(a.bias + i)); });
    }
  });
}

#define clip_INTERFACE(B, P) B(in, f32, x) B(out, f32, y) P(int, n) P(float, bound)
KERNEL(clip) {
  const vf high = splat(float(a.bound)), low = splat(-float(a.bound));
  parallelRange(a.n, streamGrain(2), [&](int64_t begin, int64_t end) {
    eachVector(end - begin, [&](int64_t i, auto lanes) {
      i += begin;
      vf x = lanes.get(a.x + i);
      x = select(x > high, high, x);
      lanes.put(a.y + i, select(x < low, low, x));
    });
  });
}

#define addGated_INTERFACE(B, P) \
  B(in, f32, a) B(in, f32, b) B(in, f32, gate) B(out, f32, y) P(int, rows) P(int, width)
KERNEL(addGated) {
  parallelRange(a.rows, streamGrain(3 * a.width), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; n++) {
      const float share = 1 / (1 + std::exp(-a.gate[n]));
      const float *base = a.a + n * a.width, *b = a.b + n * a.width;
      float* y = a.y + n * a.width;
      eachVector(a.width, [&](int64_t i, auto lanes) { lanes.put(y + i, lanes.get(base + i) + share * lanes.get(b + i)); });
    }
  });
}

#define routerGroups_INTERFACE(B, P)                                                                         \
  B(in, f32, logits) B(out, f32, probs) B(out, u32, ids) B(out, f32, weights) P(int, tokens) P(int, experts) \
  P(int, active) P(int, groups) P(int, keptGroups) P(float, scale)
KERNEL(routerGroups) {
  const int64_t size = a.experts / a.groups;
  parallelRange(a.tokens, kRouterGrain, [&](int64_t begin, int64_t end) {
    float* best = static_cast<float*>(threadScratch(0, 4 * (a.groups + a.experts)));
    float* allowed = best + a.groups;
    for (int64_t t = begin; t < end; t++) {
      const float* logits = a.logits + t * a.experts;
      float *probs = a.probs + t * a.experts, *weights = a.weights + t * a.active;
      for (int64_t g = 0; g < a.groups; g++) best[g] = *std::max_element(logits + g * size, logits + (g + 1) * size);
      std::fill(allowed, allowed + a.experts, -INFINITY);
      Ranked group{INFINITY, -1};
      for (int64_t k = 0; k < a.keptGroups; k++) {
        group = nextLargest(best, a.groups, group);
        std::copy(logits + group.index * size, logits + (group.index + 1) * size, allowed + group.index * size);
      }
      const float largest = *std::max_element(best, best + a.groups);
      vf totals{};
      eachVector(a.experts, [&](int64_t i, auto lanes) {
        const vf e = vexp(lanes.get(logits + i, splat(-INFINITY)) - largest);
        lanes.put(probs + i, e);
        totals += e;
      });
      const float total = sum(totals);
      eachVector(a.experts, [&](int64_t i, auto lanes) { lanes.put(probs + i, lanes.get(probs + i) / total); });
      Ranked expert{INFINITY, -1};
      for (int64_t k = 0; k < a.active; k++) {
        expert = nextLargest(allowed, a.experts, expert);
        a.ids[t * a.active + k] = uint32_t(expert.index);
        weights[k] = float(a.scale) * probs[expert.index];
      }
    }
  });
}
