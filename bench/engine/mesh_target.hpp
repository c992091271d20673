// A client of a running mesh's attention shard: what the router is to it, without HTTP.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "bench/engine/workload.hpp"
#include "common/actor/reactor.hpp"
#include "common/transport/transport.hpp"

namespace fulgur::bench {

class MeshTarget {
 public:
  /// Connects to a shard's endpoint; unavailable when it does not answer within ten seconds.
  static Result<std::unique_ptr<MeshTarget>> connect(const std::string& endpoint, const Clock& clock);

  Target target();

 private:
  class Client;
  struct Progress {
    std::size_t tokens = 0;
    bool done = false;
    wire::Done end;
  };

  explicit MeshTarget(const Clock& clock) : clock_(clock) {}

  const Clock& clock_;
  std::unique_ptr<transport::Transport> transport_;
  std::unique_ptr<actor::Reactor> reactor_;
  transport::LinkId link_ = 0;
  bool up_ = false;
  std::map<std::uint64_t, Progress> requests_;
  std::uint64_t next_ = 1;
};

}  // namespace fulgur::bench
