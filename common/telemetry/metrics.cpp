#include "common/telemetry/metrics.hpp"

#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <array>

namespace fulgur::telemetry {
namespace {

#ifndef FULGUR_VERSION
#define FULGUR_VERSION "unknown"
#endif

// Prometheus wants base units: a dashboard must never guess a scale.
constexpr std::array<std::string_view, 14> kScaledUnits = {
    "_ms",  "_us", "_ns",  "_milliseconds", "_microseconds", "_nanoseconds", "_minutes",
    "_kib", "_kb", "_mib", "_mb",           "_gib",          "_gb",          "_percent"};

std::string_view without_total(std::string_view name) {
  return name.ends_with("_total") ? name.substr(0, name.size() - 6) : name;
}

bool is_name_character(char c) {
  return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
}

void require_name(MetricKind kind, std::string_view name) {
  const Status status = check_metric_name(kind, name);
  FULGUR_ASSERT(status.is_ok(), status.message());
}

}  // namespace

Histogram::BucketBoundaries first_token_buckets_s() {
  return {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1,  0.25, 0.5,   0.75,
          1.0,   2.5,   5.0,  7.5,  10.0, 20.0, 40.0, 80.0, 160., 640.0, 2560.0};
}

Histogram::BucketBoundaries inter_token_buckets_s() {
  return {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1,  0.15, 0.2, 0.3,
          0.4,    0.5,   0.75,   1.0,   2.5,  5.0,   7.5,  10.0,  20.0, 40.0, 80.0};
}

Histogram::BucketBoundaries request_buckets_s() {
  return {0.3,  0.5,  0.8,  1.0,  1.5,  2.0,   2.5,   5.0,   10.0,  15.0,  20.0,
          30.0, 40.0, 50.0, 60.0, 120., 240.0, 480.0, 960.0, 1920., 7680.0};
}

Histogram::BucketBoundaries row_buckets() {
  return {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192};
}

void MirroredHistogram::set(const Tally& tally) {
  const std::vector<std::uint64_t>& counts = tally.counts();
  if (seen_ == counts) return;
  seen_.resize(counts.size());
  std::vector<double> fresh(counts.size());
  for (std::size_t i = 0; i < counts.size(); ++i)
    fresh[i] = static_cast<double>(counts[i] - seen_[i]);
  histogram_.ObserveMultiple(fresh, tally.sum() - seen_sum_);
  seen_ = counts;
  seen_sum_ = tally.sum();
}

Status check_metric_name(MetricKind kind, std::string_view name) {
  constexpr auto kBad = Code::invalid_argument;
  if (!name.starts_with("fulgur_")) return error(kBad, "metric {} lacks the fulgur_ prefix", name);
  if (!std::all_of(name.begin(), name.end(), is_name_character))
    return error(kBad, "metric {} may hold a-z, 0-9 and _ only", name);
  const bool total = name.ends_with("_total");
  if (total != (kind == MetricKind::counter))
    return error(kBad, "metric {}: _total ends counters and nothing else", name);
  const std::string_view stem = without_total(name);
  for (const std::string_view unit : kScaledUnits)
    if (stem.ends_with(unit)) return error(kBad, "metric {}: {} is not a base unit", name, unit);
  return Status::ok();
}

Metrics::Metrics(std::string_view service, std::string_view name) {
  gauge(
      "fulgur_build_info", "Version of the running program; the value is always 1",
      {{"version", FULGUR_VERSION}, {"service", std::string(service)}, {"name", std::string(name)}})
      .Set(1);
}

Counter& Metrics::counter(const std::string& name, const std::string& help, const Labels& labels) {
  require_name(MetricKind::counter, name);
  return prometheus::BuildCounter().Name(name).Help(help).Register(registry_).Add(labels);
}

Gauge& Metrics::gauge(const std::string& name, const std::string& help, const Labels& labels) {
  require_name(MetricKind::gauge, name);
  return prometheus::BuildGauge().Name(name).Help(help).Register(registry_).Add(labels);
}

Histogram& Metrics::histogram(const std::string& name, const std::string& help,
                              const Histogram::BucketBoundaries& buckets, const Labels& labels) {
  require_name(MetricKind::histogram, name);
  return prometheus::BuildHistogram().Name(name).Help(help).Register(registry_).Add(labels,
                                                                                    buckets);
}

void Metrics::add_alias(const std::string& alias, const std::string& source, const Labels& labels) {
  const std::lock_guard lock(aliases_mutex_);
  aliases_.push_back({alias, source, labels});
}

std::string Metrics::text() const {
  std::vector<prometheus::MetricFamily> families = registry_.Collect();
  const std::size_t own = families.size();
  const std::lock_guard lock(aliases_mutex_);
  for (const Alias& alias : aliases_) {
    for (std::size_t i = 0; i < own; ++i) {
      if (families[i].name != alias.source) continue;
      prometheus::MetricFamily copy = families[i];
      copy.name = alias.name;
      for (auto& metric : copy.metric)
        for (const auto& [key, value] : alias.labels) metric.label.push_back({key, value});
      families.push_back(std::move(copy));
    }
  }
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace fulgur::telemetry
