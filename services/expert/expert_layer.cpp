#include "services/expert/expert_layer.hpp"

#include <algorithm>
#include <new>
#include <numeric>
#include <optional>

#include "common/base/assert.hpp"
#include "common/telemetry/hot_path.hpp"

namespace fulgur::expert {
namespace {

/// A run that the device works on; counts its time when all its answers are gone.
struct QueuedRun {
  QueuedRun(std::shared_ptr<DeviceTime> time, std::shared_ptr<const kernels::Mark> began,
            std::shared_ptr<const kernels::Mark> done)
      : time(std::move(time)), began(std::move(began)), done(std::move(done)) {}
  ~QueuedRun() {
    done->wait();
    if (time) time->add(done->since(*began));
  }
  QueuedRun(const QueuedRun&) = delete;
  QueuedRun& operator=(const QueuedRun&) = delete;

  const std::shared_ptr<DeviceTime> time;
  const std::shared_ptr<const kernels::Mark> began;
  const std::shared_ptr<const kernels::Mark> done;
};

/// What the device reads and writes for one answer of a run.
struct AnswerOwner {
  AnswerOwner(std::shared_ptr<const void> output, Pending item,
              std::shared_ptr<const QueuedRun> run)
      : output(std::move(output)), item(std::move(item)), run(std::move(run)) {}
  ~AnswerOwner() { run->done->wait(); }
  AnswerOwner(const AnswerOwner&) = delete;
  AnswerOwner& operator=(const AnswerOwner&) = delete;

  const std::shared_ptr<const void> output;
  const Pending item;
  const std::shared_ptr<const QueuedRun> run;
};

}  // namespace

void rehearse_runs(kernels::Backend& backend, const kernels::Expert& weights, std::uint32_t experts,
                   std::uint32_t hidden, const ExpertLayerLimits& limits, RunScratch& scratch) {
  if (backend.host_memory()) return;
  const Dtype dtype = backend.precision() == kernels::Precision::f32 ? Dtype::f32 : Dtype::bf16;
  const auto total = static_cast<std::uint32_t>(limits.batch_rows_max);
  const std::size_t row_bytes = hidden * size_of(dtype);
  std::vector<std::uint32_t> rows(total);
  std::iota(rows.begin(), rows.end(), 0U);
  std::vector<kernels::ExpertGroup> groups;
  for (std::uint32_t expert = 0; expert < experts; ++expert) {
    const std::uint32_t first = total / experts * expert;
    const std::uint32_t end = expert + 1 < experts ? total / experts * (expert + 1) : total;
    groups.push_back({&weights, std::span(rows).subspan(first, end - first), first});
  }
  // Rows from and to host memory: what is staged on the way comes on top of everything else.
  std::vector<std::byte> host(total * row_bytes);
  backend.rehearse([&] {
    std::byte* input = scratch.input.reserve(backend, host.size());
    std::byte* output = scratch.output.reserve(backend, host.size());
    std::vector<kernels::RowCopy> in, out;
    for (std::size_t at = 0; at < host.size(); at += row_bytes) {
      in.push_back({host.data() + at, input + at});
      out.push_back({output + at, host.data() + at});
    }
    backend.copy_rows(in, row_bytes);
    backend.experts(input, dtype, hidden, groups, output, dtype);
    backend.experts(host.data(), dtype, hidden, groups, host.data(), dtype);
    backend.copy_rows(out, row_bytes);
    backend.finish();
  });
}

ExpertLayer::ExpertLayer(std::uint32_t layer, std::uint32_t hidden, const WeightStore& store,
                         kernels::Backend& backend, const Clock& clock, BufferPool& pool,
                         ExpertLayerLimits limits, std::shared_ptr<DeviceTime> device_time,
                         std::shared_ptr<RunScratch> scratch)
    : layer_(layer),
      hidden_(hidden),
      store_(store),
      backend_(backend),
      clock_(clock),
      pool_(pool),
      limits_(limits),
      device_time_(std::move(device_time)),
      scratch_(std::move(scratch)),
      expert_tokens_(store.experts()) {}

std::optional<wire::NackReason> ExpertLayer::refuse(Pending& pending) const {
  const wire::Dispatch& dispatch = pending.dispatch;
  if (dispatch.hidden != hidden_ || dispatch.layer != layer_ || dispatch.routes.empty() ||
      dispatch.dtype == Dtype::f16) {
    return wire::NackReason::invalid;
  }
  for (const auto& route : dispatch.routes) {
    if (route.expert >= store_.experts()) return wire::NackReason::invalid;
    if (!pending.weights.empty() && pending.weights.back().first == route.expert) continue;
    auto weights = store_.find({layer_, route.expert});
    if (!weights) return wire::NackReason::not_held;
    pending.weights.emplace_back(route.expert, std::move(weights));
  }
  if (queue_.size() >= limits_.queue_max) return wire::NackReason::busy;
  return std::nullopt;
}

std::optional<wire::NackReason> ExpertLayer::push(Pending pending) {
  if (auto reason = refuse(pending)) return reason;
  for (const auto& route : pending.dispatch.routes) ++expert_tokens_[route.expert];
  queue_.push_back(std::move(pending));
  return std::nullopt;
}

std::vector<Pending> ExpertLayer::take_batch() {
  std::size_t rows = 0;
  std::size_t count = 0;
  const Dtype dtype = queue_.front().dispatch.dtype;
  for (const auto& item : queue_) {
    rows += item.dispatch.routes.size();
    if (count > 0 && (rows > limits_.batch_rows_max || item.dispatch.dtype != dtype)) break;
    ++count;
  }
  const auto end = queue_.begin() + static_cast<std::ptrdiff_t>(count);
  std::vector<Pending> batch(std::make_move_iterator(queue_.begin()), std::make_move_iterator(end));
  queue_.erase(queue_.begin(), end);
  return batch;
}

RunResult ExpertLayer::run() {
  FULGUR_ASSERT(!queue_.empty(), "nothing to run");
  std::vector<Pending> batch = take_batch();
  try {
    return run_batch(batch);
  } catch (const std::bad_alloc& full) {
    backend_.finish();  // the device may be reading what the batch owns
    RunResult result;
    result.refused = std::move(batch);
    result.why = full.what();
    return result;
  } catch (...) {
    backend_.finish();
    throw;
  }
}

/// The batch is whole until the last thing that can fail.
RunResult ExpertLayer::run_batch(std::vector<Pending>& batch) {
  const Nanoseconds started = telemetry::stamp(clock_);
  RunResult result = answer(batch);
  for (std::size_t at = 0; at < batch.size(); ++at) {
    // A traced one's arrival is the clock's, which may be microseconds past this reading.
    const Nanoseconds waited = std::max<Nanoseconds>(started - batch[at].arrived, 0);
    result.answers[at].combine.queue_us = static_cast<std::uint32_t>(waited / kMicrosecond);
  }
  const bool queued = std::ranges::any_of(result.answers, [](const RunResult::Answer& answer) {
    return wire::is_device(answer.combine.outputs);
  });
  auto began = queued ? backend_.mark() : nullptr;
  compute(batch, result);
  if (began) {
    hand_over(batch, std::move(began), result);
    return result;
  }
  result.compute = telemetry::stamp(clock_) - started;
  for (auto& answer : result.answers) {
    answer.combine.compute_us = static_cast<std::uint32_t>(result.compute / kMicrosecond);
  }
  return result;
}

/// The answers to a batch with room for their outputs, in the pool's memory or, where it has none
/// left, the host's.
RunResult ExpertLayer::answer(const std::vector<Pending>& batch) {
  RunResult result;
  for (const auto& item : batch) {
    const auto& dispatch = item.dispatch;
    const std::size_t bytes = dispatch.routes.size() * hidden_ * size_of(dispatch.dtype);
    auto memory = pool_.take_if_any(bytes);
    const MemoryKind kind = memory ? pool_.memory() : MemoryKind::host;
    if (!memory) memory = scratch_->host.take(bytes);
    RunResult::Answer answer{item.link, item.trace, item.arrived, dispatch.rows, {}};
    answer.combine.id = dispatch.id;
    answer.combine.layer = layer_;
    answer.combine.routes = static_cast<std::uint32_t>(dispatch.routes.size());
    answer.combine.hidden = hidden_;
    answer.combine.dtype = dispatch.dtype;
    const auto* data = memory.get();
    answer.combine.outputs = {std::move(memory), data, bytes, kind, nullptr};
    result.answers.push_back(std::move(answer));
    result.routed_rows += dispatch.routes.size();
  }
  return result;
}

void ExpertLayer::compute(const std::vector<Pending>& batch, const RunResult& result) {
  weights_.assign(store_.experts(), nullptr);
  for (const auto& item : batch) {
    for (const auto& [expert, weights] : item.weights) weights_[expert] = weights.get();
  }
  std::vector<std::byte*> outputs;  // this layer's own, until they are sent
  for (const auto& answer : result.answers) {
    outputs.push_back(const_cast<std::byte*>(answer.combine.outputs.data));
  }
  // The answer is in the shard's order of routes, so only a listing that is already grouped by
  // expert may be computed in place.
  const bool grouped = std::is_sorted(
      batch[0].dispatch.routes.begin(), batch[0].dispatch.routes.end(),
      [](const wire::Route& a, const wire::Route& b) { return a.expert < b.expert; });
  if (batch.size() == 1 && grouped) {
    run_one(batch[0], outputs[0]);
  } else {
    run_merged(batch, outputs);
  }
}

/// Whoever holds an answer holds what the device reads to compute it. The transport lets go of a
/// tensor when it has been sent, and so when it has been computed; only what is never sent waits.
void ExpertLayer::hand_over(std::vector<Pending>& batch, std::shared_ptr<const kernels::Mark> began,
                            RunResult& result) {
  const auto run =
      std::make_shared<const QueuedRun>(device_time_, std::move(began), backend_.mark());
  result.done = run->done;
  for (std::size_t at = 0; at < batch.size(); ++at) {
    wire::Frame& outputs = result.answers[at].combine.outputs;
    if (wire::is_device(outputs)) outputs.ready = run->done->event();
    outputs.owner =
        std::make_shared<const AnswerOwner>(std::move(outputs.owner), std::move(batch[at]), run);
  }
}

void ExpertLayer::add_group(std::uint16_t expert, std::size_t begin, std::size_t end) {
  groups_.push_back({weights_[expert], std::span(rows_).subspan(begin, end - begin),
                     static_cast<std::uint32_t>(begin)});
}

void ExpertLayer::run_one(const Pending& item, std::byte* output) {
  const auto& routes = item.dispatch.routes;
  rows_.resize(routes.size());
  groups_.clear();
  for (std::size_t begin = 0; begin < routes.size();) {
    std::size_t end = begin;
    for (; end < routes.size() && routes[end].expert == routes[begin].expert; ++end) {
      rows_[end] = routes[end].row;
    }
    add_group(routes[begin].expert, begin, end);
    begin = end;
  }
  backend_.experts(item.dispatch.activations.data, item.dispatch.dtype, hidden_, groups_, output,
                   item.dispatch.dtype);
}

void ExpertLayer::run_merged(const std::vector<Pending>& batch,
                             const std::vector<std::byte*>& outputs) {
  // Where each route's activation row is, and where its output row must go, ordered by expert.
  struct Place {
    std::uint16_t expert;
    std::uint32_t input_row;
    std::byte* output;
  };
  const Dtype dtype = batch[0].dispatch.dtype;
  const std::size_t row_bytes = hidden_ * size_of(dtype);
  std::size_t input_rows = 0;
  for (const auto& item : batch) input_rows += item.dispatch.rows;
  std::byte* input = scratch_->input.reserve(backend_, input_rows * row_bytes);
  std::vector<Place> places;
  copies_.clear();
  std::uint32_t first_row = 0;
  for (std::size_t at = 0; at < batch.size(); ++at) {
    const auto& dispatch = batch[at].dispatch;
    for (std::size_t row = 0; row < dispatch.rows; ++row) {
      copies_.push_back(
          {dispatch.activations.data + row * row_bytes, input + (first_row + row) * row_bytes});
    }
    for (std::size_t route = 0; route < dispatch.routes.size(); ++route) {
      places.push_back({dispatch.routes[route].expert, first_row + dispatch.routes[route].row,
                        outputs[at] + route * row_bytes});
    }
    first_row += dispatch.rows;
  }
  backend_.copy_rows(copies_, row_bytes);
  std::stable_sort(places.begin(), places.end(),
                   [](const Place& a, const Place& b) { return a.expert < b.expert; });
  rows_.resize(places.size());
  groups_.clear();
  for (std::size_t begin = 0; begin < places.size();) {
    std::size_t end = begin;
    for (; end < places.size() && places[end].expert == places[begin].expert; ++end) {
      rows_[end] = places[end].input_row;
    }
    add_group(places[begin].expert, begin, end);
    begin = end;
  }
  std::byte* merged = scratch_->output.reserve(backend_, places.size() * row_bytes);
  backend_.experts(input, dtype, hidden_, groups_, merged, dtype);
  copies_.clear();
  for (std::size_t at = 0; at < places.size(); ++at) {
    copies_.push_back({merged + at * row_bytes, places[at].output});
  }
  backend_.copy_rows(copies_, row_bytes);
}

void ExpertLayer::take_expert_tokens(std::vector<std::uint64_t>& tokens) {
  for (std::size_t expert = 0; expert < expert_tokens_.size(); ++expert) {
    tokens[expert] += expert_tokens_[expert];
    expert_tokens_[expert] = 0;
  }
}

}  // namespace fulgur::expert
