// Round trips of every message, zero-copy by pointer, and the bounds of limits.hpp.
#include "common/wire/codec.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "common/wire/limits.hpp"
#include "tests/unit/wire/random_message.hpp"

namespace fulgur::wire {
namespace {

constexpr std::size_t kKinds = std::variant_size_v<Body>;

Message dispatch_of(std::uint32_t rows, std::uint32_t hidden) {
  Rng rng(7);
  Dispatch body;
  body.rows = rows;
  body.hidden = hidden;
  body.routes = {{0, 0, 1}, {rows - 1, 1, 3}};
  body.activations = random_block(rng, std::size_t{rows} * hidden * 2);
  Message message;
  message.sender = "attention-0";
  message.body = std::move(body);
  return message;
}

bool lies_in(const Frame& inner, const Frame& outer) {
  return inner.data >= outer.data && inner.data + inner.size <= outer.data + outer.size;
}

TEST(Codec, EveryMessageSurvivesARoundTrip) {
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    for (std::size_t kind = 0; kind < kKinds; ++kind) {
      const Message message = RandomMessage(seed * kKinds + kind).make(kind);
      ASSERT_TRUE(validate(message).is_ok()) << validate(message).to_string();
      const auto decoded = decode(encode(message));
      ASSERT_TRUE(decoded.is_ok())
          << body_name(message.body) << " seed " << seed << ": " << decoded.status().to_string();
      EXPECT_TRUE(*decoded == message) << body_name(message.body) << " seed " << seed;
    }
  }
}

TEST(Codec, TensorBlockIsReferencedNotCopied) {
  const Message message = dispatch_of(16, 256);
  const Frame& block = std::get<Dispatch>(message.body).activations;
  const Frames frames = encode(message);
  ASSERT_EQ(frames.size(), 2U);
  EXPECT_EQ(frames[1].data, block.data);
  EXPECT_EQ(frames[1].size, block.size);
  EXPECT_LT(frames[0].size, 512U);

  const auto decoded = decode(frames);
  ASSERT_TRUE(decoded.is_ok());
  EXPECT_EQ(std::get<Dispatch>(decoded->body).activations.data, block.data);
}

TEST(Codec, DecodedTensorKeepsItsFrameAlive) {
  Frames frames = encode(dispatch_of(16, 256));
  const std::weak_ptr<const void> owner = frames[1].owner;
  auto decoded = decode(std::move(frames));
  ASSERT_TRUE(decoded.is_ok());
  EXPECT_FALSE(owner.expired());
  decoded->body = Cancel{};
  EXPECT_TRUE(owner.expired());
}

TEST(Codec, OddTensorSizesAndAlignmentsAreCopied) {
  Rng rng(3);
  Message message = dispatch_of(1, 3);
  EXPECT_TRUE(*decode(encode(message)) == message);

  const Frame block = random_block(rng, 3 * 4 * 2 + 1);
  Dispatch& body = std::get<Dispatch>(message.body);
  body.rows = 3;
  body.hidden = 4;
  body.activations = {block.owner, block.data + 1, 24};
  const auto decoded = decode(encode(message));
  ASSERT_TRUE(decoded.is_ok());
  EXPECT_TRUE(*decoded == message);
}

TEST(Codec, MisalignedFramesAreRead) {
  const Message message = dispatch_of(4, 64);
  Frames frames = encode(message);
  for (Frame& frame : frames) {
    const auto moved = std::shared_ptr<std::byte[]>(new std::byte[frame.size + 8]);
    std::copy_n(frame.data, frame.size, moved.get() + 3);
    frame = {moved, moved.get() + 3, frame.size};
  }
  const auto decoded = decode(frames);
  ASSERT_TRUE(decoded.is_ok()) << decoded.status().to_string();
  EXPECT_TRUE(*decoded == message);
  EXPECT_FALSE(lies_in(std::get<Dispatch>(decoded->body).activations, frames[1]));
}

TEST(Codec, ManySegmentsAreRead) {
  Submit body;
  body.tokens.resize(200'000, 7);
  body.prompt_tokens = 1;
  Message message;
  message.body = body;
  const Frames frames = encode(message);
  EXPECT_LE(frames.size(), 2U);
  EXPECT_TRUE(*decode(frames) == message);
}

std::size_t bytes_of(const Frames& frames) {
  std::size_t bytes = 0;
  for (const Frame& frame : frames) bytes += frame.size;
  return bytes;
}

/// The root pointer of a struct says how many pointers it has: bits 48 to 63 (Cap'n Proto's
/// encoding).
std::uint64_t root_pointers(const Frames& frames) {
  std::uint64_t root = 0;
  std::memcpy(&root, frames[0].data, sizeof root);
  return root >> 48;
}

TEST(Codec, AnUntracedMessageHasNoWordForATrace) {
  Message message = dispatch_of(4, 64);
  const Frames untraced = encode(message);
  EXPECT_EQ(root_pointers(untraced), 2U) << "sender and body: as before there were traces";
  EXPECT_EQ(decode(untraced)->trace, TraceContext{});
  message.trace = {1, 2, 3};
  const Frames traced = encode(message);
  EXPECT_EQ(root_pointers(traced), 3U);
  EXPECT_EQ(bytes_of(traced), bytes_of(untraced) + 3 * 8);
  EXPECT_EQ(traced.size(), untraced.size()) << "the guess of the header's size still fits";
  EXPECT_EQ(decode(traced)->trace, message.trace);
}

TEST(Codec, AnotherVersionIsRefusedByName) {
  Message message = dispatch_of(4, 64);
  message.version = kProtocolVersion + 1;
  const auto decoded = decode(encode(message));
  ASSERT_FALSE(decoded.is_ok());
  EXPECT_EQ(decoded.status().code(), Code::failed_precondition);
  EXPECT_EQ(decoded.status().message(), "peer speaks protocol version 2, this process 1");
}

/// Encodes what no honest sender would, and expects the decoder to name `field`.
void expect_refused(Message message, const std::string& field) {
  const Status valid = validate(message);
  EXPECT_EQ(valid.code(), Code::invalid_argument) << field;
  const auto decoded = decode(encode(message));
  ASSERT_FALSE(decoded.is_ok()) << field;
  EXPECT_EQ(decoded.status().code(), Code::data_loss);
  EXPECT_NE(decoded.status().message().find(field), std::string::npos)
      << decoded.status().to_string() << " does not name " << field;
}

template <class T, class Change>
void expect_refused_after(const std::string& field, Change change) {
  Message message;
  for (std::size_t kind = 0; kind < kKinds; ++kind) {
    message = RandomMessage(99).make(kind);
    if (std::holds_alternative<T>(message.body)) break;
  }
  change(std::get<T>(message.body));
  expect_refused(std::move(message), field);
}

TEST(Limits, DispatchIsChecked) {
  expect_refused_after<Dispatch>("dispatch.rows", [](Dispatch& m) { m.rows = kMaxRows + 1; });
  expect_refused_after<Dispatch>("dispatch.rows", [](Dispatch& m) { m.rows = 0; });
  expect_refused_after<Dispatch>("dispatch.activations", [](Dispatch& m) { m.hidden += 1; });
  expect_refused_after<Dispatch>("dispatch.activations", [](Dispatch& m) { m.activations = {}; });
  expect_refused_after<Dispatch>("dtype", [](Dispatch& m) { m.dtype = static_cast<Dtype>(3); });
  expect_refused_after<Dispatch>("route", [](Dispatch& m) { m.routes[0].row = m.rows; });
  expect_refused_after<Dispatch>("dispatch.routes", [](Dispatch& m) { m.routes.clear(); });
  expect_refused_after<Dispatch>("dispatch.routes",
                                 [](Dispatch& m) { m.routes.resize(kMaxRoutes + 1); });
}

TEST(Limits, GenerateIsChecked) {
  expect_refused_after<Submit>("submit.tokens", [](Submit& m) { m.tokens.resize(kMaxTokens + 1); });
  expect_refused_after<Submit>("submit.prompt_tokens",
                               [](Submit& m) { m.prompt_tokens = 1U << 30; });
  expect_refused_after<Submit>("submit.top_logprobs", [](Submit& m) { m.top_logprobs = 21; });
  expect_refused_after<Submit>("top_p", [](Submit& m) { m.sampling.top_p = std::nanf(""); });
  expect_refused_after<Submit>("temperature", [](Submit& m) { m.sampling.temperature = -1; });
  expect_refused_after<Submit>("logit_bias",
                               [](Submit& m) { m.sampling.logit_bias.resize(kMaxLogitBias + 1); });
  expect_refused_after<Tokens>("top", [](Tokens& m) {
    m.events.resize(1);
    m.events[0].top.resize(kMaxTopLogprobs + 1);
  });
  expect_refused_after<Done>("done.message",
                             [](Done& m) { m.message.assign(kMaxTextBytes + 1, 'x'); });
  expect_refused_after<Done>("done.code", [](Done& m) { m.code = static_cast<Code>(10); });
}

TEST(Limits, ControlIsChecked) {
  expect_refused_after<Prepare>("prepare.replicas", [](Prepare& m) { m.replicas.push_back(0); });
  expect_refused_after<Prepare>("prepare.layers", [](Prepare& m) { m.layers = kMaxLayers + 1; });
  expect_refused_after<Register>("register.held", [](Register& m) { m.held = {{kMaxLayers, 0}}; });
  expect_refused_after<Register>("register.name", [](Register& m) { m.name.assign(257, 'n'); });
  expect_refused_after<Hello>("hello.kind", [](Hello& m) { m.kind = static_cast<ServiceKind>(9); });
  expect_refused_after<Placement>("worker.replicas", [](Placement& m) {
    m.workers.resize(1);
    m.workers[0].replicas.assign(bitmap_words(m.layers, m.experts) + 1, 0);
  });
}

}  // namespace
}  // namespace fulgur::wire
