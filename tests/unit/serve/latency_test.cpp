#include "bench/serve/latency.hpp"

#include <gtest/gtest.h>

#include <numeric>

#include "bench/serve/report.hpp"

namespace fulgur::bench::serve {
namespace {

TEST(Latency, NearestRankOfAHundred) {
  std::vector<Nanoseconds> samples(100);
  std::iota(samples.rbegin(), samples.rend(), 1);  // 100 … 1: unsorted on purpose
  const Latency latency = summarize(samples);
  EXPECT_EQ(latency.samples, 100U);
  EXPECT_EQ(latency.p50, 50);
  EXPECT_EQ(latency.p90, 90);
  EXPECT_EQ(latency.p99, 99);
  EXPECT_EQ(latency.max, 100);
}

TEST(Latency, FewSamplesNeverInterpolate) {
  const Latency three = summarize(std::vector<Nanoseconds>{30, 10, 20});
  EXPECT_EQ(three.p50, 20);
  EXPECT_EQ(three.p90, 30);
  EXPECT_EQ(three.p99, 30);
  const Latency one = summarize(std::vector<Nanoseconds>{7});
  EXPECT_EQ(one.p50, 7);
  EXPECT_EQ(one.p99, 7);
}

TEST(Latency, NothingIsZero) { EXPECT_EQ(summarize(std::vector<Nanoseconds>{}).max, 0); }

Outcome success(Nanoseconds scheduled, Nanoseconds sent) {
  Outcome outcome;
  outcome.scheduled = scheduled;
  outcome.sent = sent;
  outcome.first_token = sent + 10;
  outcome.last_token = sent + 30;
  outcome.finished = sent + 31;
  outcome.output_tokens = 3;
  outcome.gaps = {5, 15};
  return outcome;
}

TEST(Summary, CountsFromTheScheduledArrival) {
  LoadResult result;
  result.elapsed = kSecond;
  result.outcomes = {success(100, 100), success(200, 1200)};  // the second waited for a connection
  const Summary summary = summarize(result, true);
  EXPECT_EQ(summary.ttft.p50, 10);
  EXPECT_EQ(summary.ttft.max, 1010);
  EXPECT_EQ(summary.end_to_end.max, 1031);
  EXPECT_EQ(summary.send_lag.max, 1000);
  EXPECT_EQ(summary.inter_token.samples, 4U);
  EXPECT_EQ(summary.per_output_token.max, 10);
  EXPECT_DOUBLE_EQ(summary.output_tokens_per_s, 6.0);
  EXPECT_TRUE(summary.errors.empty());
}

TEST(Summary, ErrorsAreCountedByKindAndKeptOutOfLatency) {
  LoadResult result;
  result.elapsed = kSecond;
  result.outcomes = {success(0, 0), success(0, 0), success(0, 0)};
  result.outcomes[1].error = "http_429";
  result.outcomes[1].detail = "busy";
  result.outcomes[2].error = "not_sent";
  result.outcomes[2].sent = -1;
  const Summary summary = summarize(result, false);
  EXPECT_EQ(summary.succeeded, 1U);
  EXPECT_EQ(summary.errors.at("http_429"), 1U);
  EXPECT_EQ(summary.errors.at("not_sent"), 1U);
  EXPECT_EQ(summary.error_example.at("http_429"), "busy");
  EXPECT_EQ(summary.end_to_end.samples, 1U);
  EXPECT_EQ(summary.send_lag.samples, 2U);
}

}  // namespace
}  // namespace fulgur::bench::serve
