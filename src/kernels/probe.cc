// What the machine can do at most, for benchmarks to compare with. See probe.ts.

/** One task of a read: four streams of a megabyte, since one alone does not keep enough lines of memory in flight. */
constexpr int64_t kProbePiece = 1 << 20;

static inline float probeSum(const float* x, int64_t n) {
  constexpr int kStreams = 4, kVectors = 64 / (4 * kLanes) > 0 ? 64 / (4 * kLanes) : 1;  // a cache line a stream
  constexpr int64_t kStep = kVectors * kLanes, kAhead = 1024;                            // 4 KB ahead
  const int64_t stream = n / kStreams / kStep * kStep;
  vf sums[kStreams][kVectors] = {};
  for (int64_t i = 0; i < stream; i += kStep) {
    for (int s = 0; s < kStreams; s++) {
      const float* p = x + s * stream + i;
      __builtin_prefetch(p + kAhead, 0, 2);
      for (int v = 0; v < kVectors; v++) sums[s][v] += load(p + v * kLanes);
    }
  }
  vf total{};
  for (auto& vectors : sums)
    for (vf v : vectors) total += v;
  eachVector(n - kStreams * stream, [&](int64_t i, auto lanes) { total += lanes.get(x + kStreams * stream + i); });
  return sum(total);
}

#define probeRead_INTERFACE(B, P) B(in, f32, x) B(out, f32, total) P(int, n)
KERNEL(probeRead) {
  a.total[0] = float(parallelSum(a.n, kProbePiece, [&](int64_t begin, int64_t end) {
    return probeSum(a.x + begin, end - begin);
  }));
}

constexpr int64_t kProbeSums = 1024, kProbeDepth = 32;

/** Keeps the compiler from seeing that v is the same value as before. */
static inline void opaque(vf& v) {
#if MONE_LANES == 16
  asm volatile("" : "+v"(v));
#elif defined(__x86_64__)
  asm volatile("" : "+x"(v));
#elif defined(__aarch64__)
  asm volatile("" : "+w"(v));
#else
  asm volatile("" : "+m"(v));
#endif
}

/** Sums in registers, as many chains as hide the latency of a multiplication; then the next ones. */
template <class Multiply>
static inline void probeChains(vf x, vf z, int64_t products, float* y) {
  constexpr int kChains = kLanes == 16 ? 16 : 8;
  for (int64_t done = 0; done < kProbeSums; done += kChains * kLanes) {
    vf sums[kChains] = {};
    for (int64_t i = 0; i < products; i++) {
#pragma GCC unroll 16
      for (int c = 0; c < kChains; c++) {
        opaque(x);  // else one multiplication does for all chains, and the rest are additions
        sums[c] = Multiply::apply(sums[c], x, z);
      }
    }
    for (int c = 0; c < kChains; c++) store(y + done + c * kLanes, sums[c]);
  }
}

/** Two bf16 of the same value in every lane, as one unit of gemm_pack.h. */
static inline vf probePair(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  bits = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return vf(vu{} + (bits | bits << 16));
}
/** The value of such a pair's first half. */
static inline vf probeRounded(float value) { return vf(vu(probePair(value)) << 16); }

#if MONE_BF16 >= 2
/** Four sums of tiles, each the sum of kProbeDepth products an iteration. */
template <class Tiles>
static inline void probeTiles(float x, float z, int64_t iterations, float* y) {
  float left[256], right[256];
  for (int i = 0; i < 256; i += kLanes) {
    store(left + i, probePair(x));
    store(right + i, probePair(z));
  }
  Tiles::configure(gemm::kWholeTiles);
  Tiles::template load<4>(left, 64);
  Tiles::template load<5>(right, 64);
  Tiles::template zero<0>();
  Tiles::template zero<1>();
  Tiles::template zero<2>();
  Tiles::template zero<3>();
  for (int64_t i = 0; i < iterations; i++) {
    Tiles::template multiplyAdd<0, 4, 5>();
    Tiles::template multiplyAdd<1, 4, 5>();
    Tiles::template multiplyAdd<2, 4, 5>();
    Tiles::template multiplyAdd<3, 4, 5>();
  }
  Tiles::template store<0>(y, 64);
  Tiles::template store<1>(y + 256, 64);
  Tiles::template store<2>(y + 512, 64);
  Tiles::template store<3>(y + 768, 64);
  Tiles::release();
}
#endif

#define probeMultiply_INTERFACE(B, P) \
  B(in, f32, x) B(out, f32, y) P(int, tasks) P(int, iterations) P(int, bf16)
KERNEL(probeMultiply) {
  parallel(a.tasks, [&](int64_t task) {
    float* y = a.y + task * kProbeSums;
    if (!a.bf16) {
      probeChains<gemm::MultiplyAdd>(splat(a.x[0]), splat(a.x[1]), a.iterations * kProbeDepth, y);
      return;
    }
#if MONE_BF16 == 2
    probeTiles<gemm::HardwareTiles>(a.x[0], a.x[1], a.iterations, y);
#elif MONE_BF16 == 3
    probeTiles<gemm::EmulatedTiles>(a.x[0], a.x[1], a.iterations, y);
#elif MONE_BF16 == 1
    probeChains<gemm::MultiplyAddPairs>(probePair(a.x[0]), probePair(a.x[1]), a.iterations * kProbeDepth / 2, y);
#else
    probeChains<gemm::MultiplyAdd>(probeRounded(a.x[0]), probeRounded(a.x[1]), a.iterations * kProbeDepth, y);
#endif
  });
}
