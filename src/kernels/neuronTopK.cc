// Selection of the K neurons of largest |act(gate)| per row, and its gradient: see neuronTopK.ts for what they compute,
// native/select.h for how neurons are found.

#include "../../native/select.h"
#include "activation.h"

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
