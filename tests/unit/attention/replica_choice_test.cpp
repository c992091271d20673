// Which replica gets the work: by what workers owe and how fast they answer. Workers are queues on
// virtual time, so shares are exact and repeatable.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <vector>

#include "common/base/rng.hpp"
#include "services/attention/expert_dispatch.hpp"

namespace fulgur::attention {
namespace {

constexpr std::uint32_t kExperts = 8;
constexpr std::uint32_t kHidden = 2;

/// Workers that hold everything and serve first come, first served, some microseconds a unit.
class Farm {
 public:
  explicit Farm(std::size_t workers) : dispatch("attention-0", options(), clock, hooks()) {
    wire::Placement placement;
    placement.epoch = 1;
    placement.layers = 1;
    placement.experts = kExperts;
    for (std::size_t worker = 0; worker < workers; ++worker) {
      wire::WorkerEntry entry;
      entry.name = "expert-" + std::to_string(worker);
      entry.endpoint = "test://" + std::to_string(worker);
      entry.replicas = {0xff};
      placement.workers.push_back(entry);
      unit_us.push_back(20);
      free_at_.push_back(0);
    }
    rows.resize(workers);
    EXPECT_TRUE(dispatch.set_placement(placement));
    for (std::size_t worker = 0; worker < workers; ++worker) dispatch.on_link_up(worker + 1);
  }

  static DispatchOptions options() {
    DispatchOptions options;
    options.hidden = kHidden;
    options.dtype = Dtype::f32;
    return options;
  }

  /// Keeps `lanes` micro-batches of `batch_rows` tokens under way for `duration`.
  void run(Nanoseconds duration, std::size_t lanes, std::uint32_t batch_rows) {
    std::fill(rows.begin(), rows.end(), 0);
    const Nanoseconds end = clock.now() + duration;
    while (clock.now() < end) {
      while (running_ < lanes) start(batch_rows);
      step(end);
    }
  }

  void start(std::uint32_t batch_rows) {
    auto batch = std::make_shared<MicroBatch>();
    batch->tokens.resize(batch_rows);
    batch->experts.resize(std::size_t{2} * batch_rows);
    for (auto& expert : batch->experts) expert = static_cast<std::uint16_t>(rng_.below(kExperts));
    start(batch);
  }
  void start(const MicroBatchPtr& batch) {
    ++running_;
    dispatch.run(batch, 0);
  }

  double share(std::size_t worker) const {
    std::uint64_t all = 0;
    for (const std::uint64_t each : rows) all += each;
    return static_cast<double>(rows[worker]) / static_cast<double>(all);
  }
  const wire::WorkerSeen seen(std::size_t worker) const {
    return dispatch.workers_seen().at(worker);
  }

  ManualClock clock;
  std::vector<Nanoseconds> unit_us;  ///< of each worker; 0: does not answer
  std::vector<std::uint64_t> rows;   ///< routed rows that each worker was sent
  std::vector<wire::Dispatch> sent;  ///< all, in order
  std::uint64_t batches_done = 0;
  ExpertDispatch dispatch;

 private:
  struct Answer {
    transport::LinkId link;
    wire::Combine combine;
  };

  ExpertDispatch::Hooks hooks() {
    ExpertDispatch::Hooks hooks;
    hooks.send = [this](transport::LinkId link, wire::Message message) {
      serve(link, std::get<wire::Dispatch>(message.body));
      return Status::ok();
    };
    hooks.pack = [](const MicroBatch&, std::span<const std::uint32_t> packed) {
      return wire::Frame{nullptr, nullptr, packed.size() * kHidden * 4};
    };
    hooks.done = [this](const MicroBatchPtr&, std::uint32_t) {
      --running_;
      ++batches_done;
    };
    hooks.connect = [this](const std::string&) { return ++last_link_; };
    hooks.disconnect = [](transport::LinkId) {};
    hooks.report = [](const wire::Report&) {};
    return hooks;
  }

  void serve(transport::LinkId link, const wire::Dispatch& dispatched) {
    const std::size_t worker = link - 1;
    sent.push_back(dispatched);
    rows[worker] += dispatched.routes.size();
    if (unit_us[worker] == 0) return;
    std::uint64_t units = 0;
    for (std::size_t at = 0; at < dispatched.routes.size(); ++at)
      units += at == 0 || dispatched.routes[at].expert != dispatched.routes[at - 1].expert ? 17 : 1;
    free_at_[worker] = std::max(free_at_[worker], clock.now()) +
                       static_cast<Nanoseconds>(units) * unit_us[worker] * kMicrosecond;
    wire::Combine combine;
    combine.id = dispatched.id;
    combine.routes = static_cast<std::uint32_t>(dispatched.routes.size());
    combine.hidden = kHidden;
    combine.dtype = Dtype::f32;
    auto memory = std::make_shared<std::vector<float>>(combine.routes * kHidden);
    combine.outputs = {memory, reinterpret_cast<const std::byte*>(memory->data()),
                       memory->size() * 4};
    due_.emplace(free_at_[worker], Answer{link, std::move(combine)});
  }

  void step(Nanoseconds end) {
    const Nanoseconds next = due_.empty() ? end : std::min(end, due_.begin()->first);
    if (next / (50 * kMillisecond) != clock.now() / (50 * kMillisecond)) dispatch.tick();
    clock.advance(next - clock.now());
    if (due_.empty() || due_.begin()->first > clock.now()) return;
    Answer answer = std::move(due_.begin()->second);
    due_.erase(due_.begin());
    dispatch.on_combine(answer.link, std::move(answer.combine));
  }

  Rng rng_{7};
  std::size_t running_ = 0;
  transport::LinkId last_link_ = 0;
  std::vector<Nanoseconds> free_at_;
  std::multimap<Nanoseconds, Answer> due_;
};

TEST(ReplicaChoice, EqualWorkersShareEqually) {
  Farm farm(3);
  farm.run(8 * kSecond, 4, 8);
  for (std::size_t worker = 0; worker < 3; ++worker) {
    EXPECT_NEAR(farm.share(worker), 1.0 / 3, 0.02);
    EXPECT_NEAR(farm.seen(worker).speed, 1.0, 0.25);
    EXPECT_FALSE(farm.seen(worker).slow);
  }
}

TEST(ReplicaChoice, ASlowWorkerGetsLittleAndComesBack) {
  for (const std::size_t lanes : {1U, 2U, 8U}) {
    Farm farm(3);
    farm.run(kSecond, lanes, 8);
    farm.unit_us[1] = 200;
    farm.run(4 * kSecond, lanes, 8);
    farm.run(10 * kSecond, lanes, 8);
    EXPECT_LE(farm.share(1), farm.share(0) / 10) << lanes;
    EXPECT_TRUE(farm.seen(1).slow);
    EXPECT_LT(farm.seen(1).speed, 0.25);
    EXPECT_FALSE(farm.seen(0).slow);
    farm.unit_us[1] = 20;
    farm.run(20 * kSecond, lanes, 8);
    farm.run(kSecond, lanes, 8);
    EXPECT_NEAR(farm.share(1), 1.0 / 3, 0.06) << lanes;
    EXPECT_FALSE(farm.seen(1).slow);
  }
}

/// The host took the core away once: the next micro-batches are shared as before.
TEST(ReplicaChoice, OneLongAnswerChangesNothing) {
  Farm farm(2);
  farm.run(kSecond, 1, 8);
  const double speed = farm.seen(1).speed;
  farm.unit_us[1] = 200;
  const std::uint64_t before = farm.batches_done;
  while (farm.batches_done == before) farm.run(kMillisecond, 1, 8);
  farm.unit_us[1] = 20;
  EXPECT_NEAR(farm.seen(1).speed, speed, 0.25);
  farm.run(50 * kMillisecond, 1, 8);
  EXPECT_NEAR(farm.share(1), 0.5, 0.06);
}

TEST(ReplicaChoice, WorkFollowsSpeed) {
  Farm farm(2);
  farm.unit_us = {20, 60};
  farm.run(kSecond, 8, 8);
  farm.run(4 * kSecond, 8, 8);
  EXPECT_NEAR(farm.share(0), 0.75, 0.06);
}

TEST(ReplicaChoice, AWorkerThatStallsIsLeftBeforeItsSilenceIsUp) {
  Farm farm(2);
  farm.run(kSecond, 4, 8);
  farm.unit_us[1] = 0;
  farm.run(kSecond, 8, 8);  // four of the eight lanes end up waiting for it at most
  const std::uint64_t before = farm.batches_done;
  farm.run(kSecond, 64, 8);
  EXPECT_LT(farm.rows[1], farm.rows[0] / 10);
  EXPECT_GT(farm.batches_done, before);
}

TEST(ReplicaChoice, ALargeGroupIsSplitOverTheHolders) {
  Farm farm(2);
  auto batch = std::make_shared<MicroBatch>();
  batch->tokens.resize(256);
  batch->experts.assign(512, 3);
  farm.start(batch);
  ASSERT_EQ(farm.sent.size(), 2U);
  EXPECT_EQ(farm.sent[0].routes.size(), 256U);
  EXPECT_EQ(farm.sent[1].routes.size(), 256U);
  farm.start(8);  // few rows stay together
  std::map<std::uint16_t, std::size_t> readers;
  for (std::size_t at = 2; at < farm.sent.size(); ++at) {
    std::uint16_t last = kExperts;
    for (const auto& route : farm.sent[at].routes) {
      if (route.expert != last) ++readers[route.expert];
      last = route.expert;
    }
  }
  for (const auto& [expert, count] : readers) EXPECT_EQ(count, 1U) << expert;
}

}  // namespace
}  // namespace fulgur::attention
