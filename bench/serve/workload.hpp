// Which requests a run sends and when: a function of the seed alone, so that two servers get the
// same load. Lengths are uniform in a range; prompts are random token ids.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/clock.hpp"
#include "common/base/status.hpp"

namespace fulgur::bench::serve {

/// An inclusive range of lengths, in tokens.
struct Lengths {
  std::uint32_t least = 1;
  std::uint32_t most = 1;
};

/// "128" or "16:512"; `flag` is named in the error.
Result<Lengths> parse_lengths(std::string_view flag, std::string_view text);

struct Workload {
  std::string model;
  std::uint64_t seed = 1;
  std::uint32_t vocab = 0;  ///< prompts are ids below it
  Lengths prompt{128, 128};
  Lengths output{32, 32};
  double temperature = 0;
};

struct PlannedRequest {
  std::uint32_t prompt_tokens = 0;
  std::uint32_t output_tokens = 0;
  std::string body;  ///< of POST /v1/completions
};

/// Request `index` of the workload; the others do not matter to it.
PlannedRequest plan_request(const Workload& workload, std::uint64_t index);

/// Arrivals of a Poisson process of `rate` requests a second, ascending, from the run's start.
std::vector<Nanoseconds> poisson_arrivals(std::uint64_t seed, double rate, std::uint32_t count);

}  // namespace fulgur::bench::serve
