// Round trips and one-way throughput of every transport beside raw sockets, bare ZeroMQ and gRPC:
// two processes, pinned to two cores, all contestants in one run and in turn.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "common/base/status.hpp"

namespace fulgur::bench {

struct BenchTransportOptions {
  std::vector<std::size_t> sizes = {12'288, 196'608, 1'572'864};  ///< bytes, multiples of 12,288
  std::size_t rounds = 5;             ///< of all contestants in turn; medians are reported
  std::size_t round_trips = 300;      ///< per contestant, size and round
  std::size_t one_way_bytes = 32U << 20;
  int client_core = 0;
  int server_core = 1;
  std::vector<std::string> only;      ///< contestants to run; empty: all
};

struct BenchTransportRow {
  std::string name;
  std::size_t bytes = 0;
  double p50_us = 0;
  double p99_us = 0;
  double gb_per_s = 0;
  std::string missing;  ///< why there are no figures
};

/// Forks the servers, so call it before any thread is started.
Result<std::vector<BenchTransportRow>> bench_transport(const BenchTransportOptions& options);

/// A table with, beside each figure, its ratio to the contestant it is to be judged by.
std::string to_table(const std::vector<BenchTransportRow>& rows);
std::string to_json(const std::vector<BenchTransportRow>& rows);

}  // namespace fulgur::bench
