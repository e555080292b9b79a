// Sums, copies and fills: streaming passes at the speed of memory. See elementwise.ts.

#define add_INTERFACE(B, P) B(in, f32, a) B(in, f32, b) B(out, f32, y) P(int, n)
KERNEL(add) {
  parallelRange(a.n, streamGrain(4), [&](int64_t begin, int64_t end) {
    eachVector(end - begin, [&](int64_t i, auto lanes) {
      i += begin;
      lanes.put(a.y + i, lanes.get(a.a + i) + lanes.get(a.b + i));
    });
  });
}

#define copy_INTERFACE(B, P) B(in, f32, x) B(inout, f32, y) P(int, n) P(int, accumulate)
KERNEL(copy) {
  parallelRange(a.n, streamGrain(4), [&](int64_t begin, int64_t end) {
    eachVector(end - begin, [&](int64_t i, auto lanes) {
      i += begin;
      lanes.update(a.y + i, lanes.get(a.x + i), a.accumulate);
    });
  });
}

#define fill_INTERFACE(B, P) B(out, f32, y) P(int, n) P(float, value)
KERNEL(fill) {
  const vf value = splat(float(a.value));
  parallelRange(a.n, streamGrain(2), [&](int64_t begin, int64_t end) {
    eachVector(end - begin, [&](int64_t i, auto lanes) { lanes.put(a.y + begin + i, value); });
  });
}
