#include "services/router/session.hpp"

#include <algorithm>
#include <utility>

#include "common/base/log.hpp"
#include "common/telemetry/hot_path.hpp"
#include "services/router/shard_picker.hpp"

namespace fulgur::router {
namespace {

constexpr std::uint32_t kSubmissionsMax = 16;  ///< of one choice; then its last failure is final

double seconds(Nanoseconds duration) { return static_cast<double>(duration) * 1e-9; }

}  // namespace

Session::Session(SessionInput input, SessionPort& port, const Clock& clock, RouterMetrics& metrics)
    : input_(std::move(input)),
      port_(port),
      clock_(clock),
      metrics_(metrics),
      response_(input_.request, input_.model, input_.id, input_.created) {
  for (const auto& prompt : input_.prompts) {
    metrics_.prompt_tokens.Increment(static_cast<double>(prompt->size()));
    for (std::uint32_t n = 0; n < input_.request->n; ++n) {
      runs_.push_back({.choice = Choice(input_.request, input_.model, prompt, n, input_.seed),
                       .avoid = {},
                       .moved_to = {}});
    }
  }
  metrics_.running.Increment(static_cast<double>(runs_.size()));
}

Session::~Session() {
  release_all();
  if (!ended_) trace_end(503);  // the service is torn down around it
  metrics_.running.Decrement(static_cast<double>(runs_.size()));
}

void Session::start() {
  const bool nothing_to_run = input_.request->max_tokens == 0U && !input_.request->prompt_logprobs;
  for (Run& run : runs_) {
    if (ended_) return;
    if (nothing_to_run) {
      run.choice.finish(wire::FinishReason::length);
      progress(run);
    } else {
      submit(run, false);
    }
  }
}

void Session::submit(Run& run, bool patient) {
  run.request = port_.new_request_id();
  ++run.submissions;
  SubmitChoice order;
  order.submit = run.choice.submit(run.request);
  order.deadline_ns = clock_.wall_now() + (input_.deadline - clock_.now());
  order.prefix = prefix_key(run.choice.prompt());
  order.avoid = run.avoid;
  order.prefer = std::exchange(run.moved_to, {});
  order.submit.snapshot = std::exchange(run.snapshot, 0);
  order.patient = patient;
  if (input_.trace) {
    order.trace = input_.trace->submit(index_of(run), run.submissions, order.submit.tokens.size(),
                                       clock_.now());
  }
  port_.submit(std::move(order));
}

/// Continues a run on another shard. One that a client has seen tokens of, or that lost its shard,
/// waits for a shard as long as its deadline allows; a shard that is full has not failed it.
void Session::resubmit(Run& run, const Status& why) {
  const bool busy = why.code() == Code::resource_exhausted;
  run.admitted = run.admitted || !busy;
  const bool waits = is_admitted(run);
  if (busy && waits) --run.submissions;
  if (run.submissions >= kSubmissionsMax) return fail(from_status(why));
  log::info("resubmitting request={} generated={} why=\"{}\"", input_.id, run.choice.generated(),
            why.message());
  metrics_.resubmissions.Increment();
  if (input_.trace) {
    input_.trace->interrupted(index_of(run), "submitted again", why.message(), clock_.now());
  }
  submit(run, waits);
}

/// One choice that shows tokens speaks for the others of its request.
bool Session::is_admitted(const Run& run) const {
  return run.admitted ||
         std::ranges::any_of(runs_, [](const Run& other) { return other.choice.started(); });
}

Session::Run* Session::find(std::uint64_t request) {
  const auto found = std::ranges::find_if(
      runs_, [request](const Run& run) { return run.request == request && request != 0; });
  return found == runs_.end() || ended_ ? nullptr : &*found;
}

void Session::measure(Run& run) {
  if (!telemetry::hot_path_on()) return;
  const Nanoseconds now = clock_.now();
  metrics_.generated_tokens.Increment();
  if (run.last_token == 0) {
    metrics_.first_token_s.Observe(seconds(now - input_.arrived));
    if (input_.trace) input_.trace->first_token(index_of(run), now);
  } else {
    metrics_.inter_token_s.Observe(seconds(now - run.last_token));
  }
  run.last_token = now;
}

void Session::on_tokens(const ChoiceTokens& message) {
  Run* run = find(message.request);
  if (run == nullptr) return;
  for (const wire::TokenEvent& event : message.events) {
    const Choice::Taken taken = run->choice.take(event);
    if (taken == Choice::Taken::used && !event.prompt) measure(*run);
    if (taken != Choice::Taken::gap) continue;
    port_.release({run->request, true});
    return resubmit(*run, error(Code::data_loss, "token {} of {} is missing",
                                run->choice.generated(), input_.id));
  }
  progress(*run);
}

void Session::on_done(const ChoiceDone& message) {
  Run* run = find(message.done.request);
  if (run == nullptr) return;
  const wire::Done& done = message.done;
  if (done.reason == wire::FinishReason::stop || done.reason == wire::FinishReason::length) {
    if (done.generated_tokens > run->choice.generated()) {  // its last tokens were lost
      run->request = 0;
      return resubmit(*run, error(Code::data_loss, "token {} of {} is missing",
                                  run->choice.generated(), input_.id));
    }
    run->choice.finish(done.reason);
    return progress(*run);
  }
  run->request = 0;  // the mesh has forgotten it already
  if (!done.moved_to.empty()) return follow(*run, message);
  const Status why(done.code == Code::ok ? Code::unavailable : done.code,
                   done.message.empty() ? "the shard gave the sequence up" : done.message);
  const bool final = why.code() == Code::invalid_argument || why.code() == Code::deadline_exceeded;
  if (final) return fail(from_status(why));
  run->avoid.push_back(message.shard);
  resubmit(*run, why);
}

/// The sequence goes on where its shard has brought its state. That is no failure: the shard took
/// it, ran it and left in good order, so it does not count as a submission.
void Session::follow(Run& run, const ChoiceDone& message) {
  log::debug("following request={} to={}", input_.id, message.done.moved_to);
  metrics_.moves.Increment();
  if (input_.trace) {
    input_.trace->interrupted(index_of(run), "moved", "to " + message.done.moved_to, clock_.now());
  }
  --run.submissions;
  run.avoid = {message.shard};
  run.moved_to = message.done.moved_to;
  run.snapshot = message.done.snapshot;
  submit(run, true);
}

void Session::on_lost(const ChoiceLost& message) {
  Run* run = find(message.request);
  if (run == nullptr) return;
  run->avoid.clear();
  resubmit(*run, {Code::unavailable, "the attention shard was lost"});
}

void Session::on_refused(const ChoiceRefused& message) {
  Run* run = find(message.request);
  if (run == nullptr) return;
  run->request = 0;
  // Meanwhile tokens of another choice may have come.
  if (is_admitted(*run)) return resubmit(*run, message.why);
  fail(from_status(message.why));
}

void Session::progress(Run& run) {
  const bool finished = run.choice.finished();
  // The first chunk shows the whole prompt, whose log-probabilities come with its chunks of prefill.
  if (input_.request->stream && (finished || run.choice.knows_prompt())) {
    Delta delta = run.choice.take_delta();
    if (finished || !delta.text.empty() || !delta.tokens.empty()) {
      const bool first = !std::exchange(run.shown, true);
      const std::string chunk = response_.chunk(index_of(run), run.choice, delta, first);
      if (first) input_.responder.expect(chunk.size());  // may hold a whole prompt, and its scores
      if (!send_chunk(chunk)) return;
    }
  }
  if (!finished) return;
  if (input_.trace) {
    input_.trace->choice_done(index_of(run), run.choice.finish_reason(), run.choice.generated(),
                              clock_.now());
  }
  if (run.request != 0) {
    port_.release({std::exchange(run.request, 0), run.choice.cut_short()});
  }
  if (std::ranges::all_of(runs_, [](const Run& r) { return r.choice.finished(); })) complete();
}

bool Session::send_chunk(const std::string& chunk) {
  if (!std::exchange(streaming_, true)) {
    input_.responder.start_stream(200, "text/event-stream; charset=utf-8",
                                  {{"Cache-Control", "no-cache"}, {"X-Accel-Buffering", "no"}});
  }
  const Status written = input_.responder.write(chunk);
  if (written.is_ok()) return true;
  if (written.code() == Code::resource_exhausted) {
    log::warn("dropping a client that does not read request={}", input_.id);
    input_.responder.abort();
  }
  on_client_gone();
  return false;
}

void Session::complete() {
  if (streaming_) {
    if (input_.request->include_usage && !send_chunk(response_.usage_chunk(usage()))) return;
    if (!send_chunk(std::string(OpenAiResponse::kDone))) return;
    input_.responder.finish();
  } else {
    for (std::uint32_t index = 0; index < runs_.size(); ++index) {
      response_.add(index, runs_[index].choice, runs_[index].choice.take_delta());
    }
    input_.responder.respond(200, "application/json", response_.body(usage()));
  }
  end(200);
}

void Session::fail(const ApiError& error) {
  if (ended_) return;
  release_all();
  log::info("request failed request={} status={} why=\"{}\"", input_.id, error.status,
            error.message);
  if (streaming_) {
    // The status line is gone: OpenAI's clients look for an error event.
    const bool written = input_.responder.write(OpenAiResponse::error_chunk(error.body())).is_ok();
    if (written) static_cast<void>(input_.responder.write(OpenAiResponse::kDone).is_ok());
    input_.responder.finish();
  } else {
    respond_error(input_.responder, error);
  }
  end(error.status);
}

void Session::on_client_gone() {
  if (ended_) return;
  metrics_.disconnects.Increment();
  release_all();
  end(499);
}

void Session::on_deadline() {
  fail(from_status({Code::deadline_exceeded, "the request took longer than this server allows"}));
}

void Session::release_all() {
  for (Run& run : runs_) {
    if (run.request != 0) port_.release({std::exchange(run.request, 0), true});
  }
}

void Session::end(int status) {
  ended_ = true;
  trace_end(status);
  metrics_.count_request(input_.request->chat ? "chat" : "completions", status);
  metrics_.request_s.Observe(seconds(clock_.now() - input_.arrived));
}

void Session::trace_end(int status) {
  if (!input_.trace) return;
  const Usage used = usage();
  input_.trace->end(status, used.prompt_tokens, used.completion_tokens, clock_.now());
  input_.trace.reset();
}

Usage Session::usage() const {
  Usage usage;
  for (const auto& prompt : input_.prompts) usage.prompt_tokens += prompt->size();
  for (const Run& run : runs_) usage.completion_tokens += run.choice.generated();
  return usage;
}

}  // namespace fulgur::router
