// Student's t and the normal distribution. Pure functions of numbers.
// Sources: Student 1908; the gamma function by Lanczos; the incomplete beta function by Lentz's continued fraction (Numerical
// Recipes 6.4).

/** Logarithm of the gamma function (Lanczos, g = 7), error below 1e-13 for x > 0. */
export function logGamma(x: number): number {
  const coefficients = [
    676.5203681218851, -1259.1392167224028, 771.32342877765313, -176.61502916214059, 12.507343278686905,
    -0.13857109526572012, 9.9843695780195716e-6, 1.5056327351493116e-7,
  ];
  const y = x - 1;
  const sum = coefficients.reduce((total, c, i) => total + c / (y + i + 1), 0.99999999999980993);
  const t = y + 7.5;
  return 0.5 * Math.log(2 * Math.PI) + (y + 0.5) * Math.log(t) - t + Math.log(sum);
}

/** Regularised incomplete beta function I_x(a, b). */
function incompleteBeta(x: number, a: number, b: number): number {
  if (x <= 0) return 0;
  if (x >= 1) return 1;
  if (x > (a + 1) / (a + b + 2)) return 1 - incompleteBeta(1 - x, b, a);
  const front = Math.exp(
    logGamma(a + b) - logGamma(a) - logGamma(b) + a * Math.log(x) + b * Math.log1p(-x) - Math.log(a),
  );
  const least = 1e-300;
  const away = (value: number) => (Math.abs(value) < least ? least : value);
  let c = 1;
  let d = 1 / away(1 - ((a + b) * x) / (a + 1));
  let fraction = d;
  for (let m = 1; m < 500; m++) {
    const even = (m * (b - m) * x) / ((a + 2 * m - 1) * (a + 2 * m));
    d = 1 / away(1 + even * d);
    c = away(1 + even / c);
    fraction *= d * c;
    const odd = (-(a + m) * (a + b + m) * x) / ((a + 2 * m) * (a + 2 * m + 1));
    d = 1 / away(1 + odd * d);
    c = away(1 + odd / c);
    const step = d * c;
    fraction *= step;
    if (Math.abs(step - 1) < 1e-15) break;
  }
  return front * fraction;
}

/** P(|T| > |t|) of Student's t with `degrees` of freedom. */
export function tTwoSided(t: number, degrees: number): number {
  if (Number.isNaN(t)) return Number.NaN;
  return incompleteBeta(degrees / (degrees + t * t), degrees / 2, 0.5);
}

/** The t that |T| exceeds with probability `1 - confidence`, e.g. 4.303 for 2 degrees and 0.95. */
export function tQuantile(degrees: number, confidence = 0.95): number {
  const key = `${degrees} ${confidence}`;
  const known = quantiles.get(key) ?? findQuantile(degrees, confidence);
  quantiles.set(key, known);
  return known;
}

const quantiles = new Map<string, number>();

function findQuantile(degrees: number, confidence: number): number {
  let [low, high] = [0, 1];
  while (tTwoSided(high, degrees) > 1 - confidence) high *= 2;
  for (let i = 0; i < 200 && high - low > 1e-13 * high; i++) {
    const middle = (low + high) / 2;
    if (tTwoSided(middle, degrees) > 1 - confidence) low = middle;
    else high = middle;
  }
  return (low + high) / 2;
}

/** Standard normal distribution function, error below 1e-12 (Simpson's rule within 9 deviations). */
export function normalBelow(x: number): number {
  if (x < -9) return 0;
  if (x > 9) return 1;
  const pieces = 200;
  const width = x / pieces;
  const density = (at: number) => Math.exp(-0.5 * at * at) / Math.sqrt(2 * Math.PI);
  let sum = density(0) + density(x);
  for (let i = 1; i < pieces; i++) sum += density(i * width) * (i % 2 === 1 ? 4 : 2);
  return 0.5 + (sum * width) / 3;
}
