// One layer's experts on one worker, without any actor: a bounded queue of dispatches and the merge
// of everything pending into one grouped SwiGLU, so that each expert's weights are read once however
// many shards wait for them. Results never depend on what was merged (invariant I1).
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/base/buffer_pool.hpp"
#include "common/base/clock.hpp"
#include "common/transport/transport.hpp"
#include "common/wire/messages.hpp"
#include "kernels/include/fulgur/kernels/backend.hpp"
#include "services/expert/weight_store.hpp"

namespace fulgur::expert {

/// A dispatch waiting in a layer's queue and the link its answer goes to.
struct Pending {
  transport::LinkId link = 0;
  TraceContext trace;
  Nanoseconds arrived = 0;
  wire::Dispatch dispatch;
  /// The experts of its routes, held from push() on: a Retire cannot free them under it.
  std::vector<std::pair<std::uint16_t, std::shared_ptr<const kernels::Expert>>> weights = {};
};

struct ExpertLayerLimits {
  std::size_t queue_max = 256;      ///< dispatches; one more is answered busy
  std::size_t batch_rows_max = 8192;  ///< routed rows merged into one run
};

/// Time that a device spent on runs which the backend only queued. Any thread.
class DeviceTime {
 public:
  void add(Nanoseconds time) {
    total_.fetch_add(time, std::memory_order_relaxed);
    runs_.fetch_add(1, std::memory_order_relaxed);
  }
  Nanoseconds total() const { return total_.load(std::memory_order_relaxed); }
  std::uint64_t runs() const { return runs_.load(std::memory_order_relaxed); }

 private:
  std::atomic<Nanoseconds> total_{0};
  std::atomic<std::uint64_t> runs_{0};
};

/// Merged rows of a run and what came of them, in the backend's memory; the layers of a worker take
/// turns.
struct RunScratch {
  kernels::Buffer<std::byte> input;
  kernels::Buffer<std::byte> output;
  BufferPool host;  ///< of answers, where the worker's pool has nothing left
};

/// Takes the memory of the largest runs that `limits` allow, with any expert's weights. Nothing
/// where the backend's memory is the host's. Throws std::bad_alloc.
void rehearse_runs(kernels::Backend& backend, const kernels::Expert& weights, std::uint32_t experts,
                   std::uint32_t hidden, const ExpertLayerLimits& limits, RunScratch& scratch);

/// What one run produced: the answers in the order the dispatches arrived, and its cost.
struct RunResult {
  struct Answer {
    transport::LinkId link = 0;
    TraceContext trace;
    Nanoseconds arrived = 0;
    std::uint32_t rows = 0;  ///< of the dispatch
    wire::Combine combine;
  };
  std::vector<Answer> answers;
  std::vector<Pending> refused;  ///< all of the run, when there was no memory for it, and …
  std::string why;               ///< … why not
  Nanoseconds compute = 0;  ///< 0: only queued; DeviceTime has it when the answers have been sent
  std::shared_ptr<const kernels::Mark> done;  ///< the end of a run that was only queued
  std::size_t routed_rows = 0;
};

class ExpertLayer {
 public:
  /// All outlive the layer. hidden: model width. Answers lie in the pool's memory; in device memory
  /// they may be on their way to it still (Frame::ready), and own what the device reads for them:
  /// letting go of one that has not been sent waits for the device.
  ExpertLayer(std::uint32_t layer, std::uint32_t hidden, const WeightStore& store,
              kernels::Backend& backend, const Clock& clock, BufferPool& pool,
              ExpertLayerLimits limits, std::shared_ptr<DeviceTime> device_time = nullptr,
              std::shared_ptr<RunScratch> scratch = std::make_shared<RunScratch>());

  /// Queues a dispatch, or says why this worker will not run it.
  std::optional<wire::NackReason> push(Pending pending);
  bool idle() const { return queue_.empty(); }
  std::size_t queued() const { return queue_.size(); }

  /// Runs what is pending (bounded by batch_rows_max) as one grouped product. Without memory for
  /// it, it gives the dispatches back in `refused`: others may have room, or this worker later.
  RunResult run();

  /// Adds the routed rows per expert since the last call into tokens[expert] and clears them.
  void take_expert_tokens(std::vector<std::uint64_t>& tokens);

 private:
  std::optional<wire::NackReason> refuse(Pending& pending) const;
  void add_group(std::uint16_t expert, std::size_t begin, std::size_t end);
  std::vector<Pending> take_batch();
  RunResult run_batch(std::vector<Pending>& batch);
  RunResult answer(const std::vector<Pending>& batch);
  void compute(const std::vector<Pending>& batch, const RunResult& result);
  void hand_over(std::vector<Pending>& batch, std::shared_ptr<const kernels::Mark> began,
                 RunResult& result);
  void run_one(const Pending& item, std::byte* output);
  void run_merged(const std::vector<Pending>& batch, const std::vector<std::byte*>& outputs);

  const std::uint32_t layer_;
  const std::uint32_t hidden_;
  const WeightStore& store_;
  kernels::Backend& backend_;
  const Clock& clock_;
  BufferPool& pool_;
  const ExpertLayerLimits limits_;
  const std::shared_ptr<DeviceTime> device_time_;
  const std::shared_ptr<RunScratch> scratch_;
  std::vector<Pending> queue_;
  std::vector<std::uint64_t> expert_tokens_;  ///< [experts]

  // Scratch of a run, reused.
  std::vector<kernels::ExpertGroup> groups_;
  std::vector<const kernels::Expert*> weights_;  ///< [experts] of the batch in hand
  std::vector<std::uint32_t> rows_;
  std::vector<kernels::RowCopy> copies_;
};

}  // namespace fulgur::expert
