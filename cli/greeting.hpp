// What `fulgur up` shows while a mesh becomes ready: who registered, the placement, then one real
// completion streamed from the HTTP API. Runs on its own thread and reads the mesh from outside.
#pragma once

#include <atomic>
#include <string>
#include <thread>

#include "cli/options.hpp"
#include "cli/run_dir.hpp"

namespace fulgur::cli {

class Greeting {
 public:
  /// `dir` outlives the object. `model` is the checkpoint's directory.
  Greeting(const UpOptions& options, std::string model, const RunDir& dir);
  ~Greeting();  ///< stops and joins
  Greeting(const Greeting&) = delete;
  Greeting& operator=(const Greeting&) = delete;

  void start();
  /// The mesh answered /readyz.
  bool ready() const { return ready_.load(); }
  /// Everything is shown.
  bool done() const { return done_.load(); }
  void stop() { stopping_.store(true); }

 private:
  void run();
  bool wait_until_ready();
  void stream_one();
  void say(const std::string& line) const;

  UpOptions options_;
  std::string model_;
  const RunDir& dir_;
  std::atomic<bool> ready_{false};
  std::atomic<bool> done_{false};
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

/// Where the HTTP API of a mesh is reached from this host.
std::string api_url(const std::string& host, std::uint16_t port);

}  // namespace fulgur::cli
