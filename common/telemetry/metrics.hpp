// The metrics of one process: a thin registry over prometheus-cpp that checks the naming rules
// (docs: `fulgur_` prefix, base units, `_total` on counters and on nothing else) when a metric is
// made, and prints the text exposition. Keep the returned references: finding a metric by labels is
// dear, updating one costs nanoseconds. Thread-safe; references live as long as the Metrics.
#pragma once

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/status.hpp"
#include "common/telemetry/tally.hpp"

namespace fulgur::telemetry {

using prometheus::Counter;
using prometheus::Gauge;
using prometheus::Histogram;
using prometheus::Labels;

/// Upper bounds in seconds, the edges of vLLM's histograms of the same things, so that the two can be
/// aggregated: time to the first token, time between tokens (with four finer edges below vLLM's
/// first), and of whole requests and their queueing.
Histogram::BucketBoundaries first_token_buckets_s();
Histogram::BucketBoundaries inter_token_buckets_s();
Histogram::BucketBoundaries request_buckets_s();
/// Upper bounds of rows and tokens of a batch: powers of two from 1 to 8,192.
Histogram::BucketBoundaries row_buckets();

enum class MetricKind { counter, gauge, histogram };

/// ok, or which naming rule `name` breaks for a metric of this kind.
Status check_metric_name(MetricKind kind, std::string_view name);

class Metrics {
 public:
  /// `service` ("router", …) and `name` ("router-0") become labels of fulgur_build_info.
  Metrics(std::string_view service, std::string_view name);

  /// The same name and labels give the same metric. A name that breaks the rules is an assertion.
  Counter& counter(const std::string& name, const std::string& help, const Labels& labels = {});
  Gauge& gauge(const std::string& name, const std::string& help, const Labels& labels = {});
  Histogram& histogram(const std::string& name, const std::string& help,
                       const Histogram::BucketBoundaries& buckets, const Labels& labels = {});

  /// Exports the family `source` a second time as `alias`, under a name that other software reads
  /// (e.g. "vllm:num_requests_running"), with `labels` added to each series.
  void add_alias(const std::string& alias, const std::string& source, const Labels& labels = {});

  /// Text exposition format 0.0.4 of everything.
  std::string text() const;

 private:
  struct Alias {
    std::string name;
    std::string source;
    Labels labels;
  };

  prometheus::Registry registry_;
  mutable std::mutex aliases_mutex_;
  std::vector<Alias> aliases_;
};

/// A counter whose total is kept elsewhere (transport statistics, reactor): set() moves the
/// exported counter up to it. `unit` is what one counted step is worth in the base unit:
/// kPerNanosecond for a total of nanoseconds behind a _seconds_total. One owner thread.
class MirroredCounter {
 public:
  static constexpr double kPerNanosecond = 1e-9;
  static constexpr double kPerMicrosecond = 1e-6;

  explicit MirroredCounter(Counter& counter, double unit = 1) : counter_(counter), unit_(unit) {}
  void set(std::uint64_t total) {
    if (total <= seen_) return;
    counter_.Increment(static_cast<double>(total - seen_) * unit_);
    seen_ = total;
  }

 private:
  Counter& counter_;
  double unit_;
  std::uint64_t seen_ = 0;
};

/// The same for a histogram whose counts are kept in a Tally with its bounds. One owner thread.
class MirroredHistogram {
 public:
  explicit MirroredHistogram(Histogram& histogram) : histogram_(histogram) {}
  void set(const Tally& tally);

 private:
  Histogram& histogram_;
  std::vector<std::uint64_t> seen_;
  double seen_sum_ = 0;
};

}  // namespace fulgur::telemetry
