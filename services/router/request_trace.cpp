#include "services/router/request_trace.hpp"

#include <utility>

#include "common/telemetry/traceparent.hpp"

namespace fulgur::router {

bool sampled_at(double ratio, const TraceContext& trace) {
  return static_cast<double>(trace.low >> 11) * 0x1.0p-53 < ratio;
}

std::unique_ptr<RequestTrace> RequestTracing::begin(std::string_view traceparent,
                                                    std::string_view route, Nanoseconds now) const {
  if (tracer_ == nullptr) return nullptr;
  TraceContext parent;
  if (const auto given = telemetry::parse_traceparent(traceparent)) {
    if (!given->sampled) return nullptr;
    parent = given->context;
  } else {
    parent.low = tracer_->new_id();
    if (!sampled_at(ratio_, parent)) return nullptr;
    parent.high = tracer_->new_id();
  }
  return std::make_unique<RequestTrace>(*tracer_, parent, route, now);
}

RequestTrace::RequestTrace(telemetry::Tracer& tracer, const TraceContext& parent,
                           std::string_view route, Nanoseconds start)
    : tracer_(tracer),
      root_(tracer.open("POST " + std::string(route), telemetry::SpanKind::server, parent, start)) {
  root_.set("http.request.method", std::string("POST"));
  root_.set("http.route", std::string(route));
}

void RequestTrace::set_request(const GenerationRequest& request, const std::string& model) {
  root_.set("gen_ai.operation.name", std::string(request.chat ? "chat" : "text_completion"));
  root_.set("gen_ai.request.model", model);
  root_.set("fulgur.choices", request.choices());
  root_.set("fulgur.stream", request.stream);
}

void RequestTrace::add_span(std::string name, Nanoseconds start, Nanoseconds end) {
  auto span = tracer_.open(std::move(name), telemetry::SpanKind::internal, root_.context(), start);
  tracer_.close(span, end);
}

std::optional<telemetry::Span>& RequestTrace::running(std::size_t index) {
  if (running_.size() <= index) running_.resize(index + 1);
  return running_[index];
}

void RequestTrace::close(std::size_t index, Nanoseconds now) {
  auto& span = running(index);
  if (!span) return;
  tracer_.close(*span, now);
  span.reset();
}

TraceContext RequestTrace::submit(std::size_t index, std::uint32_t submission, std::size_t tokens,
                                  Nanoseconds now) {
  close(index, now);
  auto& span = running(index);
  span = tracer_.open("router.submit", telemetry::SpanKind::client, root_.context(), now);
  span->set("fulgur.choice", index);
  span->set("fulgur.submission", submission);
  span->set("fulgur.tokens", tokens);
  return span->context();
}

void RequestTrace::first_token(std::size_t index, Nanoseconds now) {
  if (auto& span = running(index)) span->events.push_back({"first token", now});
  if (!std::exchange(first_token_seen_, true)) root_.events.push_back({"first token", now});
}

void RequestTrace::interrupted(std::size_t index, std::string_view what, const std::string& why,
                               Nanoseconds now) {
  root_.events.push_back({what, now, {{"fulgur.why", why}}});
  if (auto& span = running(index); span && what != "moved") span->fail(why);
  close(index, now);
}

void RequestTrace::choice_done(std::size_t index, std::string_view finish_reason,
                               std::size_t generated, Nanoseconds now) {
  finish_reasons_.emplace_back(finish_reason);
  if (auto& span = running(index)) {
    span->set("fulgur.finish_reason", std::string(finish_reason));
    span->set("fulgur.generated_tokens", generated);
  }
  close(index, now);
}

void RequestTrace::end(int status, std::size_t prompt_tokens, std::size_t generated,
                       Nanoseconds now) {
  for (std::size_t index = 0; index < running_.size(); ++index) {
    if (running_[index]) running_[index]->fail("the request ended");
    close(index, now);
  }
  root_.set("http.response.status_code", status);
  root_.set("gen_ai.usage.input_tokens", prompt_tokens);
  root_.set("gen_ai.usage.output_tokens", generated);
  if (!finish_reasons_.empty()) root_.set("gen_ai.response.finish_reasons", finish_reasons_);
  // OpenTelemetry: to a server, a client's error is an answer like another.
  if (status >= 500) root_.fail("status " + std::to_string(status));
  tracer_.close(root_, now);
}

}  // namespace fulgur::router
