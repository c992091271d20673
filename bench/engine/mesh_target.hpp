// A client of a running mesh's attention shard: what the router is to it, without HTTP.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "bench/engine/workload.hpp"
#include "common/actor/reactor.hpp"
#include "common/transport/transport.hpp"

namespace fulgur::bench {

/// Where an attention shard listens.
struct ShardAddress {
  std::string endpoint;
  std::string admin;  ///< "host:port" of its /metrics; empty: unknown
};

/// The first shard of the mesh that `fulgur up` serves on port `mesh`, or `mesh` itself, an endpoint.
Result<ShardAddress> find_shard(const std::string& mesh);

class MeshTarget {
 public:
  /// Connects to a shard; unavailable when it does not answer within ten seconds.
  static Result<std::unique_ptr<MeshTarget>> connect(const ShardAddress& shard, const Clock& clock);

  Target target();
  /// What the shard has counted, once it is idle; nothing when its metrics are out of reach, or when it
  /// serves others too.
  std::optional<WeightReads> weight_reads() const;

 private:
  class Client;
  struct Progress {
    std::size_t tokens = 0;
    bool done = false;
    wire::Done end;
  };

  MeshTarget(const Clock& clock, std::string admin) : clock_(clock), admin_(std::move(admin)) {}

  const Clock& clock_;
  const std::string admin_;
  std::unique_ptr<transport::Transport> transport_;
  std::unique_ptr<actor::Reactor> reactor_;
  transport::LinkId link_ = 0;
  bool up_ = false;
  std::map<std::uint64_t, Progress> requests_;
  std::uint64_t next_ = 1;
};

}  // namespace fulgur::bench
