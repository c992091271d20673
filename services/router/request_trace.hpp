// The spans a router makes of a sampled request: one for the request itself, one for tokenising,
// and one for each time a choice is given to a shard, which becomes the parent of what happens
// there. RequestTracing decides which requests are sampled. A request that is not has no
// RequestTrace.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/telemetry/tracing.hpp"
#include "services/router/generation_request.hpp"

namespace fulgur::router {

/// One thread at a time.
class RequestTrace {
 public:
  /// `parent` names the trace; its span is 0 where the trace begins here.
  RequestTrace(telemetry::Tracer& tracer, const TraceContext& parent, std::string_view route,
               Nanoseconds start);

  void set_request(const GenerationRequest& request, const std::string& model);
  /// A piece of work that is over.
  void add_span(std::string name, Nanoseconds start, Nanoseconds end);
  /// Choice `index` goes to a shard. Ends what ran it before.
  TraceContext submit(std::size_t index, std::uint32_t submission, std::size_t tokens,
                      Nanoseconds now);
  void first_token(std::size_t index, Nanoseconds now);
  /// The shard that ran it does so no longer, for this reason; the choice goes on.
  void interrupted(std::size_t index, std::string_view what, const std::string& why,
                   Nanoseconds now);
  void choice_done(std::size_t index, std::string_view finish_reason, std::size_t generated,
                   Nanoseconds now);
  /// The request is answered. Whatever is open ends with it.
  void end(int status, std::size_t prompt_tokens, std::size_t generated, Nanoseconds now);

 private:
  std::optional<telemetry::Span>& running(std::size_t index);
  void close(std::size_t index, Nanoseconds now);

  telemetry::Tracer& tracer_;
  telemetry::Span root_;
  std::vector<std::optional<telemetry::Span>> running_;  ///< by choice index
  std::vector<std::string> finish_reasons_;
  bool first_token_seen_ = false;
};

/// Thread-safe.
class RequestTracing {
 public:
  /// `ratio` of the requests that say nothing about it are sampled. A null tracer: none at all.
  RequestTracing(telemetry::Tracer* tracer, double ratio) : tracer_(tracer), ratio_(ratio) {}

  bool on() const { return tracer_ != nullptr; }
  /// Null when the request is not sampled. A valid `traceparent` decides by its flag; what is
  /// malformed counts as absent.
  std::unique_ptr<RequestTrace> begin(std::string_view traceparent, std::string_view route,
                                      Nanoseconds now) const;

 private:
  telemetry::Tracer* tracer_;
  double ratio_;
};

/// Whether a trace that begins here is sampled: decided by its id alone, so that it could be
/// decided anywhere, and whoever is sampled at a ratio is at every larger one.
bool sampled_at(double ratio, const TraceContext& trace);

}  // namespace fulgur::router
