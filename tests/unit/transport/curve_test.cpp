// Keys of a mesh: the file they are in, who gets in with them and who does not, and how a mesh
// changes them while it runs.
#include "common/transport/curve_keys.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

#include <filesystem>
#include <fstream>

#include "common/transport/make_transport.hpp"
#include "common/transport/zmq_socket.hpp"
#include "tests/unit/transport/node.hpp"

namespace fulgur::transport {
namespace {

namespace fs = std::filesystem;

class CurveKeyFile : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/fulgur-curve-XXXXXX";
    folder_ = mkdtemp(name);
  }
  void TearDown() override { fs::remove_all(folder_); }
  std::string path(const std::string& leaf) const { return folder_ + "/" + leaf; }
  std::string file(const std::string& text, mode_t mode = 0600) const {
    const std::string name = path("keys");
    std::ofstream(name, std::ios::trunc) << text;
    chmod(name.c_str(), mode);
    return name;
  }
  /// One line that names the file and `what`.
  void expect_refused(const std::string& name, const std::string& what) const {
    const auto keys = read_curve_keys(name);
    ASSERT_FALSE(keys.is_ok()) << what;
    const std::string& why = keys.status().message();
    EXPECT_NE(why.find(name), std::string::npos) << why;
    EXPECT_NE(why.find(what), std::string::npos) << why;
    EXPECT_EQ(why.find('\n'), std::string::npos) << why;
  }

 private:
  std::string folder_;
};

TEST_F(CurveKeyFile, ComesBackAsWrittenAndIsPrivate) {
  const CurveKey key = new_curve_key();
  const std::string name = path("curve.key");
  ASSERT_TRUE(write_curve_key(name, key).is_ok());
  struct stat info {};
  ASSERT_EQ(stat(name.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0600U);
  const auto keys = read_curve_keys(name);
  ASSERT_TRUE(keys.is_ok()) << keys.status().message();
  ASSERT_EQ(keys->size(), 1U);
  EXPECT_EQ(keys->front().secret_key, key.secret_key);
  EXPECT_EQ(keys->front().public_key, key.public_key);
  EXPECT_EQ(write_curve_key(name, new_curve_key()).code(), Code::failed_precondition);
}

TEST_F(CurveKeyFile, MayHoldSeveralKeysAndComments) {
  const CurveKey first = new_curve_key();
  const CurveKey second = new_curve_key();
  const auto keys = read_curve_keys(
      file("# the new one\n" + first.secret_key + "\r\n\n#\n  " + second.secret_key, 0440));
  ASSERT_TRUE(keys.is_ok()) << keys.status().message();
  ASSERT_EQ(keys->size(), 2U);
  EXPECT_EQ((*keys)[0].public_key, first.public_key);
  EXPECT_EQ((*keys)[1].public_key, second.public_key);
}

TEST_F(CurveKeyFile, EveryMistakeIsOneLineWithoutAKey) {
  const std::string key = new_curve_key().secret_key;
  expect_refused(path("missing"), "No such file");
  fs::create_directory(path("folder"));
  expect_refused(path("folder"), "not a file");
  expect_refused(file(key + "\n", 0644), "0644");
  expect_refused(file("\n# nothing\n"), "holds no key");
  expect_refused(file(key + "\n" + key.substr(1) + "\n"), "line 2");
  expect_refused(file(key.substr(1) + "\x7f\n"), "line 1");
  expect_refused(file(std::string(5000, 'x')), "no key file");
  expect_refused(file(key + "\n" + key + "\n" + key + "\n" + key + "\n" + key), "more than 4");
  const auto cut = read_curve_keys(file(key.substr(0, 39)));
  EXPECT_EQ(cut.status().message().find(key.substr(0, 39)), std::string::npos);
}

std::unique_ptr<Node> node_of(const std::string& name, std::vector<CurveKey> keys,
                              const std::string& listen = {}, Carrier carrier = Carrier::zmq) {
  TransportOptions options;
  options.ring_bytes = 1U << 20;
  options.allowed = carrier;
  options.curve = std::move(keys);
  if (!listen.empty()) options.listen = {listen};
  auto made = make_transport({wire::ServiceKind::expert, name, 1}, options);
  EXPECT_TRUE(made.is_ok()) << made.status().to_string();
  return std::make_unique<Node>(std::move(made).value());
}

constexpr const char* kAnyPort = "tcp://127.0.0.1:*";

bool joins(Node& dialer, Node& listener) {
  const LinkId link =
      dialer.transport().connect(listener.transport().endpoint(), Carrier::automatic).value();
  return pump({&listener, &dialer}, [&] { return dialer.up.contains(link); });
}

TEST(CurveLinks, StrangersStayOutAndAreCounted) {
  const CurveKey key = new_curve_key();
  const auto listener = node_of("listener", {key}, kAnyPort);
  const auto member = node_of("member", {key});
  ASSERT_TRUE(joins(*member, *listener));

  const auto none = node_of("none", {});
  const auto other = node_of("other", {new_curve_key()});
  // Knows the mesh's public key, as one who has seen it somewhere, but has no secret key of it.
  const CurveKey own = new_curve_key();
  const auto leaked = node_of("leaked", {{key.public_key, own.secret_key}});
  const std::string endpoint = listener->transport().endpoint();
  for (Node* stranger : {none.get(), other.get(), leaked.get()}) {
    const std::uint64_t refused = listener->transport().stats().refused_peers;
    ASSERT_TRUE(stranger->transport().connect(endpoint, Carrier::zmq).is_ok());
    EXPECT_TRUE(pump({listener.get(), stranger},
                     [&] { return listener->transport().stats().refused_peers > refused; }));
    EXPECT_TRUE(stranger->ups.empty());
  }
  EXPECT_EQ(listener->ups.size(), 1U);
  ASSERT_TRUE(member->transport().send(member->up.begin()->first, {frame_of("hello")}).is_ok());
  EXPECT_TRUE(pump({listener.get(), member.get(), none.get(), other.get(), leaked.get()},
                   [&] { return listener->messages.size() == 1; }));
}

TEST(CurveLinks, AMemberWithAKeyDoesNotTalkToOneWithout) {
  const auto open = node_of("open", {}, kAnyPort);
  const auto member = node_of("member", {new_curve_key()});
  ASSERT_TRUE(member->transport().connect(open->transport().endpoint(), Carrier::zmq).is_ok());
  EXPECT_TRUE(pump({open.get(), member.get()},
                   [&] { return open->transport().stats().refused_peers > 0; }));
  EXPECT_TRUE(member->ups.empty());
  EXPECT_TRUE(open->ups.empty());
}

/// Knows the mesh's public key and owns a pair of its own: what only the list of keys keeps out.
TEST(CurveLinks, AKeyThatIsNotOnTheListIsRefused) {
  const CurveKey key = new_curve_key();
  const CurveKey own = new_curve_key();
  const auto listener = node_of("listener", {key}, kAnyPort);
  ZmqContext context;
  ZmqSocket stranger(context, ZMQ_DEALER);
  stranger.set(ZMQ_LINGER, 0);
  stranger.set(ZMQ_CURVE_SERVERKEY, key.public_key);
  stranger.set(ZMQ_CURVE_PUBLICKEY, own.public_key);
  stranger.set(ZMQ_CURVE_SECRETKEY, own.secret_key);
  ASSERT_EQ(zmq_connect(stranger.raw(), listener->transport().endpoint().c_str()), 0);
  EXPECT_TRUE(
      pump({listener.get()}, [&] { return listener->transport().stats().refused_peers > 0; }));
  EXPECT_TRUE(listener->ups.empty());
}

TEST(CurveLinks, SharedMemoryIsAgreedOnBehindTheKey) {
  const CurveKey key = new_curve_key();
  const std::string endpoint = "ipc:///tmp/fulgur-curve-" + std::to_string(getpid()) + ".sock";
  const auto listener = node_of("listener", {key}, endpoint, Carrier::automatic);
  const auto member = node_of("member", {key}, {}, Carrier::automatic);
  ASSERT_TRUE(joins(*member, *listener));
  EXPECT_EQ(member->up.begin()->second.carrier, Carrier::shm);
  const auto stranger = node_of("stranger", {}, {}, Carrier::automatic);
  ASSERT_TRUE(stranger->transport().connect(endpoint, Carrier::shm).is_ok());
  EXPECT_TRUE(pump({listener.get(), stranger.get()},
                   [&] { return listener->transport().stats().refused_peers > 0; }));
  EXPECT_TRUE(stranger->ups.empty());
}

/// The three steps by which a running mesh gets a new key: every pair that meets on the way talks.
TEST(CurveLinks, KeysAreChangedStepByStep) {
  const CurveKey before = new_curve_key();
  const CurveKey after = new_curve_key();
  const std::vector<std::vector<CurveKey>> steps = {
      {before}, {before, after}, {after, before}, {after}};
  for (std::size_t i = 0; i + 1 < steps.size(); ++i) {
    for (const auto& [listens, connects] :
         {std::pair{i, i + 1}, std::pair{i + 1, i}, std::pair{i + 1, i + 1}}) {
      const auto listener = node_of("listener", steps[listens], kAnyPort);
      const auto dialer = node_of("dialer", steps[connects]);
      EXPECT_TRUE(joins(*dialer, *listener)) << listens << " " << connects;
    }
  }
}

}  // namespace
}  // namespace fulgur::transport
