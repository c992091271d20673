#include "bench/serve/workload.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

namespace fulgur::bench::serve {
namespace {

TEST(Workload, LengthsAreANumberOrARange) {
  EXPECT_EQ(parse_lengths("--prompt", "128")->most, 128U);
  EXPECT_EQ(parse_lengths("--prompt", "16:512")->least, 16U);
  EXPECT_EQ(parse_lengths("--prompt", "16:512")->most, 512U);
  for (const char* bad : {"", "0", "9:3", "1:", ":4", "x", "1:2:3", "-1", "99999999"}) {
    const auto parsed = parse_lengths("--prompt", bad);
    ASSERT_FALSE(parsed.is_ok()) << bad;
    EXPECT_NE(parsed.status().message().find("--prompt"), std::string::npos);
  }
}

TEST(Workload, ARequestDependsOnSeedAndIndexAlone) {
  Workload workload;
  workload.vocab = 50;
  workload.prompt = {2, 9};
  workload.output = {3, 5};
  for (std::uint64_t index = 0; index < 200; ++index) {
    const PlannedRequest request = plan_request(workload, index);
    EXPECT_EQ(request.body, plan_request(workload, index).body);
    const auto body = nlohmann::json::parse(request.body);
    EXPECT_EQ(body["prompt"].size(), request.prompt_tokens);
    EXPECT_EQ(body["max_tokens"], request.output_tokens);
    EXPECT_TRUE(request.prompt_tokens >= 2 && request.prompt_tokens <= 9);
    EXPECT_TRUE(request.output_tokens >= 3 && request.output_tokens <= 5);
    for (const auto& id : body["prompt"]) EXPECT_LT(id.get<std::uint32_t>(), 50U);
  }
  EXPECT_NE(plan_request(workload, 0).body, plan_request(workload, 1).body);
}

TEST(Workload, ArrivalsArePoisson) {
  const auto arrivals = poisson_arrivals(7, 100, 20'000);
  EXPECT_EQ(arrivals, poisson_arrivals(7, 100, 20'000));
  EXPECT_TRUE(std::is_sorted(arrivals.begin(), arrivals.end()));
  // Mean gap 10 ms, and e^-1 of the gaps are longer than the mean. The seed is fixed; the bounds
  // are five standard errors.
  EXPECT_NEAR(static_cast<double>(arrivals.back()) / kSecond, 200.0, 200 * 5 / 141.4);
  std::size_t longer = 0;
  for (std::size_t i = 1; i < arrivals.size(); ++i)
    if (arrivals[i] - arrivals[i - 1] > 10 * kMillisecond) ++longer;
  EXPECT_NEAR(static_cast<double>(longer) / 20'000, 0.3679, 0.017);
}

}  // namespace
}  // namespace fulgur::bench::serve
