// fulgur-bench-transport: the transport benchmark as a program.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>

#include "bench/transport/bench_transport.hpp"
#include "common/base/memory.hpp"

int main(int argc, char** argv) {
  fulgur::tune_allocator();
  fulgur::bench::BenchTransportOptions options;
  bool json = false;
  CLI::App app("Round trips and throughput of the transports, beside raw sockets, ZeroMQ and gRPC");
  app.add_option("--rounds", options.rounds, "rounds of all contestants; medians are reported");
  app.add_option("--round-trips", options.round_trips, "per contestant, size and round");
  app.add_option("--sizes", options.sizes, "payload bytes, multiples of 12288");
  app.add_option("--only", options.only, "contestants to run");
  app.add_option("--client-core", options.client_core, "core of the measuring process");
  app.add_option("--server-core", options.server_core, "core of the echoing processes");
  app.add_flag("--json", json, "machine-readable output");
  CLI11_PARSE(app, argc, argv);

  try {
    const auto rows = fulgur::bench::bench_transport(options);
    if (!rows) {
      std::fprintf(stderr, "fulgur-bench-transport: %s\n", rows.status().message().c_str());
      return 2;
    }
    const std::string text = json ? to_json(*rows) + "\n" : to_table(*rows);
    std::fputs(text.c_str(), stdout);
  } catch (const std::exception& failure) {
    std::fprintf(stderr, "fulgur-bench-transport: %s\n", failure.what());
    return 1;
  }
  return 0;
}
