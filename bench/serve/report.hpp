// What a run measured, as figures, as a table and as JSON.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "bench/serve/latency.hpp"
#include "bench/serve/load.hpp"

namespace fulgur::bench::serve {

/// Latencies are of successful requests; times count from the scheduled arrival.
struct Summary {
  Latency ttft;              ///< to the first token
  Latency inter_token;       ///< between consecutive events with tokens
  Latency per_output_token;  ///< a request's mean time a token after the first
  Latency end_to_end;
  Latency send_lag;  ///< scheduled to sent: waiting for a connection, or a late client
  std::uint64_t requests = 0;
  std::uint64_t succeeded = 0;
  std::uint64_t prompt_tokens = 0;  ///< of successful requests
  std::uint64_t output_tokens = 0;
  double elapsed_s = 0;
  double scheduled_rate = 0;  ///< requests a second the arrivals ask for; 0 in a closed loop
  double sent_rate = 0;       ///< requests a second that left; below the scheduled: overloaded
  double requests_per_s = 0;  ///< succeeded, over the whole run
  double output_tokens_per_s = 0;
  std::uint32_t in_flight_max = 0;
  std::map<std::string, std::uint64_t> errors;       ///< by kind
  std::map<std::string, std::string> error_example;  ///< the first of a kind
};

Summary summarize(const LoadResult& result, bool open_loop);
std::string to_table(const Summary& summary);
/// One object; latencies in milliseconds.
std::string to_json(const Summary& summary, const Workload& workload);

}  // namespace fulgur::bench::serve
