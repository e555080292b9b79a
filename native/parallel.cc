#include "parallel.h"

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "cpu.h"

namespace mone {
namespace {

struct Job {
  void (*task)(void*, int64_t) = nullptr;
  void* context = nullptr;
  int64_t count = 0;
  std::atomic<int64_t> next{0};
};

// A worker takes part in job number `generation`. It enters by raising `inside` and then checking that the job is
// still open and has a seat, so the caller can close a job without waiting for workers that never woke up.
struct Pool {
  std::mutex mutex;  // of `workers`, and of those that sleep
  std::vector<std::thread> workers;
  std::condition_variable wake;
  std::atomic<bool> stop{false};
  // Lines of their own: what idle workers look at all the time is written once a job, and what callers write to take the
  // pool is looked at by no worker.
  alignas(64) std::atomic<uint64_t> generation{0};
  alignas(64) std::atomic<bool> busy{false};
  alignas(64) std::atomic<bool> open{false};
  std::atomic<int> seats{0};
  std::atomic<int> inside{0};
  alignas(64) Job job;
};

Pool pool;
thread_local int threadCount = 1;

void work(Job& job) {
  for (;;) {
    const int64_t i = job.next.fetch_add(1, std::memory_order_relaxed);
    if (i >= job.count) return;
    job.task(job.context, i);
  }
}

inline void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#endif
}

// Jobs follow each other within microseconds while a step runs; a short spin catches the next one without a
// system call, and is short enough not to take a core away from anybody on a shared machine.
constexpr int kSpins = 2000;

void workerMain() {
  flushDenormals();
  uint64_t seen = 0;
  for (;;) {
    for (int spin = 0; spin < kSpins && pool.generation.load(std::memory_order_acquire) == seen; spin++) pause();
    if (pool.generation.load(std::memory_order_acquire) == seen) {
      std::unique_lock<std::mutex> lock(pool.mutex);
      pool.wake.wait(lock, [&] { return pool.generation.load() != seen || pool.stop.load(); });
    }
    if (pool.stop.load()) return;
    seen = pool.generation.load();
    pool.inside.fetch_add(1);
    if (pool.open.load() && pool.seats.fetch_sub(1) > 0) work(pool.job);
    pool.inside.fetch_sub(1);
  }
}

// Joins the workers when the process ends: a running thread must not outlive the pool's memory.
struct Shutdown {
  ~Shutdown() {
    {
      std::lock_guard<std::mutex> lock(pool.mutex);
      pool.stop.store(true);
    }
    pool.wake.notify_all();
    for (auto& worker : pool.workers) worker.join();
  }
} shutdown;

/** Does a job with at most `helpers` workers beside the caller, who has the pool. */
void shareOut(int64_t count, void (*task)(void*, int64_t), void* context, int helpers) {
  Job& job = pool.job;
  job.task = task;
  job.context = context;
  job.count = count;
  job.next.store(0);
  pool.seats.store(helpers);
  pool.open.store(true);
  bool all;
  {
    std::lock_guard<std::mutex> lock(pool.mutex);
    pool.generation.fetch_add(1);
    all = size_t(helpers) >= pool.workers.size();
  }
  if (all) pool.wake.notify_all();
  else for (int i = 0; i < helpers; i++) pool.wake.notify_one();  // workers without a seat sleep on
  work(job);
  pool.open.store(false);
  for (int spin = 0; pool.inside.load() != 0; spin++) {
    if (spin < kSpins) pause();
    else std::this_thread::yield();
  }
}

}  // namespace

void reserveThreads(int count) {
  std::lock_guard<std::mutex> lock(pool.mutex);
  while (int(pool.workers.size()) + 1 < count) pool.workers.emplace_back(workerMain);
}

void useThreads(int count) { threadCount = count; }
int threads() { return threadCount; }

void* threadScratch(int slot, size_t bytes) {
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  thread_local std::unique_ptr<void, Free> memory[kScratchSlots];
  thread_local size_t sizes[kScratchSlots] = {};
  if (sizes[slot] < bytes) {
    const size_t rounded = (bytes + 4095) & ~size_t(4095);
    memory[slot].reset(std::aligned_alloc(4096, rounded));
    if (!memory[slot]) std::abort();
    sizes[slot] = rounded;
  }
  return memory[slot].get();
}

void runTasks(int64_t count, void (*task)(void*, int64_t), void* context) {
  // Another thread of JavaScript may have the pool: then this one does without, with the same results.
  if (count <= 1 || threadCount <= 1 || pool.busy.exchange(true, std::memory_order_acquire)) {
    for (int64_t i = 0; i < count; i++) task(context, i);
    return;
  }
  shareOut(count, task, context, threadCount - 1);
  pool.busy.store(false, std::memory_order_release);
}

}  // namespace mone
