// The product in vector registers: kRows x 2 vectors of C are summed in registers over one packed A panel and one
// packed B panel (gemm_pack.h). Two multiplications are possible: f32 units, or pairs of bf16.

struct MultiplyAdd {
  static vf apply(vf sum, vf x, vf y) { return sum + x * y; }
};

#if MONE_BF16 > 0
/** Per lane: sum + x.low * y.low + x.high * y.high. */
struct MultiplyAddPairs {
  static vf apply(vf sum, vf x, vf y) { return vf(_mm512_dpbf16_ps(__m512(sum), __m512bh(x), __m512bh(y))); }
};
#endif

/** The unit at p in every lane, bits unchanged (it may be a pair that is no valid f32). */
static inline vf broadcastUnit(const float* p) {
  int32_t bits;
  std::memcpy(&bits, p, sizeof bits);
  return vf(bits - vi{});
}

/** Asks for the rows of C that will be written once the sums are complete. */
static inline void prefetchResult(const float* c, int64_t stride, int rows) {
  constexpr int kCacheLine = 16;
  for (int r = 0; r < rows; r++)
    for (int j = 0; j < kPanelColumns; j += kCacheLine) __builtin_prefetch(c + r * stride + j, 1);
}

template <class Format_, class Multiply>
struct RegisterProduct {
  using Format = Format_;
  /** Rows of C that fit in registers beside two vectors of B and one of A: of 32, 16 and 16 registers. */
  static constexpr int kPanelRows = kLanes == 16 ? 14 : kLanes == 8 ? 6 : 4;
  struct Session {};

  /**
   * c[rows x columns] (+)= packed A panels times one packed B panel, `units` inner units. Every element is summed
   * from zero in the order of the units and added to C at the end, whatever the number of rows and columns.
   */
  static void multiply(int64_t units, const float* a, int64_t rows, const float* b, float* c, int64_t stride,
                       int64_t columns, bool add) {
    for (int64_t i = 0; i < rows; i += kPanelRows) {
      const int64_t high = rows - i < kPanelRows ? rows - i : kPanelRows;
      kVariants.multiply[high - 1](units, a + i * units, b, c + i * stride, stride, columns, add);
    }
  }

 private:
  template <int kRows>
  static void block(int64_t units, const float* a, const float* b, float* c, int64_t stride, int64_t columns,
                    bool add) {
    prefetchResult(c, stride, kRows);
    vf sums[kRows][2] = {};
    for (int64_t done = 0; done < units; done += kLanes, a += kPanelRows * kLanes) {
      for (int u = 0; u < kLanes; u++, b += kPanelColumns) {
        const vf left = load(b), right = load(b + kLanes);
#pragma GCC unroll 16
        for (int r = 0; r < kRows; r++) {
          const vf x = broadcastUnit(a + r * kLanes + u);
          sums[r][0] = Multiply::apply(sums[r][0], x, left);
          sums[r][1] = Multiply::apply(sums[r][1], x, right);
        }
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; r++) {
      write(c + r * stride, sums[r][0], columns, add);
      write(c + r * stride + kLanes, sums[r][1], columns - kLanes, add);
    }
  }

  /** Writes or adds the first `count` lanes (none, some or all). */
  static void write(float* c, vf sum, int64_t count, bool add) {
    if (count >= kLanes) {
      store(c, add ? load(c) + sum : sum);
    } else if (count > 0) {
      storePart(c, add ? loadPart(c, count) + sum : sum, count);
    }
  }

  /** `block` for every height of a panel. */
  struct Variants {
    using Block = void (*)(int64_t, const float*, const float*, float*, int64_t, int64_t, bool);
    template <int... kIndex>
    constexpr explicit Variants(std::integer_sequence<int, kIndex...>) : multiply{block<kIndex + 1>...} {}
    Block multiply[kPanelRows];
  };
  static constexpr Variants kVariants{std::make_integer_sequence<int, kPanelRows>{}};
};
