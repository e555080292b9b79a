// Tokens to the rows of their experts and back. See dispatch.ts. Every task writes rows of its own and gathers what
// it reads, so nothing is ever scattered into shared memory.

#define dispatch_INTERFACE(B, P)                                                                                \
  B(in, f32, x) B(in, u32, slotOfRow) B(in, u32, rowOfSlot) B(out, f32, y) P(int, tokens) P(int, active) P(int, width)
KERNEL(dispatch) {
  const uint32_t active = uint32_t(a.active);
  parallelRange(a.tokens * a.active, streamGrain(2 * a.width), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++)
      copyFloats(a.y + r * a.width, a.x + a.slotOfRow[r] / active * a.width, a.width);
  });
}

/** out[t] (+)= sum over the slots s of token t of weight(s) * rows[rowOfSlot[s]]. */
template <class Weight>
static inline void gatherSum(const float* rows, const uint32_t* rowOfSlot, Weight&& weight, float* out, int64_t tokens,
                             int64_t active, int64_t width, bool accumulate) {
  parallelRange(tokens, streamGrain((active + 1) * width), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
      eachVector(width, [&](int64_t i, auto lanes) {
        vf total{};
        for (int64_t s = t * active; s < (t + 1) * active; s++)
          total += weight(s) * lanes.get(rows + rowOfSlot[s] * width + i);
        lanes.update(out + t * width + i, total, accumulate);
      });
    }
  });
}

#define dispatchGrad_INTERFACE(B, P)                                                                              \
  B(in, f32, dy) B(in, u32, rowOfSlot) B(inout, f32, dx) P(int, tokens) P(int, active) P(int, width) P(int, accumulate)
KERNEL(dispatchGrad) {
  gatherSum(a.dy, a.rowOfSlot, [](int64_t) { return 1.0f; }, a.dx, a.tokens, a.active, a.width, a.accumulate);
}

#define combine_INTERFACE(B, P)                                                                           \
  B(in, f32, x) B(in, f32, weights) B(in, u32, rowOfSlot) B(in, u32, slotOfRow) B(out, f32, y) P(int, tokens) \
  P(int, active) P(int, width)
KERNEL(combine) {
  gatherSum(a.x, a.rowOfSlot, [&](int64_t s) { return a.weights[s]; }, a.y, a.tokens, a.active, a.width, false);
}

#define combineGrad_INTERFACE(B, P)                                                                         \
  B(in, f32, x) B(in, f32, weights) B(in, u32, slotOfRow) B(in, f32, dy) B(inout, f32, dx) B(inout, f32, dweights) \
  P(int, tokens) P(int, active) P(int, width) P(int, accumulateX) P(int, accumulateWeights)
KERNEL(combineGrad) {
  const uint32_t active = uint32_t(a.active);
  parallelRange(a.tokens * a.active, streamGrain(3 * a.width), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      const uint32_t slot = a.slotOfRow[r];
      const float *x = a.x + r * a.width, *dy = a.dy + slot / active * a.width;
      float* dx = a.dx + r * a.width;
      const float weight = a.weights[slot];
      vf dots{};
      eachVector(a.width, [&](int64_t i, auto lanes) {
        const vf upstream = lanes.get(dy + i);
        dots += upstream * lanes.get(x + i);
        lanes.update(dx + i, upstream * weight, a.accumulateX);
      });
      a.dweights[slot] = (a.accumulateWeights ? a.dweights[slot] : 0.0f) + sum(dots);
    }
  });
}
