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

/** What the scores of a row are added to: nothing, or the sums of a group of rows. */
struct NoScores {
  void add(int64_t, vf, uint32_t, PartVector) const {}
  void add(int64_t, vf, uint32_t, WholeVector) const {}
};
struct ScoreSums {
  uint32_t* usage;
  float* scores;
  float factor;  // 1 / S
  bool masked;

  template <class Lanes>
  void add(int64_t j, vf value, uint32_t kept, Lanes lanes) const {
    float* counts = reinterpret_cast<float*>(usage + j);  // bits are copied
    lanes.put(counts, vf(vi(lanes.get(counts)) - lanesOf(kept)));
    const vf score = vabs(value) * factor;
    lanes.put(scores + j, lanes.get(scores + j) + (masked ? keepLanes(kept, score) : score));
  }
};

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

/** Sets the row's bits in `keep`, turns gate values in `hidden` into hidden values, and adds up scores. */
template <class Scores>
static void keepAbove(Threshold threshold, const float* up, float weight, float* hidden, uint32_t* keep, int64_t width,
                      const Scores& scores) {
  keptWords(threshold, hidden, width, [&](int64_t first, int64_t count, uint32_t bits) {
    keep[first / 32] = bits;
    eachVector(count, [&](int64_t i, auto lanes) {
      const int64_t j = first + i;
      const vf value = lanes.get(hidden + j);
      lanes.put(hidden + j, keepLanes(bits >> i, value * lanes.get(up + j) * weight));
      scores.add(j, value, bits >> i, lanes);
    });
  });
}

/** Calls f(begin, end, expert) for the runs of rows in begin..end that belong to one expert. */
template <class F>
static void forExpertRuns(const uint32_t* offsets, int64_t groups, int64_t begin, int64_t end, F&& f) {
  int64_t e = std::upper_bound(offsets, offsets + groups, begin) - offsets - 1;
  for (int64_t r = begin; r < end; e++) {
    const int64_t last = std::min<int64_t>(end, offsets[e + 1]);
    if (r < last) f(r, last, e);
    r = last;
  }
}

/**
 * Sums over the rows of each expert while pieces of rows are worked on in parallel: one partial sum for each piece and
 * expert that meet, added in order. In the memory of the caller's scratch slot 0.
 */
class ExpertSums {
 public:
  ExpertSums(int64_t rows, int64_t groups, int64_t width, int64_t grain)
      : width_(width), grain_(grain),
        memory_(static_cast<float*>(threadScratch(0, 8 * (ceilDivide(rows, grain) + groups) * width))) {}

  /** Zeros for the rows of an expert in the piece that begins at row `begin` or before. */
  ScoreSums start(int64_t begin, int64_t expert, bool masked) const {
    float* sums = at(begin / grain_, expert);
    std::memset(sums, 0, 8 * width_);
    return {reinterpret_cast<uint32_t*>(sums), sums + width_, 1, masked};
  }

  void finish(const uint32_t* offsets, int64_t groups, uint32_t* usage, float* scores) const {
    parallelRange(groups, std::max<int64_t>(1, (1 << 14) / width_), [&](int64_t first, int64_t last) {
      for (int64_t e = first; e < last; e++) {
        std::memset(usage + e * width_, 0, 4 * width_);
        std::memset(scores + e * width_, 0, 4 * width_);
        if (offsets[e] == offsets[e + 1]) continue;
        for (int64_t piece = offsets[e] / grain_; piece <= (offsets[e + 1] - 1) / grain_; piece++) {
          const float* sums = at(piece, e);
          for (int64_t j = 0; j < width_; j++) {
            usage[e * width_ + j] += reinterpret_cast<const uint32_t*>(sums)[j];
            scores[e * width_ + j] += sums[width_ + j];
          }
        }
      }
    });
  }

 private:
  /** Pieces and experts only go up together, so their sum tells the pairs that meet apart. */
  float* at(int64_t piece, int64_t expert) const { return memory_ + (piece + expert) * 2 * width_; }

  int64_t width_, grain_;
  float* memory_;
};

/** values = act(gate), which may be the same memory; returns the sum of their magnitudes. */
template <class Activation>
static inline float activateRow(Activation activation, const float* gate, float* values, int64_t width) {
  vf sums{};
  eachVector(width, [&](int64_t j, auto lanes) {
    const vf value = activation.value(lanes.get(gate + j));
    lanes.put(values + j, value);
    sums += width - j < kLanes ? keepLanes(firstBits(width - j), vabs(value)) : vabs(value);
  });
  return sum(sums);
}

#define neuronTopK_INTERFACE(B, P)                                                                                 \
  B(in, f32, gate) B(in, f32, up) B(in, f32, weights) B(in, u32, slotOfRow) B(in, u32, offsets) B(out, f32, hidden) \
  B(out, u32, keep) B(out, u32, usage) B(out, f32, scores) P(int, kept) P(int, rows) P(int, width)                 \
  P(int, activation) P(int, weighted) P(int, scored) P(int, groups) P(int, normalise) P(int, masked)
KERNEL(neuronTopK) {
  withActivation(a.activation, [&](auto activation) {
    const auto eachRow = [&](int64_t begin, int64_t end, ThresholdSearch& search, auto scores) {
      // A few rows at a time: where a search begins depends on the row's sum, which is long known by then.
      constexpr int64_t kRows = 4;
      const bool selects = a.kept < a.width;
      const int64_t width = a.width, words = keepWords(width);
      for (int64_t first = begin; first < end; first += kRows) {
        const int64_t rows = std::min(kRows, end - first);
        const float *gate = a.gate + first * width, *up = a.up + first * width;
        float* hidden = a.hidden + first * width;
        float totals[kRows];
        for (int64_t r = 0; r < rows; r++) totals[r] = activateRow(activation, gate + r * width, hidden + r * width, width);
        // With K = F every key is above -1: the same arithmetic, without a search.
        Threshold thresholds[kRows];
        for (int64_t r = 0; r < rows; r++)
          thresholds[r] = selects ? search.find(hidden + r * width, width, a.kept, totals[r]) : Threshold{-1, 0};
        for (int64_t r = 0; r < rows; r++) {
          if constexpr (std::is_same_v<decltype(scores), ScoreSums>)
            scores.factor = a.normalise && totals[r] != 0 ? 1 / totals[r] : 1;  // a row of zeros has no scores
          keepAbove(thresholds[r], up + r * width, a.weighted ? a.weights[a.slotOfRow[first + r]] : 1.0f, hidden + r * width,
                    a.keep + (first + r) * words, width, scores);
        }
      }
    };
    if (!a.scored) {
      parallelRange(a.rows, streamGrain(3 * a.width), [&](int64_t begin, int64_t end) {
        ThresholdSearch search;
        eachRow(begin, end, search, NoScores{});
      });
      return;
    }
    constexpr int64_t kMaxPieces = 128;  // bounds the memory of partial sums
    const int64_t grain = std::max(streamGrain(3 * a.width), ceilDivide(a.rows, kMaxPieces));
    const ExpertSums sums(a.rows, a.groups, a.width, grain);
    parallelRange(a.rows, grain, [&](int64_t begin, int64_t end) {
      ThresholdSearch search;
      forExpertRuns(a.offsets, a.groups, begin, end, [&](int64_t first, int64_t last, int64_t e) {
        eachRow(first, last, search, sums.start(begin, e, a.masked));
      });
    });
    sums.finish(a.offsets, a.groups, a.usage, a.scores);
  });
}

#define neuronTopKGrad_INTERFACE(B, P)                                                                              \
  B(in, f32, gate) B(in, f32, up) B(in, f32, weights) B(in, u32, slotOfRow) B(in, u32, offsets) B(in, u32, keep)    \
  B(in, f32, dhidden) B(in, f32, dscores) B(inout, f32, dgate) B(inout, f32, dup) B(inout, f32, dweights)           \
  P(int, rows) P(int, width) P(int, activation) P(int, weighted) P(int, scored) P(int, groups) P(int, normalise)    \
  P(int, masked) P(int, accumulateGate) P(int, accumulateUp) P(int, accumulateWeights)

/**
 * One row of the gradient. gateAt(j, lanes) is the gate value with its slope; scoreGrad(j, kept, gate, lanes) the
 * gradient of the scores with respect to the gate projection.
 */
template <class Args, class GateAt, class ScoreGrad>
static inline void topKGradRow(const Args& a, int64_t r, GateAt&& gateAt, ScoreGrad&& scoreGrad) {
  const uint32_t* keep = a.keep + r * keepWords(a.width);
  const float weight = a.weighted ? a.weights[a.slotOfRow[r]] : 1;
  vf dots{};
  eachVector(a.width, [&](int64_t j, auto lanes) {
    const int64_t i = r * a.width + j;
    const uint32_t kept = keep[j / 32] >> (j % 32);
    const Gate g = gateAt(j, lanes);
    const vf up = lanes.get(a.up + i), dhidden = lanes.get(a.dhidden + i);
    const vf dup = keepLanes(kept, dhidden * g.value), dgate = keepLanes(kept, dhidden * up * g.slope * weight);
    dots += keepLanes(kept, dup * up);
    lanes.update(a.dgate + i, dgate + scoreGrad(j, kept, g, lanes), a.accumulateGate);
    lanes.update(a.dup + i, dup * weight, a.accumulateUp);
  });
  if (!a.weighted) return;
  float& dweight = a.dweights[a.slotOfRow[r]];
  dweight = (a.accumulateWeights ? dweight : 0.0f) + sum(dots);
}

KERNEL(neuronTopKGrad) {
  withActivation(a.activation, [&](auto activation) {
    parallelRange(a.rows, streamGrain(5 * a.width), [&](int64_t begin, int64_t end) {
      if (!a.scored) {
        for (int64_t r = begin; r < end; r++) {
          const float* gate = a.gate + r * a.width;
          topKGradRow(a, r, [&](int64_t j, auto lanes) { return activation.withSlope(lanes.get(gate + j)); },
                      [](int64_t, uint32_t, Gate, auto) { return vf{}; });
        }
        return;
      }
      // The mean of the row's c_j comes first; the gate values that it takes are kept for the second pass.
      float* values = static_cast<float*>(threadScratch(0, 8 * a.width));
      float* slopes = values + a.width;
      forExpertRuns(a.offsets, a.groups, begin, end, [&](int64_t first, int64_t last, int64_t e) {
        const float* dscores = a.dscores + e * a.width;
        for (int64_t r = first; r < last; r++) {
          const float* gate = a.gate + r * a.width;
          const uint32_t* keep = a.keep + r * keepWords(a.width);
          const auto c = [&](int64_t j, uint32_t kept, auto lanes) {
            const vf value = lanes.get(dscores + j);
            return a.masked ? keepLanes(kept, value) : value;
          };
          vf totals{}, weighted{};
          eachVector(a.width, [&](int64_t j, auto lanes) {
            const Gate g = activation.withSlope(lanes.get(gate + j));
            lanes.put(values + j, g.value);
            lanes.put(slopes + j, g.slope);
            vf size = vabs(g.value);
            if (a.width - j < kLanes) size = keepLanes(firstBits(a.width - j), size);  // act(0) may not be 0
            totals += size;
            weighted += size * c(j, keep[j / 32] >> (j % 32), lanes);
          });
          const float total = a.normalise ? sum(totals) : 0;
          const float factor = total != 0 ? 1 / total : 1, mean = a.normalise ? sum(weighted) * factor : 0;
          topKGradRow(
              a, r, [&](int64_t j, auto lanes) { return Gate{lanes.get(values + j), lanes.get(slopes + j)}; },
              [&](int64_t j, uint32_t kept, Gate g, auto lanes) {
                const vf sizeSlope = select(g.value > 0, g.slope, select(g.value < 0, -g.slope, vf{}));
                return factor * (c(j, kept, lanes) - mean) * sizeSlope;
              });
        }
      });
    });
  });
}
