// Products with stored matrices, and rows picked from them: see storedLinear.ts; native/stored.h has the pass over
// weights that few rows take, native/gemm.h the product of many.

/** Rows of x up to which reading the weights once is the cost; beyond, packing them pays. */
constexpr int64_t kFewRows = 32;

template <class Weights, class Args>
static void storedLinear(const Args& a) {
  using Element = typename Weights::Element;
  if (a.m > kFewRows) {
    gemm::Product product = {a.x, a.w, a.y, a.m, a.n, a.k};
    gemm::multiply<gemm::Layout<true, true, Element>>(&product, 1, false, Weights::kRounds);
    if constexpr (Weights::kScaled) {
      parallelRange(a.m, streamGrain(2 * a.n), [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++) multiplyInto(a.y + i * a.n, a.scales, a.n);
      });
    }
    return;
  }
  float* x = static_cast<float*>(threadScratch(4, 4 * a.m * preparedWords<Weights>(a.k)));
  prepareRows<Weights>(x, a.x, a.m, a.k);
  parallelStream(a.n, storedGrain<Weights>(a.k), [&](int64_t begin, int64_t end) {
    dotRows<Weights>(
        end - begin, [&](int64_t i) { return a.w + (begin + i) * a.k; }, x, a.m, a.k,
        [&](int64_t i, int64_t v, float sum) {
          if constexpr (Weights::kScaled) sum *= a.scales[begin + i];
          a.y[v * a.n + begin + i] = sum;
        });
  });
}

#define storedLinear_BUFFERS(B, P, type) \
  B(in, f32, x) B(in, type, w) B(in, f32, scales) B(out, f32, y) P(int, m) P(int, n) P(int, k)
#define storedLinearF32_INTERFACE(B, P) storedLinear_BUFFERS(B, P, f32)
#define storedLinearBf16_INTERFACE(B, P) storedLinear_BUFFERS(B, P, bf16)
#define storedLinearInt8_INTERFACE(B, P) storedLinear_BUFFERS(B, P, i8)
KERNEL(storedLinearF32) { storedLinear<F32Weights>(a); }
KERNEL(storedLinearBf16) { storedLinear<Bf16Weights>(a); }
KERNEL(storedLinearInt8) { storedLinear<Int8Weights>(a); }

template <class Weights, class Args>
static void storedRows(const Args& a) {
  for (int64_t t = 0; t < a.tokens; t++) {
    const auto* row = a.table + int64_t(a.ids[t]) * a.width;
    const float scale = Weights::kScaled ? a.scales[a.ids[t]] : 1;
    float* y = a.y + t * a.width;
    for (int64_t d = 0; d < a.width; d += kLanes) {
      const int64_t n = std::min<int64_t>(kLanes, a.width - d);
      storePart(y + d, decodeUpTo(row + d, n) * scale, n);
    }
  }
}

#define storedRows_BUFFERS(B, P, type) \
  B(in, u32, ids) B(in, type, table) B(in, f32, scales) B(out, f32, y) P(int, tokens) P(int, width) P(int, vocab)
#define storedRowsF32_INTERFACE(B, P) storedRows_BUFFERS(B, P, f32)
#define storedRowsBf16_INTERFACE(B, P) storedRows_BUFFERS(B, P, bf16)
#define storedRowsInt8_INTERFACE(B, P) storedRows_BUFFERS(B, P, i8)
KERNEL(storedRowsF32) { storedRows<F32Weights>(a); }
KERNEL(storedRowsBf16) { storedRows<Bf16Weights>(a); }
KERNEL(storedRowsInt8) { storedRows<Int8Weights>(a); }
