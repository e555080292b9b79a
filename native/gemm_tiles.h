// The product in AMX tiles: a 32 x 32 block of C in four accumulators, two tiles of A and two of B (gemm_pack.h has
// their layout). Only HardwareTiles needs the instructions; EmulatedTiles does the same in plain C++, so that all
// the rest is tested on any machine, and so that a machine's tiles are compared with it before they are used.

/** Operand of LDTILECFG: 64 bytes, palette 1. */
struct TileConfig {
  uint8_t palette;
  uint8_t startRow;
  uint8_t reserved[14];
  uint16_t rowBytes[16];
  uint8_t rows[16];
};
static_assert(sizeof(TileConfig) == 64);

/** All eight tiles whole: 16 rows of 64 bytes. */
alignas(64) static constexpr TileConfig kWholeTiles = {
    1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};

#if MONE_BF16 == 2
/** The instructions themselves. Assembler, because g++ 12 may drop stores to the operand of its own ldtilecfg. */
struct HardwareTiles {
  static void configure(const TileConfig& config) { asm volatile("ldtilecfg %0" ::"m"(config)); }
  static void release() { asm volatile("tilerelease"); }
  template <int kTile>
  static void zero() {
    asm volatile("tilezero %%tmm%c0" ::"i"(kTile));
  }
  template <int kTile>
  static void load(const float* p, int64_t rowBytes) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(p), "r"(rowBytes), "i"(kTile) : "memory");
  }
  template <int kTile>
  static void store(float* p, int64_t rowBytes) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(p), "r"(rowBytes), "i"(kTile) : "memory");
  }
  /** kSum += kA * kB; the assembler's order is B, A, sum. */
  template <int kSum, int kA, int kB>
  static void multiplyAdd() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSum), "i"(kA), "i"(kB));
  }
};
#endif

/** What the instruction set reference says the instructions do, tile shapes included. */
class EmulatedTiles {
 public:
  static void configure(const TileConfig& config) {
    config_ = config;
    std::memset(tiles_, 0, sizeof tiles_);
  }
  static void release() { configure(TileConfig{}); }
  template <int kTile>
  static void zero() {
    std::memset(tiles_[kTile], 0, sizeof tiles_[kTile]);
  }
  template <int kTile>
  static void load(const float* p, int64_t rowBytes) {
    zero<kTile>();
    for (int row = 0; row < config_.rows[kTile]; row++)
      std::memcpy(tiles_[kTile][row], reinterpret_cast<const char*>(p) + row * rowBytes, config_.rowBytes[kTile]);
  }
  template <int kTile>
  static void store(float* p, int64_t rowBytes) {
    for (int row = 0; row < config_.rows[kTile]; row++)
      std::memcpy(reinterpret_cast<char*>(p) + row * rowBytes, tiles_[kTile][row], config_.rowBytes[kTile]);
  }
  template <int kSum, int kA, int kB>
  static void multiplyAdd() {
    const int columns = config_.rowBytes[kSum] / 4;
    for (int row = 0; row < config_.rows[kSum]; row++) {
      float low[16] = {}, high[16] = {};
      for (int unit = 0; unit < config_.rowBytes[kA] / 4; unit++) {
        const uint32_t a = tiles_[kA][row][unit];
        for (int column = 0; column < columns; column++) {
          const uint32_t b = tiles_[kB][unit][column];
          low[column] += asFloat(a << 16) * asFloat(b << 16);
          high[column] += asFloat(a & 0xffff0000) * asFloat(b & 0xffff0000);
        }
      }
      for (int column = 0; column < columns; column++) {
        const float sum = asFloat(tiles_[kSum][row][column]) + (low[column] + high[column]);
        std::memcpy(&tiles_[kSum][row][column], &sum, sizeof sum);
      }
    }
  }

 private:
  static float asFloat(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }

  static inline thread_local TileConfig config_;
  static inline thread_local uint32_t tiles_[8][16][16];
};

template <class Tiles>
struct TileProduct {
  using Format = PairFormat;
  static constexpr int kPanelRows = 16;

  /** Holds this thread's tiles; without it a thread carries no tile state. */
  struct Session {
    Session() { Tiles::configure(kWholeTiles); }
    ~Session() { Tiles::release(); }
    Session(const Session&) = delete;
    Session& operator=(const Session&) = delete;
  };

  /** As RegisterProduct::multiply, inside a Session. */
  static void multiply(int64_t units, const float* a, int64_t rows, const float* b, float* c, int64_t stride,
                       int64_t columns, bool add) {
    int64_t i = 0;
    for (; i + kPanelRows < rows; i += 2 * kPanelRows)
      block<2>(units, a + i * units, rows - i, b, c + i * stride, stride, columns, add);
    if (i < rows) block<1>(units, a + i * units, rows - i, b, c + i * stride, stride, columns, add);
  }

 private:
  /** kHigh panels of A (one or two) times the B panel; at most `rows` rows of the result are written. */
  template <int kHigh>
  static void block(int64_t units, const float* a, int64_t rows, const float* b, float* c, int64_t stride,
                    int64_t columns, bool add) {
    prefetchResult(c, stride, kHigh * kPanelRows);
    constexpr int64_t kARowBytes = 4 * kLanes, kBRowBytes = 4 * kPanelColumns;
    Tiles::template zero<0>();
    Tiles::template zero<1>();
    if constexpr (kHigh == 2) {
      Tiles::template zero<2>();
      Tiles::template zero<3>();
    }
    const float* second = a + kPanelRows * units;
    for (int64_t done = 0; done < units; done += kLanes) {
      Tiles::template load<6>(b + done * kPanelColumns, kBRowBytes);
      Tiles::template load<4>(a + done * kPanelRows, kARowBytes);
      Tiles::template multiplyAdd<0, 4, 6>();
      Tiles::template load<7>(b + done * kPanelColumns + kLanes, kBRowBytes);
      Tiles::template multiplyAdd<1, 4, 7>();
      if constexpr (kHigh == 2) {
        Tiles::template load<5>(second + done * kPanelRows, kARowBytes);
        Tiles::template multiplyAdd<2, 5, 6>();
        Tiles::template multiplyAdd<3, 5, 7>();
      }
    }
    constexpr int kRows = kHigh * kPanelRows;
    if (!add && rows >= kRows && columns >= kPanelColumns) {
      storeSums<kHigh>(c, stride);
      return;
    }
    alignas(64) float sums[kRows * kPanelColumns];
    storeSums<kHigh>(sums, kPanelColumns);
    if (rows > kRows) rows = kRows;
    if (columns > kPanelColumns) columns = kPanelColumns;
    for (int64_t r = 0; r < rows; r++) {
      const float* from = sums + r * kPanelColumns;
      float* to = c + r * stride;
      for (int64_t j = 0; j < columns; j++) to[j] = add ? to[j] + from[j] : from[j];
    }
  }

  template <int kHigh>
  static void storeSums(float* to, int64_t stride) {
    Tiles::template store<0>(to, 4 * stride);
    Tiles::template store<1>(to + kLanes, 4 * stride);
    if constexpr (kHigh == 2) {
      float* below = to + kPanelRows * stride;
      Tiles::template store<2>(below, 4 * stride);
      Tiles::template store<3>(below + kLanes, 4 * stride);
    }
  }
};

#if MONE_BF16 == 2
/** Multiplies small integers, exact in any order of summation, with hardware and emulated tiles; true if they agree. */
static bool tilesAgree() {
  constexpr int kUnits = 3 * kLanes, kHeight = 48;
  alignas(64) float a[kHeight * kUnits], b[kPanelColumns * kUnits];
  const auto fill = [](float* units, int count, uint32_t state) {
    for (int i = 0; i < count; i++) {
      uint32_t pair = 0;
      for (int half = 0; half < 2; half++) {
        state = state * 1664525 + 1013904223;
        const float value = float(int(state >> 28) - 8);
        uint32_t bits;
        std::memcpy(&bits, &value, sizeof bits);
        pair = pair >> 16 | (bits & 0xffff0000);
      }
      std::memcpy(units + i, &pair, sizeof pair);
    }
  };
  fill(a, kHeight * kUnits, 1);
  fill(b, kPanelColumns * kUnits, 2);
  // Whole blocks stored straight to C, and edges that go through scratch memory and add.
  constexpr int kStride = kPanelColumns + 5;
  float hardware[kHeight * kStride] = {}, emulated[kHeight * kStride] = {};
  const auto run = [&]<class Tiles>(Tiles, float* c) {
    typename TileProduct<Tiles>::Session session;
    TileProduct<Tiles>::multiply(kUnits, a, kHeight, b, c, kStride, kPanelColumns, false);
    TileProduct<Tiles>::multiply(kUnits, a, kHeight - 5, b, c, kStride, kPanelColumns - 3, true);
  };
  run(HardwareTiles{}, hardware);
  run(EmulatedTiles{}, emulated);
  return std::memcmp(hardware, emulated, sizeof hardware) == 0;
}
#endif
