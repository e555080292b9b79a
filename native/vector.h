// Vectors of f32 as wide as the instruction level, written with the compiler's vector types so that one source
// serves every level. Included by level.inc inside the level's namespace, after MONE_LANES is set.
// Pointers from JavaScript are not aligned: all loads and stores here are unaligned ones.

constexpr int kLanes = MONE_LANES;
typedef float vf __attribute__((vector_size(4 * MONE_LANES)));
typedef int32_t vi __attribute__((vector_size(4 * MONE_LANES)));
typedef uint32_t vu __attribute__((vector_size(4 * MONE_LANES)));

static inline vf load(const float* p) {
  vf v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
static inline void store(float* p, vf v) { std::memcpy(p, &v, sizeof v); }
static inline vf splat(float x) { return x - vf{}; }

/** The first n (0 < n <= kLanes) elements; the other lanes from `rest`, zero unless given. */
static inline vf loadPart(const float* p, int64_t n, vf rest = vf{}) {
#if MONE_LANES == 16
  return _mm512_mask_loadu_ps(rest, __mmask16(0xffffu >> (16 - n)), p);
#else
  std::memcpy(&rest, p, 4 * n);
  return rest;
#endif
}
static inline void storePart(float* p, vf v, int64_t n) {
#if MONE_LANES == 16
  _mm512_mask_storeu_ps(p, __mmask16(0xffffu >> (16 - n)), v);
#else
  std::memcpy(p, &v, 4 * n);
#endif
}

/** Lanes kIndex of a (0..kLanes-1) and b (kLanes..2*kLanes-1). */
template <int... kIndex>
static inline vf shuffle(vf a, vf b) {
#if MONE_LANES == 16  // the compiler would expand some patterns into two instructions
  return _mm512_permutex2var_ps(a, __m512i(vi{kIndex...}), b);
#elif defined(__clang__)
  return __builtin_shufflevector(a, b, kIndex...);
#else
  return __builtin_shuffle(a, b, vi{kIndex...});
#endif
}
/** 0, 1, .. kLanes-1 as template arguments, to write shuffles with. */
using LaneSequence = std::make_integer_sequence<int, kLanes>;

static inline vf select(vi mask, vf a, vf b) { return mask ? a : b; }
static inline vf vmax(vf a, vf b) { return a > b ? a : b; }
static inline vf vmin(vf a, vf b) { return a < b ? a : b; }
static inline vf vabs(vf a) { return vf(vi(a) & 0x7fffffff); }
static inline vf vsqrt(vf a) {
  for (int i = 0; i < kLanes; i++) a[i] = __builtin_sqrtf(a[i]);
  return a;
}

/** Folds the lanes onto lane 0, half onto half: always in the same order. */
template <int kWidth = kLanes / 2, class Op>
static inline vf foldLanes(vf v, Op op) {
  if constexpr (kWidth == 0) {
    return v;
  } else {
    const vf other = [&]<int... kLane>(std::integer_sequence<int, kLane...>) {
      return shuffle<((kLane + kWidth) % kLanes)...>(v, v);
    }(LaneSequence{});
    return foldLanes<kWidth / 2>(op(v, other), op);
  }
}
static inline float sum(vf v) {
  return foldLanes(v, [](vf a, vf b) { return a + b; })[0];
}
static inline float maximum(vf v) { return foldLanes(v, vmax)[0]; }
static inline int32_t minimum(vi v) {
  return vi(foldLanes(vf(v), [](vf a, vf b) { return vf(vi(a) < vi(b) ? vi(a) : vi(b)); }))[0];
}

/**
 * e^x, relative error below 2e-7: 2^n times a degree-6 polynomial on [-ln2/2, ln2/2]. Clamped to finite results,
 * except that NaN stays NaN.
 */
static inline vf vexp(vf x) {
  x = vmin(splat(88.3f), vmax(splat(-87.3f), x));  // of a NaN and a number, both return their second argument
  // Adding 1.5 * 2^23 rounds to a whole number and leaves it in the lowest bits.
  constexpr float kRound = 12582912.0f;
  const vf rounded = x * 1.44269504f + kRound;
  const vf k = rounded - kRound;
  const vf r = (x - k * 0.693359375f) - k * -2.12194440e-4f;  // ln2 in two parts (Cody and Waite)
  vf p = r * 1.38145405e-03f + 8.36874515e-03f;
  p = p * r + 4.16683908e-02f;
  p = p * r + 1.66665204e-01f;
  p = p * r + 0.49999993f;
  p = p * r * r + r + 1.0f;
  return vf(vi(p) + (vi(rounded) << 23));  // the result is no denormal: its exponent can be added to
}

/** 1 / x, relative error below 2e-7; 0 for what is too large to have a normal inverse. */
static inline vf vreciprocal(vf x) {
#if MONE_LANES == 16
  const vf estimate = _mm512_rcp14_ps(x);
  return estimate + estimate * (1.0f - x * estimate);  // one step of Newton's method; a division takes several times as long
#else
  return 1.0f / x;
#endif
}
static inline vf vsigmoid(vf x) { return vreciprocal(1.0f + vexp(-x)); }

// Lanes by the bits of a word.

/** Bit l is set where a[l] > b[l]. */
static inline uint32_t bitsAbove(vi a, vi b) {
#if MONE_LANES == 16
  return _mm512_cmpgt_epi32_mask(__m512i(a), __m512i(b));
#elif MONE_LANES == 8
  return _mm256_movemask_ps(__m256(a > b));
#else
  const vi above = a > b;
  uint32_t bits = 0;
  for (int l = 0; l < kLanes; l++) bits |= (above[l] & 1) << l;
  return bits;
#endif
}

/** All ones in lane l where bit l is set. */
static inline vi lanesOf(uint32_t bits) {
  vi lane;
  for (int l = 0; l < kLanes; l++) lane[l] = 1 << l;
  return (int32_t(bits) & lane) != 0;
}

/** x where bit l is set, zero elsewhere, whatever x is there. */
static inline vf keepLanes(uint32_t bits, vf x) {
#if MONE_LANES == 16
  return vf(_mm512_maskz_mov_ps(__mmask16(bits), __m512(x)));
#else
  return vf(vi(x) & lanesOf(bits));
#endif
}

/** The lowest `count` bits of a word, all of them from 32 on. */
static inline uint32_t firstBits(int64_t count) { return count < 32 ? (1u << count) - 1 : ~0u; }

/** What eachVector hands to its body: a whole vector, or the first n lanes of one (the others read as `rest`). */
struct WholeVector {
  vf get(const float* p, vf = vf{}) const { return load(p); }
  void put(float* p, vf v) const { store(p, v); }
  void update(float* p, vf v, bool accumulate) const { store(p, accumulate ? load(p) + v : v); }
};
struct PartVector {
  int64_t n;
  vf get(const float* p, vf rest = vf{}) const { return loadPart(p, n, rest); }
  void put(float* p, vf v) const { storePart(p, v, n); }
  void update(float* p, vf v, bool accumulate) const { put(p, accumulate ? get(p) + v : v); }
};

/** Calls body(i, lanes) for the vectors of 0..n, the last perhaps partial, so that one body serves both. */
template <class Body>
static inline void eachVector(int64_t n, Body&& body) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) body(i, WholeVector{});
  if (i < n) body(i, PartVector{n - i});
}

/** Copies n floats: a plain loop, since memcpy's string instructions can be five times slower on rows of a kilobyte. */
static inline void copyFloats(float* to, const float* from, int64_t n) {
  eachVector(n, [&](int64_t i, auto lanes) { lanes.put(to + i, lanes.get(from + i)); });
}

/** x *= factor, element by element. */
static inline void multiplyInto(float* x, const float* factor, int64_t n) {
  eachVector(n, [&](int64_t i, auto lanes) { lanes.put(x + i, lanes.get(x + i) * lanes.get(factor + i)); });
}

/** row *= factor. */
static inline void scaleRow(float* row, float factor, int64_t n) {
  eachVector(n, [&](int64_t c, auto lanes) { lanes.put(row + c, lanes.get(row + c) * factor); });
}

/** Gives every NaN of a row the same bits, so that they are equal where bits are compared. */
static inline void unifyNaNs(float* row, int64_t n) {
  eachVector(n, [&](int64_t i, auto lanes) {
    const vf x = lanes.get(row + i);
    lanes.put(row + i, select(x == x, x, splat(NAN)));
  });
}

/** Sum of squares in f32, in four chains of additions. */
static inline float sumOfSquares(const float* x, int64_t n) {
  vf a{}, b{}, c{}, d{};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    const vf p = load(x + i), q = load(x + i + kLanes), r = load(x + i + 2 * kLanes), s = load(x + i + 3 * kLanes);
    a += p * p;
    b += q * q;
    c += r * r;
    d += s * s;
  }
  eachVector(n - i, [&](int64_t j, auto lanes) {
    const vf p = lanes.get(x + i + j);
    a += p * p;
  });
  return sum((a + b) + (c + d));
}

/** Items worth a task of a pass that memory limits: about 20 us, for items that touch so many floats. */
static inline int64_t streamGrain(int64_t floatsPerItem) {
  constexpr int64_t kFloatsPerTask = 1 << 16;
  return std::max<int64_t>(1, kFloatsPerTask / std::max<int64_t>(1, floatsPerItem));
}

/**
 * Sum of part(begin, end) over pieces of 0..count, added in order: the same for any number of threads. Uses slot 0
 * of the scratch memory, which `part` must leave alone.
 */
template <class Part>
static inline double parallelSum(int64_t count, int64_t piece, Part&& part) {
  const int64_t pieces = ceilDivide(count, piece);
  double* sums = static_cast<double*>(threadScratch(0, 8 * pieces));
  parallelRange(count, piece, [&](int64_t begin, int64_t end) { sums[begin / piece] = part(begin, end); });
  double total = 0;
  for (int64_t i = 0; i < pieces; i++) total += sums[i];
  return total;
}
