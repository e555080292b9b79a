#define linear_INTERFACE(B, P) \
  B(in, f32, x) B(in, f32, w) B(inout, f32, y) P(int, m) P(int, n) P(int, k) P(int, accumulate) P(int, bf16)
KERNEL(linear) {}
#define linearGradInput_INTERFACE(B, P) \
  B(in, f32, dy) B(in, f32, w) B(inout, f32, dx) P(int, m) P(int, n) P(int, k) P(int, accumulate) P(int, bf16)
KERNEL(linearGradInput) {}
#define linearGradWeight_INTERFACE(B, P) \
  B(in, f32, dy) B(in, f32, x) B(inout, f32, dw) P(int, m) P(int, n) P(int, k) P(int, accumulate) P(int, bf16)
KERNEL(linearGradWeight) {}
#define groupedLinear_INTERFACE(B, P)                                                           \
  B(in, f32, x) B(in, f32, w) B(in, u32, offsets) B(inout, f32, y) P(int, groups) P(int, rows) P(int, n) P(int, k) \
  P(int, accumulate) P(int, bf16)
KERNEL(groupedLinear) {}
#define groupedLinearGradInput_INTERFACE(B, P)                                                  \
  B(in, f32, dy) B(in, f32, w) B(in, u32, offsets) B(inout, f32, dx) P(int, groups) P(int, rows) P(int, n) P(int, k) \
  P(int, accumulate) P(int, bf16)
KERNEL(groupedLinearGradInput) {}
#define groupedLinearGradWeight_INTERFACE(B, P)                                                 \
  B(in, f32, dy) B(in, f32, x) B(in, u32, offsets) B(inout, f32, dw) P(int, groups) P(int, rows) P(int, n) P(int, k) \
  P(int, accumulate) P(int, bf16)
KERNEL(groupedLinearGradWeight) {}
