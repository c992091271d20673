// What every transport must do, run over in-process, ZeroMQ on ipc and tcp, and shared memory.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "common/transport/inproc.hpp"
#include "common/transport/make_transport.hpp"
#include "tests/unit/transport/node.hpp"

namespace fulgur::transport {
namespace {

enum class Kind { inproc, zmq_ipc, zmq_tcp, shm };

/// Makes transports of one kind that can reach each other.
class Mesh {
 public:
  explicit Mesh(Kind kind, LinkLimits limits = {}) : kind_(kind), limits_(limits), hub_(limits) {}

  ~Mesh() {
    for (const std::string& path : paths_) std::filesystem::remove(path);
  }

  std::string fresh_endpoint() {
    const std::string unique = std::to_string(getpid()) + "-" + std::to_string(next_++);
    paths_.push_back("/tmp/fulgur-test-" + unique);
    switch (kind_) {
      case Kind::inproc: return "inproc://" + unique;
      case Kind::zmq_ipc: return "ipc://" + paths_.back();
      case Kind::zmq_tcp: return "tcp://127.0.0.1:*";
      case Kind::shm: return "ipc://" + paths_.back();
    }
    return {};
  }

  std::unique_ptr<Node> node(const std::string& name, std::uint64_t incarnation,
                             const std::string& endpoint) {
    const Identity identity{wire::ServiceKind::expert, name, incarnation};
    if (kind_ == Kind::inproc) {
      auto made = hub_.make(identity, endpoint);
      EXPECT_TRUE(made.is_ok()) << made.status().to_string();
      return std::make_unique<Node>(std::move(made).value());
    }
    TransportOptions options;
    if (!endpoint.empty()) options.listen = {endpoint};
    options.limits = limits_;
    options.allowed = carrier();
    options.ring_bytes = 1U << 20;  // smaller than the largest message
    auto made = make_transport(identity, options);
    EXPECT_TRUE(made.is_ok()) << made.status().to_string();
    return std::make_unique<Node>(std::move(made).value());
  }

  Carrier carrier() const {
    if (kind_ == Kind::inproc) return Carrier::inproc;
    return kind_ == Kind::shm ? Carrier::shm : Carrier::zmq;
  }

 private:
  Kind kind_;
  LinkLimits limits_;
  Hub hub_;
  int next_ = 0;
  std::vector<std::string> paths_;  // of ipc endpoints: libzmq leaves the file
};

class Conformance : public testing::TestWithParam<Kind> {};

/// Connects a to b and waits until both ends are up; returns the ids at a and at b.
std::pair<LinkId, LinkId> join(Node& a, Node& b) {
  const auto link = a.transport().connect(b.transport().endpoint(), Carrier::automatic);
  EXPECT_TRUE(link.is_ok()) << link.status().to_string();
  const std::size_t before = b.ups.size();
  EXPECT_TRUE(pump({&a, &b}, [&] { return a.up.contains(*link) && b.ups.size() > before; }));
  return {*link, b.ups.empty() ? 0 : b.ups.back().first};
}

TEST_P(Conformance, BothEndsLearnWhoTheOtherIs) {
  Mesh mesh(GetParam());
  const auto a = mesh.node("a", 11, "");
  const auto b = mesh.node("b", 22, mesh.fresh_endpoint());
  const auto [at_a, at_b] = join(*a, *b);
  EXPECT_EQ(a->up[at_a].name, "b");
  EXPECT_EQ(a->up[at_a].incarnation, 22U);
  EXPECT_EQ(a->up[at_a].carrier, mesh.carrier());
  EXPECT_EQ(b->up[at_b].name, "a");
  EXPECT_EQ(b->up[at_b].incarnation, 11U);
  EXPECT_EQ(b->up[at_b].carrier, mesh.carrier());
}

TEST_P(Conformance, MessagesOfEverySizeArriveInOrderBothWays) {
  Mesh mesh(GetParam());
  const auto a = mesh.node("a", 1, "");
  const auto b = mesh.node("b", 1, mesh.fresh_endpoint());
  const auto [at_a, at_b] = join(*a, *b);
  const std::vector<std::size_t> sizes = {1,    7,    8,      33,     100,     1023,      1024,
                                          4095, 4096, 12'288, 65'536, 196'608, 1'572'864, 8U << 20};
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    const wire::Frames frames = {random_frame(i, 16), random_frame(100 + i, sizes[i])};
    ASSERT_TRUE(a->transport().send(at_a, frames).is_ok());
    ASSERT_TRUE(b->transport().send(at_b, frames).is_ok());
  }
  ASSERT_TRUE(pump({a.get(), b.get()}, [&] {
    return a->messages.size() == sizes.size() && b->messages.size() == sizes.size();
  }));
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    const wire::Frames wanted = {random_frame(i, 16), random_frame(100 + i, sizes[i])};
    EXPECT_TRUE(a->messages[i].second == wanted) << sizes[i];
    EXPECT_TRUE(b->messages[i].second == wanted) << sizes[i];
    EXPECT_EQ(b->messages[i].first, at_b);
  }
}

TEST_P(Conformance, ConnectingBeforeThePeerExists) {
  Mesh mesh(GetParam());
  std::string endpoint = mesh.fresh_endpoint();
  if (GetParam() == Kind::zmq_tcp)
    endpoint = mesh.node("probe", 1, endpoint)->transport().endpoint();
  const auto a = mesh.node("a", 1, "");
  const auto link = a->transport().connect(endpoint, Carrier::automatic);
  ASSERT_TRUE(link.is_ok());
  EXPECT_EQ(a->transport().send(*link, {frame_of("x")}).code(), Code::unavailable);
  const auto b = mesh.node("b", 1, endpoint);
  EXPECT_TRUE(pump({a.get(), b.get()}, [&] { return a->up.contains(*link) && !b->up.empty(); }));
}

TEST_P(Conformance, AFullQueueAnswersBusyAndDrains) {
  Mesh mesh(GetParam(), {64, 1U << 20});
  const auto a = mesh.node("a", 1, "");
  const auto b = mesh.node("b", 1, mesh.fresh_endpoint());
  const auto [at_a, at_b] = join(*a, *b);
  const wire::Frame block = random_frame(5, 256U << 10);
  std::size_t sent = 0;
  Status status;
  while (sent < 10'000 && (status = a->transport().send(at_a, {block})).is_ok()) ++sent;
  EXPECT_EQ(status.code(), Code::resource_exhausted);
  EXPECT_GE(a->transport().stats().refused_busy, 1U);
  ASSERT_TRUE(pump({a.get(), b.get()}, [&] { return b->messages.size() == sent; }));
  EXPECT_TRUE(a->transport().send(at_a, {block}).is_ok());
  EXPECT_TRUE(pump({a.get(), b.get()}, [&] { return b->messages.size() == sent + 1; }));
}

TEST_P(Conformance, ARestartedPeerComesUpUnderTheSameLink) {
  Mesh mesh(GetParam());
  const auto a = mesh.node("a", 1, "");
  auto b = mesh.node("b", 1, mesh.fresh_endpoint());
  const std::string endpoint = b->transport().endpoint();
  const auto [at_a, at_b] = join(*a, *b);
  b.reset();
  ASSERT_TRUE(pump({a.get()}, [&] { return a->downs.size() == 1; }));
  EXPECT_EQ(a->downs[0].link, at_a);
  EXPECT_EQ(a->downs[0].why.code(), Code::unavailable);
  EXPECT_EQ(a->transport().send(at_a, {frame_of("x")}).code(), Code::unavailable);

  b = mesh.node("b", 2, endpoint);
  ASSERT_TRUE(pump({a.get(), b.get()}, [&] { return a->up.contains(at_a) && !b->up.empty(); }));
  EXPECT_EQ(a->up[at_a].incarnation, 2U);
  ASSERT_TRUE(a->transport().send(at_a, {frame_of("hello")}).is_ok());
  ASSERT_TRUE(pump({a.get(), b.get()}, [&] { return b->messages.size() == 1; }));
  EXPECT_EQ(text_of(b->messages[0].second[0]), "hello");
}

TEST_P(Conformance, WhatWasSentBeforeClosingArrivesBeforeTheEnd) {
  Mesh mesh(GetParam());
  auto a = mesh.node("a", 1, "");
  const auto b = mesh.node("b", 1, mesh.fresh_endpoint());
  const auto [at_a, at_b] = join(*a, *b);
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(a->transport().send(at_a, {frame_of(std::to_string(i))}).is_ok());
  }
  a.reset();
  ASSERT_TRUE(pump({b.get()}, [&] { return !b->downs.empty(); }));
  ASSERT_EQ(b->messages.size(), 20U);
  EXPECT_EQ(text_of(b->messages[19].second[0]), "19");
  EXPECT_EQ(b->transport().send(at_b, {frame_of("x")}).code(), Code::unavailable);
}

TEST_P(Conformance, ClosingAnAcceptedLinkTellsThePeer) {
  Mesh mesh(GetParam());
  const auto a = mesh.node("a", 1, "");
  const auto b = mesh.node("b", 1, mesh.fresh_endpoint());
  const auto [at_a, at_b] = join(*a, *b);
  b->transport().close(at_b);
  b->up.clear();
  ASSERT_TRUE(pump({a.get(), b.get()}, [&] { return a->downs.size() == 1; }));
  // The end that connected keeps trying.
  ASSERT_TRUE(pump({a.get(), b.get()}, [&] { return a->up.contains(at_a) && b->ups.size() == 2; }));
  EXPECT_NE(b->ups[1].first, at_b);
  EXPECT_TRUE(b->downs.empty());
}

TEST_P(Conformance, BadMessagesAndEndpointsAreRefused) {
  Mesh mesh(GetParam());
  const auto a = mesh.node("a", 1, "");
  const auto b = mesh.node("b", 1, mesh.fresh_endpoint());
  const auto [at_a, at_b] = join(*a, *b);
  EXPECT_EQ(a->transport().send(at_a, {}).code(), Code::invalid_argument);
  EXPECT_EQ(a->transport().send(at_a, wire::Frames(65, frame_of("x"))).code(),
            Code::invalid_argument);
  EXPECT_EQ(a->transport().send(12345, {frame_of("x")}).code(), Code::unavailable);
  const auto bad = a->transport().connect("nonsense", Carrier::automatic);
  EXPECT_EQ(bad.status().code(), Code::invalid_argument);
  EXPECT_NE(bad.status().message().find("nonsense"), std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(Transports, Conformance,
                         testing::Values(Kind::inproc, Kind::zmq_ipc, Kind::zmq_tcp, Kind::shm),
                         [](const auto& info) {
                           switch (info.param) {
                             case Kind::inproc: return "inproc";
                             case Kind::zmq_ipc: return "zmq_ipc";
                             case Kind::zmq_tcp: return "zmq_tcp";
                             case Kind::shm: return "shm";
                           }
                           return "";
                         });

}  // namespace
}  // namespace fulgur::transport
