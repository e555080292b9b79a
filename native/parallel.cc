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
// still open, so the caller can close a job without waiting for workers that never woke up.
struct Pool {
  std::vector<std::thread> workers;
  std::mutex mutex;
  std::condition_variable wake;
  std::atomic<uint64_t> generation{0};
  std::atomic<bool> open{false};
  std::atomic<int> inside{0};
  std::atomic<bool> stop{false};
  Job job;
};

Pool pool;
int threadCount = 1;
thread_local int index_ = 0;

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

void workerMain(int index) {
  index_ = index;
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
    if (pool.open.load()) work(pool.job);
    pool.inside.fetch_sub(1);
  }
}

void stopWorkers() {
  {
    std::lock_guard<std::mutex> lock(pool.mutex);
    pool.stop.store(true);
  }
  pool.wake.notify_all();
  for (auto& worker : pool.workers) worker.join();
  pool.workers.clear();
  pool.stop.store(false);
}

// Joins the workers when the process ends: a running thread must not outlive the pool's memory.
struct Shutdown {
  ~Shutdown() { stopWorkers(); }
} shutdown;

}  // namespace

void setThreads(int count) {
  if (count == threadCount) return;
  stopWorkers();
  threadCount = count < 1 ? 1 : count;
  for (int i = 1; i < threadCount; i++) pool.workers.emplace_back(workerMain, i);
}

int threads() { return threadCount; }
int threadIndex() { return index_; }

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
  if (count <= 1 || threadCount == 1) {
    for (int64_t i = 0; i < count; i++) task(context, i);
    return;
  }
  Job& job = pool.job;
  job.task = task;
  job.context = context;
  job.count = count;
  job.next.store(0);
  pool.open.store(true);
  {
    std::lock_guard<std::mutex> lock(pool.mutex);
    pool.generation.fetch_add(1);
  }
  pool.wake.notify_all();
  work(job);
  pool.open.store(false);
  for (int spin = 0; pool.inside.load() != 0; spin++) {
    if (spin < kSpins) pause();
    else std::this_thread::yield();
  }
}

}  // namespace mone
