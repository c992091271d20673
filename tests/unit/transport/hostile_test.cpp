// Peers that are not ours, or are broken: random bytes on the port, strangers that speak ZMTP,
// oversized frames, other protocol versions, corrupt rings. All are counted and dropped, and the
// links of others stay up.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>
#include <zmq.h>

#include <array>
#include <fstream>

#include "common/transport/make_transport.hpp"
#include "common/wire/codec.hpp"
#include "common/wire/limits.hpp"
#include "tests/unit/transport/node.hpp"

namespace fulgur::transport {
namespace {

std::unique_ptr<Node> node_of(const std::string& name, TransportOptions options,
                              std::uint64_t incarnation = 1) {
  options.ring_bytes = 1U << 20;
  auto made = make_transport({wire::ServiceKind::expert, name, incarnation}, options);
  EXPECT_TRUE(made.is_ok()) << made.status().to_string();
  return std::make_unique<Node>(std::move(made).value());
}

std::unique_ptr<Node> listener(Carrier allowed) {
  TransportOptions options;
  options.listen = {"tcp://127.0.0.1:*"};
  options.allowed = allowed;
  return node_of("listener", options);
}

std::unique_ptr<Node> dialer(Carrier allowed, const std::string& name = "dialer") {
  TransportOptions options;
  options.allowed = allowed;
  return node_of(name, options);
}

LinkId join(Node& a, Node& b) {
  const LinkId link = a.transport().connect(b.transport().endpoint(), Carrier::automatic).value();
  const std::size_t before = b.ups.size();
  EXPECT_TRUE(pump({&a, &b}, [&] { return a.up.contains(link) && b.ups.size() > before; }));
  return link;
}

/// A plain TCP connection to a node's endpoint.
class RawTcp {
 public:
  explicit RawTcp(const std::string& endpoint) : fd_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port =
        htons(static_cast<std::uint16_t>(std::stoi(endpoint.substr(endpoint.rfind(':') + 1))));
    inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
    EXPECT_EQ(connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  }
  ~RawTcp() { close(); }
  void close() {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  }
  void say(const std::string& bytes) {
    EXPECT_EQ(::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(bytes.size()));
  }
  /// Whether the other side has closed the connection.
  bool closed() {
    std::array<char, 256> bytes;
    for (;;) {
      const ssize_t got = recv(fd_, bytes.data(), bytes.size(), MSG_DONTWAIT);
      if (got == 0 || (got < 0 && errno == ECONNRESET)) return true;
      if (got < 0) return false;
    }
  }

 private:
  int fd_;
};

/// The start of a ZMTP 3.0 conversation of a DEALER.
std::string zmtp_greeting() {
  std::string bytes =
      std::string("\xff\0\0\0\0\0\0\0\0\x7f\x03\0", 12) + "NULL" + std::string(48, '\0');
  const std::string ready = "\x05READY\x0bSocket-Type" + std::string("\0\0\0\x06", 4) + "DEALER";
  bytes += '\x04';
  bytes += static_cast<char>(ready.size());
  return bytes + ready;
}

TEST(Hostile, RandomBytesOnThePortAreCountedAndHarmless) {
  const auto a = dialer(Carrier::zmq);
  const auto b = listener(Carrier::zmq);
  const LinkId link = join(*a, *b);
  Rng rng(1);
  for (std::uint64_t i = 1; i <= 10; ++i) {
    RawTcp stranger(b->transport().endpoint());
    std::string bytes(1 + rng.below(4000), ' ');
    for (char& c : bytes) c = static_cast<char>(rng.below(256));
    stranger.say(bytes);
    stranger.close();
    ASSERT_TRUE(pump({a.get(), b.get()}, [&] { return b->transport().stats().malformed >= i; }));
  }
  ASSERT_TRUE(a->transport().send(link, {frame_of("still here")}).is_ok());
  EXPECT_TRUE(pump({a.get(), b.get()}, [&] { return b->messages.size() == 1; }));
  EXPECT_TRUE(a->downs.empty() && b->downs.empty());
}

TEST(Hostile, AnOversizedFrameEndsItsConnectionOnly) {
  const auto a = dialer(Carrier::zmq);
  const auto b = listener(Carrier::zmq);
  const LinkId link = join(*a, *b);
  RawTcp stranger(b->transport().endpoint());
  stranger.say(zmtp_greeting());
  stranger.say(std::string("\x02\x00\x00\x01\x00\x00\x00\x00\x00", 9));  // a frame of 1 TiB
  ASSERT_TRUE(pump({a.get(), b.get()}, [&] { return stranger.closed(); }));
  EXPECT_TRUE(pump({a.get(), b.get()}, [&] { return b->transport().stats().malformed >= 1; }));
  ASSERT_TRUE(a->transport().send(link, {frame_of("x")}).is_ok());
  EXPECT_TRUE(pump({a.get(), b.get()}, [&] { return b->messages.size() == 1; }));
}

/// A DEALER that says what it is told.
class Stranger {
 public:
  explicit Stranger(const std::string& endpoint)
      : context_(zmq_ctx_new()), socket_(zmq_socket(context_, ZMQ_DEALER)) {
    EXPECT_EQ(zmq_connect(socket_, endpoint.c_str()), 0);
  }
  ~Stranger() {
    const int none = 0;
    zmq_setsockopt(socket_, ZMQ_LINGER, &none, sizeof(none));
    zmq_close(socket_);
    zmq_ctx_term(context_);
  }
  void say(const std::vector<std::string>& parts) {
    for (std::size_t i = 0; i < parts.size(); ++i) {
      const int flags = i + 1 < parts.size() ? ZMQ_SNDMORE : 0;
      EXPECT_NE(zmq_send(socket_, parts[i].data(), parts[i].size(), flags), -1);
    }
  }
  /// All parts of the next message, or nothing.
  std::vector<std::string> hear() {
    std::vector<std::string> parts;
    std::array<char, 32U << 10> bytes;
    int more = 1;
    while (more != 0) {
      const int size =
          zmq_recv(socket_, bytes.data(), bytes.size(), parts.empty() ? ZMQ_DONTWAIT : 0);
      if (size < 0) break;
      parts.emplace_back(bytes.data(), static_cast<std::size_t>(size));
      std::size_t length = sizeof(more);
      zmq_getsockopt(socket_, ZMQ_RCVMORE, &more, &length);
    }
    return parts;
  }

 private:
  void* context_;
  void* socket_;
};

const std::string kHello("\xf6\x01", 2);
const std::string kData("\xf6\x02", 2);
const std::string kBye("\xf6\x03", 2);
const std::string kPackedHead("\xf6\x04\x01\0\0\0\0\0", 8);  // of one frame

std::string size_word(std::uint64_t size) { return {reinterpret_cast<char*>(&size), sizeof(size)}; }

std::vector<std::string> hello_parts(std::uint16_t version, bool reads_packed = false) {
  wire::Hello body;
  body.name = "stranger";
  body.reads_packed = reads_packed;
  wire::Message message;
  message.version = version;
  message.body = body;
  std::vector<std::string> parts = {kHello};
  for (const wire::Frame& frame : wire::encode(message)) parts.push_back(text_of(frame));
  return parts;
}

TEST(Hostile, StrangersThatSpeakZmtpAreDropped) {
  const auto b = listener(Carrier::zmq);
  Stranger stranger(b->transport().endpoint());
  const std::vector<std::vector<std::string>> rubbish = {{"hello"},
                                                         {""},
                                                         {kData, "x"},
                                                         {kBye, "x"},
                                                         {"\xf6"},
                                                         {std::string("\xf6\x09", 2), "x"},
                                                         std::vector<std::string>(70, "many"),
                                                         {kHello},
                                                         {kPackedHead + size_word(1) + "x0000000"},
                                                         {kHello, "not a message"}};
  for (std::size_t i = 0; i < rubbish.size(); ++i) {
    stranger.say(rubbish[i]);
    ASSERT_TRUE(pump({b.get()}, [&] { return b->transport().stats().malformed == i + 1; })) << i;
  }
  EXPECT_TRUE(b->ups.empty());
  // It may still behave.
  stranger.say(hello_parts(wire::kProtocolVersion));
  EXPECT_TRUE(pump({b.get()}, [&] { return b->ups.size() == 1; }));
}

TEST(Hostile, AnotherProtocolVersionIsToldWhy) {
  const auto b = listener(Carrier::zmq);
  Stranger stranger(b->transport().endpoint());
  stranger.say(hello_parts(wire::kProtocolVersion + 1));
  std::vector<std::string> answer;
  ASSERT_TRUE(pump({b.get()}, [&] { return !(answer = stranger.hear()).empty(); }));
  EXPECT_EQ(answer,
            (std::vector<std::string>{kBye, "peer speaks protocol version 2, this process 1"}));
  EXPECT_TRUE(b->ups.empty());
}

TEST(Hostile, ALinkThatTurnsToRubbishIsCounted) {
  const auto b = listener(Carrier::zmq);
  Stranger stranger(b->transport().endpoint());
  stranger.say(hello_parts(wire::kProtocolVersion));
  ASSERT_TRUE(pump({b.get()}, [&] { return b->ups.size() == 1; }));
  stranger.say({"rubbish"});
  stranger.say({kHello, "again"});
  stranger.say({kPackedHead + size_word(9) + "12345678"});
  stranger.say({kPackedHead});
  EXPECT_TRUE(pump({b.get()}, [&] { return b->transport().stats().malformed == 4; }));
  EXPECT_TRUE(b->messages.empty());
}

TEST(Links, PackedDataIsReadFromEverybody) {
  const auto b = listener(Carrier::zmq);
  Stranger stranger(b->transport().endpoint());
  stranger.say(hello_parts(wire::kProtocolVersion));
  ASSERT_TRUE(pump({b.get()}, [&] { return b->ups.size() == 1; }));
  stranger.say({kPackedHead + size_word(3) + std::string("one\0\0\0\0\0", 8), "two"});
  stranger.say({kData, "one", "two"});
  ASSERT_TRUE(pump({b.get()}, [&] { return b->messages.size() == 2; }));
  for (const auto& [link, frames] : b->messages) {
    ASSERT_EQ(frames.size(), 2U);
    EXPECT_EQ(text_of(frames[0]), "one");
    EXPECT_EQ(text_of(frames[1]), "two");
  }
}

TEST(Links, PackedDataIsSentToThoseWhoReadIt) {
  const std::string big(20'000, 'x');
  for (const bool reads_packed : {false, true}) {
    const auto b = listener(Carrier::zmq);
    Stranger stranger(b->transport().endpoint());
    stranger.say(hello_parts(wire::kProtocolVersion, reads_packed));
    ASSERT_TRUE(pump({b.get()}, [&] { return b->ups.size() == 1; }));
    ASSERT_TRUE(b->transport().send(b->ups[0].first, {frame_of("one"), frame_of("two")}).is_ok());
    ASSERT_TRUE(b->transport().send(b->ups[0].first, {frame_of(big)}).is_ok());
    std::vector<std::vector<std::string>> heard;
    ASSERT_TRUE(pump({b.get()}, [&] {
      if (auto parts = stranger.hear(); !parts.empty()) heard.push_back(std::move(parts));
      return heard.size() == 3;
    }));
    EXPECT_EQ(heard[0][0], kHello);
    if (reads_packed) {
      const std::string head("\xf6\x04\x02\0\0\0\0\0", 8);
      EXPECT_EQ(heard[1], std::vector<std::string>{head + size_word(3) + size_word(3) +
                                                   std::string("one\0\0\0\0\0two\0\0\0\0\0", 16)});
      EXPECT_EQ(heard[2].size(), 2U);
    } else {
      EXPECT_EQ(heard[1], (std::vector<std::string>{kData, "one", "two"}));
      EXPECT_EQ(heard[2][0], kData);
    }
    EXPECT_EQ(heard[2][1].size(), big.size());
  }
}

TEST(Links, AnOlderIncarnationIsRefusedWhileANewerIsConnected) {
  TransportOptions options;
  options.allowed = Carrier::zmq;
  const auto b = listener(Carrier::zmq);
  const auto newer = node_of("worker", options, 7);
  join(*newer, *b);
  const auto older = node_of("worker", options, 6);
  ASSERT_TRUE(older->transport().connect(b->transport().endpoint(), Carrier::zmq).is_ok());
  const auto newest = node_of("worker", options, 8);
  ASSERT_TRUE(newest->transport().connect(b->transport().endpoint(), Carrier::zmq).is_ok());
  ASSERT_TRUE(pump({b.get(), older.get(), newest.get()}, [&] { return !newest->up.empty(); }));
  ASSERT_TRUE(pump({b.get(), newer.get()}, [&] { return b->downs.size() == 1; }));
  EXPECT_TRUE(older->ups.empty());
  EXPECT_EQ(b->up.size(), 1U);
  EXPECT_EQ(b->up.begin()->second.incarnation, 8U);
}

// What a second process of a taken name displaces may well be alive: it must not believe in its link for ever.
TEST(Links, ADisplacedProcessHearsOfItAndIsBackOnceTheNewerOneIsGone) {
  for (const Carrier carrier : {Carrier::zmq, Carrier::automatic}) {
    TransportOptions options;
    options.allowed = carrier;
    const auto b = listener(carrier);
    const auto older = node_of("worker", options, 6);
    join(*older, *b);
    const auto newer = node_of("worker", options, 7);
    ASSERT_TRUE(newer->transport().connect(b->transport().endpoint(), carrier).is_ok());
    ASSERT_TRUE(pump({b.get(), older.get(), newer.get()}, [&] { return older->downs.size() == 1; }));
    EXPECT_EQ(older->downs[0].why.message(), "refused with \"worker was started again\"");
    ASSERT_TRUE(pump({b.get(), older.get(), newer.get()}, [&] { return !newer->up.empty(); }));
    EXPECT_EQ(b->up.begin()->second.incarnation, 7U);
    newer->destroy();
    ASSERT_TRUE(pump({b.get(), older.get()}, [&] { return b->ups.size() == 3; }));
    EXPECT_EQ(b->up.begin()->second.incarnation, 6U);
    ASSERT_TRUE(pump({b.get(), older.get()}, [&] { return older->ups.size() == 2; }));
    EXPECT_EQ(b->transport().stats().malformed, 0U);
  }
}

TEST(Links, CarriersFollowWhatBothEndsAllow) {
  const auto any = dialer(Carrier::automatic);
  const auto zmq = dialer(Carrier::zmq, "zmq");
  const auto to_any = listener(Carrier::automatic);
  const auto to_zmq = listener(Carrier::zmq);
  EXPECT_EQ(any->up[join(*any, *to_any)].carrier, Carrier::shm);
  EXPECT_EQ(any->up[join(*any, *to_zmq)].carrier, Carrier::zmq);
  EXPECT_EQ(zmq->up[join(*zmq, *to_any)].carrier, Carrier::zmq);
  const auto shm = dialer(Carrier::shm, "shm");
  ASSERT_TRUE(shm->transport().connect(to_zmq->transport().endpoint(), Carrier::automatic).is_ok());
  EXPECT_EQ(shm->up[join(*shm, *to_any)].carrier, Carrier::shm);
  EXPECT_EQ(shm->up.size(), 1U) << "a link that must be shared memory came up without";
}

TEST(Links, ListeningOnABadEndpointNamesIt) {
  TransportOptions options;
  for (const std::string bad : {"nonsense", "tcp://127.0.0.1", "udp://127.0.0.1:1"}) {
    options.listen = {bad};
    const auto made = make_transport({wire::ServiceKind::tool, "t", 1}, options);
    ASSERT_FALSE(made.is_ok());
    EXPECT_EQ(made.status().code(), Code::invalid_argument) << bad;
    EXPECT_NE(made.status().message().find(bad), std::string::npos);
  }
}

/// The start of the only shared-memory segment mapped into this process.
std::byte* mapped_segment() {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    if (line.find("/dev/shm/fulgur-") == std::string::npos) continue;
    return reinterpret_cast<std::byte*>(std::stoull(line.substr(0, line.find('-')), nullptr, 16));
  }
  return nullptr;
}

TEST(Hostile, ACorruptRingTakesItsLinkDown) {
  constexpr std::size_t kTailOfRing0 = 64;
  constexpr std::size_t kRing0 = 4096;
  for (const bool break_index : {true, false}) {
    const auto a = dialer(Carrier::shm);
    const auto b = listener(Carrier::shm);
    const LinkId link = join(*a, *b);
    std::byte* segment = mapped_segment();
    ASSERT_NE(segment, nullptr);
    auto& tail = *reinterpret_cast<std::atomic<std::uint64_t>*>(segment + kTailOfRing0);
    if (!break_index) std::fill_n(segment + kRing0, 4096, std::byte{0x5a});
    tail.store(break_index ? ~std::uint64_t{7} : 4096);
    ASSERT_TRUE(pump({a.get(), b.get()}, [&] { return !b->downs.empty() && !a->downs.empty(); }));
    EXPECT_EQ(b->downs[0].why.code(), Code::data_loss);
    EXPECT_EQ(b->transport().stats().malformed, 1U);
    // The end that connected offers a new segment.
    EXPECT_TRUE(
        pump({a.get(), b.get()}, [&] { return a->up.contains(link) && b->ups.size() == 2; }));
  }
}

TEST(Hostile, ASenderNoticesACorruptRing) {
  constexpr std::size_t kHeadOfRing0 = 128;
  const auto a = dialer(Carrier::shm);
  const auto b = listener(Carrier::shm);
  const LinkId link = join(*a, *b);
  std::byte* segment = mapped_segment();
  ASSERT_NE(segment, nullptr);
  reinterpret_cast<std::atomic<std::uint64_t>*>(segment + kHeadOfRing0)->store(1U << 30);
  EXPECT_EQ(a->transport().send(link, {frame_of("12345678")}).code(), Code::data_loss);
  EXPECT_EQ(a->transport().send(link, {frame_of("12345678")}).code(), Code::unavailable);
  ASSERT_TRUE(pump({a.get(), b.get()}, [&] { return !b->downs.empty() && !a->downs.empty(); }));
  EXPECT_EQ(a->downs[0].why.code(), Code::data_loss);
}

}  // namespace
}  // namespace fulgur::transport
