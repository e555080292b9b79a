// The experts under a criterion of the study: see studyExperts.ts. The work is that of experts.h with a selection for
// which up is computed whole.

#include "experts.h"

/** A permutation of 32-bit words that spreads them well (C. Wellons, "lowbias32"). */
static inline uint32_t mixed(uint32_t x) {
  x = (x ^ (x >> 16)) * 0x7feb352du;
  x = (x ^ (x >> 15)) * 0x846ca68bu;
  return x ^ (x >> 16);
}

struct CriterionSelector {
  static constexpr bool kNeedsUp = true;

  template <class Activation, class Args>
  static void select(Activation activation, ThresholdSearch& search, const Args& a, float* gate, const float* up,
                     int64_t expert, int64_t r) {
    const int64_t width = a.neurons;
    uint32_t* keep = a.keep + r * keepWords(width);
    const float total = activateRow(activation, gate, gate, width);
    if (a.emit) copyFloats(a.values + r * width, gate, width);
    const float* scores = gate;
    Threshold threshold{-1, 0};
    if (a.criterion == 3) {
      const float limit = float(a.threshold);
      std::memcpy(&threshold.key, &limit, sizeof limit);
    } else if (a.kept < width) {
      float scoreTotal = total;
      if (a.criterion != 0) {
        float* row = static_cast<float*>(threadScratch(0, 4 * width));
        scoreTotal = scoreRow(a, row, gate, up, expert, r);
        scores = row;
      }
      threshold = search.find(scores, width, a.kept, scoreTotal);
    }
    keptWords(threshold, scores, width, [&](int64_t first, int64_t count, uint32_t bits) {
      keep[first / 32] = bits;
      eachVector(count, [&](int64_t i, auto lanes) {
        lanes.put(gate + first + i, keepLanes(bits >> i, lanes.get(gate + first + i)));
      });
    });
  }

 private:
  /** Writes the scores that the criterion ranks by; returns about their sum. */
  template <class Args>
  static float scoreRow(const Args& a, float* row, const float* gate, const float* up, int64_t expert, int64_t r) {
    const int64_t width = a.neurons;
    const float* given = a.scores + expert * width;
    float total = 0;
    switch (a.criterion) {
      case 1:
        for (int64_t j = 0; j < width; j++) row[j] = std::fabs(gate[j] * up[j]);
        break;
      case 2:
        for (int64_t j = 0; j < width; j++) row[j] = std::fabs(gate[j] * up[j]) * given[j];
        break;
      case 4: {
        const uint32_t token = a.tokens[a.active ? a.slotOfRow[r] / uint32_t(a.active) : uint32_t(r)];
        const uint32_t key =
            mixed(mixed(mixed(mixed(uint32_t(a.seed)) ^ token) ^ uint32_t(a.layer)) ^ uint32_t(expert));
        for (int64_t j = 0; j < width; j++)
          row[j] = float(mixed(key + uint32_t(j) * 0x9e3779b9u) >> 8) * (1.0f / (1 << 24));
        break;
      }
      default:
        copyFloats(row, given, width);
    }
    for (int64_t j = 0; j < width; j++) total += row[j];
    if (total != total) unifyNaNs(row, width);
    return total;
  }
};

#define studyExperts_BUFFERS(B, P, type)                                                                              \
  B(in, f32, x) B(in, f32, weights) B(in, u32, slotOfRow) B(in, u32, offsets) B(in, u32, places) B(in, type, gate)    \
  B(in, type, up) B(in, type, down) B(in, f32, gateScales) B(in, f32, upScales) B(in, f32, downScales)                \
  B(in, f32, scores) B(in, u32, tokens) B(out, f32, y) B(out, u32, keep) B(out, f32, values) P(int, groups)           \
  P(int, rows) P(int, width) P(int, neurons) P(int, kept) P(int, activation) P(int, active) P(int, extent)            \
  P(int, criterion) P(float, threshold) P(int, seed) P(int, layer) P(int, emit)
#define studyExpertsF32_INTERFACE(B, P) studyExperts_BUFFERS(B, P, f32)
#define studyExpertsBf16_INTERFACE(B, P) studyExperts_BUFFERS(B, P, bf16)
#define studyExpertsInt8_INTERFACE(B, P) studyExperts_BUFFERS(B, P, i8)
KERNEL(studyExpertsF32) { ExpertsCall<F32Weights, studyExpertsF32Args, CriterionSelector>(a).run(); }
KERNEL(studyExpertsBf16) { ExpertsCall<Bf16Weights, studyExpertsBf16Args, CriterionSelector>(a).run(); }
KERNEL(studyExpertsInt8) { ExpertsCall<Int8Weights, studyExpertsInt8Args, CriterionSelector>(a).run(); }
