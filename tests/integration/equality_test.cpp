// The same requests give the same tokens and log-probabilities, to the last bit, however the mesh
// is laid out, whatever carries its messages, and whatever else it serves meanwhile.
#include <gtest/gtest.h>

#include <map>

#include "tests/integration/api.hpp"
#include "tests/integration/mesh.hpp"

namespace fulgur::integration {
namespace {

constexpr std::size_t kRequests = 12;
constexpr std::uint32_t kTokens = 20;

/// The answers of a plain mesh, one by one, that all others are held against.
const std::vector<Answer>& reference(const std::string& activations) {
  static std::map<std::string, std::vector<Answer>> answers;
  auto& found = answers[activations];
  if (found.empty()) {
    Mesh mesh({1, 1, "zmq", activations});
    const Status started = mesh.start();
    EXPECT_TRUE(started.is_ok()) << started.message();
    found = one_by_one(mesh.url(), mixed_requests(kRequests, kTokens));
    for (const Answer& answer : found) EXPECT_EQ(answer.error, "");
  }
  return found;
}

class Layout : public testing::TestWithParam<MeshFlags> {};

TEST_P(Layout, AnswersAsThePlainMesh) {
  const auto& expected = reference(GetParam().activations);
  Mesh mesh(GetParam());
  const Status started = mesh.start();
  ASSERT_TRUE(started.is_ok()) << started.message();
  const auto requests = mixed_requests(kRequests, kTokens);
  expect_equal(at_once(mesh.url(), requests, true), expected);
  expect_equal(at_once(mesh.url(), requests, false), expected);
  EXPECT_EQ(mesh.stop(), 0);
}

std::string layout_name(const testing::TestParamInfo<MeshFlags>& info) {
  const MeshFlags& flags = info.param;
  return flags.transport + "_" + flags.activations + "_experts" + std::to_string(flags.experts) +
         "_attention" + std::to_string(flags.attention);
}

INSTANTIATE_TEST_SUITE_P(
    Meshes, Layout,
    testing::Values(MeshFlags{1, 1, "shm", "bf16"}, MeshFlags{2, 1, "auto", "bf16"},
                    MeshFlags{2, 3, "zmq", "bf16"}, MeshFlags{4, 3, "shm", "bf16"},
                    MeshFlags{2, 3, "shm", "f32"}, MeshFlags{4, 1, "zmq", "f32"}),
    layout_name);

TEST(Equality, StreamsBringWhatOneAnswerBrings) {
  const auto expected = reference("bf16");
  Mesh mesh;
  const Status started = mesh.start();
  ASSERT_TRUE(started.is_ok()) << started.message();
  const auto requests = mixed_requests(kRequests, kTokens);
  for (std::size_t i = 0; i < 4; ++i) {
    SCOPED_TRACE(i);
    expect_equal({stream(mesh.url(), requests[i])}, {expected[i]});
    expect_equal({complete(mesh.url(), requests[i])}, {expected[i]});
  }
}

TEST(Equality, SixtyFourStreamsAtOnce) {
  Mesh mesh;
  const Status started = mesh.start();
  ASSERT_TRUE(started.is_ok()) << started.message();
  const auto requests = mixed_requests(64, kTokens);
  const auto answers = at_once(mesh.url(), requests, true);
  expect_equal(answers, at_once(mesh.url(), requests, false));
  // The first of them are the requests of the other tests.
  expect_equal({answers.begin(), answers.begin() + kRequests}, reference("bf16"));
}

}  // namespace
}  // namespace fulgur::integration
