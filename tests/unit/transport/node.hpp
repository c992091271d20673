// A transport with a handler that records everything, and waiting for a condition without sleeping.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/base/clock.hpp"
#include "common/base/rng.hpp"
#include "common/transport/transport.hpp"

namespace fulgur::transport {

class Node final : public Handler {
 public:
  struct Down {
    LinkId link;
    Status why;
  };

  explicit Node(std::unique_ptr<Transport> transport) : transport_(std::move(transport)) {}

  Transport& transport() { return *transport_; }
  void destroy() { transport_.reset(); }
  bool alive() const { return transport_ != nullptr; }

  void on_link_up(LinkId link, const Peer& peer) override {
    EXPECT_FALSE(up.contains(link)) << "up twice";
    up[link] = peer;
    ups.emplace_back(link, peer);
  }
  void on_link_down(LinkId link, const Status& why) override {
    EXPECT_EQ(up.erase(link), 1U) << "down without up";
    downs.push_back({link, why});
  }
  void on_message(LinkId link, wire::Frames frames) override {
    EXPECT_TRUE(up.contains(link)) << "message on a link that is down";
    if (echo) {
      EXPECT_TRUE(transport_->send(link, std::move(frames)).is_ok());
    } else {
      messages.emplace_back(link, std::move(frames));
    }
  }

  std::map<LinkId, Peer> up;
  std::vector<std::pair<LinkId, Peer>> ups;
  std::vector<Down> downs;
  std::vector<std::pair<LinkId, wire::Frames>> messages;
  bool echo = false;

 private:
  std::unique_ptr<Transport> transport_;
};

/// Polls the nodes in turn until `done` holds; false after 20 s.
template <class Done>
bool pump(std::initializer_list<Node*> nodes, Done done) {
  const RealClock clock;
  const Nanoseconds end = clock.now() + 20 * kSecond;
  while (!done()) {
    std::size_t delivered = 0;
    for (Node* node : nodes) {
      if (node->alive()) delivered += node->transport().poll(*node, 16);
    }
    if (done()) return true;
    if (clock.now() > end) return false;
    if (delivered == 0) (*nodes.begin())->transport().doorbell().wait(kMillisecond);
  }
  return true;
}

inline wire::Frame frame_of(const std::string& text) {
  const auto owner = std::make_shared<const std::string>(text);
  return {owner, reinterpret_cast<const std::byte*>(owner->data()), owner->size()};
}

inline std::string text_of(const wire::Frame& frame) {
  return {reinterpret_cast<const char*>(frame.data), frame.size};
}

/// `bytes` pseudo-random bytes in one frame.
inline wire::Frame random_frame(std::uint64_t seed, std::size_t bytes) {
  const std::size_t words = bytes / 8 + 1;
  const auto owner = std::shared_ptr<std::uint64_t[]>(new std::uint64_t[words]);
  for (std::size_t i = 0; i < words; ++i) owner[i] = random_bits(seed, i);
  return {owner, reinterpret_cast<const std::byte*>(owner.get()), bytes};
}

}  // namespace fulgur::transport
