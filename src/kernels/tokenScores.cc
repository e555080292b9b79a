// Scores of chosen tokens from logits. See tokenScores.ts.

#include "../../native/softmax.h"

#define tokenScores_INTERFACE(B, P)                                                                        \
  B(in, f32, logits) B(in, u32, rowOf) B(in, u32, ids) B(out, f32, lse) B(out, u32, best) B(out, f32, picked) \
  P(int, rows) P(int, vocab) P(int, targets)
KERNEL(tokenScores) {
  parallelRange(a.rows, streamGrain(2 * a.vocab), [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; m++) {
      const float* row = a.logits + m * a.vocab;
      vf largests = splat(-INFINITY);
      eachVector(a.vocab, [&](int64_t i, auto lanes) { largests = vmax(largests, lanes.get(row + i, largests)); });
      const float largest = maximum(largests);
      int64_t first = 0;  // of equals; 0 where nothing equals the largest, that is among NaN
      while (first < a.vocab && row[first] != largest) first++;
      a.best[m] = uint32_t(first < a.vocab ? first : 0);
      a.lse[m] = logSumExp(row, a.vocab);
    }
  });
  for (int64_t n = 0; n < a.targets; n++) a.picked[n] = a.logits[int64_t(a.rowOf[n]) * a.vocab + a.ids[n]];
}
