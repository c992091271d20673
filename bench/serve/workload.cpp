#include "bench/serve/workload.hpp"

#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>

#include "common/base/rng.hpp"

namespace fulgur::bench::serve {
namespace {

constexpr std::uint32_t kLengthMax = 1U << 20;
constexpr std::uint64_t kArrivalStream = 0xa441;  // apart from the requests' own streams

bool parse_length(std::string_view text, std::uint32_t& length) {
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), length);
  return failure == std::errc() && end == text.data() + text.size() && length >= 1 &&
         length <= kLengthMax;
}

std::uint32_t draw(Rng& rng, const Lengths& lengths) {
  return lengths.least +
         static_cast<std::uint32_t>(rng.below(std::uint64_t{lengths.most} - lengths.least + 1));
}

}  // namespace

Result<Lengths> parse_lengths(std::string_view flag, std::string_view text) {
  const std::size_t colon = text.find(':');
  Lengths lengths;
  const std::string_view most =
      colon == std::string_view::npos ? text : text.substr(colon + 1);
  if (!parse_length(text.substr(0, colon), lengths.least) || !parse_length(most, lengths.most) ||
      lengths.least > lengths.most)
    return error(Code::invalid_argument,
                 "{} {}: expected a number of tokens or lo:hi, each in 1 to {}", flag, text,
                 kLengthMax);
  return lengths;
}

PlannedRequest plan_request(const Workload& workload, std::uint64_t index) {
  FULGUR_ASSERT(workload.vocab > 0, "a workload needs a vocabulary");
  Rng rng(random_bits(workload.seed, index));
  PlannedRequest request;
  request.prompt_tokens = draw(rng, workload.prompt);
  request.output_tokens = draw(rng, workload.output);
  std::vector<std::uint32_t> prompt(request.prompt_tokens);
  for (auto& id : prompt) id = static_cast<std::uint32_t>(rng.below(workload.vocab));
  const nlohmann::json body = {{"model", workload.model},
                               {"prompt", std::move(prompt)},
                               {"max_tokens", request.output_tokens},
                               {"temperature", workload.temperature},
                               {"seed", rng.next() >> 2},
                               {"ignore_eos", true},
                               {"stream", true},
                               {"stream_options", {{"include_usage", true}}},
                               {"return_token_ids", true}};
  request.body = body.dump();
  return request;
}

std::vector<Nanoseconds> poisson_arrivals(std::uint64_t seed, double rate, std::uint32_t count) {
  FULGUR_ASSERT(rate > 0, "a Poisson process needs a rate");
  Rng rng(random_bits(seed, kArrivalStream));
  std::vector<Nanoseconds> arrivals;
  arrivals.reserve(count);
  double at_s = 0;
  for (std::uint32_t i = 0; i < count; ++i) {
    at_s -= std::log1p(-rng.uniform()) / rate;
    arrivals.push_back(static_cast<Nanoseconds>(at_s * static_cast<double>(kSecond)));
  }
  return arrivals;
}

}  // namespace fulgur::bench::serve
