// Experts in inference: see neuronExperts.ts for what they compute, experts.h for how.

#include "experts.h"

/** Applies the activation in place and selects: bits in `keep`, zeros for what is not kept. */
template <class Activation>
static inline void selectNeurons(Activation activation, ThresholdSearch& search, float* gate, uint32_t* keep,
                                 int64_t width, int64_t kept) {
  const float total = activateRow(activation, gate, gate, width);
  const Threshold threshold = kept < width ? search.find(gate, width, kept, total) : Threshold{-1, 0};
  keptWords(threshold, gate, width, [&](int64_t first, int64_t count, uint32_t bits) {
    keep[first / 32] = bits;
    eachVector(count, [&](int64_t i, auto lanes) {
      lanes.put(gate + first + i, keepLanes(bits >> i, lanes.get(gate + first + i)));
    });
  });
}

/** Selects by the gate alone, so that up is read for kept neurons only. */
struct GateSelector {
  static constexpr bool kNeedsUp = false;

  template <class Activation, class Args>
  static void select(Activation activation, ThresholdSearch& search, const Args& a, float* gate, const float*, int64_t,
                     int64_t r) {
    selectNeurons(activation, search, gate, a.keep + r * keepWords(a.neurons), a.neurons, a.kept);
  }
};

#define neuronExperts_BUFFERS(B, P, type)                                                                       \
  B(in, f32, x) B(in, f32, weights) B(in, u32, slotOfRow) B(in, u32, offsets) B(in, u32, places) B(in, type, gate) B(in, type, up) B(in, type, down)      \
  B(in, f32, gateScales) B(in, f32, upScales) B(in, f32, downScales) B(out, f32, y) B(out, u32, keep)           \
  P(int, groups) P(int, rows) P(int, width) P(int, neurons) P(int, kept) P(int, activation) P(int, active) \
  P(int, extent)
#define neuronExpertsF32_INTERFACE(B, P) neuronExperts_BUFFERS(B, P, f32)
#define neuronExpertsBf16_INTERFACE(B, P) neuronExperts_BUFFERS(B, P, bf16)
#define neuronExpertsInt8_INTERFACE(B, P) neuronExperts_BUFFERS(B, P, i8)
KERNEL(neuronExpertsF32) { ExpertsCall<F32Weights, neuronExpertsF32Args, GateSelector>(a).run(); }
KERNEL(neuronExpertsBf16) { ExpertsCall<Bf16Weights, neuronExpertsBf16Args, GateSelector>(a).run(); }
KERNEL(neuronExpertsInt8) { ExpertsCall<Int8Weights, neuronExpertsInt8Args, GateSelector>(a).run(); }
