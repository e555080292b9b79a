// Matrix products, dense and grouped: C (+)= A B for a list of products, in f32 or with operands rounded to bf16.
//
// The work is cut into tasks, blocks of rows x columns of one C, which share nothing. A task goes through the inner
// index in pieces of kDepthUnits. For each piece it packs (gemm_pack.h) its part of B, which then stays in the second
// level cache, and its part of A in chunks of kChunkPanels panels; chunk x B panel go to the micro-kernel
// (gemm_registers.h, gemm_tiles.h). A panel of B is packed just before its first use.
//
// Each element of C is a sum of pieces, each summed from zero in the order of the inner index. So its bits depend on
// its own row and column only: not on the threads, the cut into tasks, or the other rows of the product.

namespace gemm {

#include "gemm_pack.h"
#include "gemm_registers.h"
#if MONE_BF16 >= 2
#include "gemm_tiles.h"
#endif

using F32Product = RegisterProduct<F32Format, MultiplyAdd>;
#if MONE_BF16 == 0
using Bf16Product = RegisterProduct<RoundedFormat, MultiplyAdd>;
#elif MONE_BF16 == 1
using Bf16Product = RegisterProduct<PairFormat, MultiplyAddPairs>;
#elif MONE_BF16 == 2
using Bf16Product = TileProduct<HardwareTiles>;
#else
using Bf16Product = TileProduct<EmulatedTiles>;
#endif

/** Products in registers with bf16 operands, also where larger ones go through tiles. */
#if MONE_BF16 == 0
using Bf16Registers = RegisterProduct<RoundedFormat, MultiplyAdd>;
#else
using Bf16Registers = RegisterProduct<PairFormat, MultiplyAddPairs>;
#endif

/** Inner units of a piece: a B panel of 2 * kLanes columns takes 32 KB with 16 lanes. */
constexpr int64_t kDepthUnits = 256;
/** Panels of A that are packed together: about 128 KB with 16 lanes. */
constexpr int64_t kChunkPanels = 8;
/** Largest task. Its packed part of B is at most 512 KB. */
constexpr int64_t kTaskRows = 1024, kTaskColumns = 512;
/** A task is not cut below this extent: packing would begin to cost as much as the product. */
constexpr int64_t kLeastExtent = 64;
/** Multiplications below which waking other threads does not pay: about 20 us. */
constexpr int64_t kWorthWaking = 1 << 20;

/** One product: C is m x n with rows next to each other, k the inner length. B holds what the layout says. */
struct Product {
  const float* a;
  const void* b;
  float* c;
  int64_t m, n, k;
  // Where one operand's rows are gathered (Gather): row r is row slots[r] / active of its memory.
  const uint32_t* slots = nullptr;
  int64_t active = 0;
};

/** Whether the rows of an operand lie in order, or where Product::slots says: of A [m, k], or of B [k, n]. */
enum class Gather { none, rowsOfA, rowsOfB };

/** How A and B lie: along the inner index, or across it; and what B's elements are. */
template <bool kAAlongInner, bool kBAlongInner, class BElement = float>
struct Layout {
  static Operand<kAAlongInner> a(const Product& p) { return {p.a, kAAlongInner ? p.k : p.m}; }
  static Operand<kBAlongInner, BElement> b(const Product& p) {
    return {static_cast<const BElement*>(p.b), kBAlongInner ? p.k : p.n};
  }
};
using NT = Layout<true, true>;    // A [m, k], B [n, k]
using NN = Layout<true, false>;   // A [m, k], B [k, n]
using TN = Layout<false, false>;  // A [k, m], B [k, n]

/** A block of one product's C. */
struct Task {
  const Product* product;
  int64_t row, rows, column, columns;
};

/** Copies `width` floats, from element `first` on, of the rows `row`.. that the product's slots name, next to each other. */
static inline void gatherRows(float* to, const Product& product, const float* data, int64_t stride, int64_t row,
                              int64_t rows, int64_t first, int64_t width) {
  const uint32_t active = uint32_t(product.active);
  for (int64_t r = 0; r < rows; r++)
    copyFloats(to + r * width, data + product.slots[row + r] / active * stride + first, width);
}

template <class Kernel, class Operands, Gather kGather>
static void runTask(const Task& task, bool accumulate) {
  using Format = typename Kernel::Format;
  constexpr int64_t kDepth = kDepthUnits * Format::kDepth, kChunkRows = kChunkPanels * Kernel::kPanelRows;
  const Product& product = *task.product;
  const int64_t stride = product.n;
  float* c = product.c + task.row * stride + task.column;
  if (product.k == 0 && !accumulate)
    for (int64_t i = 0; i < task.rows; i++) std::memset(c + i * stride, 0, 4 * task.columns);

  const auto a = Operands::a(product);
  const auto b = Operands::b(product);
  // Gathered rows go through a copy of what one panel takes: small enough for the first level cache, or the second.
  constexpr int64_t kGathered = kGather == Gather::none ? 0 : std::max<int64_t>(Kernel::kPanelRows, kPanelColumns) * kDepth;
  float* packedA = static_cast<float*>(threadScratch(0, 4 * (kChunkRows * kDepthUnits + kGathered)));
  [[maybe_unused]] float* gathered = packedA + kChunkRows * kDepthUnits;
  float* packedB = static_cast<float*>(threadScratch(1, 4 * kTaskColumns * kDepthUnits));
  [[maybe_unused]] typename Kernel::Session session;
  for (int64_t inner = 0; inner < product.k; inner += kDepth) {
    const int64_t inners = product.k - inner < kDepth ? product.k - inner : kDepth;
    const int64_t units = paddedUnits<Format>(inners);
    for (int64_t i = 0; i < task.rows; i += kChunkRows) {
      const int64_t rows = task.rows - i < kChunkRows ? task.rows - i : kChunkRows;
      if constexpr (kGather == Gather::rowsOfA) {
        for (int64_t r = 0; r < rows; r += Kernel::kPanelRows) {
          const int64_t high = std::min<int64_t>(rows - r, Kernel::kPanelRows);
          gatherRows(gathered, product, product.a, product.k, task.row + i + r, high, inner, inners);
          packA<Format, Kernel::kPanelRows>(packedA + r * units, Operand<true>{gathered, inners}, 0, high, 0, inners);
        }
      } else {
        packA<Format, Kernel::kPanelRows>(packedA, a, task.row + i, rows, inner, inners);
      }
      for (int64_t j = 0; j < task.columns; j += kPanelColumns) {
        // A panel that only one chunk uses need not be kept.
        float* panel = task.rows <= kChunkRows ? packedB : packedB + j * units;
        const int64_t columns = task.columns - j;
        if (i == 0) {
          if constexpr (kGather == Gather::rowsOfB) {
            const int64_t width = std::min<int64_t>(columns, kPanelColumns);
            gatherRows(gathered, product, static_cast<const float*>(product.b), product.n, inner, inners, task.column + j, width);
            packB<Format>(panel, Operand<false>{gathered, width}, 0, width, 0, inners);
          } else {
            packB<Format>(panel, b, task.column + j, columns, inner, inners);
          }
        }
        Kernel::multiply(units, packedA, rows, panel, c + i * stride + j, stride, columns, accumulate || inner > 0);
      }
    }
  }
}

/**
 * C (+)= A B for every product; all have the same n. Sorts `products` by size. Uses slots 0, 1 and 3 of the
 * scratch memory.
 */
template <class Operands, Gather kGather = Gather::none>
static void multiply(Product* products, int64_t count, bool accumulate, bool bf16) {
  if (count == 0) return;
  // The largest first, so that the tasks that end last are small.
  std::sort(products, products + count, [](const Product& x, const Product& y) { return x.m * x.k > y.m * y.k; });
  const Product& largest = products[0];
  int64_t multiplications = 0, packed = 0;
  for (const Product* p = products; p < products + count; p++) {
    multiplications += p->m * p->n * p->k;
    packed += p->m > 0 ? (p->m + p->n) * p->k : 0;
  }
  const int64_t work = multiplications + 16 * packed;  // packing an element costs about 16 multiplications
  const bool alone = threads() == 1 || work < kWorthWaking;

  // No task larger than half a thread's share, and as square as possible: that packs least.
  int64_t rows = kTaskRows, columns = kTaskColumns;
  const int64_t shares = alone ? 1 : std::min<int64_t>(2 * threads(), work / kWorthWaking);
  for (;;) {
    const int64_t high = std::min(rows, largest.m), wide = std::min(columns, largest.n);
    int64_t& longer = high > wide ? rows : columns;
    if (high * wide * largest.k * shares <= multiplications || longer <= kLeastExtent) break;
    longer /= 2;
  }

  int64_t taskCount = 0;
  for (const Product* p = products; p < products + count; p++)
    taskCount += ceilDivide(p->m, rows) * ceilDivide(p->n, columns);
  Task* tasks = static_cast<Task*>(threadScratch(3, taskCount * sizeof(Task)));
  Task* next = tasks;
  for (const Product* p = products; p < products + count; p++)
    for (int64_t row = 0; row < p->m; row += rows)
      for (int64_t column = 0; column < p->n; column += columns)
        *next++ = {p, row, std::min(rows, p->m - row), column, std::min(columns, p->n - column)};

  parallelRange(taskCount, alone ? taskCount : 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      if (bf16) runTask<Bf16Product, Operands, kGather>(tasks[i], accumulate);
      else runTask<F32Product, Operands, kGather>(tasks[i], accumulate);
    }
  });
}

/** The products of a grouped kernel: m, n, k and the operands of group e are what `make(e, first row, rows)` says. */
template <class Make>
static Product* groupProducts(int64_t groups, const uint32_t* offsets, Make&& make) {
  Product* products = static_cast<Product*>(threadScratch(2, groups * sizeof(Product)));
  for (int64_t e = 0; e < groups; e++)
    products[e] = make(e, int64_t(offsets[e]), int64_t(offsets[e + 1]) - int64_t(offsets[e]));
  return products;
}

}  // namespace gemm
