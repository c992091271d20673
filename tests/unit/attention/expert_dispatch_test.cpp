// Routing to workers: rows travel once, replicas share the load, losses and refusals are re-routed,
// and what nobody serves waits, then fails. Virtual time, no sockets.
#include "services/attention/expert_dispatch.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <set>

#include "common/base/rng.hpp"

namespace fulgur::attention {
namespace {

constexpr std::uint32_t kExperts = 8;
constexpr std::uint32_t kHidden = 4;

/// Workers as the dispatch sees them: every sent message, by link.
class Mesh {
 public:
  Mesh() : Mesh(options()) {}
  explicit Mesh(const DispatchOptions& options)
      : dispatch("attention-0", options, clock, hooks()) {}

  static DispatchOptions options() {
    DispatchOptions options;
    options.hidden = kHidden;
    options.dtype = Dtype::f32;
    return options;
  }

  ExpertDispatch::Hooks hooks() {
    ExpertDispatch::Hooks hooks;
    hooks.send = [this](transport::LinkId link, wire::Message message) {
      if (refuse.count(link) != 0) return error(Code::resource_exhausted, "full");
      sent.emplace_back(link, std::move(std::get<wire::Dispatch>(message.body)));
      return Status::ok();
    };
    hooks.pack = [](const MicroBatch&, std::span<const std::uint32_t> rows) {
      return wire::Frame{nullptr, nullptr, rows.size() * kHidden * 4};
    };
    hooks.done = [this](const MicroBatchPtr& batch, std::uint32_t) { done.push_back(batch); };
    hooks.connect = [this](const std::string&) { return ++last_link; };
    hooks.disconnect = [](transport::LinkId) {};
    hooks.report = [this](const wire::Report& report) { reports.push_back(report); };
    return hooks;
  }

  /// Worker w holds the experts of holders[w].
  void place(std::uint64_t epoch, const std::vector<std::set<std::uint32_t>>& holders) {
    wire::Placement placement;
    placement.epoch = epoch;
    placement.layers = 1;
    placement.experts = kExperts;
    for (std::size_t worker = 0; worker < holders.size(); ++worker) {
      wire::WorkerEntry entry;
      entry.name = "expert-" + std::to_string(worker);
      entry.endpoint = "test://" + std::to_string(worker);
      entry.replicas = {0};
      for (const auto expert : holders[worker]) entry.replicas[0] |= std::uint64_t{1} << expert;
      placement.workers.push_back(entry);
    }
    EXPECT_TRUE(dispatch.set_placement(placement));
  }

  void up(transport::LinkId link) { dispatch.on_link_up(link); }

  /// Answers the oldest unanswered message.
  void answer() {
    auto [link, sent_one] = sent.front();
    sent.erase(sent.begin());
    wire::Combine combine;
    combine.id = sent_one.id;
    combine.layer = sent_one.layer;
    combine.routes = static_cast<std::uint32_t>(sent_one.routes.size());
    combine.hidden = kHidden;
    combine.dtype = Dtype::f32;
    auto memory = std::make_shared<std::vector<float>>(combine.routes * kHidden);
    for (std::size_t at = 0; at < sent_one.routes.size(); ++at) {
      (*memory)[at * kHidden] = static_cast<float>(sent_one.routes[at].expert);
    }
    combine.outputs = {memory, reinterpret_cast<const std::byte*>(memory->data()), memory->size() * 4};
    dispatch.on_combine(link, std::move(combine));
  }

  static MicroBatchPtr batch(std::vector<std::uint16_t> experts) {
    auto batch = std::make_shared<MicroBatch>();
    batch->tokens.resize(experts.size() / 2);
    batch->experts = std::move(experts);
    return batch;
  }

  /// Every output came from the expert that its route names.
  static void expect_complete(const MicroBatch& batch) {
    ASSERT_TRUE(batch.failure.is_ok()) << batch.failure.message();
    for (std::size_t at = 0; at < batch.experts.size(); ++at) {
      ASSERT_NE(batch.outputs[at], nullptr);
      float value = 0;
      std::memcpy(&value, batch.outputs[at], 4);
      EXPECT_EQ(value, static_cast<float>(batch.experts[at]));
    }
  }

  ManualClock clock;
  std::vector<std::pair<transport::LinkId, wire::Dispatch>> sent;
  std::vector<MicroBatchPtr> done;
  std::vector<wire::Report> reports;
  std::set<transport::LinkId> refuse;
  transport::LinkId last_link = 0;
  ExpertDispatch dispatch;
};

const std::set<std::uint32_t> kAll{0, 1, 2, 3, 4, 5, 6, 7};

TEST(ExpertDispatch, SendsEachRowOnceAndSplitsExpertsOverReplicas) {
  Mesh mesh;
  mesh.place(1, {kAll, kAll});
  mesh.up(1);
  mesh.up(2);
  auto batch = Mesh::batch({0, 1, 1, 0, 2, 3, 3, 2});
  mesh.dispatch.run(batch, 0);
  ASSERT_EQ(mesh.sent.size(), 2U);
  std::set<std::uint16_t> experts;
  for (const auto& [link, dispatch] : mesh.sent) {
    std::set<std::uint16_t> own;
    for (const auto& route : dispatch.routes) own.insert(route.expert);
    EXPECT_EQ(own.size(), 2U) << "four experts of equal weight on two workers";
    for (const auto expert : own) EXPECT_TRUE(experts.insert(expert).second) << "read twice";
    EXPECT_TRUE(std::is_sorted(dispatch.routes.begin(), dispatch.routes.end(),
                               [](const auto& a, const auto& b) { return a.expert < b.expert; }));
    EXPECT_LE(dispatch.rows, 4U);
  }
  mesh.answer();
  EXPECT_TRUE(mesh.done.empty());
  mesh.answer();
  ASSERT_EQ(mesh.done.size(), 1U);
  Mesh::expect_complete(*batch);
  EXPECT_EQ(mesh.dispatch.outstanding(), 0U);
}

TEST(ExpertDispatch, AWorkerIsUnreachableOnlyAfterTheTimeThatALinkTakes) {
  Mesh mesh;
  mesh.place(1, {kAll, kAll});
  const auto reachable = [&](std::size_t worker) {
    return mesh.dispatch.workers_seen().at(worker).reachable;
  };
  EXPECT_TRUE(reachable(0) && reachable(1)) << "its link is being made";
  EXPECT_FALSE(mesh.dispatch.complete()) << "that is no worker to route to yet";
  mesh.up(1);
  mesh.clock.advance(2 * kSecond);
  EXPECT_TRUE(reachable(0));
  EXPECT_FALSE(reachable(1)) << "it never came up";
  mesh.place(2, {kAll, kAll});
  EXPECT_FALSE(reachable(1)) << "a placement makes no new link to it";
  mesh.up(2);
  EXPECT_TRUE(reachable(1));
  mesh.dispatch.on_link_down(1);
  EXPECT_FALSE(reachable(0)) << "a link that was lost is said at once";
}

TEST(ExpertDispatch, ReroutesWhatALostWorkerOwes) {
  Mesh mesh;
  mesh.place(1, {kAll, kAll});
  mesh.up(1);
  mesh.up(2);
  auto batch = Mesh::batch({0, 1, 2, 3});
  mesh.dispatch.run(batch, 0);
  mesh.dispatch.on_link_down(1);
  ASSERT_EQ(mesh.reports.size(), 1U);
  EXPECT_EQ(mesh.reports[0].worker, "expert-0");
  std::erase_if(mesh.sent, [](const auto& entry) { return entry.first == 1; });
  while (!mesh.sent.empty()) mesh.answer();
  ASSERT_EQ(mesh.done.size(), 1U);
  Mesh::expect_complete(*batch);
}

TEST(ExpertDispatch, AWorkerOwesNoMoreThanItsCredits) {
  auto options = Mesh::options();
  options.outstanding_max = 2;
  Mesh mesh(options);
  mesh.place(1, {kAll, kAll});
  mesh.up(1);
  mesh.up(2);
  std::vector<MicroBatchPtr> batches;
  for (int i = 0; i < 12; ++i) {
    batches.push_back(Mesh::batch({0, 1}));
    mesh.dispatch.run(batches.back(), 0);
  }
  const auto owed_by = [&](transport::LinkId worker) {
    return std::ranges::count_if(mesh.sent, [&](const auto& sent) { return sent.first == worker; });
  };
  EXPECT_EQ(owed_by(1), 2);
  EXPECT_EQ(owed_by(2), 2);
  while (mesh.done.size() < batches.size()) {
    ASSERT_FALSE(mesh.sent.empty()) << "an answer makes room for what waits";
    mesh.answer();
    EXPECT_LE(owed_by(1), 2);
    EXPECT_LE(owed_by(2), 2);
  }
  for (const auto& batch : batches) Mesh::expect_complete(*batch);
  EXPECT_EQ(mesh.dispatch.outstanding(), 0U);
}

TEST(ExpertDispatch, WaitsForAReplicaThenGivesUp) {
  Mesh mesh;
  mesh.place(1, {{0, 1, 2, 3}, {4, 5, 6, 7}});
  mesh.up(1);
  EXPECT_FALSE(mesh.dispatch.complete());
  auto batch = Mesh::batch({0, 4});
  mesh.dispatch.run(batch, 0);
  mesh.answer();
  EXPECT_TRUE(mesh.done.empty());
  mesh.up(2);
  EXPECT_TRUE(mesh.dispatch.complete());
  mesh.answer();
  ASSERT_EQ(mesh.done.size(), 1U);
  Mesh::expect_complete(*batch);

  mesh.dispatch.on_link_down(2);
  auto lost = Mesh::batch({0, 4});
  mesh.dispatch.run(lost, 0);
  mesh.answer();
  mesh.clock.advance(61 * kSecond);
  mesh.dispatch.tick();
  ASSERT_EQ(mesh.done.size(), 2U);
  EXPECT_EQ(lost->failure.message(), "no live worker holds expert 4 of layer 0");
}

TEST(ExpertDispatch, AsksSomebodyElseAfterANackOrSilence) {
  Mesh mesh;
  mesh.place(1, {kAll, kAll});
  mesh.up(1);
  mesh.up(2);
  auto batch = Mesh::batch({0, 0});
  mesh.dispatch.run(batch, 0);
  ASSERT_EQ(mesh.sent.size(), 1U);
  const auto first = mesh.sent.front();
  mesh.sent.clear();
  mesh.dispatch.on_nack(first.first, {first.second.id, 1, 0, wire::NackReason::busy});
  ASSERT_EQ(mesh.sent.size(), 1U);
  EXPECT_NE(mesh.sent.front().first, first.first);
  const auto second = mesh.sent.front();
  mesh.sent.clear();
  mesh.clock.advance(11 * kSecond);
  mesh.dispatch.tick();
  ASSERT_EQ(mesh.sent.size(), 1U);
  EXPECT_EQ(mesh.sent.front().first, first.first);
  EXPECT_EQ(mesh.reports.back().code, Code::deadline_exceeded);
  mesh.answer();
  ASSERT_EQ(mesh.done.size(), 1U);
  Mesh::expect_complete(*batch);
}

TEST(ExpertDispatch, AsksAnotherHolderWhenAnAnswerIsOverdue) {
  Mesh mesh;
  mesh.place(1, {kAll, kAll});
  mesh.up(1);
  mesh.up(2);
  auto batch = Mesh::batch({0, 0});
  mesh.dispatch.run(batch, 0);
  ASSERT_EQ(mesh.sent.size(), 1U);
  const auto first = mesh.sent.front();
  mesh.sent.clear();
  mesh.clock.advance(Mesh::options().patience_min - 1);
  mesh.dispatch.tick();
  EXPECT_TRUE(mesh.sent.empty());
  mesh.clock.advance(1);
  mesh.dispatch.tick();
  ASSERT_EQ(mesh.sent.size(), 1U);
  EXPECT_NE(mesh.sent.front().first, first.first);
  EXPECT_TRUE(mesh.reports.empty()) << "slow is not dead";
  EXPECT_EQ(mesh.dispatch.stats().overdue_total, 1U);
  const auto second = mesh.sent.front();
  mesh.sent = {first, second};
  mesh.answer();
  EXPECT_TRUE(mesh.done.empty()) << "the late answer counts no more";
  mesh.answer();
  ASSERT_EQ(mesh.done.size(), 1U);
  Mesh::expect_complete(*batch);
}

TEST(ExpertDispatch, WaitsForTheOnlyHolder) {
  Mesh mesh;
  mesh.place(1, {kAll, {7}});
  mesh.up(1);
  mesh.up(2);
  auto batch = Mesh::batch({0, 7});  // expert 0 has one holder
  mesh.dispatch.run(batch, 0);
  const std::size_t sent = mesh.sent.size();
  mesh.clock.advance(5 * kSecond);
  mesh.dispatch.tick();
  for (std::size_t at = sent; at < mesh.sent.size(); ++at)
    for (const wire::Route& route : mesh.sent[at].second.routes) EXPECT_EQ(route.expert, 7U);
}

TEST(ExpertDispatch, EpochsOfANewerOrchestratorStartOver) {
  Mesh mesh;
  const auto placed = [&](std::uint64_t generation, std::uint64_t epoch) {
    wire::Placement placement;
    placement.orchestrator_generation = generation;
    placement.epoch = epoch;
    placement.layers = 1;
    placement.experts = kExperts;
    const bool adopted = mesh.dispatch.set_placement(placement);
    EXPECT_EQ(mesh.dispatch.routes_by(placement), adopted);
    return adopted;
  };
  EXPECT_TRUE(placed(1, 9));
  EXPECT_FALSE(placed(1, 8));
  EXPECT_TRUE(placed(2, 3));
  EXPECT_EQ(mesh.dispatch.epoch(), 3U);
  EXPECT_FALSE(placed(1, 10));
  EXPECT_FALSE(placed(2, 2));
  EXPECT_TRUE(placed(2, 4));
}

TEST(ExpertDispatch, IgnoresStalePlacementsAndLateAnswers) {
  Mesh mesh;
  mesh.place(5, {kAll});
  wire::Placement stale;
  stale.epoch = 4;
  EXPECT_FALSE(mesh.dispatch.set_placement(stale));
  mesh.up(1);
  auto batch = Mesh::batch({0, 1});
  mesh.dispatch.run(batch, 0);
  const auto copy = mesh.sent;
  mesh.answer();
  mesh.sent = copy;
  mesh.answer();
  EXPECT_EQ(mesh.done.size(), 1U);
}

/// Random losses, refusals, returns and placements: every batch completes exactly once.
void run_random(std::uint64_t seed) {
  Rng rng(seed);
  Mesh mesh;
  mesh.place(1, {kAll, kAll, kAll});
  std::set<transport::LinkId> ups{1, 2, 3};
  for (const auto link : ups) mesh.up(link);
  std::size_t started = 0;
  for (int step = 0; step < 400; ++step) {
    const auto choice = rng.below(10);
    if (choice < 4 && started < 40) {
      std::vector<std::uint16_t> experts(2 * (1 + rng.below(6)));
      for (auto& expert : experts) expert = static_cast<std::uint16_t>(rng.below(kExperts));
      mesh.dispatch.run(Mesh::batch(experts), 0);
      ++started;
    } else if (choice < 8 && !mesh.sent.empty()) {
      mesh.answer();
    } else if (choice == 8) {
      const transport::LinkId link = 1 + rng.below(3);
      if (ups.erase(link) != 0) {
        mesh.dispatch.on_link_down(link);
        std::erase_if(mesh.sent, [&](const auto& entry) { return entry.first == link; });
      } else {
        ups.insert(link);
        mesh.up(link);
      }
    } else if (!mesh.sent.empty()) {
      const auto refused = mesh.sent.front();
      mesh.sent.erase(mesh.sent.begin());
      mesh.dispatch.on_nack(refused.first, {refused.second.id, 1, 0, wire::NackReason::busy});
    }
    mesh.clock.advance(100 * kMillisecond);
    mesh.dispatch.tick();
  }
  for (transport::LinkId link = 1; link <= 3; ++link) {
    if (ups.count(link) == 0) mesh.up(link);
  }
  for (int step = 0; step < 2000 && mesh.done.size() < started; ++step) {
    while (!mesh.sent.empty()) mesh.answer();
    mesh.clock.advance(100 * kMillisecond);
    mesh.dispatch.tick();
  }
  ASSERT_EQ(mesh.done.size(), started) << "seed " << seed;
  for (const auto& batch : mesh.done) ASSERT_NO_FATAL_FAILURE(Mesh::expect_complete(*batch)) << seed;
  EXPECT_EQ(mesh.dispatch.outstanding(), 0U);
}

TEST(ExpertDispatch, CompletesEverythingUnderRandomFaults) {
  for (std::uint64_t seed = 0; seed < 300; ++seed) ASSERT_NO_FATAL_FAILURE(run_random(seed));
}

}  // namespace
}  // namespace fulgur::attention
