// The scheduler's decisions, and its promises under random traffic: budgets and limits hold, nothing
// leaks, everything ends.
#include "services/attention/scheduler.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>

#include "common/base/rng.hpp"
#include "kernels/include/fulgur/kernels/backend.hpp"

namespace fulgur::attention {
namespace {

SequencePtr make(SequenceId id, std::uint32_t prompt, std::uint32_t max_new = 4) {
  auto sequence = std::make_unique<Sequence>();
  sequence->id = id;
  sequence->link = 1;
  sequence->submit.request = id;
  sequence->submit.tokens.assign(prompt, 5);
  sequence->submit.prompt_tokens = prompt;
  sequence->submit.max_new_tokens = max_new;
  return sequence;
}

SchedulerOptions small() {
  SchedulerOptions options;
  options.slots = 4;
  options.pages = 16;
  options.batch_tokens = 128;
  options.positions_max = 100'000;
  options.vocab = 100;
  return options;
}

TEST(Scheduler, DecodesFirstThenPrefillsInAlignedChunks) {
  Scheduler scheduler(small());
  ASSERT_TRUE(scheduler.submit(make(1, 10)).is_ok());
  MicroBatch batch;
  ASSERT_TRUE(scheduler.plan(batch));
  scheduler.complete(batch);
  scheduler.append(*scheduler.find(1), 7);
  ASSERT_TRUE(scheduler.submit(make(2, 300)).is_ok());
  ASSERT_TRUE(scheduler.plan(batch));
  ASSERT_EQ(batch.slices.size(), 2U);
  EXPECT_EQ(batch.slices[0].sequence, 1U);
  EXPECT_EQ(batch.slices[0].rows, 1U);
  EXPECT_EQ(batch.slices[0].logits_rows, 1U);
  EXPECT_EQ(batch.slices[1].rows, 64U) << "127 left of the budget: one whole block";
  EXPECT_EQ(batch.slices[1].logits_rows, 0U);
  scheduler.complete(batch);
  EXPECT_EQ(scheduler.find(2)->computed, 64U);
}

TEST(Scheduler, RefusesWithTheReason) {
  auto options = small();
  options.waiting_max = 1;
  Scheduler scheduler(options);
  EXPECT_EQ(scheduler.submit(make(1, 0)).message(), "the prompt is empty");
  EXPECT_EQ(scheduler.submit(make(2, 1000, 100)).message(),
            "1100 tokens exceed this shard's KV capacity of 1024");
  EXPECT_EQ(scheduler.submit(make(3, 10, 100'000)).message(),
            "10 prompt tokens and 100000 new ones exceed the context of 100000");
  EXPECT_TRUE(scheduler.submit(make(4, 10)).is_ok());
  EXPECT_EQ(scheduler.submit(make(5, 10)).code(), Code::resource_exhausted);
}

TEST(Scheduler, SpreadsDecodesOverLanes) {
  auto options = small();
  options.lanes = 2;
  options.lane_rows_min = 1;
  Scheduler scheduler(options);
  for (SequenceId id = 1; id <= 4; ++id) ASSERT_TRUE(scheduler.submit(make(id, 3)).is_ok());
  MicroBatch first;
  MicroBatch second;
  second.lane = 1;
  ASSERT_TRUE(scheduler.plan(first));
  ASSERT_EQ(first.slices.size(), 4U);
  scheduler.complete(first);
  for (SequenceId id = 1; id <= 4; ++id) scheduler.append(*scheduler.find(id), 1);
  ASSERT_TRUE(scheduler.plan(first));
  ASSERT_TRUE(scheduler.plan(second));
  EXPECT_EQ(first.slices.size(), 2U);
  EXPECT_EQ(second.slices.size(), 2U);
}

TEST(Scheduler, FullBatchesOfDecodesDoNotStarvePrefill) {
  auto options = small();
  options.slots = 12;
  options.pages = 100;
  options.batch_tokens = 8;
  Scheduler scheduler(options);
  MicroBatch batch;
  for (SequenceId id = 1; id <= 10; ++id) {
    ASSERT_TRUE(scheduler.submit(make(id, 1, 1000)).is_ok());
  }
  while (scheduler.waiting() > 0) {
    ASSERT_TRUE(scheduler.plan(batch));
    scheduler.complete(batch);
    for (const Slice& slice : batch.slices) scheduler.append(*scheduler.find(slice.sequence), 1);
  }
  ASSERT_TRUE(scheduler.submit(make(11, 80, 1)).is_ok());
  std::map<SequenceId, int> rows;
  int batches = 0;
  for (; scheduler.find(11)->pending() > 0; ++batches) {
    ASSERT_LT(batches, 100);
    ASSERT_TRUE(scheduler.plan(batch));
    ASSERT_LE(batch.rows(), 8U);
    scheduler.complete(batch);
    for (const Slice& slice : batch.slices) {
      rows[slice.sequence] += static_cast<int>(slice.rows);
      if (slice.sequence != 11) scheduler.append(*scheduler.find(slice.sequence), 1);
    }
  }
  EXPECT_EQ(rows[11], 80);
  EXPECT_EQ(batches, 40) << "every fourth micro-batch";
  for (SequenceId id = 1; id <= 10; ++id) {
    EXPECT_NEAR(rows[id], 24, 2) << "decodes take turns";
  }
}

TEST(Scheduler, ADepartureWaitsForTheStepAndCanBeTakenBack) {
  auto options = small();
  options.lanes = 2;
  Scheduler scheduler(options);
  ASSERT_TRUE(scheduler.submit(make(1, 100)).is_ok());
  ASSERT_TRUE(scheduler.submit(make(2, 10)).is_ok());
  MicroBatch batch;
  MicroBatch other;
  other.lane = 1;
  ASSERT_TRUE(scheduler.plan(batch));
  ASSERT_EQ(batch.slices.size(), 2U);
  scheduler.depart(*scheduler.find(1));
  EXPECT_FALSE(scheduler.plan(other)) << "it is in flight";
  scheduler.complete(batch);
  scheduler.append(*scheduler.find(1), 3);
  scheduler.append(*scheduler.find(2), 3);
  ASSERT_TRUE(scheduler.plan(batch));
  EXPECT_EQ(batch.work, Work::snapshot);
  EXPECT_EQ(batch.snapshot->identity.length, 100U);
  EXPECT_EQ(batch.snapshot->identity.prefix_hash, hash_prefix(batch.snapshot->tokens));
  ASSERT_TRUE(scheduler.plan(other)) << "the others go on";
  EXPECT_EQ(other.slices.at(0).sequence, 2U);
  scheduler.complete(other);
  scheduler.complete(batch);
  EXPECT_EQ(scheduler.find(1)->state, SequenceState::departed);
  EXPECT_EQ(scheduler.slots().used(), 1U);
  EXPECT_EQ(scheduler.preemptions(), 0U);
  EXPECT_EQ(scheduler.waiting(), 1U);
  scheduler.stay(*scheduler.find(1));
  ASSERT_TRUE(scheduler.plan(batch));
  EXPECT_EQ(batch.work, Work::restore);
  EXPECT_EQ(batch.slices.at(0).position, 100U);
}

TEST(Scheduler, ASnapshotThatDoesNotFitIsComputedAgain) {
  auto options = small();
  options.identity = {1, 2, "cpu-bf16", 3, 0, 0};
  const auto submit = [&](const std::function<void(Sequence&)>& change) {
    Scheduler scheduler(options);
    auto sequence = make(1, 70);
    sequence->snapshot = std::make_shared<SequenceSnapshot>();
    auto& tokens = sequence->submit.tokens;
    sequence->snapshot->tokens.assign(tokens.begin(), tokens.end() - 1);
    sequence->snapshot->identity = options.identity;
    sequence->snapshot->identity.length = 69;
    sequence->snapshot->identity.prefix_hash = hash_prefix(sequence->snapshot->tokens);
    change(*sequence);
    EXPECT_TRUE(scheduler.submit(std::move(sequence)).is_ok());
    MicroBatch batch;
    EXPECT_TRUE(scheduler.plan(batch));
    return batch.work;
  };
  EXPECT_EQ(submit([](Sequence&) {}), Work::restore);
  EXPECT_EQ(submit([](Sequence& it) { ++it.snapshot->identity.weight_version; }), Work::forward);
  EXPECT_EQ(submit([](Sequence& it) { ++it.snapshot->identity.model_fingerprint; }), Work::forward);
  EXPECT_EQ(submit([](Sequence& it) { ++it.snapshot->identity.layout; }), Work::forward);
  EXPECT_EQ(submit([](Sequence& it) { it.snapshot->identity.numerics = "cpu-f32"; }), Work::forward);
  EXPECT_EQ(submit([](Sequence& it) { ++it.snapshot->identity.prefix_hash; }), Work::forward);
  EXPECT_EQ(submit([](Sequence& it) { ++it.submit.tokens[5]; }), Work::forward);
  EXPECT_EQ(submit([](Sequence& it) { 
              it.submit.tokens.pop_back();
              --it.submit.prompt_tokens;
            }),
            Work::forward)
      << "nothing would be left to compute";
  EXPECT_EQ(submit([](Sequence& it) { it.submit.prompt_logprobs = true; }), Work::forward);
}

TEST(Scheduler, PreemptsTheNewestAndBringsItBack) {
  auto options = small();
  options.pages = 4;
  options.batch_tokens = 512;
  Scheduler scheduler(options);
  // One page each at first; the oldest grows until nobody can.
  for (SequenceId id = 1; id <= 3; ++id) ASSERT_TRUE(scheduler.submit(make(id, 64, 100)).is_ok());
  MicroBatch batch;
  bool preempted = false;
  bool restored = false;
  for (int step = 0; step < 1000 && !(scheduler.empty()); ++step) {
    ASSERT_TRUE(scheduler.plan(batch));
    const Work work = batch.work;
    const auto slices = batch.slices;
    if (work == Work::snapshot) {
      if (!preempted) {
        EXPECT_EQ(slices[0].sequence, 3U) << "the newest";
      }
      preempted = true;
    }
    restored |= work == Work::restore;
    scheduler.complete(batch);
    if (work != Work::forward) continue;
    for (const Slice& slice : slices) {
      Sequence& sequence = *scheduler.find(slice.sequence);
      if (sequence.pending() > 0) continue;
      scheduler.append(sequence, 1);
      if (sequence.generated() >= sequence.submit.max_new_tokens) scheduler.remove(sequence.id);
    }
  }
  EXPECT_TRUE(scheduler.empty());
  EXPECT_TRUE(preempted);
  EXPECT_TRUE(restored);
  EXPECT_EQ(scheduler.pages().used(), 0U);
}

/// The next micro-batch, which was refused memory.
MicroBatch refused(Scheduler& scheduler) {
  MicroBatch batch;
  EXPECT_TRUE(scheduler.plan(batch));
  batch.failure = {Code::resource_exhausted, "no memory"};
  scheduler.complete(batch);
  return batch;
}

TEST(Scheduler, AStepThatWasRefusedMemoryIsTakenFromTheStart) {
  Scheduler scheduler(small());
  ASSERT_TRUE(scheduler.submit(make(1, 200)).is_ok());
  MicroBatch batch;
  ASSERT_TRUE(scheduler.plan(batch));
  scheduler.complete(batch);
  Sequence& sequence = *scheduler.find(1);
  EXPECT_EQ(sequence.computed, 128U);
  const auto pages = sequence.pages;
  EXPECT_EQ(refused(scheduler).work, Work::forward);
  EXPECT_EQ(sequence.computed, 128U);
  scheduler.start_over(sequence);
  ASSERT_TRUE(scheduler.plan(batch));
  EXPECT_EQ(batch.slices[0].position, 0U);
  EXPECT_EQ(batch.slices[0].rows, 128U);
  EXPECT_TRUE(std::ranges::equal(std::span(sequence.pages).first(2), std::span(pages).first(2)))
      << "it keeps what it holds";
  scheduler.complete(batch);
  scheduler.remove(1);
  EXPECT_EQ(scheduler.pages().used(), 0U);
}

TEST(Scheduler, AStateThatCannotBeCopiedIsComputedAgain) {
  auto options = small();
  options.pages = 2;
  Scheduler scheduler(options);
  for (SequenceId id = 1; id <= 2; ++id) ASSERT_TRUE(scheduler.submit(make(id, 64, 60)).is_ok());
  MicroBatch batch;
  ASSERT_TRUE(scheduler.plan(batch));
  scheduler.complete(batch);
  for (SequenceId id = 1; id <= 2; ++id) scheduler.append(*scheduler.find(id), 7);
  EXPECT_EQ(refused(scheduler).work, Work::snapshot);
  const Sequence& victim = *scheduler.find(2);
  EXPECT_EQ(victim.state, SequenceState::waiting);
  EXPECT_EQ(victim.computed, 0U);
  EXPECT_EQ(victim.snapshot, nullptr);
  EXPECT_EQ(scheduler.pages().used(), 1U) << "the oldest has its room all the same";
  ASSERT_TRUE(scheduler.plan(batch));
  EXPECT_EQ(batch.slices[0].sequence, 1U);
  scheduler.complete(batch);
  scheduler.remove(1);
  ASSERT_TRUE(scheduler.plan(batch));
  EXPECT_EQ(batch.slices[0].sequence, 2U);
  EXPECT_EQ(batch.slices[0].rows, 65U);
  scheduler.complete(batch);
}

TEST(Scheduler, AStateThatCannotBeBroughtBackIsComputedAgain) {
  auto options = small();
  options.pages = 2;
  Scheduler scheduler(options);
  for (SequenceId id = 1; id <= 2; ++id) ASSERT_TRUE(scheduler.submit(make(id, 64, 60)).is_ok());
  MicroBatch batch;
  ASSERT_TRUE(scheduler.plan(batch));
  scheduler.complete(batch);
  for (SequenceId id = 1; id <= 2; ++id) scheduler.append(*scheduler.find(id), 7);
  ASSERT_TRUE(scheduler.plan(batch));
  ASSERT_EQ(batch.work, Work::snapshot);
  scheduler.complete(batch);
  scheduler.remove(1);
  EXPECT_EQ(refused(scheduler).work, Work::restore);
  Sequence& sequence = *scheduler.find(2);
  EXPECT_EQ(sequence.state, SequenceState::running);
  scheduler.start_over(sequence);
  ASSERT_TRUE(scheduler.plan(batch));
  EXPECT_EQ(batch.work, Work::forward);
  EXPECT_EQ(batch.slices[0].rows, 65U);
  scheduler.complete(batch);
}

// One that leaves is handed over without its state; a copy for the prompt cache is not missed.
TEST(Scheduler, CopiesForOthersThatAreRefusedMemoryAreLeftOut) {
  auto options = small();
  PrefixCache cache({}, StateShape{});
  Scheduler scheduler(options, &cache);
  ASSERT_TRUE(scheduler.submit(make(1, 100)).is_ok());
  MicroBatch batch;
  ASSERT_TRUE(scheduler.plan(batch));
  scheduler.complete(batch);
  Sequence& sequence = *scheduler.find(1);
  scheduler.append(sequence, 7);
  const MicroBatch capture = refused(scheduler);
  EXPECT_TRUE(capture.capture);
  EXPECT_EQ(cache.stats().stored_total, 0U);
  EXPECT_EQ(sequence.computed, 100U) << "it goes on";
  scheduler.depart(sequence);
  EXPECT_EQ(refused(scheduler).work, Work::snapshot);
  EXPECT_EQ(sequence.state, SequenceState::departed);
  EXPECT_EQ(sequence.snapshot, nullptr);
  EXPECT_EQ(scheduler.slots().used(), 0U);
}

/// Random arrivals, lanes, cancels: limits hold at every step and everything ends.
void run_random(std::uint64_t seed) {
  Rng rng(seed);
  auto options = small();
  options.lanes = 1 + static_cast<std::uint32_t>(rng.below(4));
  options.lane_rows_min = 1 + static_cast<std::uint32_t>(rng.below(3));
  options.batch_tokens = 1 + static_cast<std::uint32_t>(rng.below(200));
  options.pages = 6 + static_cast<std::uint32_t>(rng.below(12));
  Scheduler scheduler(options);
  std::vector<MicroBatch> lanes(options.lanes);
  std::vector<bool> busy(options.lanes);
  for (std::uint32_t lane = 0; lane < options.lanes; ++lane) lanes[lane].lane = lane;
  SequenceId next = 1;
  std::size_t ended = 0;
  std::size_t accepted = 0;
  for (int step = 0; step < 20'000; ++step) {
    if (next <= 30 && rng.below(3) == 0) {
      const auto prompt = 1 + static_cast<std::uint32_t>(rng.below(200));
      if (scheduler.submit(make(next++, prompt, 1 + static_cast<std::uint32_t>(rng.below(150)))).is_ok()) {
        ++accepted;
      }
    }
    const auto lane = rng.below(options.lanes);
    if (!busy[lane]) {
      busy[lane] = scheduler.plan(lanes[lane]);
      if (!busy[lane]) continue;
      ASSERT_LE(lanes[lane].rows(), std::max(options.batch_tokens, options.lane_rows_min));
      for (const Slice& slice : lanes[lane].slices) {
        ASSERT_GE(slice.pages->size() * kernels::kPageTokens, slice.position + slice.rows);
      }
      continue;
    }
    busy[lane] = false;
    const auto slices = lanes[lane].slices;
    const Work work = lanes[lane].work;
    scheduler.complete(lanes[lane]);
    for (const Slice& slice : slices) {
      Sequence& sequence = *scheduler.find(slice.sequence);
      if (work == Work::forward && sequence.pending() == 0) scheduler.append(sequence, 1);
      const bool full = sequence.generated() >= sequence.submit.max_new_tokens;
      if (!full && rng.below(200) != 0) continue;
      scheduler.remove(sequence.id);
      ++ended;
    }
    if (next > 30 && scheduler.empty()) break;
  }
  ASSERT_EQ(ended, accepted) << "seed " << seed;
  EXPECT_EQ(scheduler.pages().used(), 0U);
  EXPECT_EQ(scheduler.slots().used(), 0U);
}

TEST(Scheduler, KeepsItsPromisesUnderRandomTraffic) {
  for (std::uint64_t seed = 0; seed < 200; ++seed) ASSERT_NO_FATAL_FAILURE(run_random(seed));
}

}  // namespace
}  // namespace fulgur::attention
