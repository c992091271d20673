// The Tracer of a service process: a bounded queue of finished spans and one thread that posts them
// in batches to an OpenTelemetry collector (OTLP/HTTP, JSON). Recording never waits: what does not
// fit is dropped and counted. While the collector is away, the oldest batch is kept and tried again
// with growing pauses; that is one line in the log, and one more when it is back.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "common/base/status.hpp"
#include "common/http/client.hpp"
#include "common/telemetry/metrics.hpp"
#include "common/telemetry/otlp.hpp"
#include "common/telemetry/span_queue.hpp"

namespace fulgur::telemetry {

struct OtlpOptions {
  std::string endpoint;  ///< "http://host:4318"; "/v1/traces" is added
  Resource resource;
  std::size_t queue_max = 8192;             ///< spans; rounded up to a power of two
  std::size_t batch_max = 512;              ///< spans of one request
  Nanoseconds period = 500 * kMillisecond;  ///< from a span's end to its export, at most
  Nanoseconds request_timeout = 5 * kSecond;
  Nanoseconds retry_min = 1 * kSecond;   ///< pause after a failure, doubling …
  Nanoseconds retry_max = 30 * kSecond;  ///< … up to this
  Nanoseconds flush_max = 2 * kSecond;   ///< what the destructor may take
};

class OtlpTracer final : public Tracer {
 public:
  /// Null when `options.endpoint` is empty; invalid_argument for one that is no http address.
  /// `clock` and `metrics` outlive the tracer.
  static Result<std::unique_ptr<OtlpTracer>> start(OtlpOptions options, const Clock& clock,
                                                   Metrics& metrics);
  /// Exports what is left, for at most `flush_max`.
  ~OtlpTracer() override;

  void record(Span span) override;

 private:
  OtlpTracer(OtlpOptions options, http::BaseUrl url, const Clock& clock, Metrics& metrics);
  void run();
  bool wait();
  void export_pending();
  void fill_batch();
  bool send_batch();
  void on_sent(const http::Answer& answer);
  void on_failed(const std::string& why, bool final);
  void drop_batch();
  http::Patience patience(Nanoseconds since) const;

  const OtlpOptions options_;
  const http::BaseUrl url_;
  const Clock& clock_;
  const UnixTime time_;
  Counter& exported_;
  Counter& failures_;
  Counter& dropped_full_;
  Counter& dropped_refused_;
  SpanQueue queue_;

  // Exporter thread.
  std::vector<Span> batch_;  ///< in hand, not yet delivered
  bool failing_ = false;
  Nanoseconds pause_ = 0;
  Nanoseconds next_try_ = 0;

  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<Nanoseconds> stop_by_{0};  ///< 0: go on
  std::thread thread_;
};

}  // namespace fulgur::telemetry
