// A persistent pool of threads and one way to use it: numbered tasks, handed out by an atomic counter, the caller
// taking part. Nothing waits at a barrier inside a job, so a thread that loses its core delays only its own task.
// The process has one pool. It does one job at a time: who finds it busy (JavaScript has worker threads) works alone.
// Results must not depend on which thread runs a task: reductions go through per-task partial sums.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mone {

/** Makes sure that the pool can lend a caller so many threads, itself included. A pool never shrinks. */
void reserveThreads(int count);

/** How many threads, itself included, jobs of the calling thread get from now on; they must have been reserved. */
void useThreads(int count);
int threads();

/** Scratch memory of the calling thread, 64-byte aligned, kept between jobs; `slot` tells uses apart. */
constexpr int kScratchSlots = 8;
void* threadScratch(int slot, size_t bytes);

void runTasks(int64_t count, void (*task)(void* context, int64_t index), void* context);

/** Calls f(index) for index = 0..count-1, on all threads. */
template <class F>
void parallel(int64_t count, F&& f) {
  runTasks(count, [](void* context, int64_t index) { (*static_cast<F*>(context))(index); }, &f);
}

/**
 * Calls f(begin, end) on pieces of 0..count. `grain` is how many items are worth a task (about 20 us of work);
 * a single piece runs on the caller without waking anybody.
 */
template <class F>
void parallelRange(int64_t count, int64_t grain, F&& f) {
  if (grain < 1) grain = 1;
  const int64_t pieces = (count + grain - 1) / grain;
  if (pieces <= 1) {
    if (count > 0) f(int64_t(0), count);
    return;
  }
  parallel(pieces, [&](int64_t piece) {
    const int64_t begin = piece * grain;
    f(begin, begin + grain < count ? begin + grain : count);
  });
}

/**
 * Calls f(begin, end) on pieces of 0..count for work that reads memory in order: every thread begins with a long piece,
 * so that it seldom starts anew, and ends with short ones, so that none waits long for the others. Pieces are multiples of
 * `least`, but for the last; what is no longer than two of them is left to the caller alone.
 */
template <class F>
void parallelStream(int64_t count, int64_t least, F&& f) {
  if (least < 1) least = 1;
  if (threads() == 1 || count <= 2 * least) {
    if (count > 0) f(int64_t(0), count);
    return;
  }
  // In each round every thread gets a piece; together they take half of what the rounds before have left.
  const int64_t parts = threads();
  const auto pieceIn = [=](int64_t left) {
    const int64_t share = left / (2 * parts) / least * least;
    return share < least ? least : share;
  };
  int64_t pieces = 0;
  for (int64_t left = count; left > 0;) {
    const int64_t piece = pieceIn(left), taken = (left + piece - 1) / piece < parts ? (left + piece - 1) / piece : parts;
    pieces += taken;
    left -= taken * piece;
  }
  parallel(pieces, [&](int64_t index) {
    int64_t begin = 0;
    for (;; index -= parts) {
      const int64_t piece = pieceIn(count - begin);
      if (index < parts) {
        begin += index * piece;
        f(begin, begin + piece < count ? begin + piece : count);
        return;
      }
      begin += parts * piece;
    }
  });
}

}  // namespace mone
