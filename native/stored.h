// Weights as inference stores them (f32, bf16, bytes with a scale per row; see stored.ts) and the two passes over their
// rows that memory limits: dot products of rows with a few vectors, and sums of rows. Every result is summed in an
// order that depends on its own row and vector only, so a sequence's bits do not depend on the batch it is in.

struct F32Weights {
  using Element = float;
  static constexpr bool kRounds = false, kScaled = false;
};
struct Bf16Weights {
  using Element = uint16_t;
  static constexpr bool kRounds = true, kScaled = false;
};
struct Int8Weights {
  using Element = int8_t;
  static constexpr bool kRounds = true, kScaled = true;
};

/** x as it meets weights: rounded to bf16 where they are not f32. */
template <class Weights>
static inline vf roundFor(vf x) {
  return Weights::kRounds ? vf(gemm::roundToBf16(x)) : x;
}

// How a dot product is done: kStep weights at a time against kLanes words of x, prepared once per row of x.

/** One weight a lane. */
template <class Weights>
struct LaneDot {
  static constexpr int kStep = kLanes;
  using Element = typename Weights::Element;
  static vf whole(const Element* w) { return decode(w); }
  static vf part(const Element* w, int64_t n) { return decodePart(w, n); }
  static vf words(const float* x, int64_t n) { return roundFor<Weights>(n >= kStep ? load(x) : loadPart(x, n)); }
  static vf add(vf sum, vf w, vf x) { return sum + w * x; }
};

#if MONE_BF16 > 0
/** A pair of bf16 a lane. */
template <class Weights>
struct PairDot {
  static constexpr int kStep = 2 * kLanes;
  using Element = typename Weights::Element;
  static vf pack(vf first, vf second) { return vf(_mm512_cvtne2ps_pbh(__m512(second), __m512(first))); }
  static vf whole(const Element* w) {
    if constexpr (sizeof(Element) == 2) return load(reinterpret_cast<const float*>(w));
    else return pack(decode(w), decode(w + kLanes));  // bytes are exact in bf16
  }
  static vf part(const Element* w, int64_t n) {
    Element copy[kStep] = {};
    std::memcpy(copy, w, n * sizeof copy[0]);
    return whole(copy);
  }
  static vf words(const float* x, int64_t n) { return pack(decodeUpTo(x, n), decodeUpTo(x + kLanes, n - kLanes)); }
  static vf add(vf sum, vf w, vf x) { return vf(_mm512_dpbf16_ps(__m512(sum), __m512bh(w), __m512bh(x))); }
};
template <class Weights>
using DotOf = std::conditional_t<Weights::kRounds, PairDot<Weights>, LaneDot<Weights>>;
#else
template <class Weights>
using DotOf = LaneDot<Weights>;
#endif

/** Words that a prepared row of k elements takes. */
template <class Weights>
static inline int64_t preparedWords(int64_t k) { return ceilDivide(k, DotOf<Weights>::kStep) * kLanes; }

/** Prepares rows of x for dot products with stored rows of k weights. */
template <class Weights>
static void prepareRows(float* to, const float* x, int64_t rows, int64_t k) {
  using Dot = DotOf<Weights>;
  for (int64_t r = 0; r < rows; r++, x += k)
    for (int64_t i = 0; i < k; i += Dot::kStep, to += kLanes) store(to, Dot::words(x + i, k - i));
}

/** Stored rows that are read side by side: as many streams as keep memory busy, few enough to stay in registers. */
constexpr int kRowsAtOnce = 8;
constexpr int64_t kLineBytes = 64;
/**
 * Asks for the cache line with element i of a row, once per line when called every kStep elements. Into the second cache (hint 2): a core has room for
 * many more lines on their way there than to the first, which is what the rate hangs on; see docs/LOG.md.
 */
template <int kStep, class Element>
static inline void prefetchLine(const Element* row, int64_t i) {
  constexpr int64_t kLine = kLineBytes / int64_t(sizeof(Element));
  if (kStep >= kLine || i % kLine == 0) __builtin_prefetch(row + i, 0, 2);
}

/** Rows of x that share one reading of the weights in registers; more of them read the weights again from cache. */
constexpr int kVectorsAtOnce = 4;

/**
 * sums[r][v] = row w[r] . prepared row v of x, for kRows rows and kVectors vectors. `ahead` are rows that will be wanted
 * next (or null): each line of them is asked for while its counterpart is read.
 */
template <class Weights, int kRows, int kVectors>
static inline void dotBlock(const typename Weights::Element* const* w, const typename Weights::Element* const* ahead,
                            const float* x, int64_t xStride, int64_t k, float (*sums)[kVectorsAtOnce]) {
  using Dot = DotOf<Weights>;
  vf total[kRows][kVectors] = {};
  const int64_t whole = k / Dot::kStep * Dot::kStep;
  int64_t i = 0;
  for (; i < whole; i += Dot::kStep, x += kLanes) {
    vf xs[kVectors];
    for (int v = 0; v < kVectors; v++) xs[v] = load(x + v * xStride);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; r++) {
      if (ahead) prefetchLine<Dot::kStep>(ahead[r], i);
      const vf row = Dot::whole(w[r] + i);
      for (int v = 0; v < kVectors; v++) total[r][v] = Dot::add(total[r][v], row, xs[v]);
    }
  }
  if (i < k) {
    for (int r = 0; r < kRows; r++) {
      const vf row = Dot::part(w[r] + i, k - i);
      for (int v = 0; v < kVectors; v++) total[r][v] = Dot::add(total[r][v], row, load(x + v * xStride));
    }
  }
  for (int r = 0; r < kRows; r++)
    for (int v = 0; v < kVectors; v++) sums[r][v] = sum(total[r][v]);
}

template <class Weights, int kRows>
static inline void dotRowsOf(int64_t vectors, const typename Weights::Element* const* w,
                             const typename Weights::Element* const* ahead, const float* x, int64_t xStride, int64_t k,
                             float (*sums)[kVectorsAtOnce]) {
  switch (vectors) {
    case 1: return dotBlock<Weights, kRows, 1>(w, ahead, x, xStride, k, sums);
    case 2: return dotBlock<Weights, kRows, 2>(w, ahead, x, xStride, k, sums);
    case 3: return dotBlock<Weights, kRows, 3>(w, ahead, x, xStride, k, sums);
    default: return dotBlock<Weights, kRows, 4>(w, ahead, x, xStride, k, sums);
  }
}

/**
 * Dot products of `count` stored rows (row i is at(i)) with `vectors` prepared rows of x; result(i, v, sum) takes them.
 * The rows are read as kRowsAtOnce streams, each a stretch of neighbouring rows: where rows lie one after the other, the
 * hardware follows a stream across them, which it cannot when it meets each row's start anew.
 */
template <class Weights, class At, class Result>
static inline void dotRows(int64_t count, At&& at, const float* x, int64_t vectors, int64_t k, Result&& result) {
  using Element = typename Weights::Element;
  const int64_t stride = preparedWords<Weights>(k), stretch = count / kRowsAtOnce;
  float sums[kRowsAtOnce][kVectorsAtOnce];
  for (int64_t i = 0; i < stretch; i++) {
    const Element *w[kRowsAtOnce], *ahead[kRowsAtOnce];
    for (int r = 0; r < kRowsAtOnce; r++) {
      w[r] = at(r * stretch + i);
      ahead[r] = at(std::min(r * stretch + i + 1, count - 1));
    }
    for (int64_t v = 0; v < vectors; v += kVectorsAtOnce) {
      const int64_t some = std::min<int64_t>(kVectorsAtOnce, vectors - v);
      const Element* const* next = v == 0 && i + 1 < stretch ? ahead : nullptr;
      dotRowsOf<Weights, kRowsAtOnce>(some, w, next, x + v * stride, stride, k, sums);
      for (int r = 0; r < kRowsAtOnce; r++)
        for (int64_t s = 0; s < some; s++) result(r * stretch + i, v + s, sums[r][s]);
    }
  }
  for (int64_t i = stretch * kRowsAtOnce; i < count; i++) {
    const Element* w = at(i);
    for (int64_t v = 0; v < vectors; v += kVectorsAtOnce) {
      const int64_t some = std::min<int64_t>(kVectorsAtOnce, vectors - v);
      dotRowsOf<Weights, 1>(some, &w, nullptr, x + v * stride, stride, k, sums);
      for (int64_t s = 0; s < some; s++) result(i, v + s, sums[0][s]);
    }
  }
}

/** The fewest stored rows worth a task: enough bytes that handing it out costs little beside reading them. */
template <class Weights>
static inline int64_t storedGrain(int64_t k) {
  constexpr int64_t kBytes = 1 << 15;
  const int64_t rows = kBytes / std::max<int64_t>(1, k * int64_t(sizeof(typename Weights::Element)));
  return std::max<int64_t>(kRowsAtOnce, rows / kRowsAtOnce * kRowsAtOnce);
}

/** Rows that are added in one pass over y. */
constexpr int kAddedAtOnce = 8;

/** y[v] += sum over r of factor[v][r] * w[r], over n columns, in the order of r. */
template <class Weights, int kVectors>
static inline void addBlock(const typename Weights::Element* const* w, int rows,
                            const typename Weights::Element* const* ahead, const float (*factor)[kAddedAtOnce],
                            float* const* y, int64_t n) {
  const auto columns = [&](int64_t c, auto lanes, auto decode) {
    vf total[kVectors];
    for (int v = 0; v < kVectors; v++) total[v] = lanes.get(y[v] + c);
    for (int r = 0; r < rows; r++) {
      const vf row = decode(w[r] + c);
      for (int v = 0; v < kVectors; v++) total[v] += factor[v][r] * row;
    }
    for (int v = 0; v < kVectors; v++) lanes.put(y[v] + c, total[v]);
  };
  using Element = typename Weights::Element;
  int64_t c = 0;
  for (; c + kLanes <= n; c += kLanes) {
    for (int r = 0; r < rows; r++) prefetchLine<kLanes>(ahead[r], c);
    columns(c, WholeVector{}, [](const Element* p) { return decode(p); });
  }
  if (c < n) columns(c, PartVector{n - c}, [&](const Element* p) { return decodePart(p, n - c); });
}

/**
 * y[v] += sum of factor(i, v) times stored row i (at(i)), for `count` rows in their order, over n columns.
 */
template <class Weights, class At, class Factor>
static inline void addRows(int64_t count, At&& at, Factor&& factor, float* y, int64_t yStride, int64_t vectors,
                           int64_t n) {
  using Element = typename Weights::Element;
  for (int64_t i = 0; i < count; i += kAddedAtOnce) {
    const int rows = int(std::min<int64_t>(kAddedAtOnce, count - i));
    const Element *w[kAddedAtOnce], *ahead[kAddedAtOnce];
    for (int r = 0; r < kAddedAtOnce; r++) {
      w[r] = at(std::min(i + r, count - 1));
      ahead[r] = at(std::min(i + kAddedAtOnce + r, count - 1));
    }
    for (int64_t v = 0; v < vectors; v += kVectorsAtOnce) {
      const int some = int(std::min<int64_t>(kVectorsAtOnce, vectors - v));
      float factors[kVectorsAtOnce][kAddedAtOnce];
      float* to[kVectorsAtOnce];
      for (int s = 0; s < some; s++) {
        to[s] = y + (v + s) * yStride;
        for (int r = 0; r < rows; r++) factors[s][r] = factor(i + r, v + s);
      }
      switch (some) {
        case 1: addBlock<Weights, 1>(w, rows, ahead, factors, to, n); break;
        case 2: addBlock<Weights, 2>(w, rows, ahead, factors, to, n); break;
        case 3: addBlock<Weights, 3>(w, rows, ahead, factors, to, n); break;
        default: addBlock<Weights, 4>(w, rows, ahead, factors, to, n);
      }
    }
  }
}

/** Rounds one float to bf16. */
static inline float roundOne(float x) { return vf(gemm::roundToBf16(splat(x)))[0]; }

/** Stores the first n lanes (0 < n <= kLanes) as f32 or bf16. */
static inline void storeRounded(float* to, vf x, int64_t n) { storePart(to, x, n); }
static inline void storeRounded(uint16_t* to, vf x, int64_t n) {
  const vu bits = vu(gemm::roundToBf16(x)) >> 16;
#if MONE_LANES == 16
  if (n == kLanes) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_maskz_cvtepi32_epi16(0xffff, __m512i(bits)));
    return;
  }
#endif
  for (int64_t i = 0; i < n; i++) to[i] = uint16_t(bits[i]);
}
