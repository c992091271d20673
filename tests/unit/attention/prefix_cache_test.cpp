// The prompt cache: what it finds, that it never gives another prompt's state, and its bounds; and
// what the scheduler makes of it.
#include "services/attention/prefix_cache.hpp"

#include <gtest/gtest.h>

#include "tests/unit/attention/snapshot_fixture.hpp"

namespace fulgur::attention {
namespace {

using Tokens = std::vector<std::uint32_t>;

std::shared_ptr<SequenceSnapshot> shared(const Tokens& tokens) {
  return std::make_shared<SequenceSnapshot>(snapshot_of(tokens));
}

Tokens with(Tokens tokens, const Tokens& more) {
  tokens.insert(tokens.end(), more.begin(), more.end());
  return tokens;
}

Tokens first(const Tokens& tokens, std::size_t count) {
  return {tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(count)};
}

TEST(PrefixCache, FindsTheLongestBeginning) {
  PrefixCache cache({}, test_shape());
  const Tokens base = tokens_of(1, 300);
  EXPECT_EQ(cache.find(base, 299).snapshot, nullptr);
  cache.put(shared(first(base, 70)));
  cache.put(shared(first(base, 200)));
  EXPECT_EQ(cache.find(base, 299).length, 200U);
  EXPECT_EQ(cache.find(base, 195).length, 195U) << "anywhere in the open block";
  EXPECT_EQ(cache.find(base, 191).length, 70U) << "the longer one's state is of position 192";
  EXPECT_EQ(cache.find(base, 63).snapshot, nullptr);
  // Other tokens behind the boundary: what is common is used.
  const Tokens branch = with(first(base, 194), tokens_of(2, 50));
  EXPECT_EQ(cache.find(branch, branch.size() - 1).length, 194U);
  const Tokens other = with(first(base, 191), tokens_of(3, 50));
  EXPECT_EQ(cache.find(other, other.size() - 1).length, 70U);
  EXPECT_EQ(cache.stats().hits_total, 5U);
}

TEST(PrefixCache, AStateOnABoundaryServesThatPositionOnly) {
  PrefixCache cache({}, test_shape());
  const Tokens base = tokens_of(1, 300);
  cache.put(shared(first(base, 128)));
  EXPECT_EQ(cache.find(base, 299).length, 128U);
  EXPECT_EQ(cache.find(base, 127).snapshot, nullptr);
}

TEST(PrefixCache, TheLongerOneReplacesAndNothingIsKeptTwice) {
  PrefixCache cache({}, test_shape());
  const Tokens base = tokens_of(1, 300);
  cache.put(shared(first(base, 130)));
  EXPECT_FALSE(cache.wants(first(base, 129)));
  EXPECT_TRUE(cache.wants(first(base, 131)));
  cache.put(shared(first(base, 140)));
  EXPECT_EQ(cache.entries(), 1U);
  cache.put(shared(first(base, 140)));
  EXPECT_EQ(cache.entries(), 1U);
  EXPECT_EQ(cache.bytes(), state_bytes(140));
}

TEST(PrefixCache, IsBoundedAndDropsTheLeastRecentlyUsed) {
  PrefixCacheLimits limits;
  limits.bytes_max = 3 * state_bytes(64);
  PrefixCache cache(limits, test_shape());
  for (std::uint64_t seed = 0; seed < 3; ++seed) cache.put(shared(tokens_of(seed, 64)));
  EXPECT_EQ(cache.entries(), 3U);
  EXPECT_NE(cache.find(tokens_of(0, 65), 64).snapshot, nullptr);
  cache.put(shared(tokens_of(9, 64)));
  EXPECT_LE(cache.bytes(), limits.bytes_max);
  EXPECT_NE(cache.find(tokens_of(0, 65), 64).snapshot, nullptr) << "used lately";
  EXPECT_EQ(cache.find(tokens_of(1, 65), 64).snapshot, nullptr);
  EXPECT_EQ(cache.stats().evicted_total, 1U);
  EXPECT_FALSE(cache.wants(tokens_of(1, 640))) << "would fill it alone";
  PrefixCache none({0, 10}, test_shape());
  EXPECT_FALSE(none.wants(tokens_of(1, 64)));
  none.put(shared(tokens_of(1, 64)));
  EXPECT_EQ(none.entries(), 0U);
}

TEST(PrefixCache, KeepsItsPromisesUnderRandomUse) {
  Rng rng(5);
  PrefixCacheLimits limits;
  limits.bytes_max = 40'000;
  limits.entries_max = 10;
  PrefixCache cache(limits, test_shape());
  const Tokens trunk = tokens_of(0, 400);
  for (int step = 0; step < 5000; ++step) {
    const auto shared_part = rng.below(300);
    const Tokens tokens = with(first(trunk, shared_part),
                               tokens_of(rng.below(4), 1 + static_cast<std::uint32_t>(rng.below(100))));
    if (rng.below(2) == 0) {
      if (cache.wants(tokens)) cache.put(shared(tokens));
    } else if (const auto hit = cache.find(tokens, tokens.size() - 1); hit.snapshot != nullptr) {
      ASSERT_LT(hit.length, tokens.size());
      ASSERT_LE(hit.length, hit.snapshot->tokens.size());
      ASSERT_GE(hit.length, hit.snapshot->tokens.size() / 64 * 64);
      ASSERT_TRUE(std::equal(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(hit.length),
                             hit.snapshot->tokens.begin()));
    }
    ASSERT_LE(cache.bytes(), limits.bytes_max);
    ASSERT_LE(cache.entries(), limits.entries_max);
  }
  EXPECT_GT(cache.stats().hits_total, 100U);
}

/// A scheduler with a cache, and an engine that makes up tokens.
class Cached : public testing::Test {
 protected:
  static SchedulerOptions options() {
    SchedulerOptions options;
    options.slots = 8;
    options.pages = 100;
    options.batch_tokens = 512;
    options.positions_max = 10'000;
    options.vocab = 1000;
    options.identity = test_identity();
    return options;
  }
  void submit(SequenceId id, const Tokens& prompt) {
    auto sequence = std::make_unique<Sequence>();
    sequence->id = id;
    sequence->submit.request = id;
    sequence->submit.tokens = prompt;
    sequence->submit.prompt_tokens = static_cast<std::uint32_t>(prompt.size());
    sequence->submit.max_new_tokens = 5;
    ASSERT_TRUE(scheduler_.submit(std::move(sequence)).is_ok());
  }
  /// Until all have ended; rows computed of each.
  std::map<SequenceId, std::size_t> run() {
    std::map<SequenceId, std::size_t> rows;
    MicroBatch batch;
    while (!scheduler_.empty()) {
      if (!scheduler_.plan(batch)) {
        ADD_FAILURE() << "stuck";
        return rows;
      }
      if (batch.work == Work::snapshot) fill_layers(*batch.snapshot);
      scheduler_.complete(batch);
      if (batch.work != Work::forward) continue;
      for (const Slice& slice : batch.slices) {
        rows[slice.sequence] += slice.rows;
        Sequence& sequence = *scheduler_.find(slice.sequence);
        if (sequence.pending() > 0) continue;
        scheduler_.append(sequence, 7);
        if (sequence.generated() >= 5) scheduler_.remove(sequence.id);
      }
    }
    EXPECT_EQ(scheduler_.pages().used(), 0U);
    EXPECT_EQ(scheduler_.slots().used(), 0U);
    return rows;
  }

  PrefixCache cache_{{}, test_shape()};
  Scheduler scheduler_{options(), &cache_};
};

TEST_F(Cached, ChoicesOfOnePromptComputeItOnce) {
  for (std::uint32_t length : {65U, 128U, 200U, 1000U}) {
    const Tokens prompt = tokens_of(length, length);
    for (SequenceId id = 1; id <= 4; ++id) submit(length * 10 + id, prompt);
    submit(length * 10 + 5, tokens_of(length + 1, 30));  // not held up by them
    const auto rows = run();
    EXPECT_EQ(rows.at(length * 10 + 1), length + 4);
    for (SequenceId id = 2; id <= 4; ++id) EXPECT_LE(rows.at(length * 10 + id), 64U + 4U) << length;
    EXPECT_EQ(rows.at(length * 10 + 5), 34U);
  }
}

TEST_F(Cached, TheNextTurnGoesOnFromTheLast) {
  const Tokens turn = tokens_of(1, 500);
  submit(1, turn);
  EXPECT_EQ(run().at(1), 504U);
  submit(2, with(turn, tokens_of(2, 100)));
  EXPECT_EQ(run().at(2), 104U);
  submit(3, tokens_of(3, 500));
  EXPECT_EQ(run().at(3), 504U);
  EXPECT_EQ(cache_.stats().hits_total, 1U);
  EXPECT_EQ(cache_.stats().hit_tokens_total, 500U);
}

}  // namespace
}  // namespace fulgur::attention
