// Sequences that move between shards, state and all, give the tokens and log-probabilities they give
// alone, to the last bit: whenever the drain comes, whatever the chunks, lanes and pages, and when
// either side dies in the middle. The client does what a router does.
#include <gtest/gtest.h>

#include "tests/unit/attention/exact_requests.hpp"

namespace fulgur {
namespace {

/// Submits what has moved, or was lost with its shard, to the shard it moved to, or another one.
class Follower {
 public:
  explicit Follower(mesh::LocalMesh& mesh) : mesh_(mesh) {
    for (const auto& submit : requests()) runs_.push_back({submit, 0, 0, {}, false});
    for (Run& run : runs_) submit(run, 0, 0);
  }

  void poll() {
    for (Run& run : runs_) {
      if (run.done || !mesh_.finished(run.id)) continue;
      const wire::Done end = mesh_.generation(run.id).end;
      collect(run);
      if (end.code != Code::unavailable) {
        run.done = true;
        run.whole.end = end;
        continue;
      }
      EXPECT_TRUE(end.draining);
      moved_ += !end.moved_to.empty();
      submit(run, end.moved_to == "attention-2" ? 2 : spare_, end.snapshot);
    }
  }

  void on_shard_lost(std::uint32_t shard) {
    if (shard == spare_) spare_ = 2;
    for (Run& run : runs_) {
      if (run.done || run.shard != shard || mesh_.finished(run.id)) continue;
      collect(run);
      submit(run, spare_, 0);
    }
  }

  bool done() const {
    return std::ranges::all_of(runs_, [](const Run& run) { return run.done; });
  }
  std::size_t moved() const { return moved_; }

  void expect_exact(Dtype activations) const {
    for (std::size_t at = 0; at < runs_.size(); ++at) {
      expect_same(runs_[at].whole, yardstick(activations)[at], at);
    }
  }

 private:
  struct Run {
    wire::Submit submit;
    std::uint64_t id = 0;
    std::uint32_t shard = 0;
    mesh::Generation whole;
    bool done = false;
  };

  void submit(Run& run, std::uint32_t shard, std::uint64_t snapshot) {
    wire::Submit again = run.submit;
    again.tokens.insert(again.tokens.end(), run.whole.tokens.begin(), run.whole.tokens.end());
    again.prompt_logprobs &= run.whole.prompt.size() < run.submit.prompt_tokens;
    again.snapshot = snapshot;
    run.shard = shard;
    run.id = mesh_.submit(again, shard);
    mesh_.expect_from(run.id, static_cast<std::uint32_t>(run.whole.tokens.size()));
  }

  void collect(Run& run) {
    const mesh::Generation& part = mesh_.generation(run.id);
    const auto append = [](auto& to, const auto& from) {
      to.insert(to.end(), from.begin(), from.end());
    };
    append(run.whole.tokens, part.tokens);
    append(run.whole.logprobs, part.logprobs);
    append(run.whole.top, part.top);
    for (const wire::TokenEvent& event : part.prompt) {
      if (event.index == run.whole.prompt.size()) run.whole.prompt.push_back(event);
    }
  }

  mesh::LocalMesh& mesh_;
  std::vector<Run> runs_;
  std::size_t moved_ = 0;
  std::uint32_t spare_ = 1;  ///< takes what has no better place
};

mesh::LocalMeshOptions two_shards(Dtype activations) {
  auto options = plain(activations);
  options.shards = 2;
  options.workers = 2;
  return options;
}

/// All requests on shard 0, which is drained after `passes`; what else happens is `meddle`'s.
void expect_exact_drain(mesh::LocalMeshOptions options, std::size_t passes,
                        const std::function<void(mesh::LocalMesh&, Follower&, std::size_t)>& meddle = {}) {
  RealClock clock;
  const Dtype activations = options.activations;
  auto mesh = mesh::LocalMesh::start(tiny(), backend(activations), clock, std::move(options)).value();
  Follower follower(*mesh);
  std::size_t pass = 0;
  for (; pass < passes; ++pass) {
    mesh->step();
    follower.poll();
  }
  mesh->drain_shard(0);
  for (; !follower.done() && pass < 2'000'000; ++pass) {
    if (meddle) meddle(*mesh, follower, pass - passes);
    mesh->step();
    follower.poll();
  }
  ASSERT_TRUE(follower.done()) << "drained after " << passes;
  follower.expect_exact(activations);
}

void expect_empty(const attention::Shard& shard) {
  EXPECT_TRUE(shard.engine->idle());
  EXPECT_EQ(shard.engine->scheduler().slots().used(), 0U);
  EXPECT_EQ(shard.engine->scheduler().pages().used(), 0U);
  EXPECT_EQ(shard.engine->parked().bytes(), 0U);
}

class Moved : public testing::TestWithParam<Dtype> {};

TEST_P(Moved, AtAnyMoment) {
  for (std::size_t passes : {1U, 60U, 150U, 400U, 900U}) {
    std::uint64_t restored = 0;
    std::uint64_t missed = 0;
    expect_exact_drain(two_shards(GetParam()), passes,
                       [&](mesh::LocalMesh& mesh, Follower& follower, std::size_t) {
                         const auto& stats = mesh.shard(1).engine->parked().stats();
                         restored = stats.restored_total;
                         missed = stats.missed_total;
                         if (!follower.done()) return;
                         expect_empty(mesh.shard(0));
                       });
    EXPECT_EQ(missed, 0U);
    EXPECT_TRUE(passes != 150 || restored > 3) << restored;
  }
}

TEST_P(Moved, WithSmallChunksLanesAndPages) {
  auto options = two_shards(GetParam());
  options.evacuation.chunk_bytes = 10'000;
  options.evacuation.transfers_max = 3;
  options.parked.credit_bytes = 30'000;
  options.scheduler.lanes = 3;
  options.scheduler.lane_rows_min = 1;
  options.scheduler.slots = 4;
  options.scheduler.pages = 8;
  for (std::size_t passes : {80U, 500U}) expect_exact_drain(options, passes);
}

TEST_P(Moved, WhenTheTargetHasNoRoom) {
  auto options = two_shards(GetParam());
  options.parked.bytes_max = 2'000'000;  // two states
  expect_exact_drain(options, 200);
  options.parked.bytes_max = 0;
  expect_exact_drain(options, 200);
}

TEST_P(Moved, WhenTheTargetDiesInTheMiddle) {
  for (std::size_t after : {1U, 4U, 9U, 30U}) {
    auto options = two_shards(GetParam());
    options.shards = 3;
    options.evacuation.chunk_bytes = 50'000;
    expect_exact_drain(options, 200,
                       [&](mesh::LocalMesh& mesh, Follower& follower, std::size_t pass) {
                         if (pass != after) return;
                         mesh.kill_shard(1);
                         follower.on_shard_lost(1);
                       });
  }
}

TEST_P(Moved, WhenTheSourceDiesInTheMiddle) {
  for (std::size_t after : {1U, 4U, 9U, 30U}) {
    auto options = two_shards(GetParam());
    options.evacuation.chunk_bytes = 50'000;
    expect_exact_drain(options, 200,
                       [&](mesh::LocalMesh& mesh, Follower& follower, std::size_t pass) {
                         if (pass != after) return;
                         mesh.kill_shard(0);
                         follower.on_shard_lost(0);
                       });
  }
}

INSTANTIATE_TEST_SUITE_P(Activations, Moved, testing::Values(Dtype::f32, Dtype::bf16),
                         [](const auto& info) { return std::string(to_string(info.param)); });

}  // namespace
}  // namespace fulgur
