// The router's metrics, found once. Updating them is thread-safe.
#pragma once

#include <string>
#include <string_view>

#include "common/telemetry/metrics.hpp"

namespace fulgur::router {

class RouterMetrics {
 public:
  explicit RouterMetrics(const std::string& name);

  /// Requests by API and HTTP status.
  void count_request(std::string_view api, int status);
  std::string text() const { return metrics_.text(); }
  telemetry::Metrics& registry() { return metrics_; }

 private:
  telemetry::Metrics metrics_;

 public:
  telemetry::Gauge& running;         ///< sequences in the mesh, waiting ones included
  telemetry::Gauge& shards_up;
  telemetry::Counter& prompt_tokens;
  telemetry::Counter& generated_tokens;
  telemetry::Counter& resubmissions;
  telemetry::Counter& moves;
  telemetry::Counter& disconnects;
  telemetry::Histogram& first_token_s;
  telemetry::Histogram& inter_token_s;
  telemetry::Histogram& request_s;
};

}  // namespace fulgur::router
