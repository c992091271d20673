// Open-loop load on a mesh: requests arrive by a seeded Poisson process whether or not earlier ones
// have ended, and every answer is compared with the one of the undisturbed mesh.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "common/base/clock.hpp"
#include "tests/integration/api.hpp"

namespace fulgur::chaos {

/// The pause in one stream during which a fault hit.
struct Pause {
  std::string fault;
  Nanoseconds length = 0;
};

struct LoadReport {
  std::size_t asked = 0;
  std::size_t equal = 0;              ///< ended with every token and log-probability as expected
  std::size_t tried_again = 0;        ///< requests whose connection broke and that the client repeated
  std::vector<std::string> failures;  ///< what the others said, or where they differ
  std::uint64_t tokens = 0;
  std::vector<Pause> pauses;

  /// Quantile `q` of the pauses during which faults of this name hit; 0 without any.
  Nanoseconds pause_quantile(const std::string& fault, double q) const;
};

class OpenLoop {
 public:
  struct Options {
    double rate_per_s = 8;
    std::size_t in_flight_max = 48;  ///< arrivals beyond that wait their turn
    std::uint64_t seed = 1;
    int retries_max = 0;  ///< of a request whose connection broke or that got a 503, as clients do
  };
  /// `expected[i]` answers `requests[i]`.
  OpenLoop(std::string url, std::vector<nlohmann::json> requests,
           std::vector<integration::Answer> expected, Options options);
  ~OpenLoop();

  /// A fault happens now: pauses of streams that span this moment are put to its account.
  void fault(const std::string& name);
  /// Lets what runs end; no more arrivals.
  LoadReport finish();

 private:
  void arrive();
  void serve();
  void ask(std::size_t index);
  integration::Answer ask_once(const nlohmann::json& request);
  void note_pause(Nanoseconds from, Nanoseconds to);

  const std::string url_;
  const std::vector<nlohmann::json> requests_;
  const std::vector<integration::Answer> expected_;
  const Options options_;
  const RealClock clock_;
  std::mutex mutex_;
  std::vector<std::pair<Nanoseconds, std::string>> faults_;
  LoadReport report_;
  std::deque<std::size_t> arrived_;  ///< indices of requests nobody has taken up yet
  std::condition_variable changed_;
  bool ending_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace fulgur::chaos
