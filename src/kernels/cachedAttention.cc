// Generation's attention: see cachedAttention.ts. One task is one (row, head) pair; scores of a row stay in scratch.

#define storeRows_INTERFACE(B, P) \
  B(in, f32, x) B(in, u32, indices) B(inout, f32, cache) P(int, rows) P(int, width) P(int, cacheRows)
KERNEL(storeRows) {
  for (int64_t n = 0; n < a.rows; n++)
    std::memcpy(a.cache + int64_t(a.indices[n]) * a.width, a.x + n * a.width, a.width * sizeof(float));
}

/** x . y over n elements. */
static inline float dotProduct(const float* x, const float* y, int64_t n) {
  vf total{};
  eachVector(n, [&](int64_t i, auto lanes) { total += lanes.get(x + i) * lanes.get(y + i); });
  return sum(total);
}

/** y += factor * x over n elements. */
static inline void addScaled(float* y, float factor, const float* x, int64_t n) {
  eachVector(n, [&](int64_t i, auto lanes) { lanes.update(y + i, factor * lanes.get(x + i), true); });
}

#define cachedAttention_INTERFACE(B, P)                                                                    \
  B(in, f32, q) B(in, f32, keys) B(in, f32, values) B(in, u32, slots) B(in, u32, positions) B(out, f32, o) \
  P(int, rows) P(int, cacheSlots) P(int, maxPositions) P(int, heads) P(int, kvHeads) P(int, headDim) P(int, window) \
  P(float, scale)
KERNEL(cachedAttention) {
  const int64_t headsPerKey = a.heads / a.kvHeads;
  const int64_t stride = a.kvHeads * a.headDim;  // from one cached position to the next
  int64_t longest = 1;
  for (int64_t n = 0; n < a.rows; n++) longest = std::max<int64_t>(longest, a.positions[n] + 1);
  const int64_t grain = std::max<int64_t>(1, 100000 / (longest * a.headDim));  // about 20 us
  parallelRange(a.rows * a.heads, grain, [&](int64_t begin, int64_t end) {
    float* scores = static_cast<float*>(threadScratch(0, longest * sizeof(float)));
    for (int64_t task = begin; task < end; task++) {
      const int64_t n = task / a.heads, head = task % a.heads;
      const int64_t last = a.positions[n];
      const int64_t first = a.window > 0 && last >= a.window ? last - a.window + 1 : 0;
      const int64_t base = int64_t(a.slots[n]) * a.maxPositions * stride + (head / headsPerKey) * a.headDim;
      const float* q = a.q + task * a.headDim;
      float largest = -INFINITY;
      for (int64_t p = first; p <= last; p++) {
        const float score = float(a.scale) * dotProduct(q, a.keys + base + p * stride, a.headDim);
        scores[p] = score;
        largest = score > largest ? score : largest;
      }
      float* o = a.o + task * a.headDim;
      std::memset(o, 0, a.headDim * sizeof(float));
      float total = 0;
      for (int64_t p = first; p <= last; p++) {
        const float weight = std::exp(scores[p] - largest);
        total += weight;
        addScaled(o, weight, a.values + base + p * stride, a.headDim);
      }
      for (int64_t c = 0; c < a.headDim; c++) o[c] /= total;
    }
  });
}
