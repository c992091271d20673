// Fork-join compute threads of one backend. The caller works as thread 0; workers spin for a few
// tens of microseconds after a job, because the next is usually that close, then sleep on a futex.
// Which thread does which unit is decided at run time and never affects results.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <thread>
#include <vector>

namespace fulgur::kernels::cpu {

class ComputePool {
 public:
  /// `threads` >= 1 with the caller included; cpus[i] pins thread i (0 is the caller, pinned only
  /// while it is in this constructor's thread); fewer cpus than threads leave the rest unpinned.
  ComputePool(std::uint32_t threads, const std::vector<int>& cpus);
  ~ComputePool();
  ComputePool(const ComputePool&) = delete;
  ComputePool& operator=(const ComputePool&) = delete;

  std::uint32_t threads() const { return static_cast<std::uint32_t>(workers_.size()) + 1; }

  /// Calls work(unit, thread) once for each unit below `units`, on all threads; returns when all
  /// are done. Must not be nested.
  template <class Work>
  void run(std::size_t units, const Work& work) {
    run_erased(units, &work, [](const void* context, std::size_t unit, std::uint32_t thread) {
      (*static_cast<const Work*>(context))(unit, thread);
    });
  }

 private:
  using Function = void (*)(const void* context, std::size_t unit, std::uint32_t thread);

  static constexpr std::uint32_t kClosed = 1U << 31;

  void run_erased(std::size_t units, const void* context, Function function);
  void work(std::uint32_t thread);
  bool enter();
  void worker_loop(std::uint32_t thread);

  Function function_ = nullptr;
  const void* context_ = nullptr;
  std::size_t units_ = 0;
  alignas(64) std::atomic<std::size_t> next_{0};
  alignas(64) std::atomic<std::uint32_t> generation_{0};  // counts jobs, and the end
  // Workers inside the current job; with kClosed no more may enter. The caller closes the job when
  // no unit is left and waits only for those inside: a worker that the system has not yet scheduled
  // never delays it.
  alignas(64) std::atomic<std::uint32_t> entry_{kClosed};
  std::atomic<bool> stop_{false};
  std::vector<std::thread> workers_;
};

}  // namespace fulgur::kernels::cpu
