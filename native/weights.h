// Weights as inference stores them become vectors of f32: f32 itself, bf16 bits, signed bytes (before their scale).
// (Intrinsics are the masked ones, since the others make g++ 12 warn of its own headers.)

#if MONE_LANES != 16 && MONE_LANES != 8
typedef uint16_t halves __attribute__((vector_size(2 * MONE_LANES)));
typedef int8_t bytes __attribute__((vector_size(MONE_LANES)));
#endif

static inline vf decode(const float* p) { return load(p); }

static inline vf decode(const uint16_t* p) {
#if MONE_LANES == 16
  const __m256i h = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return vf(_mm512_maskz_slli_epi32(0xffff, _mm512_maskz_cvtepu16_epi32(0xffff, h), 16));
#elif MONE_LANES == 8
  return vf(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 16));
#else
  halves h;
  std::memcpy(&h, p, sizeof h);
  return vf(__builtin_convertvector(h, vu) << 16);
#endif
}

static inline vf decode(const int8_t* p) {
#if MONE_LANES == 16
  const __m128i b = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return vf(_mm512_maskz_cvtepi32_ps(0xffff, _mm512_maskz_cvtepi8_epi32(0xffff, b)));
#elif MONE_LANES == 8
  return vf(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)))));
#else
  bytes b;
  std::memcpy(&b, p, sizeof b);
  return __builtin_convertvector(b, vf);
#endif
}

/** The first n (0 < n <= kLanes), zeros in the rest. */
static inline vf decodePart(const float* p, int64_t n) { return loadPart(p, n); }
template <class Element>
static inline vf decodePart(const Element* p, int64_t n) {
  Element part[kLanes] = {};
  std::memcpy(part, p, n * sizeof part[0]);
  return decode(part);
}

/** The first `count` (none, some or all of a vector), zeros in the rest. */
template <class Element>
static inline vf decodeUpTo(const Element* p, int64_t count) {
  return count >= kLanes ? decode(p) : count > 0 ? decodePart(p, count) : vf{};
}
