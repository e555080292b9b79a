// Selection of the K largest magnitudes of a row: finds a threshold, then says word by word what is above it. The search
// counts: how many magnitudes lie above a threshold, for a few thresholds, each count one pass over a row in cache.
// Magnitudes are compared as the integers of their bits, which are in the same order and have no rounding.
#pragma once

/** Words of `keep` per row. */
static inline int64_t keepWords(int64_t width) { return ceilDivide(width, 32); }

static inline vi magnitudeKey(vf x) { return vi(vabs(x)); }

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

/**
 * Finds thresholds of rows that resemble each other up to their scale: each search begins at the share of the row's sum
 * where the earlier ones ended.
 */
class ThresholdSearch {
 public:
  /**
   * The threshold that keeps `kept` of the row's values, 1 <= kept < width. NaN counts as the largest.
   * `total`: the sum of the row's magnitudes, which only says where to begin.
   */
  Threshold find(const float* row, int64_t width, int64_t kept, float total) {
    // The K-th largest key is in (floor, ceiling]; (low, high] is the band of it that is looked at.
    int64_t floor = -1, ceiling = INT32_MAX, reach = reach_;
    const int64_t centre = keyOf(share_ * total);
    int64_t low = std::max(centre - reach, floor), high = std::min(centre + reach, ceiling);
    for (;;) {
      gather(row, width, int32_t(low), int32_t(high));
      const int64_t rank = kept - above_;  // of the K-th largest key among those in the band
      if (rank > 0 && rank <= inside_) {
        if (inside_ <= kCandidates || high - low == 1) {
          const Threshold found = choose(low, high, rank);
          const float share = valueOf(found.key) / total;
          if (share > 0 && share < 1) share_ += (share - share_) / 4;  // not for NaN
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

  static int32_t keyOf(float x) {
    int32_t key;
    std::memcpy(&key, &x, sizeof key);
    return key & INT32_MAX;
  }
  static float valueOf(int32_t key) {
    float x;
    std::memcpy(&x, &key, sizeof x);
    return x;
  }

  /** The K-th largest magnitude of earlier rows as a share of their sum, and how far from there to look at first. */
  float share_ = 0.005f;
  int64_t reach_ = 0x800000;  // a power of two
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
