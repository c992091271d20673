// The receiving end of a migration: what it takes, what it refuses, and that nothing a peer sends
// makes it hold more than its limits or give out a state that is not the one asked for.
#include "services/attention/parked_snapshots.hpp"

#include <gtest/gtest.h>

#include "tests/unit/attention/snapshot_fixture.hpp"

namespace fulgur::attention {
namespace {

using wire::SnapshotState;

class Parked : public testing::Test {
 protected:
  Parked() { limits_.bytes_max = 20'000; }

  ParkedSnapshots& store() {
    if (!store_) store_.emplace(limits_, test_shape(), test_identity(), clock_);
    return *store_;
  }

  /// Offers and sends a whole snapshot; the last answer.
  wire::SnapshotReply send(const SequenceSnapshot& snapshot, std::uint64_t transfer,
                           transport::LinkId link = 1) {
    wire::SnapshotReply reply = store().on_offer(link, offer_of(snapshot, transfer));
    if (reply.state != SnapshotState::accepted) return reply;
    for (const auto& chunk : chunks_of(snapshot, transfer)) {
      const auto answer = store().on_chunk(link, chunk);
      if (!answer) return reply;
      reply = *answer;
    }
    return reply;
  }

  /// The offer is accepted, then this one chunk is refused, and nothing is left.
  void expect_refused(const wire::SnapshotChunk& chunk, const std::string& why) {
    const SequenceSnapshot snapshot = snapshot_of(tokens_of(1, 70));
    const std::uint64_t before = store().stats().malformed_total;
    ASSERT_EQ(store().on_offer(1, offer_of(snapshot, 9)).state, SnapshotState::accepted);
    const auto answer = store().on_chunk(1, chunk);
    ASSERT_TRUE(answer.has_value());
    EXPECT_EQ(answer->state, SnapshotState::refused);
    EXPECT_EQ(answer->message, why);
    EXPECT_EQ(store().stats().malformed_total, before + 1);
    EXPECT_EQ(store().bytes(), 0U);
    EXPECT_EQ(store().count(), 0U);
    EXPECT_FALSE(store().on_chunk(1, chunk).has_value()) << "a stray gets no answer";
  }

  ManualClock clock_;
  ParkedLimits limits_;
  std::optional<ParkedSnapshots> store_;
};

TEST_F(Parked, GivesBackWhatWasSent) {
  const SequenceSnapshot snapshot = snapshot_of(tokens_of(1, 130));
  const auto reply = send(snapshot, 5);
  ASSERT_EQ(reply.state, SnapshotState::parked) << reply.message;
  EXPECT_EQ(store().count(), 1U);
  auto tokens = snapshot.tokens;
  EXPECT_EQ(store().take(reply.snapshot, tokens), nullptr) << "nothing would be left to compute";
  tokens.push_back(7);
  const auto taken = store().take(reply.snapshot, tokens);
  ASSERT_NE(taken, nullptr);
  EXPECT_EQ(taken->identity, snapshot.identity);
  EXPECT_EQ(taken->tokens, snapshot.tokens);
  EXPECT_EQ(taken->layers, snapshot.layers);
  EXPECT_EQ(store().take(reply.snapshot, tokens), nullptr) << "once only";
  EXPECT_EQ(store().stats().restored_total, 1U);
  EXPECT_EQ(store().stats().missed_total, 2U);
}

TEST_F(Parked, WhatWasTakenCountsUntilItIsGone) {
  const SequenceSnapshot snapshot = snapshot_of(tokens_of(1, 100));
  const auto reply = send(snapshot, 5);
  auto tokens = snapshot.tokens;
  tokens.push_back(7);
  auto taken = store().take(reply.snapshot, tokens);
  EXPECT_EQ(store().count(), 1U);
  EXPECT_GT(store().bytes(), 0U);
  taken.reset();
  EXPECT_EQ(store().count(), 0U);
  EXPECT_EQ(store().bytes(), 0U);
}

TEST_F(Parked, OtherTokensAreAMiss) {
  const SequenceSnapshot snapshot = snapshot_of(tokens_of(1, 100));
  const auto reply = send(snapshot, 5);
  auto tokens = snapshot.tokens;
  tokens.push_back(7);
  tokens[50] ^= 1;
  EXPECT_EQ(store().take(reply.snapshot, tokens), nullptr);
  EXPECT_EQ(store().take(reply.snapshot + 1, tokens), nullptr);
  EXPECT_EQ(store().take(reply.snapshot, {}), nullptr);
}

TEST_F(Parked, AnotherIdentityIsRefused) {
  const SequenceSnapshot snapshot = snapshot_of(tokens_of(1, 100));
  const auto refused = [&](const std::function<void(wire::SnapshotOffer&)>& change, Code code) {
    auto offer = offer_of(snapshot, 1);
    change(offer);
    const auto reply = store().on_offer(1, offer);
    EXPECT_EQ(reply.state, SnapshotState::refused);
    EXPECT_EQ(reply.code, code);
  };
  refused([](auto& it) { ++it.identity.weight_version; }, Code::failed_precondition);
  refused([](auto& it) { ++it.identity.model_fingerprint; }, Code::failed_precondition);
  refused([](auto& it) { it.identity.numerics = "cuda"; }, Code::failed_precondition);
  refused([](auto& it) { ++it.identity.layout; }, Code::failed_precondition);
  refused([](auto& it) { it.identity.length += 64; }, Code::invalid_argument);
  refused([](auto& it) { it.layer_bytes.pop_back(); }, Code::invalid_argument);
  refused([](auto& it) { it.layer_bytes[0] = 1ULL << 40; }, Code::invalid_argument);
  EXPECT_EQ(store().stats().refused_total, 7U);
  EXPECT_EQ(store().bytes(), 0U);
}

TEST_F(Parked, ChunksThatBreakTheRulesEndTheirTransfer) {
  const SequenceSnapshot snapshot = snapshot_of(tokens_of(1, 70));
  const auto good = chunks_of(snapshot, 9);
  auto bad = good[0];
  bad.section = 1;
  expect_refused(bad, "bytes of section 1 at 0 where section 0 at 0 was due");
  bad = good[0];
  bad.offset = 8;
  expect_refused(bad, "bytes of section 0 at 8 where section 0 at 0 was due");
  bad = good[0];
  bad.checksum ^= 1;
  expect_refused(bad, "damaged bytes in section 0");
  const std::vector<std::byte> much(4096);
  bad = good[0];
  bad.bytes = {nullptr, much.data(), much.size()};
  expect_refused(bad, "more bytes than section 0 has");
}

TEST_F(Parked, TokensThatAreNotThoseOfTheOfferAreRefused) {
  SequenceSnapshot snapshot = snapshot_of(tokens_of(1, 70));
  snapshot.tokens[3] ^= 1;
  const auto reply = send(snapshot, 5);
  EXPECT_EQ(reply.state, SnapshotState::refused);
  EXPECT_EQ(reply.message, "the tokens are not those of the offer");
  EXPECT_EQ(store().count(), 0U);
}

TEST_F(Parked, IsBoundedInBytesNumberAndTransfers) {
  limits_.snapshots_max = 5;
  limits_.arriving_max = 2;
  const SequenceSnapshot snapshot = snapshot_of(tokens_of(1, 64));
  for (std::uint64_t at = 0; at < 4; ++at) {
    ASSERT_EQ(send(snapshot, at).state, SnapshotState::parked);
  }
  limits_.arriving_max = 2;
  EXPECT_EQ(store().on_offer(1, offer_of(snapshot, 10)).state, SnapshotState::accepted);
  EXPECT_EQ(store().on_offer(1, offer_of(snapshot, 11)).code, Code::resource_exhausted);
  store().on_link_down(1);
  EXPECT_EQ(store().count(), 4U);
  store_.reset();
  limits_ = {};
  limits_.bytes_max = 3 * state_bytes(64) - 1;
  EXPECT_EQ(send(snapshot, 1).state, SnapshotState::parked);
  EXPECT_EQ(send(snapshot, 2).state, SnapshotState::parked);
  EXPECT_EQ(send(snapshot, 3).code, Code::resource_exhausted);
  EXPECT_LE(store().bytes(), limits_.bytes_max);
  store_.reset();
  limits_ = {};
  limits_.arriving_max = 2;
  for (std::uint64_t at = 0; at < 3; ++at) {
    const auto state = store().on_offer(1, offer_of(snapshot, at)).state;
    EXPECT_EQ(state, at < 2 ? SnapshotState::accepted : SnapshotState::refused);
  }
  EXPECT_EQ(store().on_offer(2, offer_of(snapshot, 0)).state, SnapshotState::accepted);
  EXPECT_EQ(store().on_offer(1, offer_of(snapshot, 0)).state, SnapshotState::refused)
      << "an id is used once";
}

TEST_F(Parked, TimeFreesWhatNobodyWants) {
  const SequenceSnapshot snapshot = snapshot_of(tokens_of(1, 100));
  ASSERT_EQ(send(snapshot, 1).state, SnapshotState::parked);
  ASSERT_EQ(store().on_offer(1, offer_of(snapshot, 2)).state, SnapshotState::accepted);
  clock_.advance(limits_.silence_max + 1);
  store().expire();
  EXPECT_EQ(store().count(), 1U);
  EXPECT_EQ(store().stats().lost_total, 1U);
  clock_.advance(limits_.ttl);
  store().expire();
  EXPECT_EQ(store().count(), 0U);
  EXPECT_EQ(store().stats().expired_total, 1U);
}

TEST_F(Parked, DropAndLinkLossFree) {
  const SequenceSnapshot snapshot = snapshot_of(tokens_of(1, 100));
  const auto parked = send(snapshot, 1);
  ASSERT_EQ(store().on_offer(1, offer_of(snapshot, 2)).state, SnapshotState::accepted);
  ASSERT_EQ(store().on_offer(1, offer_of(snapshot, 3)).state, SnapshotState::accepted);
  store().on_drop(2, {1});  // not this link's
  store().on_drop(1, {2});
  EXPECT_EQ(store().count(), 2U);
  store().on_link_down(1);
  EXPECT_EQ(store().count(), 1U) << "what has arrived outlives its sender";
  store().on_drop(1, {1});
  EXPECT_EQ(store().count(), 0U);
  EXPECT_EQ(store().take(parked.snapshot, tokens_of(1, 101)), nullptr);
}

/// Peers that send anything at all, in any order: bounded, and only whole states come out.
TEST_F(Parked, SurvivesAnything) {
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    Rng rng(seed);
    store_.reset();
    limits_.snapshots_max = 4;
    for (int step = 0; step < 600; ++step) {
      const auto tokens = tokens_of(rng.below(3), 1 + static_cast<std::uint32_t>(rng.below(200)));
      const SequenceSnapshot snapshot = snapshot_of(tokens);
      const transport::LinkId link = 1 + rng.below(2);
      const std::uint64_t transfer = rng.below(4);
      auto chunks = chunks_of(snapshot, transfer);
      auto& chunk = chunks[rng.below(chunks.size())];
      switch (rng.below(8)) {
        case 0: store().on_offer(link, offer_of(snapshot, transfer)); break;
        case 1: store().on_drop(link, {transfer}); break;
        case 2: store().on_link_down(link); break;
        case 3: clock_.advance(static_cast<Nanoseconds>(rng.below(5)) * kSecond); break;
        case 4: store().expire(); break;
        case 5: store().on_chunk(link, chunk); break;
        case 6: {
          chunk.offset += rng.below(3);
          store().on_chunk(link, chunk);
          break;
        }
        default: {
          const auto reply = send(snapshot, transfer, link);
          if (reply.state != SnapshotState::parked) break;
          auto wanted = tokens;
          wanted.push_back(1);
          const auto taken = store().take(reply.snapshot, wanted);
          ASSERT_NE(taken, nullptr);
          ASSERT_EQ(taken->layers, snapshot.layers);
        }
      }
      ASSERT_LE(store().bytes(), limits_.bytes_max);
      ASSERT_LE(store().count(), limits_.snapshots_max);
    }
    clock_.advance(60 * kSecond);
    store().expire();
    ASSERT_EQ(store().bytes(), 0U) << "seed " << seed;
  }
}

}  // namespace
}  // namespace fulgur::attention
