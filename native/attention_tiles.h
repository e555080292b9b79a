// What attention over a sequence (attention.cc) and over a cache (cachedAttention.cc) have in common: tiles of scores,
// keys by queries, from packed operands, and a softmax that takes in one tile after the other.
#pragma once

using gemm::kPanelColumns, gemm::packA, gemm::packB, gemm::Operand;
constexpr int64_t kPanelRows = gemm::F32Product::kPanelRows;
static_assert(gemm::Bf16Registers::kPanelRows == kPanelRows);

static inline int64_t roundUp(int64_t x, int64_t unit) { return ceilDivide(x, unit) * unit; }

/** Rows (keys in the forward pass, queries in the gradient) whose packed forms are kept in the second level cache. */
static inline int64_t rowsAtOnce(int64_t headDim) { return headDim <= 64 ? 256 : 128; }

/** The first key that a query sees; the last is its own. */
static inline int64_t firstVisible(int64_t query, int64_t window) {
  return window > 0 && query >= window ? query - window + 1 : 0;
}

/** Hands out consecutive pieces of this thread's scratch memory. */
class Pieces {
 public:
  explicit Pieces(int64_t floats) : next_(static_cast<float*>(threadScratch(0, floats * sizeof(float)))) {}
  float* take(int64_t floats) { return std::exchange(next_, next_ + floats); }

 private:
  float* next_;
};

/** B as packColumns leaves it, from one of its units on. */
struct PackedColumns {
  const float* data;
  int64_t units;  // of a whole panel

  PackedColumns fromColumn(int64_t column) const { return {data + column * units, units}; }
  PackedColumns fromUnit(int64_t unit) const { return {data + unit * kPanelColumns, units}; }
};

/** c[rows x columns] (+)= packed A (`units` units) times packed B. */
template <class Product>
static void multiplyPacked(int64_t units, const float* a, int64_t rows, PackedColumns b, float* c, int64_t stride,
                           int64_t columns, bool add) {
  for (int64_t j = 0; j < columns; j += kPanelColumns)
    Product::multiply(units, a, rows, b.fromColumn(j).data, c + j, stride, columns - j, add);
}

/** A range of the columns of a tile. */
struct Span {
  int64_t first, last;

  bool covers(int64_t j) const { return first <= j && j + kLanes <= last; }
  /** All ones in the lanes of columns j.. that lie in the span. */
  vi lanes(int64_t j) const {
    vi lane;
    for (int l = 0; l < kLanes; l++) lane[l] = l;
    return lane >= int32_t(first - j) && lane < int32_t(last - j);
  }
};

/** Softmax of one query while its scores come in blocks. */
struct RunningSoftmax {
  float largest = -3.4e38f, total = 0;

  /**
   * Takes in the scores of columns `tile` of which the query sees `visible`, and writes e^(score - largest) as packed
   * units. Returns the factor for what was summed with earlier weights.
   */
  template <class Format>
  float add(const float* scores, float* weights, float scale, Span tile, Span visible) {
    vf most = splat(largest);
    for (int64_t j = tile.first; j < tile.last; j += kLanes) {
      const vf score = load(scores + j) * scale;
      most = vmax(most, visible.covers(j) ? score : select(visible.lanes(j), score, splat(-INFINITY)));
    }
    const float earlier = std::exchange(largest, maximum(most));
    vf sums{};
    for (int64_t j = tile.first; j < tile.last; j += kLanes * Format::kDepth) {
      vf block[Format::kDepth];
      for (int d = 0; d < Format::kDepth; d++) {
        const int64_t i = j + d * kLanes;
        block[d] = vexp(load(scores + i) * scale - largest);
        if (!visible.covers(i)) block[d] = select(visible.lanes(i), block[d], vf{});
        sums += block[d];
      }
      store(weights + j / Format::kDepth * kPanelRows, Format::units(block));
    }
    const float factor = earlier == largest ? 1 : std::exp(earlier - largest);
    total = total * factor + sum(sums);
    return factor;
  }
};
