// Causal attention and its gradient: see attention.ts. Both go through the S x S matrix in tiles that stay in cache;
// the products are those of native/gemm.h, in f32 or with bf16 operands (`Product`), on operands packed here. Tiles that
// no query sees are skipped.

#include "../../native/attention_tiles.h"

/** One head of one sequence in an array of [token, head, element]: row i is element (i, 0). */
template <class T>
struct HeadRows {
  T* data;
  int64_t stride;

  HeadRows(T* all, int64_t seq, int64_t heads, int64_t headDim, int64_t sequence, int64_t head)
      : data(all + (sequence * seq * heads + head) * headDim), stride(heads * headDim) {}
  T* row(int64_t i) const { return data + i * stride; }
  void clear(int64_t rows, int64_t n) const {
    for (int64_t i = 0; i < rows; i++) std::memset(row(i), 0, n * sizeof(float));
  }
  /** As an operand whose inner index is the element, or the row. */
  Operand<true> overElements() const { return {data, stride}; }
  Operand<false> overRows() const { return {data, stride}; }
};

/** Packs columns of B as panels that follow each other, each of paddedUnits(inners) units. */
template <class Format, bool kAlongInner>
static void packColumns(float* to, const Operand<kAlongInner>& b, int64_t column, int64_t columns, int64_t inner,
                        int64_t inners) {
  const int64_t panel = gemm::paddedUnits<Format>(inners) * kPanelColumns;
  for (int64_t j = 0; j < columns; j += kPanelColumns, to += panel)
    packB<Format>(to, b, column + j, columns - j, inner, inners);
}

#define attention_INTERFACE(B, P)                                                                  \
  B(in, f32, q) B(in, f32, k) B(in, f32, v) B(out, f32, o) B(out, f32, lse) P(int, batch) P(int, seq) \
  P(int, heads) P(int, kvHeads) P(int, headDim) P(int, window) P(float, scale) P(int, bf16)

template <class Product, class Args>
static void attend(const Args& a) {
  using Format = typename Product::Format;
  const int64_t depth = gemm::paddedUnits<Format>(a.headDim), keysAtOnce = rowsAtOnce(a.headDim);
  // Queries of a task: about 256, so that packing keys and values costs little beside the products.
  const int64_t blocks = ceilDivide(a.seq, 256), blockRows = roundUp(ceilDivide(a.seq, blocks), kPanelRows);

  const auto attendBlock = [&](int64_t sequence, int64_t head, int64_t begin, int64_t end) {
    const int64_t kvHead = head / (a.heads / a.kvHeads);
    const HeadRows q(a.q, a.seq, a.heads, a.headDim, sequence, head);
    const HeadRows k(a.k, a.seq, a.kvHeads, a.headDim, sequence, kvHead);
    const HeadRows v(a.v, a.seq, a.kvHeads, a.headDim, sequence, kvHead);
    const HeadRows o(a.o, a.seq, a.heads, a.headDim, sequence, head);

    const int64_t columns = roundUp(a.headDim, kPanelColumns);
    Pieces pieces(blockRows * depth + keysAtOnce * (depth + columns + 2 * kPanelRows) + 2 * blockRows);
    float* packedQ = pieces.take(blockRows * depth);
    float* packedK = pieces.take(keysAtOnce * depth);
    float* packedV = pieces.take(keysAtOnce * columns);
    float* scores = pieces.take(keysAtOnce * kPanelRows);
    float* weights = pieces.take(keysAtOnce * kPanelRows);
    auto* softmax = reinterpret_cast<RunningSoftmax*>(pieces.take(2 * blockRows));
    std::fill(softmax, softmax + (end - begin), RunningSoftmax{});

    packA<Format, kPanelRows>(packedQ, q.overElements(), begin, end - begin, 0, a.headDim);
    for (int64_t key = firstVisible(begin, a.window); key < end; key += keysAtOnce) {
      const int64_t keys = std::min(keysAtOnce, end - key);
      packColumns<Format>(packedK, k.overElements(), key, keys, 0, a.headDim);
      packColumns<Format>(packedV, v.overRows(), 0, a.headDim, key, keys);
      const PackedColumns keyColumns{packedK, depth}, valueColumns{packedV, gemm::paddedUnits<Format>(keys)};

      for (int64_t i = begin; i < end; i += kPanelRows) {
        const int64_t rows = std::min(kPanelRows, end - i), start = firstVisible(i, a.window);
        const int64_t first = std::max<int64_t>(0, start - key) / kPanelColumns * kPanelColumns;
        const int64_t last = std::min(keys, i + rows - key);
        if (first >= last) continue;
        const Span tile{first, roundUp(last, kLanes * Format::kDepth)};
        multiplyPacked<Product>(depth, packedQ + (i - begin) * depth, rows, keyColumns.fromColumn(first), scores + first,
                       keysAtOnce, last - first, false);
        const bool add = start < key;
        for (int64_t r = 0; r < rows; r++) {
          const Span visible{firstVisible(i + r, a.window) - key, i + r + 1 - key};
          const float factor = softmax[i - begin + r].template add<Format>(
              scores + r * keysAtOnce, weights + r * kLanes, float(a.scale), tile, visible);
          if (add && factor != 1) scaleRow(o.row(i + r), factor, a.headDim);
        }
        const int64_t unit = first / Format::kDepth;
        multiplyPacked<Product>(tile.last / Format::kDepth - unit, weights + unit * kPanelRows, rows,
                                valueColumns.fromUnit(unit), o.row(i), o.stride, a.headDim, add);
      }
    }
    for (int64_t i = begin; i < end; i++) {
      const RunningSoftmax& row = softmax[i - begin];
      scaleRow(o.row(i), 1 / row.total, a.headDim);
      a.lse[(sequence * a.seq + i) * a.heads + head] = row.largest + std::log(row.total);
    }
  };

  const int64_t grain = std::max<int64_t>(1, 500000 / (blockRows * a.seq * a.headDim));
  parallelRange(a.batch * a.heads * blocks, grain, [&](int64_t firstTask, int64_t lastTask) {
    for (int64_t task = firstTask; task < lastTask; task++) {
      const int64_t begin = task % blocks * blockRows, pair = task / blocks;
      attendBlock(pair / a.heads, pair % a.heads, begin, std::min(begin + blockRows, a.seq));
    }
  });
}

KERNEL(attention) {
  if (a.bf16) attend<gemm::Bf16Registers>(a);
  else attend<gemm::F32Product>(a);
}

#define attentionGrad_INTERFACE(B, P)                                                                             \
  B(in, f32, q) B(in, f32, k) B(in, f32, v) B(in, f32, o) B(in, f32, lse) B(in, f32, dO) B(inout, f32, dq)       \
  B(inout, f32, dk) B(inout, f32, dv) P(int, batch) P(int, seq) P(int, heads) P(int, kvHeads) P(int, headDim)    \
  P(int, window) P(float, scale) P(int, bf16) P(int, accumulateQ) P(int, accumulateK) P(int, accumulateV)

template <class Product, class Args>
static void attendBackwards(const Args& a) {
  using Format = typename Product::Format;
  // Keys of a tile: as many as fill the inner units of a product with queries as rows.
  constexpr int64_t kKeys = kPanelRows * Format::kDepth;
  const int64_t depth = gemm::paddedUnits<Format>(a.headDim), columns = roundUp(a.headDim, kPanelColumns);
  const int64_t queriesAtOnce = rowsAtOnce(a.headDim), headsPerKey = a.heads / a.kvHeads;
  const int64_t tileUnits = gemm::paddedUnits<Format>(kKeys);

  // Tiles are transposed, keys by queries: then probabilities and their gradients leave the registers as packed rows
  // for dv and dk, and what belongs to a query (lse, o . do) is a vector. A task has all the query heads of a key
  // head, so that nobody else writes its dq, dk and dv.
  const auto gradOfKeyHead = [&](int64_t sequence, int64_t kvHead) {
    const HeadRows k(a.k, a.seq, a.kvHeads, a.headDim, sequence, kvHead);
    const HeadRows v(a.v, a.seq, a.kvHeads, a.headDim, sequence, kvHead);
    const HeadRows dk(a.dk, a.seq, a.kvHeads, a.headDim, sequence, kvHead);
    const HeadRows dv(a.dv, a.seq, a.kvHeads, a.headDim, sequence, kvHead);
    if (!a.accumulateK) dk.clear(a.seq, a.headDim);
    if (!a.accumulateV) dv.clear(a.seq, a.headDim);

    Pieces pieces(queriesAtOnce * (2 * depth + 2 * columns + 4 * kKeys + 2) + 2 * kKeys * depth +
                  (columns + roundUp(queriesAtOnce, kPanelRows)) * tileUnits);
    float* elementsOfQ = pieces.take(queriesAtOnce * depth);  // B operands, inner index the element
    float* elementsOfDo = pieces.take(queriesAtOnce * depth);
    float* rowsOfQ = pieces.take(queriesAtOnce * columns);  // inner index the query
    float* rowsOfDo = pieces.take(queriesAtOnce * columns);
    float* rowsOfK = pieces.take(columns * tileUnits);
    float* packedK = pieces.take(kKeys * depth);  // A operands
    float* packedV = pieces.take(kKeys * depth);
    float* weights = pieces.take(queriesAtOnce * kKeys);
    float* packedDScores = pieces.take(queriesAtOnce * kKeys);
    float* transposedDScores = pieces.take(roundUp(queriesAtOnce, kPanelRows) * tileUnits);
    float* scores = pieces.take(queriesAtOnce * kKeys);  // then their gradients
    float* dWeights = pieces.take(queriesAtOnce * kKeys);
    float* lse = pieces.take(queriesAtOnce);
    float* outputDots = pieces.take(queriesAtOnce);

    for (int64_t head = kvHead * headsPerKey; head < (kvHead + 1) * headsPerKey; head++) {
      const HeadRows q(a.q, a.seq, a.heads, a.headDim, sequence, head);
      const HeadRows o(a.o, a.seq, a.heads, a.headDim, sequence, head);
      const HeadRows dOutput(a.dO, a.seq, a.heads, a.headDim, sequence, head);
      const HeadRows dq(a.dq, a.seq, a.heads, a.headDim, sequence, head);
      if (!a.accumulateQ) dq.clear(a.seq, a.headDim);

      for (int64_t query = 0; query < a.seq; query += queriesAtOnce) {
        const int64_t queries = std::min(queriesAtOnce, a.seq - query), queryUnits = gemm::paddedUnits<Format>(queries);
        packColumns<Format>(elementsOfQ, q.overElements(), query, queries, 0, a.headDim);
        packColumns<Format>(elementsOfDo, dOutput.overElements(), query, queries, 0, a.headDim);
        packColumns<Format>(rowsOfQ, q.overRows(), 0, a.headDim, query, queries);
        packColumns<Format>(rowsOfDo, dOutput.overRows(), 0, a.headDim, query, queries);
        for (int64_t i = 0; i < queries; i++) {
          lse[i] = a.lse[(sequence * a.seq + query + i) * a.heads + head];
          const float *oRow = o.row(query + i), *dRow = dOutput.row(query + i);
          vf products{};
          eachVector(a.headDim, [&](int64_t c, auto lanes) { products += lanes.get(oRow + c) * lanes.get(dRow + c); });
          outputDots[i] = sum(products);
        }

        for (int64_t key = firstVisible(query, a.window); key < query + queries; key += kKeys) {
          const int64_t keys = std::min(kKeys, query + queries - key);
          const int64_t first = std::max<int64_t>(0, key - query) / kPanelColumns * kPanelColumns;
          const int64_t last = a.window > 0 ? std::min(queries, key + keys - 1 + a.window - query) : queries;
          const Span tile{first, roundUp(last, kLanes * Format::kDepth)};
          const int64_t unit = first / Format::kDepth, units = tile.last / Format::kDepth - unit;
          packA<Format, kPanelRows>(packedK, k.overElements(), key, keys, 0, a.headDim);
          packA<Format, kPanelRows>(packedV, v.overElements(), key, keys, 0, a.headDim);
          packColumns<Format>(rowsOfK, k.overRows(), 0, a.headDim, key, keys);
          multiplyPacked<Product>(depth, packedK, keys, PackedColumns{elementsOfQ, depth}.fromColumn(first), scores + first,
                         queriesAtOnce, last - first, false);
          multiplyPacked<Product>(depth, packedV, keys, PackedColumns{elementsOfDo, depth}.fromColumn(first), dWeights + first,
                         queriesAtOnce, last - first, false);

          for (int64_t r = 0; r < keys; r++) {
            const int64_t from = key + r - query;  // the first query that sees the key
            const Span visible{from, a.window > 0 ? std::min(queries, from + a.window) : queries};
            // Packed rows: of panel r / kPanelRows, in blocks of kLanes units.
            const int64_t row = r / kPanelRows * kPanelRows * units + r % kPanelRows * kLanes;
            for (int64_t j = tile.first; j < tile.last; j += kLanes * Format::kDepth) {
              vf weightBlock[Format::kDepth], dScoreBlock[Format::kDepth];
              for (int d = 0; d < Format::kDepth; d++) {
                const int64_t i = j + d * kLanes;
                float* score = scores + r * queriesAtOnce + i;
                vf weight = vexp(load(score) * float(a.scale) - load(lse + i));
                vf dScore = float(a.scale) * weight * (load(dWeights + r * queriesAtOnce + i) - load(outputDots + i));
                if (!visible.covers(i)) {
                  weight = select(visible.lanes(i), weight, vf{});
                  dScore = select(visible.lanes(i), dScore, vf{});
                }
                weightBlock[d] = weight;
                dScoreBlock[d] = dScore;
                store(score, dScore);
              }
              const int64_t at = row + (j / Format::kDepth - unit) * kPanelRows;
              store(weights + at, Format::units(weightBlock));
              store(packedDScores + at, Format::units(dScoreBlock));
            }
          }

          multiplyPacked<Product>(units, weights, keys, PackedColumns{rowsOfDo, queryUnits}.fromUnit(unit), dv.row(key),
                                  dv.stride, a.headDim, true);
          multiplyPacked<Product>(units, packedDScores, keys, PackedColumns{rowsOfQ, queryUnits}.fromUnit(unit),
                                  dk.row(key), dk.stride, a.headDim, true);
          packA<Format, kPanelRows>(transposedDScores, Operand<false>{scores, queriesAtOnce}, first, last - first, 0,
                                       keys);
          const int64_t keyUnits = gemm::paddedUnits<Format>(keys);
          multiplyPacked<Product>(keyUnits, transposedDScores, last - first, PackedColumns{rowsOfK, keyUnits},
                         dq.row(query + first), dq.stride, a.headDim, true);
        }
      }
    }
  };

  const int64_t grain = std::max<int64_t>(1, 200000 / (a.seq * a.seq * a.headDim * headsPerKey));
  parallelRange(a.batch * a.kvHeads, grain, [&](int64_t firstTask, int64_t lastTask) {
    for (int64_t task = firstTask; task < lastTask; task++) gradOfKeyHead(task / a.kvHeads, task % a.kvHeads);
  });
}

KERNEL(attentionGrad) {
  if (a.bf16) attendBackwards<gemm::Bf16Registers>(a);
  else attendBackwards<gemm::F32Product>(a);
}
