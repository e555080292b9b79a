// Tokens to the rows of their experts and back. See dispatch.ts. Every task writes rows of its own and gathers what
// it reads, so nothing is ever scattered into shared memory.

#define dispatch_INTERFACE(B, P)                                                                              \
  B(in, f32, x) B(in, u32, slotOfRow) B(in, u32, rowOfSlot) B(inout, f32, y) P(int, tokens) P(int, active) P(int, width) \
  P(int, accumulate)
KERNEL(dispatch) {
  const uint32_t active = uint32_t(a.active);
  parallelRange(a.tokens * a.active, streamGrain(2 * a.width), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      const float* x = a.x + a.slotOfRow[r] / active * a.width;
      float* y = a.y + r * a.width;
      eachVector(a.width, [&](int64_t i, auto lanes) { lanes.update(y + i, lanes.get(x + i), a.accumulate); });
    }
  });
}

#define combine_INTERFACE(B, P)                                                                             \
  B(in, f32, x) B(in, u32, rowOfSlot) B(in, u32, slotOfRow) B(inout, f32, y) P(int, tokens) P(int, active)  \
  P(int, width) P(int, accumulate)
KERNEL(combine) {
  parallelRange(a.tokens, streamGrain((a.active + 1) * a.width), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
      const uint32_t* rows = a.rowOfSlot + t * a.active;
      eachVector(a.width, [&](int64_t i, auto lanes) {
        vf total{};
        for (int64_t s = 0; s < a.active; s++) total += lanes.get(a.x + rows[s] * a.width + i);
        lanes.update(a.y + t * a.width + i, total, a.accumulate);
      });
    }
  });
}
