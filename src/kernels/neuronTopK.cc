// Selection of the K neurons of largest |act(gate)| per row, and its gradient: see neuronTopK.ts. The search counts:
// how many magnitudes lie above a threshold, for a few thresholds, each count one pass over a row in cache.
// Magnitudes are compared as the integers of their bits, which are in the same order and have no rounding.

/** Words of `keep` per row. */
static inline int64_t keepWords(int64_t width) { return ceilDivide(width, 32); }

static inline vi magnitudeKey(vf x) { return vi(vabs(x)); }

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

/** Appends the keys whose bit is set; may write a whole vector. */
static inline int32_t* append(int32_t* to, vi keys, uint32_t bits) {
#if MONE_LANES == 16
  _mm512_storeu_si512(to, _mm512_maskz_compress_epi32(__mmask16(bits), __m512i(keys)));
  return to + __builtin_popcount(bits);
#else
  for (; bits != 0; bits &= bits - 1) *to++ = keys[__builtin_ctz(bits)];
  return to;
#endif
}

/** What is kept of a row: every key above `key`, and the first `ties` of those equal to it. */
struct Threshold {
  int32_t key;
  int64_t ties;
};

/** Finds thresholds of rows that resemble each other: each search begins where the earlier ones ended. */
class ThresholdSearch {
 public:
  /** The threshold that keeps `kept` of the row's values, 1 <= kept < width. NaN counts as the largest. */
  Threshold find(const float* row, int64_t width, int64_t kept) {
    // The K-th largest key is in (floor, ceiling]; (low, high] is the band of it that is looked at.
    int64_t floor = -1, ceiling = INT32_MAX, reach = reach_;
    int64_t low = std::max(centre_ - reach, floor), high = std::min(centre_ + reach, ceiling);
    for (;;) {
      gather(row, width, int32_t(low), int32_t(high));
      const int64_t rank = kept - above_;  // of the K-th largest key among those in the band
      if (rank > 0 && rank <= inside_) {
        if (inside_ <= kCandidates || high - low == 1) {
          const Threshold found = choose(low, high, rank);
          centre_ += (found.key - centre_) / 4;
          reach_ -= reach_ / 16;
          return found;
        }
        floor = low;
        ceiling = high;
        low += (high - low) / 2;
        reach_ -= reach_ / 2;
        continue;
      }
      reach = std::min(reach * 4, kAllKeys);  // a row of equal magnitudes is missed many times
      reach_ = std::min(reach_ + reach_ / 2, kAllKeys);
      if (rank <= 0) {
        floor = low = high;
        high = std::min(low + reach, ceiling);
      } else {
        ceiling = high = low;
        low = std::max(high - reach, floor);
      }
    }
  }

 private:
  static constexpr int64_t kCandidates = 256, kAllKeys = INT32_MAX;

  /** Counts the keys above the band and those inside, and collects the latter as long as there is room. */
  void gather(const float* row, int64_t width, int32_t low, int32_t high) {
    const vi lowest = low - vi{}, highest = high - vi{};
    int32_t* next = candidates_;
    int64_t allAbove = 0, allInside = 0;
    eachVector(width, [&](int64_t j, auto lanes) {
      const vi keys = magnitudeKey(lanes.get(row + j));
      const uint32_t above = bitsAbove(keys, highest);
      uint32_t inside = bitsAbove(keys, lowest) & ~above;
      if (width - j < kLanes) inside &= firstBits(width - j);
      allAbove += __builtin_popcount(above);
      allInside += __builtin_popcount(inside);
      if (allInside <= kCandidates) next = append(next, keys, inside);
    });
    above_ = allAbove;
    inside_ = allInside;
    const vi none = vi{} - 1;
    std::memcpy(next, &none, sizeof none);  // no key is below: completes the last vector
  }

  /** The threshold at the rank-th largest of the candidates, all of which are in (low, high]. */
  Threshold choose(int64_t low, int64_t high, int64_t rank) {
    const int64_t spacing = (high - low) / inside_ + 1;
    int64_t probe = high - rank * spacing, tooFew = 0;
    for (int step = 1; high - low > 1; step++) {
      // Halving bounds the number of steps, however the candidates are distributed.
      if (probe <= low || probe >= high || step % 8 == 0) probe = low + (high - low) / 2;
      const int64_t above = candidatesAbove(int32_t(probe));
      if (above == rank) return {int32_t(probe), 0};
      if (above > rank) {
        low = probe;
      } else {
        high = probe;
        tooFew = above;
      }
      probe += (above - rank) * spacing;
    }
    return {int32_t(high), rank - tooFew};
  }

  int64_t candidatesAbove(int32_t key) const {
    int64_t count = 0;
    for (int64_t i = 0; i < inside_; i += kLanes) {
      vi keys;
      std::memcpy(&keys, candidates_ + i, sizeof keys);
      count += __builtin_popcount(bitsAbove(keys, key - vi{}));
    }
    return count;
  }

  /** Where the K-th largest keys of earlier rows were, and how far from there to look at first. */
  int64_t centre_ = 0x3e000000, reach_ = 0x800000;  // 0.125, a power of two
  int64_t above_ = 0, inside_ = 0;
  int32_t candidates_[kCandidates + 2 * kLanes];
};

/** The lowest `count` of the bits that are set. */
static inline uint32_t lowestBits(uint32_t bits, int64_t count) {
  uint32_t rest = bits;
  for (; count > 0 && rest; count--) rest &= rest - 1;
  return bits & ~rest;
}

/** The bits of a word whose keys are above `limit`. */
static inline uint32_t wordAbove(const float* values, int64_t count, vi limit) {
  uint32_t bits = 0;
  eachVector(count, [&](int64_t j, auto lanes) { bits |= bitsAbove(magnitudeKey(lanes.get(values + j)), limit) << j; });
  return bits & firstBits(count);
}

/** Calls word(j, count, bits) for each word of the row: neurons j..j+count, of which those in `bits` are kept. */
template <class Word>
static inline void keptWords(Threshold threshold, const float* values, int64_t width, Word&& word) {
  const vi limit = threshold.key - vi{};
  for (int64_t first = 0; first < width; first += 32) {
    const int64_t count = std::min<int64_t>(32, width - first);
    uint32_t bits = wordAbove(values + first, count, limit);
    if (threshold.ties > 0) {
      const uint32_t ties = lowestBits(wordAbove(values + first, count, limit - 1) & ~bits, threshold.ties);
      threshold.ties -= __builtin_popcount(ties);
      bits |= ties;
    }
    word(first, count, bits);
  }
}

/** Sets the row's bits in `keep`. */
static inline void keepBits(Threshold threshold, const float* values, uint32_t* keep, int64_t width) {
  keptWords(threshold, values, width, [&](int64_t j, int64_t, uint32_t bits) { keep[j / 32] = bits; });
}

/** Sets the row's bits in `keep`, and turns gate values in `hidden` into hidden values. */
static void keepAbove(Threshold threshold, const float* up, float* hidden, uint32_t* keep, int64_t width) {
  keptWords(threshold, hidden, width, [&](int64_t first, int64_t count, uint32_t bits) {
    keep[first / 32] = bits;
    eachVector(count, [&](int64_t i, auto lanes) {
      const int64_t j = first + i;
      lanes.put(hidden + j, keepLanes(bits >> i, lanes.get(hidden + j) * lanes.get(up + j)));
    });
  });
}

#define neuronTopK_INTERFACE(B, P)                                                                              \
  B(in, f32, gate) B(in, f32, up) B(out, f32, hidden) B(out, u32, keep) P(int, rows) P(int, width) P(int, kept) \
  P(int, activation)
KERNEL(neuronTopK) {
  withActivation(a.activation, [&](auto activation) {
    parallelRange(a.rows, streamGrain(3 * a.width), [&](int64_t begin, int64_t end) {
      ThresholdSearch search;
      for (int64_t r = begin; r < end; r++) {
        const float* gate = a.gate + r * a.width;
        float* hidden = a.hidden + r * a.width;
        eachVector(a.width, [&](int64_t j, auto lanes) { lanes.put(hidden + j, activation.value(lanes.get(gate + j))); });
        // With K = F every key is above -1: the same arithmetic, without a search.
        const Threshold threshold = a.kept < a.width ? search.find(hidden, a.width, a.kept) : Threshold{-1, 0};
        keepAbove(threshold, a.up + r * a.width, hidden, a.keep + r * keepWords(a.width), a.width);
      }
    });
  });
}

#define neuronTopKGrad_INTERFACE(B, P)                                                                         \
  B(in, f32, gate) B(in, f32, up) B(in, u32, keep) B(in, f32, dhidden) B(inout, f32, dgate) B(inout, f32, dup) \
  P(int, rows) P(int, width) P(int, activation) P(int, accumulateGate) P(int, accumulateUp)
KERNEL(neuronTopKGrad) {
  withActivation(a.activation, [&](auto activation) {
    parallelRange(a.rows, streamGrain(5 * a.width), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; r++) {
        const uint32_t* keep = a.keep + r * keepWords(a.width);
        eachVector(a.width, [&](int64_t j, auto lanes) {
          const int64_t i = r * a.width + j;
          const uint32_t kept = keep[j / 32] >> (j % 32);
          const Gate g = activation.withSlope(lanes.get(a.gate + i));
          const vf dhidden = lanes.get(a.dhidden + i);
          lanes.update(a.dgate + i, keepLanes(kept, dhidden * lanes.get(a.up + i) * g.slope), a.accumulateGate);
          lanes.update(a.dup + i, keepLanes(kept, dhidden * g.value), a.accumulateUp);
        });
      }
    });
  });
}
