// Gate activations act(g) and their derivatives, numbered as kernels receive them. Shared by neuronTopK,
// neuronExperts and studyExperts, so that all mean the same gate value.

/** Values of a kernel's `activation` parameter. */
export const activations = { silu: 0, gelu: 1, gelu_tanh: 2, relu: 3, sigmoid: 4 } as const;

export type Activation = keyof typeof activations;

const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));
const SQRT_2_OVER_PI = Math.sqrt(2 / Math.PI);

/** erf with absolute error below 1e-15 by its series, and by the continued fraction of erfc for large |x|. */
function erf(x: number): number {
  const a = Math.abs(x);
  if (a > 6) return Math.sign(x);
  if (a < 2.5) {
    let term = a;
    let sum = a;
    for (let n = 1; Math.abs(term) > 1e-17 * sum; n++) {
      term *= (-a * a) / n;
      sum += term / (2 * n + 1);
    }
    return Math.sign(x) * (2 / Math.sqrt(Math.PI)) * sum;
  }
  let fraction = 0;
  for (let n = 60; n > 0; n--) fraction = n / 2 / (a + fraction);
  return Math.sign(x) * (1 - Math.exp(-a * a) / Math.sqrt(Math.PI) / (a + fraction));
}

/** The gate value act(g). Sources: SiLU (Elfwing 2017), GELU exact and tanh form (Hendrycks 2016). */
export function activate(kind: number, g: number): number {
  switch (kind) {
    case activations.silu:
      return g * sigmoid(g);
    case activations.gelu:
      return 0.5 * g * (1 + erf(g / Math.SQRT2));
    case activations.gelu_tanh:
      return 0.5 * g * (1 + Math.tanh(SQRT_2_OVER_PI * (g + 0.044715 * g ** 3)));
    case activations.relu:
      return Math.max(0, g);
    case activations.sigmoid:
      return sigmoid(g);
    default:
      throw new Error(`unknown activation ${kind}`);
  }
}

/** d act(g) / dg; 0 for relu at 0. */
export function activateGrad(kind: number, g: number): number {
  const s = sigmoid(g);
  switch (kind) {
    case activations.silu:
      return s * (1 + g * (1 - s));
    case activations.gelu:
      return 0.5 * (1 + erf(g / Math.SQRT2)) + (g * Math.exp(-0.5 * g * g)) / Math.sqrt(2 * Math.PI);
    case activations.gelu_tanh: {
      const t = Math.tanh(SQRT_2_OVER_PI * (g + 0.044715 * g ** 3));
      return 0.5 * (1 + t) + 0.5 * g * (1 - t * t) * SQRT_2_OVER_PI * (1 + 3 * 0.044715 * g * g);
    }
    case activations.relu:
      return g > 0 ? 1 : 0;
    case activations.sigmoid:
      return s * (1 - s);
    default:
      throw new Error(`unknown activation ${kind}`);
  }
}
