#include "common/telemetry/otlp_tracer.hpp"

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <random>

#include "common/base/log.hpp"
#include "common/base/rng.hpp"

namespace fulgur::telemetry {
namespace {

constexpr std::string_view kPath = "/v1/traces";

/// Statuses after which OTLP wants the same request again, later.
bool worth_retrying(int status) {
  return status == 429 || status == 502 || status == 503 || status == 504;
}

/// How many spans a collector that took the request did not take.
std::size_t rejected_spans(const std::string& body) {
  const auto json = nlohmann::json::parse(body, nullptr, false);
  const auto at = nlohmann::json::json_pointer("/partialSuccess/rejectedSpans");
  if (!json.is_object() || !json.contains(at)) return 0;
  const nlohmann::json& value = json[at];
  if (value.is_number_unsigned()) return value.get<std::size_t>();
  if (!value.is_string()) return 0;
  return std::strtoull(value.get_ref<const std::string&>().c_str(), nullptr, 10);
}

}  // namespace

Result<std::unique_ptr<OtlpTracer>> OtlpTracer::start(OtlpOptions options, const Clock& clock,
                                                      Metrics& metrics) {
  if (options.endpoint.empty()) return std::unique_ptr<OtlpTracer>();
  FULGUR_ASSIGN_OR_RETURN(auto url, http::parse_base_url(options.endpoint));
  return std::unique_ptr<OtlpTracer>(
      new OtlpTracer(std::move(options), std::move(url), clock, metrics));
}

OtlpTracer::OtlpTracer(OtlpOptions options, http::BaseUrl url, const Clock& clock, Metrics& metrics)
    : Tracer(mix64(static_cast<std::uint64_t>(clock.wall_now())) ^
             (std::uint64_t{std::random_device{}()} << 32 | std::random_device{}())),
      options_(std::move(options)),
      url_(std::move(url)),
      clock_(clock),
      time_(clock),
      exported_(
          metrics.counter("fulgur_trace_spans_exported_total", "Spans the collector has taken")),
      failures_(metrics.counter("fulgur_trace_export_failures_total",
                                "Requests to the collector that failed")),
      dropped_full_(metrics.counter("fulgur_trace_spans_dropped_total", "Spans that were lost",
                                    {{"reason", "queue_full"}})),
      dropped_refused_(metrics.counter("fulgur_trace_spans_dropped_total", "Spans that were lost",
                                       {{"reason", "not_taken"}})),
      queue_(options_.queue_max),
      thread_([this] { run(); }) {}

OtlpTracer::~OtlpTracer() {
  {
    const std::lock_guard lock(mutex_);
    stop_by_ = clock_.now() + options_.flush_max;
  }
  wake_.notify_one();
  thread_.join();
}

void OtlpTracer::record(Span span) {
  if (!queue_.push(std::move(span))) return dropped_full_.Increment();
  // Without the lock a wake-up can be missed: then the period ends the wait.
  if (queue_.size() == options_.batch_max) wake_.notify_one();
}

http::Patience OtlpTracer::patience(Nanoseconds since) const {
  const Nanoseconds now = clock_.now();
  const Nanoseconds stop_by = stop_by_.load();
  if (stop_by != 0 && now >= stop_by) return http::Patience::abandon;
  return now - since >= options_.request_timeout ? http::Patience::give_up : http::Patience::wait;
}

/// False when this was the last wait.
bool OtlpTracer::wait() {
  std::unique_lock lock(mutex_);
  wake_.wait_for(lock, std::chrono::nanoseconds(options_.period), [this] {
    return stop_by_ != 0 || (!failing_ && queue_.size() >= options_.batch_max);
  });
  return stop_by_ == 0;
}

void OtlpTracer::run() {
  while (wait()) {
    if (!failing_ || clock_.now() >= next_try_) export_pending();
  }
  export_pending();
  drop_batch();
  for (Span span; queue_.pop(span);) dropped_refused_.Increment();
}

void OtlpTracer::export_pending() {
  for (fill_batch(); !batch_.empty(); fill_batch()) {
    if (patience(clock_.now()) != http::Patience::wait || !send_batch()) return;
  }
}

void OtlpTracer::fill_batch() {
  if (!batch_.empty()) return;  // one that failed goes first
  for (Span span; batch_.size() < options_.batch_max && queue_.pop(span);)
    batch_.push_back(std::move(span));
}

/// False when there is no sense in going on now.
bool OtlpTracer::send_batch() {
  const Nanoseconds started = clock_.now();
  const auto answer = http::post_json(url_, kPath, otlp_json(options_.resource, batch_, time_),
                                      [this, started] { return patience(started); });
  if (!answer.is_ok()) {
    on_failed(answer.status().message(), false);
    return false;
  }
  if (answer->status >= 200 && answer->status < 300) {
    on_sent(*answer);
    return true;
  }
  on_failed(fmt::format("status {}", answer->status), !worth_retrying(answer->status));
  return false;
}

void OtlpTracer::on_sent(const http::Answer& answer) {
  const std::size_t rejected = std::min(rejected_spans(answer.body), batch_.size());
  dropped_refused_.Increment(static_cast<double>(rejected));
  exported_.Increment(static_cast<double>(batch_.size() - rejected));
  batch_.clear();
  pause_ = 0;
  if (std::exchange(failing_, false))
    log::info("spans are exported again endpoint={} dropped={}", options_.endpoint,
              dropped_full_.Value() + dropped_refused_.Value());
}

void OtlpTracer::on_failed(const std::string& why, bool final) {
  failures_.Increment();
  if (!std::exchange(failing_, true))
    log::warn("spans are not exported endpoint={} why=\"{}\"", options_.endpoint, why);
  pause_ = std::clamp(2 * pause_, options_.retry_min, options_.retry_max);
  next_try_ = clock_.now() + pause_;
  if (final) drop_batch();
}

void OtlpTracer::drop_batch() {
  dropped_refused_.Increment(static_cast<double>(batch_.size()));
  batch_.clear();
}

}  // namespace fulgur::telemetry
