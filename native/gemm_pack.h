// Packing: copies a piece of an operand into the order in which the products read it. Not here: which pieces.
//
// An operand has an outer index (rows of A, columns of B) and the inner one that is summed over. Packed memory is
// made of 4-byte units along the inner index: one f32, or a pair of neighbouring bf16. In kLanes x kLanes blocks:
//   A panel  [block of kLanes units][row of the panel][kLanes units]   kPanelRows rows high
//   B panel  [unit][kPanelColumns columns]                             two vectors wide
// With 16 lanes of bf16 pairs these are exactly the tiles of AMX. What is missing at the edges is packed as zeros.

constexpr int kPanelColumns = 2 * kLanes;

/**
 * Where an operand lies: element (outer, inner) is data[outer * stride + inner] if kAlongInner, else the reverse. Elements
 * are f32, or weights as inference stores them (weights.h).
 */
template <bool kAlongInner, class Element = float>
struct Operand {
  const Element* data;
  int64_t stride;

  const Element* at(int64_t outer, int64_t inner) const {
    return kAlongInner ? data + outer * stride + inner : data + inner * stride + outer;
  }
};

/** Rounds to bfloat16, ties to even, in the upper half of each lane; the lower half is zero. NaN stays NaN. */
static inline vu roundToBf16(vf x) {
  const vu bits = vu(x);
  const vu rounded = bits + 0x7fff + (bits >> 16 & 1);
  return vu(select(x == x, vf(rounded), vf(bits | 0x400000))) & 0xffff0000;
}

// A format says what a unit is: kDepth elements of the inner index. `inner` makes the vector of kLanes units that
// follow each other at p, of which `inners` elements exist; `outer` makes the vector of one unit of kLanes
// outer indices, of which `outers` exist, with `inners` elements left from this unit on.

struct F32Format {
  static constexpr int kDepth = 1;
  template <class Element>
  static vf inner(const Element* p, int64_t inners) { return decodeUpTo(p, inners); }
  template <class Element>
  static vf outer(const Element* p, int64_t, int64_t outers, int64_t) { return decodeUpTo(p, outers); }
  /** A vector of units from kDepth vectors of elements that follow each other. */
  static vf units(const vf (&elements)[kDepth]) { return elements[0]; }
};

/** bf16 values in f32 units, for levels that cannot multiply bf16. */
struct RoundedFormat {
  static constexpr int kDepth = 1;
  template <class Element>
  static vf inner(const Element* p, int64_t inners) { return vf(roundToBf16(decodeUpTo(p, inners))); }
  template <class Element>
  static vf outer(const Element* p, int64_t, int64_t outers, int64_t) { return vf(roundToBf16(decodeUpTo(p, outers))); }
  static vf units(const vf (&elements)[kDepth]) { return vf(roundToBf16(elements[0])); }
};

#if MONE_BF16 > 0
/** Pairs of bf16, the lower inner index in the lower half. */
struct PairFormat {
  static constexpr int kDepth = 2;
  /** Stored pairs are pairs already. */
  static vf inner(const uint16_t* p, int64_t inners) {
    if (inners >= 2 * kLanes) return load(reinterpret_cast<const float*>(p));
    return inner<uint16_t>(p, inners);
  }
  template <class Element>
  static vf inner(const Element* p, int64_t inners) {
    return neighbours(decodeUpTo(p, inners), decodeUpTo(p + kLanes, inners - kLanes));
  }
  template <class Element>
  static vf outer(const Element* p, int64_t stride, int64_t outers, int64_t inners) {
    return pairs(decodeUpTo(p, outers), inners > 1 ? decodeUpTo(p + stride, outers) : vf{});
  }
  static vf units(const vf (&elements)[kDepth]) { return neighbours(elements[0], elements[1]); }

 private:
  static vf neighbours(vf first, vf second) { return vf(_mm512_cvtne2ps_pbh(__m512(second), __m512(first))); }
  static vf pairs(vf low, vf high) {
    alignas(64) static constexpr uint16_t kInterleave[32] = {
        0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
        8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    return vf(_mm512_permutexvar_epi16(_mm512_load_si512(kInterleave), __m512i(neighbours(low, high))));
  }
};
#endif

/** For lanes l with bit kDistance of l clear, swaps a[l + kDistance] and b[l]: one step of a transpose. */
template <int kDistance, int... kLane>
static inline void exchange(vf& a, vf& b, std::integer_sequence<int, kLane...>) {
  const vf low = shuffle<(kLane & kDistance ? kLanes + kLane - kDistance : kLane)...>(a, b);
  b = shuffle<(kLane & kDistance ? kLanes + kLane : kLane + kDistance)...>(a, b);
  a = low;
}

/** Transposes a square of units in registers. */
template <int kDistance = kLanes / 2>
static inline void transpose(vf (&block)[kLanes]) {
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; i++)
    if (!(i & kDistance)) exchange<kDistance>(block[i], block[i + kDistance], LaneSequence{});
  if constexpr (kDistance > 1) transpose<kDistance / 2>(block);
}

/**
 * Reads kLanes units of kOuters outer indices, of which `outers` and `inners` elements exist, in the order in
 * which they lie: block[outer][unit] if kAlongInner, else block[unit][outer].
 */
template <class Format, int kOuters, bool kAlongInner, class Element>
[[gnu::always_inline]] static inline void readBlock(vf (&block)[kLanes], const Element* p, int64_t stride,
                                                    int64_t outers, int64_t inners) {
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; i++) {
    if constexpr (kAlongInner) {
      block[i] = i < kOuters && i < outers ? Format::inner(p + i * stride, inners) : vf{};
    } else {
      const int64_t left = inners - i * Format::kDepth;
      block[i] = left > 0 ? Format::outer(p + i * Format::kDepth * stride, stride, outers, left) : vf{};
    }
  }
}

/** Asks for the memory that readBlock would read at p, to arrive in the second level cache. */
template <class Format, int kOuters, bool kAlongInner, class Element>
static inline void prefetchBlock(const Element* p, int64_t stride) {
  constexpr int kRows = kAlongInner ? kOuters : kLanes * Format::kDepth;
  constexpr int kWidth = kAlongInner ? kLanes * Format::kDepth : kLanes;
#pragma GCC unroll 32
  for (int i = 0; i < kRows; i++)
    for (int j = 0; j < kWidth; j += 64 / int(sizeof(Element))) __builtin_prefetch(p + i * stride + j, 0, 2);
}

/** readBlock, then what brings it into the wanted order: block[outer][unit] if kWantInner. Fast away from edges. */
template <class Format, int kOuters, bool kWantInner, bool kAlongInner, class Element>
static inline void packBlock(vf (&block)[kLanes], const Element* p, int64_t stride, int64_t outers, int64_t inners) {
  constexpr int kNeeded = kAlongInner ? kOuters : kLanes, kInners = kLanes * Format::kDepth;
  if (outers >= kNeeded && inners >= kInners) {
    readBlock<Format, kOuters, kAlongInner>(block, p, stride, kNeeded, kInners);
  } else {
    readBlock<Format, kOuters, kAlongInner>(block, p, stride, outers, inners);
  }
  if constexpr (kAlongInner != kWantInner) transpose(block);
}

/** Units that `inners` elements fill, in whole blocks. */
template <class Format>
static inline int64_t paddedUnits(int64_t inners) {
  return ceilDivide(inners, kLanes * Format::kDepth) * kLanes;
}

/** Packs rows row..row+rows of A, inner elements inner..inner+inners, as panels of kRows rows. */
template <class Format, int kRows, bool kAlongInner>
static void packA(float* to, const Operand<kAlongInner>& a, int64_t row, int64_t rows, int64_t inner, int64_t inners) {
  constexpr int kInners = kLanes * Format::kDepth;
  for (int64_t i = 0; i < rows; i += kRows) {
    for (int64_t p = 0; p < inners; p += kInners, to += kRows * kLanes) {
      vf block[kLanes];
      prefetchBlock<Format, kRows, kAlongInner>(a.at(row + i + kRows, inner + p), a.stride);
      packBlock<Format, kRows, true, kAlongInner>(block, a.at(row + i, inner + p), a.stride, rows - i, inners - p);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; r++) store(to + r * kLanes, block[r]);
    }
  }
}

/** Packs one panel of B: up to kPanelColumns columns, inner elements inner..inner+inners. */
template <class Format, bool kAlongInner, class Element>
static void packB(float* to, const Operand<kAlongInner, Element>& b, int64_t column, int64_t columns, int64_t inner,
                  int64_t inners) {
  constexpr int kInners = kLanes * Format::kDepth;
  for (int64_t p = 0; p < inners; p += kInners, to += kLanes * kPanelColumns) {
    for (int half = 0; half < kPanelColumns; half += kLanes) {
      vf block[kLanes];
      prefetchBlock<Format, kLanes, kAlongInner>(b.at(column + half + kPanelColumns, inner + p), b.stride);
      packBlock<Format, kLanes, false, kAlongInner>(block, b.at(column + half, inner + p), b.stride, columns - half,
                                                    inners - p);
#pragma GCC unroll 16
      for (int u = 0; u < kLanes; u++) store(to + u * kPanelColumns + half, block[u]);
    }
  }
}
