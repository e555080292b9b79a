// From weights as they come to weights as inference stores them: see encode.ts.

#define encodeBf16_INTERFACE(B, P) B(in, f32, x) B(out, bf16, y) P(int, n)
KERNEL(encodeBf16) {
  parallelRange(a.n, streamGrain(1), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i += kLanes) {
      const int64_t n = std::min<int64_t>(kLanes, end - i);
      storeRounded(a.y + i, decodeUpTo(a.x + i, n), n);
    }
  });
}

#define decodeBf16_INTERFACE(B, P) B(in, bf16, x) B(out, f32, y) P(int, n)
KERNEL(decodeBf16) {
  parallelRange(a.n, streamGrain(1), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i += kLanes) {
      const int64_t n = std::min<int64_t>(kLanes, end - i);
      storePart(a.y + i, decodeUpTo(a.x + i, n), n);
    }
  });
}

#define copyBf16_INTERFACE(B, P) B(in, bf16, x) B(out, bf16, y) P(int, n)
KERNEL(copyBf16) {
  parallelRange(a.n, streamGrain(1), [&](int64_t begin, int64_t end) {
    std::memcpy(a.y + begin, a.x + begin, (end - begin) * sizeof(uint16_t));
  });
}

static inline vi largerKey(vi a, vi b) { return a > b ? a : b; }

/** The largest of magnitudes, by their bits: so NaN is larger than all numbers, where comparisons of floats may lose it. */
static inline float largestMagnitude(vi keys) {
  return foldLanes(vf(keys), [](vf a, vf b) { return vf(largerKey(vi(a), vi(b))); })[0];
}

#define encodeInt8_INTERFACE(B, P) B(in, f32, x) B(out, i8, y) B(out, f32, scales) P(int, rows) P(int, width)
KERNEL(encodeInt8) {
  parallelRange(a.rows, streamGrain(2 * a.width), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      const float* x = a.x + r * a.width;
      int8_t* y = a.y + r * a.width;
      vi most{};
      eachVector(a.width, [&](int64_t i, auto lanes) { most = largerKey(most, vi(vabs(lanes.get(x + i)))); });
      const float largest = largestMagnitude(most), scale = largest / 127, smallest = std::numeric_limits<float>::min();
      a.scales[r] = scale < smallest ? 0 : scale;
      if (!(scale >= smallest && scale < INFINITY)) {
        std::memset(y, 0, a.width);
        continue;
      }
      const float inverse = 127 / largest;
      for (int64_t i = 0; i < a.width; i++) y[i] = int8_t(std::nearbyintf(x[i] * inverse));
    }
  });
}

/** Square by square, so that both sides stay in cache. */
template <class T>
static void transposeGroups(const T* x, T* y, int64_t groups, int64_t rows, int64_t columns) {
  constexpr int64_t kSide = 32;
  const int64_t high = ceilDivide(rows, kSide);
  parallelRange(groups * high, std::max<int64_t>(1, streamGrain(2 * kSide * columns)), [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; task++) {
      const int64_t at = task / high * rows * columns, i0 = task % high * kSide, i1 = std::min(rows, i0 + kSide);
      for (int64_t j0 = 0; j0 < columns; j0 += kSide) {
        const int64_t j1 = std::min(columns, j0 + kSide);
        for (int64_t j = j0; j < j1; j++)
          for (int64_t i = i0; i < i1; i++) y[at + j * rows + i] = x[at + i * columns + j];
      }
    }
  });
}

#define transpose_BUFFERS(B, P, type) B(in, type, x) B(out, type, y) P(int, groups) P(int, rows) P(int, columns)
#define transposeF32_INTERFACE(B, P) transpose_BUFFERS(B, P, f32)
#define transposeBf16_INTERFACE(B, P) transpose_BUFFERS(B, P, bf16)
KERNEL(transposeF32) { transposeGroups(a.x, a.y, a.groups, a.rows, a.columns); }
KERNEL(transposeBf16) { transposeGroups(a.x, a.y, a.groups, a.rows, a.columns); }
