#include "cli/planner/pool_order.hpp"

#include <algorithm>
#include <deque>
#include <queue>

#include "common/base/assert.hpp"
#include "common/base/rng.hpp"

namespace fulgur::planner {
namespace {

constexpr std::uint32_t kWarmUpSteps = 12;
constexpr std::uint32_t kMeasuredSteps = 6;
constexpr std::uint64_t kSeed = 1;

struct MicroBatch {
  std::uint32_t shard = 0;
  std::size_t layer = 0;
  std::uint32_t steps = 0;
  double warm_at = 0;  ///< when kWarmUpSteps were done
  double done_at = 0;
};

enum class Kind : std::uint8_t { ready, attended, arrived, pool_free };

struct Event {
  double at = 0;
  std::uint64_t number = 0;  ///< equal times happen in the order in which they were foreseen
  Kind kind = Kind::ready;
  std::size_t who = 0;
  bool operator>(const Event& other) const {
    return at != other.at ? at > other.at : number > other.number;
  }
};

/// Micro-batches that wait for a layer, in the order of the first's arrival.
struct Waiting {
  std::size_t layer = 0;
  std::vector<std::size_t> who;
};

class Simulation {
 public:
  explicit Simulation(const PoolRun& run) : run_(run), shards_(run.shards) {
    Rng rng(kSeed);
    for (std::uint32_t shard = 0; shard < run.shards; ++shard) {
      const std::size_t layer = rng.below(run.shard.layers.size());
      for (std::uint32_t i = 0; i < run.shard.micro_batches; ++i) {
        foresee(0, Kind::ready, batches_.size());
        batches_.push_back({shard, layer, 0, 0, 0});
      }
    }
    unfinished_ = batches_.size();
  }

  double step_seconds() {
    while (unfinished_ > 0) {
      FULGUR_ASSERT(!events_.empty(), "something happens until all steps are done");
      const Event event = events_.top();
      events_.pop();
      now_ = event.at;
      handle(event);
    }
    double sum = 0;
    for (const MicroBatch& batch : batches_) sum += batch.done_at - batch.warm_at;
    return sum / kMeasuredSteps / static_cast<double>(batches_.size());
  }

 private:
  struct Shard {
    std::deque<std::size_t> queue;
    bool busy = false;
  };

  void foresee(double after, Kind kind, std::size_t who) {
    events_.push({now_ + after, number_++, kind, who});
  }

  const StageTimes& stage(const MicroBatch& batch) const { return run_.shard.layers[batch.layer]; }

  void handle(const Event& event) {
    switch (event.kind) {
      case Kind::ready:
        shards_[batches_[event.who].shard].queue.push_back(event.who);
        return attend(batches_[event.who].shard);
      case Kind::attended: {
        const MicroBatch& batch = batches_[event.who];
        shards_[batch.shard].busy = false;
        foresee(stage(batch).out + stage(batch).out_latency, Kind::arrived, event.who);
        return attend(batch.shard);
      }
      case Kind::arrived:
        wait_for_layer(event.who);
        return run_layer();
      case Kind::pool_free:
        pool_busy_ = false;
        for (const std::size_t who : running_) go_back(who);
        return run_layer();
    }
  }

  void attend(std::uint32_t index) {
    Shard& shard = shards_[index];
    if (shard.busy || shard.queue.empty()) return;
    const std::size_t who = shard.queue.front();
    shard.queue.pop_front();
    shard.busy = true;
    const double head = batches_[who].layer == 0 ? run_.shard.head : 0;
    foresee(head + stage(batches_[who]).attention, Kind::attended, who);
  }

  void wait_for_layer(std::size_t who) {
    const std::size_t layer = batches_[who].layer;
    const auto same = std::find_if(waiting_.begin(), waiting_.end(),
                                   [&](const Waiting& entry) { return entry.layer == layer; });
    if (same != waiting_.end()) return same->who.push_back(who);
    waiting_.push_back({layer, {who}});
  }

  void run_layer() {
    if (pool_busy_ || waiting_.empty()) return;
    auto next = waiting_.begin();
    if (run_.order == PoolOrder::most_waiting) {
      next = std::max_element(waiting_.begin(), waiting_.end(), [](const auto& a, const auto& b) {
        return a.who.size() < b.who.size();
      });
    }
    running_ = std::move(next->who);
    waiting_.erase(next);
    pool_busy_ = true;
    foresee(run_.experts(static_cast<std::uint32_t>(running_.size())), Kind::pool_free, 0);
  }

  void go_back(std::size_t who) {
    MicroBatch& batch = batches_[who];
    const double seconds = stage(batch).back + stage(batch).back_latency;
    if (++batch.layer == run_.shard.layers.size()) {
      batch.layer = 0;
      ++batch.steps;
      if (batch.steps == kWarmUpSteps) batch.warm_at = now_;
      if (batch.steps == kWarmUpSteps + kMeasuredSteps) {
        batch.done_at = now_;
        --unfinished_;
      }
    }
    foresee(seconds, Kind::ready, who);
  }

  const PoolRun& run_;
  std::vector<Shard> shards_;
  std::vector<MicroBatch> batches_;
  std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;
  std::deque<Waiting> waiting_;
  std::vector<std::size_t> running_;
  bool pool_busy_ = false;
  double now_ = 0;
  std::uint64_t number_ = 0;
  std::size_t unfinished_ = 0;
};

}  // namespace

double apart_step_seconds(const PoolRun& run) { return Simulation(run).step_seconds(); }

}  // namespace fulgur::planner
