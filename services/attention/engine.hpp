// The shard's engine without any actor: requests in, micro-batches out to the layers, tokens back.
// It owns the scheduler, the embedding, the LM head and the sampler; the layers and the experts are
// somebody else's. Plain class: drive it with next() and complete().
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/base/clock.hpp"
#include "common/base/memory.hpp"
#include "common/model/model_config.hpp"
#include "common/telemetry/metrics.hpp"
#include "common/wire/messages.hpp"
#include "kernels/include/fulgur/kernels/backend.hpp"
#include "services/attention/device_draws.hpp"
#include "services/attention/model_weights.hpp"
#include "services/attention/parked_snapshots.hpp"
#include "services/attention/sampler.hpp"
#include "services/attention/scheduler.hpp"

namespace fulgur::attention {

/// What the engine has to say to routers after an event. Tokens first, then the endings.
struct Outcome {
  std::map<transport::LinkId, wire::Tokens> tokens;
  std::vector<std::pair<transport::LinkId, wire::Done>> done;

  bool empty() const { return tokens.empty() && done.empty(); }
};

/// Counters for /metrics and heartbeats. Reactor thread.
struct EngineStats {
  std::uint64_t requests_total = 0;
  std::uint64_t wait_ns_total = 0;  ///< from arrival to the first micro-batch, summed
  std::uint64_t generated_tokens_total = 0;
  std::uint64_t prompt_tokens_total = 0;
  std::uint64_t micro_batches_total = 0;
  std::uint64_t rows_total = 0;
  telemetry::Tally wait_s{telemetry::request_buckets_s()};     ///< as wait_ns_total
  telemetry::Tally micro_batch_rows{telemetry::row_buckets()};
  std::uint64_t finished_total[4] = {};  ///< by wire::FinishReason
  std::uint64_t memory_refusals_total = 0;  ///< micro-batches that a step of was refused memory
};

class Engine {
 public:
  /// References outlive the engine.
  Engine(SchedulerOptions options, ParkedLimits parked, PrefixCacheLimits cache,
         const model::ModelConfig& config,
         const ModelWeights& weights, kernels::Backend& backend, const Clock& clock);

  /// Sampled sequences get spans from now on; `tracer` outlives the engine, null: none do.
  void trace_with(telemetry::Tracer* tracer) { tracer_ = tracer; }

  /// A refused submission is answered in the outcome; one that is running already is not run twice.
  Outcome submit(transport::LinkId link, const TraceContext& trace, std::int64_t deadline_ns,
                 wire::Submit submit);
  Outcome cancel(transport::LinkId link, std::uint64_t request);
  /// The router is gone: nobody waits for its requests.
  void cancel_all(transport::LinkId link);
  /// Ends requests whose deadline passed; forgets parked states nobody asked for.
  Outcome expire();
  /// Ends a request that is to go on elsewhere: at `moved_to`, which holds its state as `snapshot`,
  /// or, when that is empty, anywhere.
  void hand_over(SequenceId id, const std::string& moved_to, std::uint64_t snapshot,
                 Outcome& outcome);

  /// The next micro-batch to send through the layers, its hidden state embedded; null when no lane
  /// is free or nothing is to be done. One with a failure goes straight to complete().
  MicroBatchPtr next();
  /// The micro-batch came out of the last layer.
  Outcome complete(const MicroBatchPtr& batch);

  /// For Backend::rehearse(), before the first request: takes the arrays of every lane for `rows`
  /// rows, lets `layers` do the same with one of the batches, and what comes behind them.
  void rehearse(std::uint32_t rows, const std::function<void(MicroBatch&)>& layers);

  bool idle() const { return scheduler_.empty(); }
  const Scheduler& scheduler() const { return scheduler_; }
  Scheduler& scheduler() { return scheduler_; }
  const PrefixCache& cache() const { return cache_; }
  /// States that other shards have handed to this one.
  ParkedSnapshots& parked() { return parked_; }
  const ParkedSnapshots& parked() const { return parked_; }
  const EngineStats& stats() const { return stats_; }

 private:
  void begin_trace_steps(MicroBatch& batch);
  void sample(const MicroBatch& batch, Outcome& outcome);
  void settle(Sequence& sequence, const MicroBatch& batch, Outcome& outcome);
  void start_over(Sequence& sequence, const MicroBatch& batch, Outcome& outcome);
  /// Logits [count, vocab] of entries first... of logits_rows_, in the backend's memory.
  float* compute_logits(const MicroBatch& batch, std::size_t first, std::size_t count);
  void plan_draws(const std::vector<const Slice*>& owner, std::size_t first, std::size_t count);
  DrawContext context_of(const Sequence& sequence) const;
  std::span<float> host_logits(const float* row);
  void report_prompt(Sequence& sequence, std::uint64_t position, std::span<const float> logits,
                     Outcome& outcome);
  void draw(Sequence& sequence, std::span<float> logits, Outcome& outcome);
  /// The sequence goes on with `token`.
  void accept(Sequence& sequence, std::uint32_t token, Logprobs logprobs, Outcome& outcome);
  bool finished(const Sequence& sequence, wire::FinishReason& reason) const;
  void end(SequenceId id, wire::FinishReason reason, Status why, Outcome& outcome);

  const model::ModelConfig& config_;
  const ModelWeights& weights_;
  kernels::Backend& backend_;
  const Clock& clock_;
  telemetry::Tracer* tracer_ = nullptr;
  PrefixCache cache_;
  Scheduler scheduler_;
  ParkedSnapshots parked_;
  std::vector<MicroBatchPtr> free_lanes_;
  SequenceId next_id_ = 1;
  EngineStats stats_;

  // Scratch of a step, reused.
  std::vector<std::uint32_t> logits_rows_;  ///< micro-batch rows that need logits
  kernels::Buffer<float> head_input_;       ///< [chunk, hidden]
  kernels::Buffer<float> logits_;           ///< [chunk, vocab]
  std::shared_ptr<std::byte> host_logits_;  ///< [vocab], if the backend's memory is not the host's
  DeviceDraws draws_;                       ///< rows of a chunk that the backend draws
};

}  // namespace fulgur::attention
