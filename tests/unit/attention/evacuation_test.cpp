// A shard that leaves, against targets that take, refuse, hang and die at every single message, on
// virtual time and without a model: every sequence ends exactly once, those that moved are whole
// where they went, and nothing is left on either side.
#include "services/attention/evacuation.hpp"

#include <gtest/gtest.h>

#include <deque>
#include <optional>

#include "services/attention/parked_snapshots.hpp"
#include "tests/unit/attention/snapshot_fixture.hpp"

namespace fulgur::attention {
namespace {

constexpr std::uint32_t kMaxNew = 400;

struct Ending {
  std::string moved_to;
  std::uint64_t snapshot = 0;
  std::vector<std::uint32_t> tokens;
};

/// A leaving shard's scheduler with an engine that makes up tokens, and the shards it can move to.
class World {
 public:
  explicit World(std::vector<std::string> targets, EvacuationOptions options = small_steps(),
                 ParkedLimits limits = {})
      : scheduler_(scheduler_options()), options_(options) {
    for (auto& name : targets) targets_[name].store.emplace(limits, test_shape(), test_identity(), clock);
  }

  static EvacuationOptions small_steps() {
    EvacuationOptions options;
    options.chunk_bytes = 400;
    return options;
  }
  static SchedulerOptions scheduler_options() {
    SchedulerOptions options;
    options.slots = 4;
    options.pages = 64;
    options.positions_max = 10'000;
    options.vocab = 1000;
    options.identity = test_identity();
    return options;
  }

  void submit(SequenceId id, std::uint32_t prompt) {
    auto sequence = std::make_unique<Sequence>();
    sequence->id = id;
    sequence->submit.request = id;
    sequence->submit.tokens = tokens_of(id, prompt);
    sequence->submit.prompt_tokens = prompt;
    sequence->submit.max_new_tokens = kMaxNew;
    ASSERT_TRUE(scheduler_.submit(std::move(sequence)).is_ok());
  }

  /// One step of the engine: whatever the scheduler plans is done.
  void step() {
    MicroBatch batch;
    if (!scheduler_.plan(batch)) return;
    if (batch.work == Work::snapshot) fill_layers(*batch.snapshot);
    scheduler_.complete(batch);
    if (batch.work != Work::forward) return;
    for (const Slice& slice : batch.slices) {
      Sequence& sequence = *scheduler_.find(slice.sequence);
      if (sequence.pending() > 0) continue;
      scheduler_.append(sequence, static_cast<std::uint32_t>(sequence.length() % 100));
      if (sequence.generated() >= kMaxNew) finish(sequence.id);
    }
  }

  void drain() {
    Evacuation::Hooks hooks;
    hooks.connect = [this](const std::string& endpoint) { return connect(endpoint); };
    hooks.send = [this](transport::LinkId link, wire::Body body) {
      return send(link, std::move(body));
    };
    hooks.hand_over = [this](SequenceId id, const std::string& to, std::uint64_t snapshot) {
      const SequencePtr sequence = scheduler_.remove(id);
      EXPECT_FALSE(endings.contains(id)) << "ended twice";
      endings[id] = {to, snapshot, sequence->submit.tokens};
    };
    evacuation_.emplace(options_, scheduler_, clock, std::move(hooks));
    std::vector<wire::ShardEntry> shards;
    for (const auto& [name, target] : targets_) shards.push_back({name, 1, name, true});
    evacuation_->set_targets(shards);
  }

  /// Links come up, then messages and engine steps in turn, until all is quiet or `messages` have
  /// been delivered.
  void run(std::size_t messages = 100'000) {
    for (auto& [name, target] : targets_) {
      if (target.link != 0 && !target.up && target.alive) set_up(target);
    }
    for (int idle = 0; idle < 3 && !scheduler_.empty();) {
      evacuation_->advance();
      step();
      if (inbox_.empty()) {
        ++idle;
        continue;
      }
      if (messages-- == 0) return;
      idle = 0;
      deliver();
    }
    evacuation_->advance();
    while (!inbox_.empty()) deliver();
  }

  void kill(const std::string& name) {
    Target& target = targets_.at(name);
    target.alive = false;
    target.up = false;
    std::erase_if(inbox_, [&](const auto& mail) { return mail.link == target.link; });
    target.store->on_link_down(target.link);
    evacuation_->on_link_down(target.link);
  }
  void cancel(SequenceId id) {
    scheduler_.remove(id);
    evacuation_->advance();
  }
  void finish(SequenceId id) {
    finished.push_back(id);
    scheduler_.remove(id);
  }

  /// The state that a sequence was moved with is at its target and fits what its router submits.
  void expect_whole(SequenceId id) {
    const Ending& ending = endings.at(id);
    ASSERT_TRUE(targets_.contains(ending.moved_to)) << id;
    const auto taken = targets_.at(ending.moved_to).store->take(ending.snapshot, ending.tokens);
    ASSERT_NE(taken, nullptr) << id;
    EXPECT_EQ(taken->tokens.size() + 1, ending.tokens.size()) << "one token is to be computed";
    EXPECT_EQ(taken->layers, snapshot_of(taken->tokens).layers) << id;
  }
  void expect_nothing_left() {
    EXPECT_TRUE(scheduler_.empty());
    EXPECT_EQ(scheduler_.slots().used(), 0U);
    EXPECT_EQ(scheduler_.pages().used(), 0U);
    for (auto& [name, target] : targets_) {
      EXPECT_EQ(target.store->bytes(), 0U) << name;
      EXPECT_EQ(target.store->count(), 0U) << name;
    }
  }

  ParkedSnapshots& store(const std::string& name) { return *targets_.at(name).store; }
  Evacuation& evacuation() { return *evacuation_; }
  Scheduler& scheduler() { return scheduler_; }
  void set_full(const std::string& name) {
    ParkedLimits nothing;
    nothing.bytes_max = 0;
    targets_.at(name).store.emplace(nothing, test_shape(), test_identity(), clock);
  }
  void set_leaving(const std::string& name) { targets_.at(name).leaving = true; }
  void set_mute(const std::string& name) { targets_.at(name).mute = true; }
  void set_alive(const std::string& name, bool alive) { targets_.at(name).alive = alive; }

  ManualClock clock;
  std::map<SequenceId, Ending> endings;
  std::vector<SequenceId> finished;
  std::uint64_t refuse_sends = 0;  ///< every how manieth send finds its link full; 0: none
  std::uint64_t in_flight_max = 0;

 private:
  struct Target {
    std::optional<ParkedSnapshots> store;
    transport::LinkId link = 0;
    bool up = false;
    bool alive = true;
    bool leaving = false;
    bool mute = false;
  };
  struct Mail {
    transport::LinkId link = 0;
    bool to_target = false;
    wire::Body body;
  };

  transport::LinkId connect(const std::string& endpoint) {
    Target& target = targets_.at(endpoint);
    target.link = next_link_++;
    return target.link;
  }
  void set_up(Target& target) {
    target.up = true;
    evacuation_->on_link_up(target.link);
  }
  Target* by_link(transport::LinkId link) {
    for (auto& [name, target] : targets_) {
      if (target.link == link) return &target;
    }
    return nullptr;
  }

  Status send(transport::LinkId link, wire::Body body) {
    Target* target = by_link(link);
    if (target == nullptr || !target->up) return {Code::unavailable, "down"};
    ++sends_;
    if (refuse_sends != 0 && sends_ % refuse_sends == 0) return {Code::resource_exhausted, "full"};
    if (const auto* chunk = std::get_if<wire::SnapshotChunk>(&body)) {
      EXPECT_LE(chunk->bytes.size, options_.chunk_bytes);
      in_flight_ += chunk->bytes.size;
      in_flight_max = std::max(in_flight_max, in_flight_);
    }
    inbox_.push_back({link, true, std::move(body)});
    return Status::ok();
  }

  void deliver() {
    Mail mail = std::move(inbox_.front());
    inbox_.pop_front();
    Target* target = by_link(mail.link);
    if (target == nullptr || !target->up) return;
    if (!mail.to_target) {
      return evacuation_->on_reply(mail.link, std::get<wire::SnapshotReply>(mail.body));
    }
    const auto answer = [&](wire::SnapshotReply reply) {
      if (!target->mute) inbox_.push_back({mail.link, false, std::move(reply)});
    };
    if (const auto* offer = std::get_if<wire::SnapshotOffer>(&mail.body)) {
      if (!target->leaving) return answer(target->store->on_offer(mail.link, *offer));
      return answer({offer->transfer, wire::SnapshotState::refused, Code::unavailable, "", 0, 0, 0});
    }
    if (const auto* drop = std::get_if<wire::SnapshotDrop>(&mail.body)) {
      return target->store->on_drop(mail.link, *drop);
    }
    const auto& chunk = std::get<wire::SnapshotChunk>(mail.body);
    in_flight_ -= chunk.bytes.size;
    if (auto reply = target->store->on_chunk(mail.link, chunk)) answer(std::move(*reply));
  }

  Scheduler scheduler_;
  EvacuationOptions options_;
  std::map<std::string, Target> targets_;
  std::optional<Evacuation> evacuation_;
  std::deque<Mail> inbox_;
  transport::LinkId next_link_ = 1;
  std::uint64_t sends_ = 0;
  std::uint64_t in_flight_ = 0;
};

/// Four run (one of them in the middle of a long prompt), two wait.
void fill(World& world) {
  world.submit(1, 10);
  world.submit(2, 64);
  world.submit(3, 130);
  for (int at = 0; at < 20; ++at) world.step();
  world.submit(4, 1300);
  world.submit(5, 5);
  world.submit(6, 70);
  world.step();
}

TEST(Evacuation, MovesEverySequenceWithItsState) {
  World world({"a", "b"});
  fill(world);
  world.drain();
  world.run();
  ASSERT_EQ(world.endings.size(), 6U);
  for (SequenceId id : {1, 2, 3, 4}) world.expect_whole(id);
  EXPECT_EQ(world.endings[5].moved_to, "") << "it had no state";
  EXPECT_EQ(world.endings[6].moved_to, "");
  EXPECT_EQ(world.evacuation().stats().moved_total, 4U);
  EXPECT_EQ(world.evacuation().stats().handed_total, 2U);
  const auto spread = world.store("a").stats().parked_total;
  EXPECT_EQ(spread, 2U) << "shared out evenly";
}

TEST(Evacuation, HalfAPromptIsWorthMoving) {
  World world({"a"});
  world.submit(1, 3000);
  world.step();
  world.drain();
  world.run();
  const auto& half = world.endings.at(1);
  ASSERT_EQ(half.moved_to, "a");
  const auto taken = world.store("a").take(half.snapshot, half.tokens);
  ASSERT_NE(taken, nullptr);
  EXPECT_EQ(taken->tokens.size(), 512U);
  EXPECT_EQ(half.tokens.size(), 3000U);
}

TEST(Evacuation, KeepsWithinTheCreditAndTheNumberOfTransfers) {
  ParkedLimits limits;
  limits.credit_bytes = 1000;
  World world({"a"}, World::small_steps(), limits);
  world.refuse_sends = 5;
  fill(world);
  world.drain();
  world.run();
  EXPECT_EQ(world.evacuation().stats().moved_total, 4U);
  EXPECT_LE(world.in_flight_max, 2 * limits.credit_bytes);
}

TEST(Evacuation, AFullTargetIsLeftForAnother) {
  World world({"a", "b"});
  world.set_full("a");
  fill(world);
  world.drain();
  world.run();
  for (SequenceId id : {1, 2, 3}) {
    EXPECT_EQ(world.endings.at(id).moved_to, "b");
    world.expect_whole(id);
  }
  EXPECT_GE(world.evacuation().stats().refused_total, 1U);
}

TEST(Evacuation, WhenAllAreFullTheRouterGetsItsSequencesBack) {
  ParkedLimits limits;
  limits.bytes_max = 0;
  World world({"a", "b"}, World::small_steps(), limits);
  fill(world);
  world.drain();
  world.run();
  ASSERT_EQ(world.endings.size(), 6U);
  for (const auto& [id, ending] : world.endings) EXPECT_EQ(ending.moved_to, "");
  EXPECT_EQ(world.evacuation().stats().handed_total, 6U);
  world.expect_nothing_left();
}

TEST(Evacuation, WithoutAnotherShardSequencesFinish) {
  World world({});
  fill(world);
  world.drain();
  for (int at = 0; at < 3000; ++at) {
    world.evacuation().advance();
    world.step();
  }
  EXPECT_EQ(world.finished.size(), 6U);
  EXPECT_TRUE(world.endings.empty());
  world.expect_nothing_left();
}

TEST(Evacuation, ShardsThatLeaveTooAreNone) {
  World world({"a", "b"});
  world.set_leaving("a");
  world.set_leaving("b");
  fill(world);
  world.drain();
  world.run(2000);
  for (int at = 0; at < 3000; ++at) {
    world.evacuation().advance();
    world.step();
  }
  // What waited has been handed back before the others said that they leave.
  EXPECT_EQ(world.finished.size(), 4U);
  EXPECT_EQ(world.endings.size(), 2U);
  world.expect_nothing_left();
}

TEST(Evacuation, ATargetThatNeverConnectsIsNone) {
  World world({"a"});
  world.set_alive("a", false);
  fill(world);
  world.drain();
  world.run(1);
  EXPECT_TRUE(world.endings.empty()) << "not yet";
  EXPECT_EQ(world.scheduler().running(), 4U) << "they go on meanwhile";
  world.clock.advance(World::small_steps().connect_patience);
  for (int at = 0; at < 3000; ++at) {
    world.evacuation().advance();
    world.step();
  }
  EXPECT_EQ(world.finished.size(), 6U);
}

TEST(Evacuation, TheGraceEndsIt) {
  World world({});
  fill(world);
  world.drain();
  world.evacuation().advance();
  EXPECT_TRUE(world.endings.empty());
  world.clock.advance(World::small_steps().grace);
  EXPECT_TRUE(world.evacuation().out_of_time());
  world.evacuation().advance();
  EXPECT_EQ(world.endings.size(), 6U);
  world.expect_nothing_left();
}

TEST(Evacuation, ASilentTargetIsGivenUp) {
  World world({"a", "b"});
  world.set_mute("a");
  fill(world);
  world.drain();
  world.run();
  world.clock.advance(World::small_steps().silence_max + 1);
  world.run();
  ASSERT_EQ(world.endings.size(), 6U);
  for (SequenceId id : {1, 2, 3}) {
    EXPECT_EQ(world.endings[id].moved_to, "b");
    world.expect_whole(id);
  }
  EXPECT_GE(world.evacuation().stats().broken_total, 1U);
  EXPECT_EQ(world.store("a").count(), 0U) << "dropped there";
}

/// How many messages an undisturbed drain takes.
std::size_t messages_of_a_drain() {
  std::size_t count = 0;
  for (;; ++count) {
    World world({"a", "b"});
    fill(world);
    world.drain();
    world.run(count);
    if (world.endings.size() == 6) return count;
  }
}

TEST(Evacuation, SurvivesATargetsDeathAtEveryMessage) {
  const std::size_t messages = messages_of_a_drain();
  ASSERT_GT(messages, 40U);
  for (std::size_t at = 0; at < messages; ++at) {
    World world({"a", "b"});
    fill(world);
    world.drain();
    world.run(at);
    world.kill("a");
    world.run();
    ASSERT_EQ(world.endings.size(), 6U) << at;
    for (SequenceId id : {1, 2, 3}) {
      // With the dead target its router submits it to any shard: a miss, and a prefill.
      if (world.endings[id].moved_to == "b") world.expect_whole(id);
    }
    EXPECT_TRUE(world.scheduler().empty());
    EXPECT_EQ(world.scheduler().slots().used(), 0U);
  }
}

TEST(Evacuation, TheOnlyTargetsDeathAtEveryMessageLosesNothing) {
  for (std::size_t at = 0; at < 60; ++at) {
    World world({"a"});
    fill(world);
    world.drain();
    world.run(at);
    world.kill("a");
    const std::size_t moved = world.endings.size();
    world.clock.advance(World::small_steps().connect_patience);
    for (int step = 0; step < 3000; ++step) {
      world.evacuation().advance();
      world.step();
    }
    EXPECT_EQ(world.finished.size() + moved, 6U) << at;
    EXPECT_EQ(world.endings.size(), moved) << at;
    EXPECT_TRUE(world.scheduler().empty()) << at;
  }
}

TEST(Evacuation, ACancelAtEveryMessageFreesBothSides) {
  const std::size_t messages = messages_of_a_drain();
  for (std::size_t at = 0; at < messages; ++at) {
    for (SequenceId victim : {1, 3}) {
      World world({"a", "b"});
      fill(world);
      world.drain();
      world.run(at);
      const bool moved = world.endings.contains(victim);
      if (!moved) world.cancel(victim);
      world.run();
      EXPECT_EQ(world.endings.contains(victim), moved) << at;
      ASSERT_EQ(world.endings.size(), moved ? 6U : 5U) << at;
      for (auto& [id, ending] : world.endings) {
        if (!ending.moved_to.empty()) {
          EXPECT_NE(world.store(ending.moved_to).take(ending.snapshot, ending.tokens), nullptr) << at;
        }
      }
      world.expect_nothing_left();
    }
  }
}

TEST(Evacuation, TheSourcesDeathAtEveryMessageFreesTheTargets) {
  const std::size_t messages = messages_of_a_drain();
  for (std::size_t at = 0; at < messages; ++at) {
    World world({"a", "b"});
    fill(world);
    world.drain();
    world.run(at);
    for (const char* name : {"a", "b"}) {
      world.kill(name);  // seen from the target it is the same
      EXPECT_EQ(world.store(name).count(), world.store(name).stats().parked_total) << at;
      world.clock.advance(31 * kSecond);
      world.store(name).expire();
      EXPECT_EQ(world.store(name).bytes(), 0U) << at;
    }
  }
}

}  // namespace
}  // namespace fulgur::attention
