#include "services/attention/engine.hpp"

#include <algorithm>
#include <utility>

#include "common/base/log.hpp"
#include "services/attention/sampler.hpp"

namespace fulgur::attention {
namespace {

// Rows of logits held at once: bounds memory when a whole prompt's log-probabilities are wanted. On a
// device the head is read once for them all, so a batch should fit.
constexpr std::size_t kHostLogitsChunk = 64;
constexpr std::size_t kDeviceLogitsChunk = 256;
// Times that a sequence is computed from the start because a step was refused memory.
constexpr std::uint32_t kMemoryRefusalsMax = 3;

}  // namespace

Engine::Engine(SchedulerOptions options, ParkedLimits parked, PrefixCacheLimits cache,
               const model::ModelConfig& config,
               const ModelWeights& weights, kernels::Backend& backend, const Clock& clock)
    : config_(config),
      weights_(weights),
      backend_(backend),
      clock_(clock),
      cache_(cache, StateShape::of(config, backend)),
      scheduler_(options, &cache_),
      parked_(parked, StateShape::of(config, backend), options.identity, clock),
      draws_(backend.draw_support(), config.vocab) {
  for (std::uint32_t lane = options.lanes; lane-- > 0;) {
    auto batch = std::make_shared<MicroBatch>();
    batch->lane = lane;
    free_lanes_.push_back(std::move(batch));
  }
}

Outcome Engine::submit(transport::LinkId link, const TraceContext& trace, std::int64_t deadline_ns,
                       wire::Submit submit) {
  Outcome outcome;
  const std::uint64_t request = submit.request;
  if (scheduler_.find(link, request) != nullptr) return outcome;  // the same message twice
  ++stats_.requests_total;
  auto sequence = std::make_unique<Sequence>();
  sequence->id = next_id_++;
  sequence->link = link;
  sequence->deadline_ns = deadline_ns;
  sequence->arrived = clock_.now();
  sequence->submit = std::move(submit);
  if (sequence->submit.snapshot != 0) {
    sequence->snapshot = parked_.take(sequence->submit.snapshot, sequence->submit.tokens);
  }
  std::unique_ptr<SequenceTrace> watched;
  if (tracer_ != nullptr && trace.sampled()) {
    watched = std::make_unique<SequenceTrace>(*tracer_, trace, sequence->submit, sequence->arrived);
  }
  const bool late = deadline_ns != 0 && deadline_ns <= clock_.wall_now();
  const Status admitted =
      late ? error(Code::deadline_exceeded, "the deadline passed before the request came")
           : scheduler_.submit(std::move(sequence));
  if (!admitted.is_ok()) {
    if (watched) watched->end(wire::FinishReason::error, admitted, 0, clock_.now());
    ++stats_.finished_total[static_cast<std::size_t>(wire::FinishReason::error)];
    wire::Done done;
    done.request = request;
    done.reason = wire::FinishReason::error;
    done.code = admitted.code();
    done.message = admitted.message();
    outcome.done.emplace_back(link, std::move(done));
    return outcome;
  }
  // A re-submission that already has all its tokens (the shard died after the last one).
  Sequence& admitted_sequence = *scheduler_.find(next_id_ - 1);
  admitted_sequence.trace = std::move(watched);
  wire::FinishReason reason{};
  if (finished(admitted_sequence, reason)) end(admitted_sequence.id, reason, Status::ok(), outcome);
  return outcome;
}

Outcome Engine::cancel(transport::LinkId link, std::uint64_t request) {
  Outcome outcome;
  Sequence* sequence = scheduler_.find(link, request);
  if (sequence == nullptr) return outcome;
  sequence->cancelled = true;  // in flight: it ends when its micro-batch comes back
  if (!sequence->lane) end(sequence->id, wire::FinishReason::cancelled, Status::ok(), outcome);
  return outcome;
}

void Engine::cancel_all(transport::LinkId link) {
  Outcome nobody_listens;
  for (const SequenceId id : scheduler_.of_link(link)) {
    Sequence& sequence = *scheduler_.find(id);
    sequence.cancelled = true;
    if (!sequence.lane) end(id, wire::FinishReason::cancelled, Status::ok(), nobody_listens);
  }
}

void Engine::hand_over(SequenceId id, const std::string& moved_to, std::uint64_t snapshot,
                       Outcome& outcome) {
  const Status why(Code::unavailable, moved_to.empty() ? "this shard is draining"
                                                       : "the sequence has moved to " + moved_to);
  if (const auto& trace = scheduler_.find(id)->trace) trace->moved(moved_to);
  end(id, wire::FinishReason::error, why, outcome);
  wire::Done& done = outcome.done.back().second;
  done.draining = true;
  done.moved_to = moved_to;
  done.snapshot = snapshot;
}

Outcome Engine::expire() {
  Outcome outcome;
  parked_.expire();
  for (const SequenceId id : scheduler_.expired(clock_.wall_now())) {
    end(id, wire::FinishReason::error, error(Code::deadline_exceeded, "the deadline passed"), outcome);
  }
  return outcome;
}

MicroBatchPtr Engine::next() {
  if (free_lanes_.empty()) return nullptr;
  MicroBatchPtr batch = free_lanes_.back();
  if (!scheduler_.plan(*batch)) return nullptr;
  free_lanes_.pop_back();
  // The latest of the deadlines: one sequence's must not end the others of its micro-batch.
  bool bounded = true;
  bool traced = false;
  batch->deadline_ns = 0;
  for (const Slice& slice : batch->slices) {
    Sequence& sequence = *scheduler_.find(slice.sequence);
    if (!std::exchange(sequence.begun, true)) {
      const Nanoseconds waited = clock_.now() - sequence.arrived;
      stats_.wait_ns_total += static_cast<std::uint64_t>(waited);
      stats_.wait_s.add(static_cast<double>(waited) / kSecond);
    }
    traced |= sequence.trace != nullptr;
    bounded &= sequence.deadline_ns != 0;
    batch->deadline_ns = std::max(batch->deadline_ns, sequence.deadline_ns);
  }
  if (!bounded) batch->deadline_ns = 0;
  if (traced) begin_trace_steps(*batch);
  if (batch->work == Work::snapshot) {
    batch->snapshot->layers.resize(config_.layers);
  }
  if (batch->work != Work::forward) return batch;
  ++stats_.micro_batches_total;
  stats_.rows_total += batch->rows();
  stats_.micro_batch_rows.add(batch->rows());
  attempt(*batch, [&] {
    float* h = batch->h.reserve(backend_, std::size_t{batch->rows()} * config_.hidden);
    backend_.embed(*weights_.embedding, batch->tokens, h);
  });
  return batch;
}

void Engine::rehearse(std::uint32_t rows, const std::function<void(MicroBatch&)>& layers) {
  for (const MicroBatchPtr& lane : free_lanes_) {
    lane->tokens.assign(rows, 0);
    lane->y.reserve(backend_, std::size_t{rows} * config_.hidden);
    backend_.embed(*weights_.embedding, lane->tokens,
                   lane->h.reserve(backend_, std::size_t{rows} * config_.hidden));
  }
  MicroBatch& batch = *free_lanes_.front();
  layers(batch);
  const std::size_t count = std::min<std::size_t>(rows, kDeviceLogitsChunk);
  logits_rows_.assign(count, 0);
  float* logits = compute_logits(batch, 0, count);
  draws_.rehearse(backend_, logits, count, weights_.banned);
  host_logits(logits);
  for (const MicroBatchPtr& lane : free_lanes_) {
    lane->tokens.clear();
    lane->slices.clear();
  }
}

/// The layers are computed once for all sequences of a micro-batch: their spans go under the step
/// of one of them, the one that had the fewest so far, and the others' steps point there.
void Engine::begin_trace_steps(MicroBatch& batch) {
  const Nanoseconds now = clock_.now();
  for (const Slice& slice : batch.slices) {
    const Sequence& sequence = *scheduler_.find(slice.sequence);
    if (!sequence.trace) continue;
    if (batch.work != Work::forward) {
      sequence.trace->copied(batch.work == Work::restore ? "state restored" : "state copied", now);
      continue;
    }
    const TraceContext step = sequence.trace->begin_step(slice, batch, now);
    const std::uint32_t left = sequence.trace->details_left();
    if (step.sampled() && left > batch.trace.details_left) {
      batch.trace.step = step;
      batch.trace.owner = sequence.id;
      batch.trace.details_left = left;
    }
  }
  if (!batch.trace.step.sampled()) return;
  for (const Slice& slice : batch.slices) {
    const Sequence& sequence = *scheduler_.find(slice.sequence);
    if (sequence.trace && sequence.id != batch.trace.owner)
      sequence.trace->link_step(batch.trace.step);
  }
}

Outcome Engine::complete(const MicroBatchPtr& batch) {
  Outcome outcome;
  if (batch->trace.step.sampled()) {
    scheduler_.find(batch->trace.owner)->trace->set_details_left(batch->trace.details_left);
    batch->trace = {};
  }
  scheduler_.complete(*batch);
  if (batch->work == Work::forward && batch->failure.is_ok()) {
    attempt(*batch, [&] { sample(*batch, outcome); });
  }
  if (batch->lacked_memory()) {
    ++stats_.memory_refusals_total;
    log::warn("a micro-batch of {} rows was refused memory: its sequences start over why=\"{}\"",
              batch->rows(), batch->failure.message());
  }
  for (const Slice& slice : batch->slices) {
    Sequence* sequence = scheduler_.find(slice.sequence);
    if (sequence == nullptr) continue;  // it just ended
    if (sequence->trace) sequence->trace->end_step(clock_.now());
    settle(*sequence, *batch, outcome);
  }
  // The device may be combining them still, unless logits were waited for.
  if (!batch->frames.empty()) backend_.finish();
  batch->frames.clear();
  batch->snapshot.reset();
  free_lanes_.push_back(batch);
  return outcome;
}

/// What becomes of a sequence whose micro-batch has come back.
void Engine::settle(Sequence& sequence, const MicroBatch& batch, Outcome& outcome) {
  if (sequence.cancelled) {
    end(sequence.id, wire::FinishReason::cancelled, Status::ok(), outcome);
  } else if (sequence.deadline_ns != 0 && sequence.deadline_ns <= clock_.wall_now()) {
    end(sequence.id, wire::FinishReason::error,
        error(Code::deadline_exceeded, "the deadline passed"), outcome);
  } else if (batch.lacked_memory()) {
    start_over(sequence, batch, outcome);
  } else if (!batch.failure.is_ok()) {
    end(sequence.id, wire::FinishReason::error, batch.failure, outcome);
  }
}

/// Some layers have seen the tokens of the step and some have not, so the state is lost. Computed
/// again it gives the same tokens (I1). Its router asks another shard when that fails, too.
void Engine::start_over(Sequence& sequence, const MicroBatch& batch, Outcome& outcome) {
  if (batch.work == Work::snapshot) return;  // the state was only read, or it has been given up
  if (sequence.memory_refusals++ < kMemoryRefusalsMax) return scheduler_.start_over(sequence);
  end(sequence.id, wire::FinishReason::error,
      error(Code::unavailable, "this shard is out of memory: {}", batch.failure.message()),
      outcome);
}

void Engine::sample(const MicroBatch& batch, Outcome& outcome) {
  logits_rows_.clear();
  std::vector<const Slice*> owner;
  for (const Slice& slice : batch.slices) {
    for (std::uint32_t row = slice.rows - slice.logits_rows; row < slice.rows; ++row) {
      logits_rows_.push_back(slice.row + row);
      owner.push_back(&slice);
    }
  }
  const std::size_t most = backend_.host_memory() ? kHostLogitsChunk : kDeviceLogitsChunk;
  for (std::size_t first = 0; first < logits_rows_.size(); first += most) {
    const std::size_t count = std::min(most, logits_rows_.size() - first);
    float* chunk = compute_logits(batch, first, count);
    plan_draws(owner, first, count);
    draws_.run(backend_, chunk, weights_.banned);
    for (std::size_t at = 0; at < count; ++at) {
      const Slice& slice = *owner[first + at];
      Sequence* sequence = scheduler_.find(slice.sequence);
      if (sequence == nullptr || sequence->cancelled) continue;
      const auto row = static_cast<std::uint32_t>(at);
      const std::uint64_t position = slice.position + (logits_rows_[first + at] - slice.row);
      auto chosen = draws_.chosen(row, sequence->submit, context_of(*sequence));
      if (chosen) {
        accept(*sequence, chosen->token, std::move(chosen->logprobs), outcome);
        continue;
      }
      const std::span<float> logits = host_logits(chunk + at * config_.vocab);
      draws_.restore(row, logits);
      if (sequence->submit.prompt_logprobs && position < sequence->submit.prompt_tokens) {
        report_prompt(*sequence, position, logits, outcome);
      }
      if (position + 1 == sequence->length()) draw(*sequence, logits, outcome);
    }
  }
}

/// The rows of the chunk whose next token the backend can choose where the logits are.
void Engine::plan_draws(const std::vector<const Slice*>& owner, std::size_t first,
                        std::size_t count) {
  draws_.clear();
  for (std::size_t at = 0; at < count; ++at) {
    const Slice& slice = *owner[first + at];
    const Sequence* sequence = scheduler_.find(slice.sequence);
    if (sequence == nullptr || sequence->cancelled) continue;
    const wire::Submit& submit = sequence->submit;
    const std::uint64_t position = slice.position + (logits_rows_[first + at] - slice.row);
    const bool asks_more = (submit.prompt_logprobs && position < submit.prompt_tokens) ||
                           submit.max_new_tokens == 0;
    if (position + 1 != sequence->length() || asks_more) continue;
    draws_.add(static_cast<std::uint32_t>(at), submit, context_of(*sequence));
  }
}

DrawContext Engine::context_of(const Sequence& sequence) const {
  const wire::Submit& submit = sequence.submit;
  DrawContext context;
  context.params = &submit.sampling;
  context.tokens = submit.tokens;
  context.prompt_tokens = submit.prompt_tokens;
  context.banned = weights_.banned;
  if (sequence.generated() < submit.min_new_tokens) context.not_yet = submit.stop_ids;
  return context;
}

float* Engine::compute_logits(const MicroBatch& batch, std::size_t first, std::size_t count) {
  float* input = head_input_.reserve(backend_, count * config_.hidden);
  float* logits = logits_.reserve(backend_, count * config_.vocab);
  const auto rows = std::span(logits_rows_).subspan(first, count);
  backend_.gather(batch.h.data(), rows, config_.hidden, Dtype::f32, reinterpret_cast<std::byte*>(input));
  backend_.rms_norm(input, weights_.final_norm.data(), config_.rms_eps, count, config_.hidden, input);
  backend_.matmul(input, count, *weights_.lm_head, logits);
  return logits;
}

/// A row of logits in host memory, to be overwritten; until the next one is asked for.
std::span<float> Engine::host_logits(const float* row) {
  if (backend_.host_memory()) return {const_cast<float*>(row), config_.vocab};
  const std::size_t bytes = config_.vocab * sizeof(float);
  if (host_logits_ == nullptr) host_logits_ = backend_.allocate_host(bytes);
  backend_.download(host_logits_.get(), reinterpret_cast<const std::byte*>(row), bytes);
  return {reinterpret_cast<float*>(host_logits_.get()), config_.vocab};
}

void Engine::report_prompt(Sequence& sequence, std::uint64_t position, std::span<const float> logits,
                           Outcome& outcome) {
  if (position < sequence.prompt_reported) return;  // before it started over
  sequence.prompt_reported = position + 1;
  auto& events = outcome.tokens[sequence.link].events;
  wire::TokenEvent event;
  event.request = sequence.submit.request;
  event.prompt = true;
  if (position == 0) {  // nothing predicts the first token
    event.token = sequence.submit.tokens[0];
    events.push_back(event);
  }
  if (position + 1 >= sequence.submit.prompt_tokens) return;
  event.index = static_cast<std::uint32_t>(position + 1);
  event.token = sequence.submit.tokens[position + 1];
  Logprobs logprobs = log_probabilities(logits, event.token, sequence.submit.top_logprobs);
  event.logprob = logprobs.chosen;
  event.top = std::move(logprobs.top);
  events.push_back(std::move(event));
}

void Engine::draw(Sequence& sequence, std::span<float> logits, Outcome& outcome) {
  const wire::Submit& submit = sequence.submit;
  if (submit.max_new_tokens == 0) {  // only the prompt's log-probabilities were wanted
    end(sequence.id, wire::FinishReason::length, Status::ok(), outcome);
    return;
  }
  std::vector<float> raw;
  if (submit.logprobs) raw.assign(logits.begin(), logits.end());
  const std::uint32_t token = draw_token(logits, context_of(sequence));
  accept(sequence, token,
         submit.logprobs ? log_probabilities(raw, token, submit.top_logprobs) : Logprobs{}, outcome);
}

void Engine::accept(Sequence& sequence, std::uint32_t token, Logprobs logprobs, Outcome& outcome) {
  const wire::Submit& submit = sequence.submit;
  wire::TokenEvent event;
  event.request = submit.request;
  event.index = sequence.generated();
  event.token = token;
  if (submit.logprobs) {
    event.logprob = logprobs.chosen;
    event.top = std::move(logprobs.top);
  }
  if (sequence.trace) sequence.trace->token(clock_.now());
  if (event.index == 0) stats_.prompt_tokens_total += submit.prompt_tokens;
  ++stats_.generated_tokens_total;
  scheduler_.append(sequence, event.token);
  outcome.tokens[sequence.link].events.push_back(std::move(event));
  wire::FinishReason reason{};
  if (finished(sequence, reason)) end(sequence.id, reason, Status::ok(), outcome);
}

bool Engine::finished(const Sequence& sequence, wire::FinishReason& reason) const {
  const wire::Submit& submit = sequence.submit;
  const std::uint32_t generated = sequence.generated();
  if (generated > 0 && generated >= submit.min_new_tokens) {
    const std::uint32_t last = submit.tokens.back();
    if (std::find(submit.stop_ids.begin(), submit.stop_ids.end(), last) != submit.stop_ids.end()) {
      reason = wire::FinishReason::stop;
      return true;
    }
  }
  reason = wire::FinishReason::length;
  return generated > 0 && generated >= submit.max_new_tokens;
}

void Engine::end(SequenceId id, wire::FinishReason reason, Status why, Outcome& outcome) {
  const SequencePtr sequence = scheduler_.remove(id);
  ++stats_.finished_total[static_cast<std::size_t>(reason)];
  if (sequence->trace) sequence->trace->end(reason, why, sequence->generated(), clock_.now());
  wire::Done done;
  done.request = sequence->submit.request;
  done.reason = reason;
  done.code = why.code();
  done.message = why.message();
  done.generated_tokens = sequence->generated();
  outcome.done.emplace_back(sequence->link, std::move(done));
}

}  // namespace fulgur::attention
