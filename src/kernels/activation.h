// Gate activations on vectors: see activation.ts for what they are and how they are numbered. Shared by the kernels that
// select neurons. All but the sigmoid are g * s(g) with a step s from 0 to 1, and share one form of the slope.
#pragma once

/** act(g) and its derivative. */
struct Gate {
  vf value, slope;
};

/** g * s(g), where Step::at(g) gives s and its derivative. */
template <class Step>
struct Gated {
  static vf value(vf g) { return g * Step::at(g).value; }
  static Gate withSlope(vf g) {
    const Gate s = Step::at(g);
    return {g * s.value, s.value + g * s.slope};
  }
};

struct SigmoidStep {
  static Gate at(vf g) {
    const vf s = vsigmoid(g);
    return {s, s * (1.0f - s)};
  }
};

/** The tanh form of GELU: (1 + tanh(y)) / 2 is the sigmoid of 2 y. */
struct TanhStep {
  static Gate at(vf g) {
    constexpr float kTwice = 1.5957691f, kCubic = 0.044715f;  // 2 sqrt(2 / pi)
    const vf s = vsigmoid(kTwice * g * (1.0f + kCubic * g * g));
    return {s, s * (1.0f - s) * kTwice * (1.0f + 3.0f * kCubic * g * g)};
  }
};

/**
 * The normal distribution, (1 + erf(g / sqrt 2)) / 2: absolute error below 2e-7 (Abramowitz and Stegun 7.1.26, which
 * approximates erfc by a polynomial in 1 / (1 + p x) times the exponential that the density needs as well).
 */
struct NormalStep {
  static Gate at(vf g) {
    const vf x = vabs(g) * 0.70710678f;
    const vf density = vexp(-x * x);
    const vf t = 1.0f / (1.0f + 0.3275911f * x);
    vf p = t * 1.061405429f - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    const vf tail = 0.5f * p * t * density;
    return {select(g < 0, tail, 1.0f - tail), density * 0.39894228f};
  }
};

/** Not as g times a step: that makes NaN of minus infinity. NaN stays NaN. */
struct Relu {
  static vf value(vf g) { return vmax(vf{}, g); }
  static Gate withSlope(vf g) { return {value(g), select(g > 0, splat(1), vf{})}; }
};

/** The one activation without the factor g. */
struct Sigmoid {
  static vf value(vf g) { return vsigmoid(g); }
  static Gate withSlope(vf g) { return SigmoidStep::at(g); }
};

/** Calls f with the activation of that number, so that its loops are compiled for it. */
template <class F>
static void withActivation(int64_t number, F&& f) {
  switch (number) {
    case 0: return f(Gated<SigmoidStep>{});
    case 1: return f(Gated<NormalStep>{});
    case 2: return f(Gated<TanhStep>{});
    case 3: return f(Relu{});
    default: return f(Sigmoid{});
  }
}

/**
 * values = act(gate), which may be the same memory; returns the sum of their magnitudes. All NaN are the same one then,
 * for selection.
 */
template <class Activation>
static inline float activateRow(Activation activation, const float* gate, float* values, int64_t width) {
  vf sums{};
  eachVector(width, [&](int64_t j, auto lanes) {
    const vf value = activation.value(lanes.get(gate + j));
    lanes.put(values + j, value);
    sums += width - j < kLanes ? keepLanes(firstBits(width - j), vabs(value)) : vabs(value);
  });
  const float total = sum(sums);
  if (total != total) unifyNaNs(values, width);
  return total;
}
