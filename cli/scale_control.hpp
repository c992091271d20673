// How `fulgur scale` reaches the supervising process: POST /v1/scale on a port of this host that
// mesh.json names. Requests arrive on the server's thread and are answered by the thread that owns
// the processes, when it calls serve().
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "common/http/server.hpp"

namespace fulgur::cli {

struct ScaleRequest {
  std::string kind;  ///< "expert" or "attention"
  std::uint32_t count = 0;
};

/// {"kind": "expert", "count": 3}; invalid_argument saying what is wrong with it.
Result<ScaleRequest> parse_scale_request(const std::string& body);

class ScaleControl {
 public:
  static Result<std::unique_ptr<ScaleControl>> start();
  ~ScaleControl();

  std::string endpoint() const { return server_->endpoint(); }

  /// Starts what a request asks for and returns the names of what was started.
  using Scale = std::function<Result<std::vector<std::string>>(const ScaleRequest& request)>;
  /// Answers what came since the last call. Does not wait.
  void serve(const Scale& scale);

 private:
  struct Waiting {
    ScaleRequest request;
    http::Responder responder;
  };
  ScaleControl() = default;
  void receive(const http::Request& request, http::Responder responder);

  std::mutex mutex_;
  std::vector<Waiting> waiting_;
  std::unique_ptr<http::Server> server_;
};

}  // namespace fulgur::cli
