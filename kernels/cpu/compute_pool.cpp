// Fork-join compute threads: see compute_pool.hpp.
#include "kernels/cpu/compute_pool.hpp"

#include <immintrin.h>
#include <pthread.h>
#include <sched.h>

#include "kernels/reference/scalar_math.hpp"

namespace fulgur::kernels::cpu {
namespace {

// Up to a hundred microseconds, by the length of a pause (Intel's is three of AMD's). Where several
// processes share cores, as shards and workers of one host do, whoever waits for the core gets it at
// the next yield.
constexpr int kLooksPerYield = 32;
constexpr int kYields = 40;

void pin(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  // A cpu outside the process's allowance leaves the thread unpinned: slower, not wrong.
  pthread_setaffinity_np(pthread_self(), sizeof set, &set);
}

/// Waits until `value` differs from `seen`: spins, then sleeps.
std::uint32_t wait_change(const std::atomic<std::uint32_t>& value, std::uint32_t seen) {
  for (int yields = 0; yields < kYields; ++yields) {
    for (int look = 0; look < kLooksPerYield; ++look) {
      const std::uint32_t now = value.load(std::memory_order_acquire);
      if (now != seen) return now;
      _mm_pause();
    }
    sched_yield();
  }
  value.wait(seen, std::memory_order_acquire);
  return value.load(std::memory_order_acquire);
}

}  // namespace

ComputePool::ComputePool(std::uint32_t threads, const std::vector<int>& cpus) {
  if (!cpus.empty()) pin(cpus[0]);
  for (std::uint32_t i = 1; i < threads; ++i) {
    workers_.emplace_back([this, i, cpu = i < cpus.size() ? cpus[i] : -1] {
      if (cpu >= 0) pin(cpu);
      worker_loop(i);
    });
  }
}

ComputePool::~ComputePool() {
  stop_.store(true, std::memory_order_release);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ComputePool::run_erased(std::size_t units, const void* context, Function function) {
  if (workers_.empty() || units <= 1) {
    for (std::size_t unit = 0; unit < units; ++unit) function(context, unit, 0);
    return;
  }
  function_ = function;
  context_ = context;
  units_ = units;
  next_.store(0, std::memory_order_relaxed);
  entry_.store(0, std::memory_order_release);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  work(0);
  std::uint32_t entry = entry_.fetch_or(kClosed, std::memory_order_acq_rel) | kClosed;
  while (entry != kClosed) entry = wait_change(entry_, entry);
}

void ComputePool::work(std::uint32_t thread) {
  for (;;) {
    const std::size_t unit = next_.fetch_add(1, std::memory_order_relaxed);
    if (unit >= units_) return;
    function_(context_, unit, thread);
  }
}

bool ComputePool::enter() {
  std::uint32_t entry = entry_.load(std::memory_order_relaxed);
  while ((entry & kClosed) == 0) {
    if (entry_.compare_exchange_weak(entry, entry + 1, std::memory_order_acquire)) return true;
  }
  return false;
}

void ComputePool::worker_loop(std::uint32_t thread) {
  const FlushSubnormals mode;
  std::uint32_t seen = 0;
  for (;;) {
    seen = wait_change(generation_, seen);
    if (stop_.load(std::memory_order_acquire)) return;
    if (!enter()) continue;
    work(thread);
    if (entry_.fetch_sub(1, std::memory_order_acq_rel) == kClosed + 1) entry_.notify_one();
  }
}

}  // namespace fulgur::kernels::cpu
