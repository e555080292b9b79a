// Token embedding and its gradient. See embedding.ts. The gradient is split by columns, not by token or id: then
// no two tasks write the same element, every sum runs in the order of the tokens, and frequent ids unbalance nothing.

#define embedding_INTERFACE(B, P) \
  B(in, u32, ids) B(in, f32, table) B(out, f32, y) P(int, tokens) P(int, width) P(int, vocab)
KERNEL(embedding) {
  parallelRange(a.tokens, streamGrain(2 * a.width), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) copyFloats(a.y + t * a.width, a.table + a.ids[t] * a.width, a.width);
  });
}

#define embeddingGrad_INTERFACE(B, P) \
  B(in, u32, ids) B(in, f32, dy) B(inout, f32, dtable) P(int, tokens) P(int, width) P(int, vocab) P(int, accumulate)
KERNEL(embeddingGrad) {
  if (!a.accumulate) {
    parallelRange(a.vocab, streamGrain(a.width), [&](int64_t begin, int64_t end) {
      std::memset(a.dtable + begin * a.width, 0, 4 * (end - begin) * a.width);
    });
  }
  // Columns of a task: whole groups of four cache lines, or tasks would fight over lines and the prefetcher be lost.
  const int64_t columns = ceilDivide(streamGrain(3 * a.tokens), 64) * 64;
  parallelRange(a.width, columns, [&](int64_t begin, int64_t end) {
    for (int64_t t = 0; t < a.tokens; t++) {
      const float* dy = a.dy + t * a.width + begin;
      float* dtable = a.dtable + a.ids[t] * a.width + begin;
      eachVector(end - begin, [&](int64_t i, auto lanes) { lanes.update(dtable + i, lanes.get(dy + i), true); });
    }
  });
}
