// Sends a workload to an OpenAI-compatible server over many connections of one thread (libcurl's
// multi interface). Open loop: a request's clock starts at its scheduled arrival, also while it
// waits for a connection, so a slow server cannot hide latency by delaying the client.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bench/serve/workload.hpp"
#include "common/base/clock.hpp"

namespace fulgur::bench::serve {

struct LoadOptions {
  std::string url;                     ///< "http://host:port"
  std::vector<Nanoseconds> arrivals;   ///< open loop, one a request; empty: closed loop
  std::uint32_t requests = 0;
  std::uint32_t connections_max = 1;   ///< also the closed loop's concurrency
  std::uint64_t first_index = 0;       ///< of the workload
  Nanoseconds request_timeout = 300 * kSecond;  ///< from the scheduled arrival
  Nanoseconds deadline = 600 * kSecond;         ///< of the run; then what is left is cancelled
};

/// How one request went. Times are from the run's start; `sent` is -1 when it never left.
struct Outcome {
  std::string error;   ///< its kind ("http_429", "timeout", …); empty when it succeeded
  std::string detail;  ///< the first words about the error
  Nanoseconds scheduled = 0;
  Nanoseconds sent = -1;
  Nanoseconds first_token = 0;
  Nanoseconds last_token = 0;
  Nanoseconds finished = 0;
  std::uint64_t prompt_tokens = 0;
  std::uint64_t output_tokens = 0;
  std::vector<Nanoseconds> gaps;  ///< between events that carried tokens
};

struct LoadResult {
  std::vector<Outcome> outcomes;  ///< one a request, in order
  Nanoseconds elapsed = 0;
  std::uint32_t in_flight_max = 0;
};

/// Runs to the last answer or the deadline. Failed requests are outcomes.
LoadResult run_load(const Clock& clock, const LoadOptions& options, const Workload& workload);

}  // namespace fulgur::bench::serve
