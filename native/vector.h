// Vectors of f32 as wide as the instruction level, written with the compiler's vector types so that one source
// serves every level. Included by level.inc inside the level's namespace, after MONE_LANES is set.
// Pointers from JavaScript are not aligned: all loads and stores here are unaligned ones.

constexpr int kLanes = MONE_LANES;
typedef float vf __attribute__((vector_size(4 * MONE_LANES)));
typedef int32_t vi __attribute__((vector_size(4 * MONE_LANES)));
typedef uint32_t vu __attribute__((vector_size(4 * MONE_LANES)));

static inline vf load(const float* p) {
  vf v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
static inline void store(float* p, vf v) { std::memcpy(p, &v, sizeof v); }
static inline vf splat(float x) { return x - vf{}; }

/** The first n (0 < n < kLanes) elements, zero in the rest. */
static inline vf loadPart(const float* p, int64_t n) {
  vf v{};
  std::memcpy(&v, p, 4 * n);
  return v;
}
static inline void storePart(float* p, vf v, int64_t n) { std::memcpy(p, &v, 4 * n); }

static inline vf select(vi mask, vf a, vf b) { return mask ? a : b; }
static inline vf vmax(vf a, vf b) { return a > b ? a : b; }
static inline vf vmin(vf a, vf b) { return a < b ? a : b; }
static inline vf vabs(vf a) { return vf(vi(a) & 0x7fffffff); }

/** Sum of the lanes, always in the same order. */
static inline float sum(vf v) {
  float lanes[kLanes];
  std::memcpy(lanes, &v, sizeof v);
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; i++) lanes[i] += lanes[i + width];
  return lanes[0];
}
static inline float maximum(vf v) {
  float lanes[kLanes];
  std::memcpy(lanes, &v, sizeof v);
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; i++) lanes[i] = lanes[i] > lanes[i + width] ? lanes[i] : lanes[i + width];
  return lanes[0];
}

/** e^x, relative error below 2e-7: 2^n times a degree-6 polynomial on [-ln2/2, ln2/2]. Clamped to finite results. */
static inline vf vexp(vf x) {
  x = vmin(vmax(x, splat(-87.3f)), splat(88.3f));
  const vf n = x * 1.44269504f;
  const vi whole = __builtin_convertvector(n + select(n >= 0, splat(0.5f), splat(-0.5f)), vi);
  const vf k = __builtin_convertvector(whole, vf);
  const vf r = (x - k * 0.693359375f) - k * -2.12194440e-4f;  // ln2 in two parts (Cody and Waite)
  vf p = r * 1.3981999e-3f + 8.3334519e-3f;
  p = p * r + 4.1665795e-2f;
  p = p * r + 1.6666665e-1f;
  p = p * r + 0.5f;
  p = p * r * r + r + 1.0f;
  return p * vf((whole + 127) << 23);
}
static inline vf vsigmoid(vf x) { return 1.0f / (1.0f + vexp(-x)); }
static inline vf vtanh(vf x) {
  const vf e = vexp(-2.0f * vabs(x));
  const vf t = (1.0f - e) / (1.0f + e);
  return select(x < 0, -t, t);
}

/** Calls f(i, vector count) style loops: whole vectors, then one partial. */
template <class Whole, class Part>
static inline void forLanes(int64_t n, Whole&& whole, Part&& part) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) whole(i);
  if (i < n) part(i, n - i);
}
