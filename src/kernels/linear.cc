// Matrix products of linear layers: see linear.ts for what they compute, native/gemm.h for how.

#define linear_INTERFACE(B, P) \
  B(in, f32, x) B(in, f32, w) B(inout, f32, y) P(int, m) P(int, n) P(int, k) P(int, accumulate) P(int, bf16)
KERNEL(linear) {
  gemm::Product product = {a.x, a.w, a.y, a.m, a.n, a.k};
  gemm::multiply<gemm::NT>(&product, 1, a.accumulate, a.bf16);
}

#define linearGradInput_INTERFACE(B, P) \
  B(in, f32, dy) B(in, f32, w) B(inout, f32, dx) P(int, m) P(int, n) P(int, k) P(int, accumulate) P(int, bf16)
KERNEL(linearGradInput) {
  gemm::Product product = {a.dy, a.w, a.dx, a.m, a.k, a.n};
  gemm::multiply<gemm::NN>(&product, 1, a.accumulate, a.bf16);
}

#define linearGradWeight_INTERFACE(B, P) \
  B(in, f32, dy) B(in, f32, x) B(inout, f32, dw) P(int, m) P(int, n) P(int, k) P(int, accumulate) P(int, bf16)
KERNEL(linearGradWeight) {
  gemm::Product product = {a.dy, a.x, a.dw, a.n, a.k, a.m};
  gemm::multiply<gemm::TN>(&product, 1, a.accumulate, a.bf16);
}

#define groupedLinear_INTERFACE(B, P)                                                                            \
  B(in, f32, x) B(in, f32, w) B(in, u32, offsets) B(in, u32, slotOfRow) B(in, u32, rowOfSlot) B(inout, f32, y)   \
  P(int, groups) P(int, rows) P(int, n) P(int, k) P(int, accumulate) P(int, bf16) P(int, active)
KERNEL(groupedLinear) {
  auto* products = gemm::groupProducts(a.groups, a.offsets, [&](int64_t e, int64_t first, int64_t rows) {
    const float* x = a.active ? a.x : a.x + first * a.k;
    return gemm::Product{x, a.w + e * a.n * a.k, a.y + first * a.n, rows, a.n, a.k, a.slotOfRow + first, a.active};
  });
  if (a.active) gemm::multiply<gemm::NT, gemm::Gather::rowsOfA>(products, a.groups, a.accumulate, a.bf16);
  else gemm::multiply<gemm::NT>(products, a.groups, a.accumulate, a.bf16);
}

#define groupedLinearGradInput_INTERFACE(B, P)                                                  \
  B(in, f32, dy) B(in, f32, w) B(in, u32, offsets) B(inout, f32, dx) P(int, groups) P(int, rows) P(int, n) P(int, k) \
  P(int, accumulate) P(int, bf16)
KERNEL(groupedLinearGradInput) {
  auto* products = gemm::groupProducts(a.groups, a.offsets, [&](int64_t e, int64_t first, int64_t rows) {
    return gemm::Product{a.dy + first * a.n, a.w + e * a.n * a.k, a.dx + first * a.k, rows, a.k, a.n};
  });
  gemm::multiply<gemm::NN>(products, a.groups, a.accumulate, a.bf16);
}

#define groupedLinearGradWeight_INTERFACE(B, P)                                                                  \
  B(in, f32, dy) B(in, f32, x) B(in, u32, offsets) B(in, u32, slotOfRow) B(in, u32, rowOfSlot) B(inout, f32, dw) \
  P(int, groups) P(int, rows) P(int, n) P(int, k) P(int, accumulate) P(int, bf16) P(int, active)
KERNEL(groupedLinearGradWeight) {
  auto* products = gemm::groupProducts(a.groups, a.offsets, [&](int64_t e, int64_t first, int64_t rows) {
    const float* x = a.active ? a.x : a.x + first * a.k;
    return gemm::Product{a.dy + first * a.n, x, a.dw + e * a.n * a.k, a.n, a.k, rows, a.slotOfRow + first, a.active};
  });
  if (a.active) gemm::multiply<gemm::TN, gemm::Gather::rowsOfB>(products, a.groups, a.accumulate, a.bf16);
  else gemm::multiply<gemm::TN>(products, a.groups, a.accumulate, a.bf16);
}
