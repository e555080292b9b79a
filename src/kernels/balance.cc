// Usage of neurons and their balance loss: see balance.ts. (The balance of experts is in expertBalance.cc.)
// With c_j = usage_j, or 0 where the score is masked, a row of expert e adds F / (K T_e^2) sum_j c_j |G_j| / S to the
// sum over experts, S being the sum of |G_j| or 1.

#define neuronUsage_INTERFACE(B, P) \
  B(in, u32, keep) B(in, u32, offsets) B(inout, u32, usage) P(int, groups) P(int, rows) P(int, width) P(int, accumulate)
KERNEL(neuronUsage) {
  // A task counts 32 neurons of one expert.
  const int64_t words = keepWords(a.width);
  const int64_t grain = std::max<int64_t>(1, 4096 * a.groups / std::max<int64_t>(1, a.rows));
  parallelRange(a.groups * words, grain, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; task++) {
      const int64_t e = task / words, word = task % words;
      vi counts[32 / kLanes] = {};
      for (int64_t r = a.offsets[e]; r < a.offsets[e + 1]; r++) {
        const uint32_t bits = a.keep[r * words + word];
        for (int i = 0; i < 32 / kLanes; i++) counts[i] -= lanesOf(bits >> (i * kLanes));
      }
      uint32_t* usage = a.usage + e * a.width + word * 32;
      const int64_t neurons = std::min<int64_t>(32, a.width - word * 32);
      for (int64_t j = 0; j < neurons; j++)
        usage[j] = (a.accumulate ? usage[j] : 0) + uint32_t(counts[j / kLanes][j % kLanes]);
    }
  });
}

/** Calls f(row, usage of its expert's neurons, F / (K T_e^2 experts in use)) for rows begin..end. */
template <class Args, class F>
static void forExpertRows(const Args& a, int64_t begin, int64_t end, F&& f) {
  double used = 0;
  for (int64_t e = 0; e < a.groups; e++) used += a.offsets[e + 1] > a.offsets[e];
  int64_t e = std::upper_bound(a.offsets, a.offsets + a.groups, begin) - a.offsets - 1;
  for (int64_t r = begin; r < end; e++) {
    const double tokens = double(a.offsets[e + 1]) - double(a.offsets[e]);
    const double weight = double(a.width) / (double(a.kept) * tokens * tokens * used);
    for (; r < std::min<int64_t>(end, a.offsets[e + 1]); r++) f(r, a.usage + e * a.width, weight);
  }
}

/** c_j for the vector of neurons of row r that begins with j. */
template <class Args, class Lanes>
static inline vf keptWeights(const Args& a, const uint32_t* usage, int64_t r, int64_t j, Lanes lanes) {
  const vi counts = vi(lanes.get(reinterpret_cast<const float*>(usage + j)));  // bits, not numbers, are copied
  const vf c = __builtin_convertvector(counts, vf);
  return a.masked ? keepLanes(a.keep[r * keepWords(a.width) + j / 32] >> (j % 32), c) : c;
}

struct RowScores {
  float scale;     // S
  float weighted;  // sum_j c_j |G_j|
};

template <class Activation, class Args>
static RowScores rowScores(Activation activation, const Args& a, const uint32_t* usage, int64_t r) {
  const float* gate = a.gate + r * a.width;
  vf total{}, weighted{};
  eachVector(a.width, [&](int64_t j, auto lanes) {
    vf size = vabs(activation.value(lanes.get(gate + j)));
    if (a.width - j < kLanes) size = keepLanes(firstBits(a.width - j), size);  // act(0) may not be 0
    total += size;
    weighted += size * keptWeights(a, usage, r, j, lanes);
  });
  const float scale = a.normalise ? sum(total) : 1;
  return {scale == 0 ? 1 : scale, sum(weighted)};  // a row of zeros has no scores
}

#define neuronBalance_INTERFACE(B, P)                                                                      \
  B(in, f32, gate) B(in, u32, keep) B(in, u32, offsets) B(in, u32, usage) B(out, f32, loss) P(int, groups) \
  P(int, rows) P(int, width) P(int, kept) P(int, activation) P(int, normalise) P(int, masked)
KERNEL(neuronBalance) {
  withActivation(a.activation, [&](auto activation) {
    a.loss[0] = float(parallelSum(a.offsets[a.groups], streamGrain(2 * a.width), [&](int64_t begin, int64_t end) {
      double loss = 0;
      forExpertRows(a, begin, end, [&](int64_t r, const uint32_t* usage, double weight) {
        const RowScores scores = rowScores(activation, a, usage, r);
        loss += weight * scores.weighted / scores.scale;
      });
      return loss;
    }));
  });
}

#define neuronBalanceGrad_INTERFACE(B, P)                                                                        \
  B(in, f32, gate) B(in, u32, keep) B(in, u32, offsets) B(in, u32, usage) B(in, f32, dloss) B(inout, f32, dgate) \
  P(int, groups) P(int, rows) P(int, width) P(int, kept) P(int, activation) P(int, normalise) P(int, masked)     \
  P(int, accumulate)
KERNEL(neuronBalanceGrad) {
  withActivation(a.activation, [&](auto activation) {
    parallelRange(a.offsets[a.groups], streamGrain(4 * a.width), [&](int64_t begin, int64_t end) {
      forExpertRows(a, begin, end, [&](int64_t r, const uint32_t* usage, double weight) {
        // d/dG_j of sum_m c_m |G_m| / S is sign(G_j) (c_j - mean) / S, mean = sum_m c_m |G_m| / S; 0 if S is constant.
        const RowScores scores = a.normalise ? rowScores(activation, a, usage, r) : RowScores{1, 0};
        const float mean = scores.weighted / scores.scale;
        const float factor = float(a.dloss[0] * weight / scores.scale);
        eachVector(a.width, [&](int64_t j, auto lanes) {
          const int64_t i = r * a.width + j;
          const Gate g = activation.withSlope(lanes.get(a.gate + i));
          const vf sizeSlope = select(g.value > 0, g.slope, select(g.value < 0, -g.slope, vf{}));
          lanes.update(a.dgate + i, factor * (keptWeights(a, usage, r, j, lanes) - mean) * sizeSlope, a.accumulate);
        });
      });
    });
  });
}
