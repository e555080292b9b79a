// The work of experts in inference, shared by neuronExperts.cc and studyExperts.cc, which differ in how neurons are selected.
// An expert with few rows is bound by reading its weights: the gate whole, then of up and down the rows of those neurons
// that any of its tokens keeps. One with many rows is multiplied densely.
#pragma once

#include "../../native/select.h"
#include "activation.h"

/** Rows of an expert up to which it is read neuron by neuron; measured, see docs/PERFORMANCE.md. */
constexpr int64_t kFewRowsPerExpert = 16;

/** A piece of one expert's work: neurons or columns begin..end. */
struct ExpertPiece {
  int64_t expert, begin, end;
};

template <class Weights, class Args, class Selector>
class ExpertsCall {
 public:
  explicit ExpertsCall(const Args& args)
      : a(args), words(keepWords(args.neurons)), hidden(scratch(4, args.rows * args.neurons)) {}

  void run() {
    int64_t* few = static_cast<int64_t*>(threadScratch(6, 8 * 2 * a.groups));
    int64_t *many = few + a.groups, fewCount = 0, manyCount = 0;
    for (int64_t e = 0; e < a.groups; e++) {
      if (rowsOf(e) > kFewRowsPerExpert) many[manyCount++] = e;
      else if (rowsOf(e) > 0) few[fewCount++] = e;
    }
    if (manyCount > 0) multiplyDensely(many, manyCount);
    if (fewCount > 0) readNeurons(few, fewCount);
  }

 private:
  using Element = typename Weights::Element;
  const Args& a;
  const int64_t words;
  float* const hidden;  // [R, F]: gate, then act(gate), then act(gate) * up

  static float* scratch(int slot, int64_t floats) { return static_cast<float*>(threadScratch(slot, 4 * floats)); }
  int64_t firstRow(int64_t e) const { return a.offsets[e]; }
  int64_t rowsOf(int64_t e) const { return int64_t(a.offsets[e + 1]) - int64_t(a.offsets[e]); }
  const Element* gate(int64_t e) const { return a.gate + a.places[e]; }
  const Element* up(int64_t e) const { return a.up + a.places[a.groups + e]; }
  const Element* down(int64_t e) const { return a.down + e * a.neurons * a.width; }
  const float* xOf(int64_t r) const { return a.x + (a.active ? a.slotOfRow[r] / uint32_t(a.active) : r) * a.width; }
  float weightOf(int64_t r) const { return a.active ? a.weights[a.slotOfRow[r]] : 1.0f; }
  static float scaled(float sum, const float* scales, int64_t i) { return Weights::kScaled ? sum * scales[i] : sum; }

  // Few rows.

  void readNeurons(const int64_t* few, int64_t count) {
    const int64_t xWords = preparedWords<Weights>(a.width);
    float* x = scratch(5, a.rows * xWords);
    for (int64_t i = 0; i < count; i++)
      for (int64_t r = firstRow(few[i]); r < firstRow(few[i]) + rowsOf(few[i]); r++)
        prepareRows<Weights>(x + r * xWords, xOf(r), 1, a.width);

    const int64_t leastRows = storedGrain<Weights>(a.width);
    const auto all = [&](int64_t) { return a.neurons; };
    inPieces(few, count, leastRows, all, [&](const ExpertPiece& piece, int64_t) {
      const Element* w = gate(piece.expert);
      const int64_t first = firstRow(piece.expert);
      dotRows<Weights>(
          piece.end - piece.begin, [&](int64_t i) { return w + (piece.begin + i) * a.width; }, x + first * xWords,
          rowsOf(piece.expert), a.width, [&](int64_t i, int64_t v, float sum) {
            const int64_t j = piece.begin + i;
            hidden[(first + v) * a.neurons + j] = scaled(sum, a.gateScales, piece.expert * a.neurons + j);
          });
    });

    // A selector that looks at up needs it whole, before it selects.
    float* ups = Selector::kNeedsUp ? scratch(2, a.rows * a.neurons) : nullptr;
    const auto eachUp = [&](auto&& extent, auto&& neuronOf, auto&& use) {
      inPieces(few, count, leastRows, extent, [&](const ExpertPiece& piece, int64_t at) {
        const Element* w = up(piece.expert);
        const int64_t first = firstRow(piece.expert);
        dotRows<Weights>(
            piece.end - piece.begin, [&](int64_t i) { return w + neuronOf(at, piece.begin + i) * a.width; },
            x + first * xWords, rowsOf(piece.expert), a.width, [&](int64_t i, int64_t v, float sum) {
              const int64_t j = neuronOf(at, piece.begin + i);
              use((first + v) * a.neurons + j, scaled(sum, a.upScales, piece.expert * a.neurons + j));
            });
      });
    };
    if constexpr (Selector::kNeedsUp)
      eachUp(all, [](int64_t, int64_t i) { return i; }, [&](int64_t at, float value) { ups[at] = value; });

    // Neurons that any row of the expert keeps, in their order.
    uint32_t* wanted = static_cast<uint32_t*>(threadScratch(7, 4 * count * (a.neurons + 1)));
    uint32_t* wantedCount = wanted + count * a.neurons;
    withActivation(a.activation, [&](auto activation) {
      parallelRange(count, std::max<int64_t>(1, 2048 / a.neurons), [&](int64_t begin, int64_t end) {
        ThresholdSearch search;
        for (int64_t i = begin; i < end; i++) {
          const int64_t first = firstRow(few[i]), rows = rowsOf(few[i]);
          for (int64_t r = first; r < first + rows; r++) {
            const float* factor = Selector::kNeedsUp ? ups + r * a.neurons : nullptr;
            Selector::select(activation, search, a, hidden + r * a.neurons, factor, few[i], r);
            if constexpr (Selector::kNeedsUp) multiplyInto(hidden + r * a.neurons, factor, a.neurons);
          }
          wantedCount[i] = unionOf(a.keep + first * words, rows, wanted + i * a.neurons);
        }
      });
    });

    if constexpr (!Selector::kNeedsUp) {
      eachUp([&](int64_t i) { return int64_t(wantedCount[i]); },
             [&](int64_t at, int64_t i) { return int64_t(wanted[at * a.neurons + i]); },
             [&](int64_t at, float value) { hidden[at] *= value; });
    }

    // Memory likes long stretches of a row.
    constexpr int64_t kLeastColumns = 256;
    inPieces(few, count, kLeastColumns, [&](int64_t) { return a.width; }, [&](const ExpertPiece& piece, int64_t at) {
      const Element* w = down(piece.expert) + piece.begin;
      const uint32_t* neurons = wanted + at * a.neurons;
      const int64_t first = firstRow(piece.expert), rows = rowsOf(piece.expert), n = piece.end - piece.begin;
      float* y = a.y + first * a.width + piece.begin;
      for (int64_t r = 0; r < rows; r++) std::memset(y + r * a.width, 0, 4 * n);
      addRows<Weights>(
          wantedCount[at], [&](int64_t i) { return w + int64_t(neurons[i]) * a.width; },
          [&](int64_t i, int64_t v) {
            const int64_t j = neurons[i];
            const float weighted = hidden[(first + v) * a.neurons + j] * weightOf(first + v);
            const float h = scaled(weighted, a.downScales, piece.expert * a.neurons + j);
            return Weights::kRounds ? roundOne(h) : h;
          },
          y, a.width, rows, n);
    });
  }

  /** Calls work(piece, index in `list`) for pieces of the extent(index) of each expert, on all threads. */
  template <class Extent, class Work>
  void inPieces(const int64_t* list, int64_t count, int64_t least, Extent&& extent, Work&& work) {
    int64_t total = 0;
    for (int64_t i = 0; i < count; i++) total += extent(i);
    parallelStream(total, least, [&](int64_t begin, int64_t end) {
      int64_t before = 0;  // of all extents
      for (int64_t i = 0; i < count && before < end; before += extent(i), i++) {
        const int64_t from = std::max(begin - before, int64_t(0)), to = std::min(end - before, extent(i));
        if (from < to) work(ExpertPiece{list[i], from, to}, i);
      }
    });
  }

  /** Lists the neurons whose bit is set in any of the rows; returns how many. */
  uint32_t unionOf(const uint32_t* keep, int64_t rows, uint32_t* list) const {
    uint32_t count = 0;
    for (int64_t word = 0; word < words; word++) {
      uint32_t bits = 0;
      for (int64_t r = 0; r < rows; r++) bits |= keep[r * words + word];
      for (; bits != 0; bits &= bits - 1) list[count++] = uint32_t(word * 32 + __builtin_ctz(bits));
    }
    return count;
  }

  // Many rows.

  void multiplyDensely(const int64_t* many, int64_t count) {
    float* ups = scratch(5, a.rows * a.neurons);
    auto* products = static_cast<gemm::Product*>(threadScratch(2, count * sizeof(gemm::Product)));
    const auto eachProduct = [&](auto&& make) {
      for (int64_t i = 0; i < count; i++) products[i] = make(many[i], firstRow(many[i]), rowsOf(many[i]));
    };
    using AlongInner = gemm::Layout<true, true, Element>;
    using AcrossInner = gemm::Layout<true, false, Element>;
    const auto multiplyTokens = [&](auto&& weight, float* to) {
      eachProduct([&](int64_t e, int64_t first, int64_t rows) {
        const float* x = a.active ? a.x : a.x + first * a.width;
        return gemm::Product{x, weight(e), to + first * a.neurons, rows, a.neurons, a.width, a.slotOfRow + first, a.active};
      });
      if (a.active) gemm::multiply<AlongInner, gemm::Gather::rowsOfA>(products, count, false, Weights::kRounds);
      else gemm::multiply<AlongInner>(products, count, false, Weights::kRounds);
    };
    multiplyTokens([&](int64_t e) { return gate(e); }, hidden);
    multiplyTokens([&](int64_t e) { return up(e); }, ups);
    withActivation(a.activation, [&](auto activation) {
      inPieces(many, count, streamGrain(4 * a.neurons), [&](int64_t i) { return rowsOf(many[i]); },
               [&](const ExpertPiece& piece, int64_t) {
        ThresholdSearch search;
        const int64_t scales = piece.expert * a.neurons;
        for (int64_t r = firstRow(piece.expert) + piece.begin; r < firstRow(piece.expert) + piece.end; r++) {
          float *row = hidden + r * a.neurons, *factor = ups + r * a.neurons;
          if constexpr (Weights::kScaled) multiplyInto(row, a.gateScales + scales, a.neurons);
          if constexpr (Weights::kScaled) multiplyInto(factor, a.upScales + scales, a.neurons);
          Selector::select(activation, search, a, row, factor, piece.expert, r);
          multiplyInto(row, factor, a.neurons);
          scaleRow(row, weightOf(r), a.neurons);
          if constexpr (Weights::kScaled) multiplyInto(row, a.downScales + scales, a.neurons);
        }
      });
    });
    eachProduct([&](int64_t e, int64_t first, int64_t rows) {
      return gemm::Product{hidden + first * a.neurons, down(e), a.y + first * a.width, rows, a.width, a.neurons};
    });
    gemm::multiply<AcrossInner>(products, count, false, Weights::kRounds);
  }
};
