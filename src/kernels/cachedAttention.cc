// Generation's attention: see cachedAttention.ts for how the cache lies. Rows of a sequence that follow each other (a
// prompt) go through it in tiles, as attention.cc does; a single row meets blocks of keys as vectors.

#include "../../native/attention_tiles.h"

using gemm::F32Format;

constexpr int64_t kKeyBlock = 32;

/** One head of one sequence in the cache. */
template <class Element>
struct CachedHead {
  Element *keys, *values;
  int64_t headDim;

  template <class Args>
  CachedHead(const Args& a, Element* keys, Element* values, int64_t slot, int64_t kvHead) : headDim(a.headDim) {
    const int64_t at = (slot * a.kvHeads + kvHead) * roundUp(a.maxPositions, kKeyBlock) * a.headDim;
    this->keys = keys + at;
    this->values = values + at;
  }
  /** The block of a position that is the first of one: headDim rows of kKeyBlock keys. */
  Element* block(int64_t position) const { return keys + position * headDim; }
  Element* value(int64_t position) const { return values + position * headDim; }
};

/** Writes a key of headDim elements as one column of a block. */
template <class Element>
static inline void storeColumn(Element* column, const float* key, int64_t headDim) {
  for (int64_t c = 0; c < headDim; c += kLanes) {
    Element rounded[kLanes];
    const int64_t n = std::min<int64_t>(kLanes, headDim - c);
    storeRounded(rounded, decodeUpTo(key + c, n), n);
    for (int64_t i = 0; i < n; i++) column[(c + i) * kKeyBlock] = rounded[i];
  }
}

template <class Args>
static void storeKeyValue(const Args& a) {
  // By heads: the columns of a block lie in the same cache lines, which threads should not share.
  parallelRange(a.kvHeads, streamGrain(8 * a.rows * a.headDim), [&](int64_t begin, int64_t end) {
    for (int64_t n = 0; n < a.rows; n++) {
      const int64_t position = a.positions[n], inBlock = position % kKeyBlock;
      for (int64_t g = begin; g < end; g++) {
        const CachedHead head(a, a.keys, a.values, a.slots[n], g);
        const int64_t row = (n * a.kvHeads + g) * a.headDim;
        storeColumn(head.block(position - inBlock) + inBlock, a.k + row, a.headDim);
        for (int64_t c = 0; c < a.headDim; c += kLanes) {
          const int64_t left = std::min<int64_t>(kLanes, a.headDim - c);
          storeRounded(head.value(position) + c, decodeUpTo(a.v + row + c, left), left);
        }
      }
    }
  });
}

#define storeKeyValue_BUFFERS(B, P, type)                                                                            \
  B(in, f32, k) B(in, f32, v) B(in, u32, slots) B(in, u32, positions) B(inout, type, keys) B(inout, type, values)   \
  P(int, rows) P(int, cacheSlots) P(int, maxPositions) P(int, kvHeads) P(int, headDim)
#define storeKeyValueF32_INTERFACE(B, P) storeKeyValue_BUFFERS(B, P, f32)
#define storeKeyValueBf16_INTERFACE(B, P) storeKeyValue_BUFFERS(B, P, bf16)
KERNEL(storeKeyValueF32) { storeKeyValue(a); }
KERNEL(storeKeyValueBf16) { storeKeyValue(a); }

/** scores[p - first] = q . key p, for whole blocks of positions from `first` (the first of a block) to `end`. */
template <class Element>
static inline void scoreBlocks(const CachedHead<const Element>& head, const float* q, int64_t first, int64_t end,
                               float* scores) {
  constexpr int kVectors = kKeyBlock / kLanes;
  for (int64_t p = first; p < end; p += kKeyBlock, scores += kKeyBlock) {
    const Element* block = head.block(p);
    vf even[kVectors] = {}, odd[kVectors] = {};
    int64_t c = 0;
    for (; c + 2 <= head.headDim; c += 2, block += 2 * kKeyBlock) {
      for (int i = 0; i < kVectors; i++) {
        even[i] += q[c] * decode(block + i * kLanes);
        odd[i] += q[c + 1] * decode(block + kKeyBlock + i * kLanes);
      }
    }
    for (int i = 0; i < kVectors; i++) {
      if (c < head.headDim) even[i] += q[c] * decode(block + i * kLanes);
      store(scores + i * kLanes, even[i] + odd[i]);
    }
  }
}

/** o = sum over p of weights[p - first] * value p, from `first` to `end`. */
template <class Element>
static inline void sumValues(const CachedHead<const Element>& head, const float* weights, int64_t first, int64_t end,
                             float* o) {
  constexpr int kVectors = 4;
  int64_t c = 0;
  for (; c + kVectors * kLanes <= head.headDim; c += kVectors * kLanes) {
    vf total[2][kVectors] = {};
    int64_t p = first;
    for (; p + 2 <= end; p += 2)
      for (int s = 0; s < 2; s++)
        for (int i = 0; i < kVectors; i++)
          total[s][i] += weights[p + s - first] * decode(head.value(p + s) + c + i * kLanes);
    for (int i = 0; i < kVectors; i++) {
      if (p < end) total[0][i] += weights[p - first] * decode(head.value(p) + c + i * kLanes);
      store(o + c + i * kLanes, total[0][i] + total[1][i]);
    }
  }
  for (; c < head.headDim; c += kLanes) {
    const int64_t n = std::min<int64_t>(kLanes, head.headDim - c);
    vf total{};
    for (int64_t p = first; p < end; p++) total += weights[p - first] * decodeUpTo(head.value(p) + c, n);
    storePart(o + c, total, n);
  }
}

/** One query of one head. */
template <class Element>
static void attendOne(const CachedHead<const Element>& head, const float* q, float* o, int64_t first, int64_t last,
                      float scale) {
  const int64_t start = first - first % kKeyBlock, end = roundUp(last + 1, kKeyBlock);
  float* scores = static_cast<float*>(threadScratch(0, (end - start) * sizeof(float)));
  scoreBlocks(head, q, start, end, scores);
  const Span visible{first - start, last + 1 - start};
  vf most = splat(-3.4e38f);
  for (int64_t j = 0; j < end - start; j += kLanes) {
    vf score = load(scores + j) * scale;
    if (!visible.covers(j)) score = select(visible.lanes(j), score, splat(-3.4e38f));
    store(scores + j, score);
    most = vmax(most, score);
  }
  const float largest = maximum(most);
  vf totals{};
  for (int64_t j = 0; j < end - start; j += kLanes) {
    vf weight = vexp(load(scores + j) - largest);
    if (!visible.covers(j)) weight = select(visible.lanes(j), weight, vf{});
    store(scores + j, weight);
    totals += weight;
  }
  sumValues(head, scores + (first - start), first, last + 1, o);
  scaleRow(o, 1 / sum(totals), head.headDim);
}

/** Rows begin.. of the same sequence at positions that follow each other. */
struct CachedRun {
  int64_t row, rows;
};

/** The queries of a run in one head, tile by tile; rows of q and o are `stride` apart. */
template <class Element>
static void attendRun(const CachedHead<const Element>& head, const float* q, float* o, int64_t stride, int64_t rows,
                      int64_t position, int64_t window, float scale) {
  const int64_t depth = gemm::paddedUnits<F32Format>(head.headDim), keysAtOnce = rowsAtOnce(head.headDim);
  const int64_t columns = roundUp(head.headDim, kPanelColumns);
  Pieces pieces(roundUp(rows, kPanelRows) * depth + keysAtOnce * (depth + columns + 2 * kPanelRows) + 2 * rows);
  float* packedQ = pieces.take(roundUp(rows, kPanelRows) * depth);
  float* packedK = pieces.take(keysAtOnce * depth);
  float* packedV = pieces.take(keysAtOnce * columns);
  float* scores = pieces.take(keysAtOnce * kPanelRows);
  float* weights = pieces.take(keysAtOnce * kPanelRows);
  auto* softmax = reinterpret_cast<RunningSoftmax*>(pieces.take(2 * rows));
  std::fill(softmax, softmax + rows, RunningSoftmax{});
  packA<F32Format, kPanelRows>(packedQ, Operand<true>{q, stride}, 0, rows, 0, head.headDim);

  const int64_t end = position + rows;
  for (int64_t key = firstVisible(position, window) / kKeyBlock * kKeyBlock; key < end; key += keysAtOnce) {
    const int64_t keys = std::min(keysAtOnce, end - key);
    for (int64_t j = 0; j < keys; j += kPanelColumns)
      packB<F32Format>(packedK + j * depth, Operand<false, Element>{head.block((key + j) / kKeyBlock * kKeyBlock), kKeyBlock},
                       (key + j) % kKeyBlock, keys - j, 0, head.headDim);
    const int64_t valueUnits = gemm::paddedUnits<F32Format>(keys);
    for (int64_t c = 0; c < head.headDim; c += kPanelColumns)
      packB<F32Format>(packedV + c * valueUnits, Operand<false, Element>{head.value(key), head.headDim}, c,
                       head.headDim - c, 0, keys);
    const PackedColumns keyColumns{packedK, depth}, valueColumns{packedV, valueUnits};

    for (int64_t i = 0; i < rows; i += kPanelRows) {
      const int64_t high = std::min(kPanelRows, rows - i), start = firstVisible(position + i, window);
      const int64_t first = std::max<int64_t>(0, start - key) / kPanelColumns * kPanelColumns;
      const int64_t last = std::min(keys, position + i + high - key);
      if (first >= last) continue;
      const Span tile{first, roundUp(last, kLanes)};
      multiplyPacked<gemm::F32Product>(depth, packedQ + i * depth, high, keyColumns.fromColumn(first), scores + first, keysAtOnce,
                     last - first, false);
      const bool add = start < key;
      for (int64_t r = 0; r < high; r++) {
        const int64_t own = position + i + r;
        const Span visible{firstVisible(own, window) - key, own + 1 - key};
        const float factor =
            softmax[i + r].add<F32Format>(scores + r * keysAtOnce, weights + r * kLanes, scale, tile, visible);
        if (add && factor != 1) scaleRow(o + (i + r) * stride, factor, head.headDim);
      }
      multiplyPacked<gemm::F32Product>(tile.last - first, weights + first * kPanelRows, high, valueColumns.fromUnit(first), o + i * stride,
                     stride, head.headDim, add);
    }
  }
  for (int64_t i = 0; i < rows; i++) scaleRow(o + i * stride, 1 / softmax[i].total, head.headDim);
}

template <class Element, class Args>
static void cachedAttention(const Args& a) {
  constexpr int64_t kLeastRun = 8, kMostRows = 18 * kPanelRows;  // of a tile
  // Runs of rows, each cut into pieces of at most kMostRows; what is shorter than kLeastRun goes row by row.
  auto* runs = static_cast<CachedRun*>(threadScratch(4, a.rows * sizeof(CachedRun)));
  int64_t count = 0, longest = 1;
  for (int64_t n = 0; n < a.rows;) {
    int64_t rows = 1;
    while (n + rows < a.rows && rows < kMostRows && a.slots[n + rows] == a.slots[n] &&
           a.positions[n + rows] == a.positions[n] + rows)
      rows++;
    runs[count++] = {n, rows};
    n += rows;
    longest = std::max<int64_t>(longest, (int64_t(a.positions[n - 1]) + 1) * rows);
  }
  const int64_t headsPerKey = a.heads / a.kvHeads, stride = a.heads * a.headDim;
  const int64_t grain = std::max<int64_t>(1, 300000 / (longest * a.headDim));  // about 20 us
  parallelRange(count * a.heads, grain, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; task++) {
      const auto [first, rows] = runs[task / a.heads];
      const int64_t h = task % a.heads, position = a.positions[first];
      const CachedHead<const Element> head(a, a.keys, a.values, a.slots[first], h / headsPerKey);
      const float* q = a.q + first * stride + h * a.headDim;
      float* o = a.o + first * stride + h * a.headDim;
      if (rows >= kLeastRun) {
        attendRun(head, q, o, stride, rows, position, a.window, float(a.scale));
        continue;
      }
      for (int64_t r = 0; r < rows; r++)
        attendOne(head, q + r * stride, o + r * stride, firstVisible(position + r, a.window), position + r,
                  float(a.scale));
    }
  });
}

#define cachedAttention_BUFFERS(B, P, type)                                                                      \
  B(in, f32, q) B(in, type, keys) B(in, type, values) B(in, u32, slots) B(in, u32, positions) B(out, f32, o)     \
  P(int, rows) P(int, cacheSlots) P(int, maxPositions) P(int, heads) P(int, kvHeads) P(int, headDim) P(int, window) \
  P(float, scale)
#define cachedAttentionF32_INTERFACE(B, P) cachedAttention_BUFFERS(B, P, f32)
#define cachedAttentionBf16_INTERFACE(B, P) cachedAttention_BUFFERS(B, P, bf16)
KERNEL(cachedAttentionF32) { cachedAttention<float>(a); }
KERNEL(cachedAttentionBf16) { cachedAttention<uint16_t>(a); }
