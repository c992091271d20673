// A transport whose only peer is the process itself: what is sent on its link comes back to the
// same Handler. It joins an attention shard and an expert worker that share one reactor (the
// single-process mode and deterministic tests), through the same encoded messages as the mesh.
#pragma once

#include <deque>
#include <memory>

#include "common/transport/transport.hpp"

namespace fulgur::transport {

/// Not thread-safe except doorbell().ring(). connect() accepts only kLoopbackEndpoint.
class LoopbackTransport final : public Transport {
 public:
  static constexpr const char* kEndpoint = "loopback://";

  explicit LoopbackTransport(Identity identity, std::size_t queue_max = 1024);
  ~LoopbackTransport() override;

  std::string endpoint() const override { return kEndpoint; }
  Result<LinkId> connect(const std::string& endpoint, Carrier carrier) override;
  Status send(LinkId link, wire::Frames frames) override;
  void close(LinkId link) override;
  std::size_t poll(Handler& handler, std::size_t max_events) override;
  Doorbell& doorbell() override;
  Stats stats() const override { return stats_; }

 private:
  class LocalDoorbell;

  Identity identity_;
  std::size_t queue_max_;
  bool announce_ = false;
  bool open_ = false;
  std::deque<wire::Frames> queue_;
  std::unique_ptr<LocalDoorbell> doorbell_;
  Stats stats_;
};

}  // namespace fulgur::transport
