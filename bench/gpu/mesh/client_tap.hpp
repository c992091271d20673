// The shard's transport with a client on it: what the shard sends on kClient comes back as a call,
// everything else goes on. It counts what is under way with each peer.
#pragma once

#include <functional>
#include <map>
#include <memory>

#include "common/transport/transport.hpp"

namespace fulgur::bench {

class ClientTap final : public transport::Transport, private transport::Handler {
 public:
  static constexpr transport::LinkId kClient = ~transport::LinkId{0};
  struct PeerState {
    transport::Peer peer;
    std::uint64_t sent = 0;
    std::uint64_t received = 0;
  };

  ClientTap(transport::Transport& inner, std::function<void(wire::Frames)> to_client)
      : inner_(inner), to_client_(std::move(to_client)) {}

  std::string endpoint() const override { return inner_.endpoint(); }
  Result<transport::LinkId> connect(const std::string& to, transport::Carrier carrier) override {
    return inner_.connect(to, carrier);
  }
  Status send(transport::LinkId link, wire::Frames frames) override {
    if (link == kClient) {
      to_client_(std::move(frames));
      return Status::ok();
    }
    ++peers_[link].sent;
    return inner_.send(link, std::move(frames));
  }
  void close(transport::LinkId link) override { inner_.close(link); }
  std::size_t poll(transport::Handler& handler, std::size_t max_events) override {
    handler_ = &handler;
    return inner_.poll(*this, max_events);
  }
  transport::Doorbell& doorbell() override { return inner_.doorbell(); }
  transport::Stats stats() const override { return inner_.stats(); }

  const std::map<transport::LinkId, PeerState>& peers() const { return peers_; }

 private:
  void on_link_up(transport::LinkId link, const transport::Peer& peer) override {
    peers_[link] = {peer, 0, 0};
    handler_->on_link_up(link, peer);
  }
  void on_link_down(transport::LinkId link, const Status& why) override {
    handler_->on_link_down(link, why);
  }
  void on_message(transport::LinkId link, wire::Frames frames) override {
    ++peers_[link].received;
    handler_->on_message(link, std::move(frames));
  }

  transport::Transport& inner_;
  std::function<void(wire::Frames)> to_client_;
  transport::Handler* handler_ = nullptr;
  std::map<transport::LinkId, PeerState> peers_;
};

}  // namespace fulgur::bench
