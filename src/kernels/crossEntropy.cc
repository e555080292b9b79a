// Output head and cross entropy, in chunks of rows. See crossEntropy.ts. The products are those of linear layers; here
// are the chunks and the softmax passes between them.

#include "../../native/softmax.h"

/**
 * Rows whose logits are in memory at a time. A million logits stay in cache, but every chunk reads all of the
 * weights (and the gradient updates all of theirs), so a large vocabulary gets chunks of at least 256 rows.
 */
static int64_t headChunk(int64_t tokens, int64_t vocab) {
  constexpr int64_t kLogits = 1 << 20, kRows = 256;
  return std::min(tokens, std::max(kRows, kLogits / vocab));
}

/** Calls f(first, rows, logits) for each chunk, with logits[rows][vocab] = hidden W^T, to be overwritten freely. */
template <class F>
static inline void eachLogitChunk(const float* hidden, const float* weight, int64_t tokens, int64_t width,
                                  int64_t vocab, int64_t bf16, F&& f) {
  const int64_t chunk = headChunk(tokens, vocab);
  float* logits = static_cast<float*>(threadScratch(2, 4 * chunk * vocab));  // the product uses the other slots
  for (int64_t first = 0; first < tokens; first += chunk) {
    const int64_t rows = std::min(chunk, tokens - first);
    gemm::Product product = {hidden + first * width, weight, logits, rows, vocab, width};
    gemm::multiply<gemm::NT>(&product, 1, false, bf16);
    f(first, rows, logits);
  }
}

/** Tokens that have a target; 1 if none has, so that it can be divided by. */
static int64_t countTargets(const uint32_t* targets, int64_t tokens, int64_t vocab) {
  int64_t count = 0;
  for (int64_t t = 0; t < tokens; t++) count += targets[t] < vocab;
  return std::max<int64_t>(count, 1);
}

#define headCrossEntropy_INTERFACE(B, P)                                                                   \
  B(in, f32, hidden) B(in, f32, weight) B(in, u32, targets) B(out, f32, loss) B(out, f32, losses) B(out, f32, lse) \
  P(int, tokens) P(int, width) P(int, vocab) P(int, bf16)
KERNEL(headCrossEntropy) {
  eachLogitChunk(a.hidden, a.weight, a.tokens, a.width, a.vocab, a.bf16,
                 [&](int64_t first, int64_t rows, const float* logits) {
    parallelRange(rows, streamGrain(2 * a.vocab), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; r++) {
        const int64_t t = first + r;
        const float* row = logits + r * a.vocab;
        a.lse[t] = logSumExp(row, a.vocab);
        a.losses[t] = a.targets[t] < a.vocab ? a.lse[t] - row[a.targets[t]] : 0.0f;
      }
    });
  });
  double total = 0;
  for (int64_t t = 0; t < a.tokens; t++) total += a.losses[t];
  a.loss[0] = float(total / double(countTargets(a.targets, a.tokens, a.vocab)));
}

#define headCrossEntropyGrad_INTERFACE(B, P)                                                               \
  B(in, f32, hidden) B(in, f32, weight) B(in, u32, targets) B(in, f32, lse) B(in, f32, dloss)               \
  B(inout, f32, dhidden) B(inout, f32, dweight) P(int, tokens) P(int, width) P(int, vocab) P(int, bf16)     \
  P(int, accumulateHidden) P(int, accumulateWeight)
KERNEL(headCrossEntropyGrad) {
  const float scale = float(a.dloss[0] / double(countTargets(a.targets, a.tokens, a.vocab)));
  eachLogitChunk(a.hidden, a.weight, a.tokens, a.width, a.vocab, a.bf16,
                 [&](int64_t first, int64_t rows, float* logits) {
    parallelRange(rows, streamGrain(2 * a.vocab), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; r++) {
        const uint32_t target = a.targets[first + r];
        float* row = logits + r * a.vocab;
        if (target >= a.vocab) {
          std::memset(row, 0, 4 * a.vocab);
          continue;
        }
        const float lse = a.lse[first + r];
        eachVector(a.vocab, [&](int64_t i, auto lanes) { lanes.put(row + i, vexp(lanes.get(row + i) - lse) * scale); });
        row[target] -= scale;
      }
    });
    const float* hidden = a.hidden + first * a.width;
    float* dhidden = a.dhidden + first * a.width;
    gemm::Product toHidden = {logits, a.weight, dhidden, rows, a.width, a.vocab};
    gemm::multiply<gemm::NN>(&toHidden, 1, a.accumulateHidden, a.bf16);
    gemm::Product toWeight = {logits, hidden, a.dweight, a.vocab, a.width, rows};
    gemm::multiply<gemm::TN>(&toWeight, 1, a.accumulateWeight || first > 0, a.bf16);
  });
}
