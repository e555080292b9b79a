// Softmax of whole rows. (attention_tiles.h has one that runs along a row in pieces.)
#pragma once

/** Logarithm of the sum of e^x. */
static inline float logSumExp(const float* x, int64_t n) {
  vf largests = splat(-INFINITY), totals{};
  eachVector(n, [&](int64_t i, auto lanes) { largests = vmax(largests, lanes.get(x + i, largests)); });
  const float largest = maximum(largests);
  eachVector(n, [&](int64_t i, auto lanes) { totals += vexp(lanes.get(x + i, splat(-INFINITY)) - largest); });
  return largest + std::log(sum(totals));
}
