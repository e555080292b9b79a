// The best of a short row, one after the other, for the kernels of the router.
#pragma once

constexpr int64_t kRouterGrain = 128;  // tokens a task; 50 to 300 ns a token

struct Ranked {
  float value;
  int32_t index;
};

/** What follows `last` in falling order, the lower index first among equals. The index is valid even for NaN. */
static inline Ranked nextLargest(const float* row, int64_t count, Ranked last) {
  vi lane;
  for (int i = 0; i < kLanes; i++) lane[i] = i;
  vf best = splat(-INFINITY);
  vi indexOfBest{};
  eachVector(count, [&](int64_t i, auto lanes) {
    const vf v = lanes.get(row + i, splat(-INFINITY));
    const vi index = lane + int32_t(i);
    const vi follows = (v < last.value) | ((v == last.value) & (index > last.index));
    const vi better = follows & (v > best);
    best = select(better, v, best);
    indexOfBest = better ? index : indexOfBest;
  });
  const float largest = maximum(best);
  return {largest, minimum(best == largest ? indexOfBest : vi{} + INT32_MAX)};
}
