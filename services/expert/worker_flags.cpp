#include "services/expert/worker_flags.hpp"

#include <unistd.h>

#include <array>

namespace fulgur::expert {
namespace {

std::string host_name() {
  std::array<char, 256> name{};
  return gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "";
}

}  // namespace

void add_worker_flags(CLI::App& app, WorkerFlags& flags) {
  flags.failure_domain = host_name();
  app.add_option("--capacity-bytes", flags.capacity_bytes,
                 "expert weights this worker may hold; 0: no limit");
  app.add_option("--load-bytes-per-second", flags.load_bytes_per_second,
                 "rate of loading replicas that nobody waits for; 0: no limit")
      ->capture_default_str();
  app.add_option("--batch-rows", flags.batch_rows,
                 "routed rows of one run; a GPU's memory for them is taken at start")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--drain-timeout", flags.drain_timeout_s,
                 "seconds SIGTERM waits for replicas to move away")
      ->check(CLI::Range(0.0, 3600.0))
      ->capture_default_str();
  app.add_option("--expert-weights", flags.weights,
                 "how experts are kept; fp8: e4m3, quantised at load, backend cuda only")
      ->check(CLI::IsMember({"bf16", "fp8"}))
      ->capture_default_str();
  app.add_option("--failure-domain", flags.failure_domain,
                 "what fails together with this worker; replicas are spread over domains")
      ->check(CLI::Validator(
          [](std::string& text) { return text.size() <= 256 ? "" : "longer than 256 bytes"; },
          "NAME"))
      ->capture_default_str();
}

void apply(const WorkerFlags& flags, WorkerOptions& options) {
  options.registration.capacity_bytes = flags.capacity_bytes;
  options.registration.failure_domain = flags.failure_domain;
  options.limits.batch_rows_max = flags.batch_rows;
  options.load_bytes_per_second = flags.load_bytes_per_second;
  options.drain_timeout =
      static_cast<Nanoseconds>(flags.drain_timeout_s * static_cast<double>(kSecond));
}

}  // namespace fulgur::expert
