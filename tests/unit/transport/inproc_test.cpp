// What only the in-process hub has: faults on demand, order without threads, threads on demand.
#include "common/transport/inproc.hpp"

#include <gtest/gtest.h>

#include <thread>

#include "tests/unit/transport/node.hpp"

namespace fulgur::transport {
namespace {

std::unique_ptr<Node> node_of(Hub& hub, const std::string& name, const std::string& endpoint) {
  return std::make_unique<Node>(hub.make({wire::ServiceKind::expert, name, 1}, endpoint).value());
}

TEST(Hub, NothingIsDeliveredUntilTheReceiverIsPolled) {
  Hub hub;
  const auto b = node_of(hub, "b", "inproc://b");
  const auto a = node_of(hub, "a", "");
  const LinkId link = a->transport().connect("inproc://b", Carrier::automatic).value();
  ASSERT_EQ(a->transport().poll(*a, 16), 1U);
  ASSERT_TRUE(a->transport().send(link, {frame_of("1")}).is_ok());
  ASSERT_TRUE(a->transport().send(link, {frame_of("2")}).is_ok());
  EXPECT_TRUE(b->ups.empty());
  EXPECT_EQ(b->transport().poll(*b, 2), 2U);
  EXPECT_EQ(b->messages.size(), 1U);
  EXPECT_EQ(b->transport().poll(*b, 2), 1U);
  EXPECT_EQ(text_of(b->messages[1].second[0]), "2");
}

TEST(Hub, FramesAreNotCopied) {
  Hub hub;
  const auto b = node_of(hub, "b", "inproc://b");
  const auto a = node_of(hub, "a", "");
  const LinkId link = a->transport().connect("inproc://b", Carrier::automatic).value();
  const wire::Frame frame = random_frame(1, 4096);
  ASSERT_TRUE(a->transport().send(link, {frame}).is_ok());
  ASSERT_TRUE(pump({b.get()}, [&] { return b->messages.size() == 1; }));
  EXPECT_EQ(b->messages[0].second[0].data, frame.data);
}

TEST(Hub, CutLinksStayDownUntilHealed) {
  Hub hub;
  const auto b = node_of(hub, "b", "inproc://b");
  const auto a = node_of(hub, "a", "");
  const LinkId link = a->transport().connect("inproc://b", Carrier::automatic).value();
  ASSERT_TRUE(pump({a.get(), b.get()}, [&] { return a->up.contains(link) && !b->up.empty(); }));
  hub.cut("b", "a");
  ASSERT_TRUE(
      pump({a.get(), b.get()}, [&] { return a->downs.size() == 1 && b->downs.size() == 1; }));
  EXPECT_EQ(a->transport().poll(*a, 16), 0U);
  EXPECT_EQ(a->transport().send(link, {frame_of("x")}).code(), Code::unavailable);
  hub.heal("a", "b");
  ASSERT_TRUE(pump({a.get(), b.get()}, [&] { return a->up.contains(link) && !b->up.empty(); }));
}

TEST(Hub, AnEndpointBelongsToOne) {
  Hub hub;
  const auto b = node_of(hub, "b", "inproc://b");
  EXPECT_EQ(hub.make({wire::ServiceKind::expert, "c", 1}, "inproc://b").status().code(),
            Code::failed_precondition);
  EXPECT_EQ(hub.make({wire::ServiceKind::expert, "c", 1}, "tcp://b").status().code(),
            Code::invalid_argument);
  const auto a = node_of(hub, "a", "");
  ASSERT_TRUE(a->transport().connect("inproc://b", Carrier::inproc).is_ok());
  EXPECT_TRUE(pump({a.get(), b.get()}, [&] { return a->up.size() == 1; }));
}

TEST(Hub, ReactorThreadsWakeEachOther) {
  constexpr std::size_t kMessages = 2000;
  Hub hub;
  const auto b = node_of(hub, "b", "inproc://b");
  b->echo = true;
  std::atomic<bool> stop{false};
  std::thread reactor([&] {
    while (!stop.load()) {
      if (b->transport().poll(*b, 16) == 0) b->transport().doorbell().wait(kSecond);
    }
  });
  const auto a = node_of(hub, "a", "");
  const LinkId link = a->transport().connect("inproc://b", Carrier::automatic).value();
  std::size_t sent = 0;
  while (a->messages.size() < kMessages) {
    while (sent < kMessages && a->up.contains(link) && sent < a->messages.size() + 100) {
      ASSERT_TRUE(a->transport().send(link, {frame_of(std::to_string(sent++))}).is_ok());
    }
    if (a->transport().poll(*a, 16) == 0) a->transport().doorbell().wait(kSecond);
  }
  stop = true;
  b->transport().doorbell().ring();
  reactor.join();
  EXPECT_EQ(text_of(a->messages[kMessages - 1].second[0]), std::to_string(kMessages - 1));
}

}  // namespace
}  // namespace fulgur::transport
