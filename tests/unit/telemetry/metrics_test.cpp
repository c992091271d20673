// Naming rules, exposition text, aliases and mirrored counters of common/telemetry.
#include "common/telemetry/metrics.hpp"

#include <gtest/gtest.h>

namespace fulgur::telemetry {
namespace {

bool has(const std::string& text, const std::string& line) {
  return text.find(line + "\n") != std::string::npos;
}

TEST(MetricNames, EnforcesPrefixUnitsAndTotal) {
  using enum MetricKind;
  EXPECT_TRUE(check_metric_name(counter, "fulgur_tokens_total").is_ok());
  EXPECT_TRUE(check_metric_name(gauge, "fulgur_queue_depth").is_ok());
  EXPECT_TRUE(check_metric_name(histogram, "fulgur_step_seconds").is_ok());
  EXPECT_FALSE(check_metric_name(counter, "fulgur_tokens").is_ok());
  EXPECT_FALSE(check_metric_name(gauge, "fulgur_tokens_total").is_ok());
  EXPECT_FALSE(check_metric_name(gauge, "tokens").is_ok());
  EXPECT_FALSE(check_metric_name(gauge, "fulgur_Queue").is_ok());
  EXPECT_EQ(check_metric_name(histogram, "fulgur_step_ms").message(),
            "metric fulgur_step_ms: _ms is not a base unit");
  EXPECT_FALSE(check_metric_name(counter, "fulgur_busy_us_total").is_ok());
}

TEST(Metrics, BadNameIsAnAssertion) {
  Metrics metrics("router", "router-0");
  EXPECT_THROW(metrics.counter("fulgur_requests", "Requests"), AssertionError);
}

TEST(Metrics, ExposesBuildInfoAndValues) {
  Metrics metrics("router", "router-0");
  Counter& tokens =
      metrics.counter("fulgur_tokens_total", "Tokens generated", {{"kind", "decode"}});
  tokens.Increment(3);
  EXPECT_EQ(&metrics.counter("fulgur_tokens_total", "Tokens generated", {{"kind", "decode"}}),
            &tokens);
  metrics.histogram("fulgur_step_seconds", "Step time", {0.1, 1.0}).Observe(0.5);
  const std::string text = metrics.text();
  EXPECT_TRUE(has(text, "# TYPE fulgur_tokens_total counter"));
  EXPECT_TRUE(has(text, "fulgur_tokens_total{kind=\"decode\"} 3"));
  EXPECT_TRUE(has(text, "fulgur_step_seconds_bucket{le=\"1\"} 1"));
  EXPECT_NE(text.find("fulgur_build_info{"), std::string::npos);
  EXPECT_NE(text.find("service=\"router\""), std::string::npos);
}

TEST(Metrics, AliasRepeatsAFamilyUnderAForeignName) {
  Metrics metrics("attention", "attention-0");
  metrics.gauge("fulgur_sequences_running", "Sequences running").Set(4);
  metrics.add_alias("vllm:num_requests_running", "fulgur_sequences_running",
                    {{"model_name", "tiny"}});
  const std::string text = metrics.text();
  EXPECT_TRUE(has(text, "fulgur_sequences_running 4"));
  EXPECT_TRUE(has(text, "vllm:num_requests_running{model_name=\"tiny\"} 4"));
}

TEST(MirroredCounter, FollowsATotalAndNeverFalls) {
  Metrics metrics("expert", "expert-0");
  MirroredCounter mirror(metrics.counter("fulgur_messages_total", "Messages"));
  mirror.set(5);
  mirror.set(3);
  mirror.set(7);
  EXPECT_TRUE(has(metrics.text(), "fulgur_messages_total 7"));
  MirroredCounter busy(metrics.counter("fulgur_busy_seconds_total", "Busy"),
                       MirroredCounter::kPerNanosecond);
  busy.set(1'500'000'000);
  EXPECT_TRUE(has(metrics.text(), "fulgur_busy_seconds_total 1.5"));
}

TEST(MirroredHistogram, CopiesWhatATallyHasCountedSince) {
  Metrics metrics("attention", "attention-0");
  Tally tally({0.1, 1.0});
  MirroredHistogram mirror(metrics.histogram("fulgur_wait_seconds", "Wait", tally.bounds()));
  tally.add(0.1);
  tally.add(0.5);
  mirror.set(tally);
  tally.add(4);
  mirror.set(tally);
  mirror.set(tally);
  const std::string text = metrics.text();
  EXPECT_TRUE(has(text, "fulgur_wait_seconds_bucket{le=\"0.1\"} 1"));
  EXPECT_TRUE(has(text, "fulgur_wait_seconds_bucket{le=\"1\"} 2"));
  EXPECT_TRUE(has(text, "fulgur_wait_seconds_bucket{le=\"+Inf\"} 3"));
  EXPECT_TRUE(has(text, "fulgur_wait_seconds_sum 4.6"));
}

}  // namespace
}  // namespace fulgur::telemetry
