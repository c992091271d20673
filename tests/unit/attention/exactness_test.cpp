// Invariant I1, strictly: tokens and log-probabilities are bit-identical whatever the batch, the
// arrival order, the prefill chunk, the micro-batches in flight, the shards, the workers, the
// replicas, preemptions and worker deaths. The yardstick is each request alone in one process.
#include <gtest/gtest.h>

#include <algorithm>

#include "common/base/rng.hpp"
#include "tests/unit/attention/exact_requests.hpp"

namespace fulgur {
namespace {

/// Runs all requests with random arrivals and expects the yardstick. `meddle` is called before each
/// pass with its number.
void expect_exact(mesh::LocalMeshOptions options, std::uint64_t seed,
                  const std::function<void(mesh::LocalMesh&, std::size_t)>& meddle = {}) {
  RealClock clock;
  const Dtype activations = options.activations;
  const std::uint32_t shards = options.shards;
  auto mesh = mesh::LocalMesh::start(tiny(), backend(activations), clock, std::move(options)).value();
  const auto all = requests();
  Rng rng(seed);
  std::vector<std::size_t> order(all.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  for (std::size_t i = order.size(); i-- > 1;) std::swap(order[i], order[rng.below(i + 1)]);
  std::vector<std::uint64_t> ids(all.size());
  std::size_t pass = 0;
  for (const std::size_t at : order) {
    ids[at] = mesh->submit(all[at], static_cast<std::uint32_t>(rng.below(shards)));
    for (std::uint64_t wait = rng.below(60); wait > 0; --wait) {
      if (meddle) meddle(*mesh, pass++);
      mesh->step();
    }
  }
  const auto all_done = [&] {
    return std::all_of(ids.begin(), ids.end(), [&](auto id) { return mesh->finished(id); });
  };
  while (!all_done() && pass < 2'000'000) {
    if (meddle) meddle(*mesh, pass);
    ++pass;
    mesh->step();
  }
  ASSERT_TRUE(all_done()) << "seed " << seed;
  for (std::size_t at = 0; at < all.size(); ++at) {
    expect_same(mesh->generation(ids[at]), yardstick(activations)[at], at);
  }
}

class Exactness : public testing::TestWithParam<Dtype> {};

TEST_P(Exactness, BatchSizesAndArrivals) {
  for (std::uint32_t slots : {1U, 2U, 5U, 16U}) {
    auto options = plain(GetParam());
    options.scheduler.slots = slots;
    expect_exact(options, slots);
  }
}

TEST_P(Exactness, PrefillChunks) {
  for (std::uint32_t tokens : {1U, 7U, 64U, 100U, 512U}) {
    auto options = plain(GetParam());
    options.scheduler.batch_tokens = tokens;
    expect_exact(options, tokens);
  }
}

TEST_P(Exactness, MicroBatchesInFlight) {
  for (std::uint32_t lanes : {2U, 3U, 4U}) {
    auto options = plain(GetParam());
    options.scheduler.lanes = lanes;
    options.scheduler.lane_rows_min = 1;
    options.scheduler.batch_tokens = 96;
    options.workers = 2;
    expect_exact(options, lanes);
  }
}

TEST_P(Exactness, WorkersReplicasAndShards) {
  for (std::uint32_t workers = 1; workers <= 4; ++workers) {
    for (std::uint32_t shards : {1U, 3U}) {
      auto options = plain(GetParam());
      options.workers = workers;
      options.replicas = 1 + workers % 2;
      options.shards = shards;
      options.scheduler.lanes = 1 + workers % 3;
      expect_exact(options, workers * 10 + shards);
    }
  }
}

TEST_P(Exactness, PreemptionToHostMemory) {
  auto options = plain(GetParam());
  options.scheduler.slots = 4;
  options.scheduler.pages = 8;  // the longest request alone takes six
  expect_exact(options, 77);
  options.workers = 2;
  options.scheduler.lanes = 2;
  expect_exact(options, 78);
}

TEST_P(Exactness, WorkerDeathsAndReturns) {
  for (std::uint64_t seed = 0; seed < 4; ++seed) {
    auto options = plain(GetParam());
    options.workers = 3;
    options.replicas = 2;
    options.scheduler.lanes = 1 + static_cast<std::uint32_t>(seed % 3);
    Rng rng(seed);
    std::optional<std::uint32_t> dead;
    expect_exact(options, 100 + seed, [&](mesh::LocalMesh& mesh, std::size_t) {
      if (rng.below(150) != 0) return;
      if (dead) {
        ASSERT_TRUE(mesh.start_worker(*dead).is_ok());
        dead.reset();
      } else {
        dead = static_cast<std::uint32_t>(rng.below(3));
        mesh.kill_worker(*dead);
      }
    });
  }
}

TEST_P(Exactness, PromptsFromTheCache) {
  RealClock clock;
  auto options = plain(GetParam());
  options.workers = 2;
  options.scheduler.lanes = 2;
  options.scheduler.batch_tokens = 100;
  auto warm = mesh::LocalMesh::start(tiny(), backend(GetParam()), clock, options).value();
  const auto& stats = warm->shard(0).engine->cache().stats();
  const auto all = requests();
  for (int copies : {1, 1, 3}) {
    std::vector<std::pair<std::uint64_t, std::size_t>> ids;
    for (std::size_t at = 0; at < all.size(); ++at) {
      for (int copy = 0; copy < copies; ++copy) ids.emplace_back(warm->submit(all[at]), at);
    }
    ASSERT_TRUE(warm->run());
    for (const auto& [id, at] : ids) expect_same(warm->generation(id), yardstick(GetParam())[at], at);
  }
  EXPECT_GE(stats.hits_total, 24U) << "six prompts are longer than a block";
  options.cache.bytes_max = 0;
  auto cold = mesh::LocalMesh::start(tiny(), backend(GetParam()), clock, options).value();
  for (std::size_t at : {4U, 8U, 10U}) {  // the next turn of a conversation
    wire::Submit turn = all[at];
    const auto& answer = yardstick(GetParam())[at].tokens;
    turn.tokens.insert(turn.tokens.end(), answer.begin(), answer.end());
    turn.tokens.insert(turn.tokens.end(), 20, 77);
    turn.prompt_tokens = static_cast<std::uint32_t>(turn.tokens.size());
    const std::uint64_t hits = stats.hits_total;
    const auto id = warm->submit(turn);
    const auto reference = cold->submit(turn);
    ASSERT_TRUE(warm->run());
    ASSERT_TRUE(cold->run());
    expect_same(warm->generation(id), cold->generation(reference), at);
    EXPECT_EQ(stats.hits_total, hits + 1);
  }
  EXPECT_EQ(cold->shard(0).engine->cache().entries(), 0U);
}

INSTANTIATE_TEST_SUITE_P(Activations, Exactness, testing::Values(Dtype::f32, Dtype::bf16),
                         [](const auto& info) { return std::string(to_string(info.param)); });

TEST(Engine, CancelFreesEverythingAndDisturbsNobody) {
  RealClock clock;
  auto options = plain(Dtype::bf16);
  options.workers = 2;
  auto mesh = mesh::LocalMesh::start(tiny(), backend(Dtype::bf16), clock, options).value();
  const auto all = requests();
  std::vector<std::uint64_t> ids;
  for (const auto& submit : all) ids.push_back(mesh->submit(submit));
  for (int pass = 0; pass < 300; ++pass) mesh->step();
  for (std::size_t at = 0; at < ids.size(); at += 2) mesh->cancel(ids[at]);
  ASSERT_TRUE(mesh->run());
  for (std::size_t at = 1; at < ids.size(); at += 2) {
    expect_same(mesh->generation(ids[at]), yardstick(Dtype::bf16)[at], at);
  }
  const auto& scheduler = mesh->shard(0).engine->scheduler();
  EXPECT_EQ(scheduler.slots().used(), 0U);
  EXPECT_EQ(scheduler.pages().used(), 0U);
}

TEST(Engine, ResubmissionContinuesWhereItStopped) {
  RealClock clock;
  auto mesh = mesh::LocalMesh::start(tiny(), backend(Dtype::bf16), clock, plain(Dtype::bf16)).value();
  const auto all = requests();
  for (std::size_t at = 0; at < all.size(); ++at) {
    const auto& want = yardstick(Dtype::bf16)[at];
    wire::Submit again = all[at];
    again.prompt_logprobs = false;
    const auto cut = static_cast<std::ptrdiff_t>(want.tokens.size() / 2);
    again.tokens.insert(again.tokens.end(), want.tokens.begin(), want.tokens.begin() + cut);
    // The client of the test counts from zero; the engine goes on counting from the prompt.
    const auto id = mesh->submit(again);
    mesh->expect_from(id, static_cast<std::uint32_t>(cut));
    ASSERT_TRUE(mesh->run());
    const std::vector<std::uint32_t> rest(want.tokens.begin() + cut, want.tokens.end());
    EXPECT_EQ(mesh->generation(id).tokens, rest) << at;
  }
}

TEST(Engine, RefusesWhatCannotFit) {
  RealClock clock;
  auto options = plain(Dtype::bf16);
  options.scheduler.pages = 4;
  auto mesh = mesh::LocalMesh::start(tiny(), backend(Dtype::bf16), clock, options).value();
  wire::Submit submit;
  submit.tokens = {1, 2, 99999};
  submit.prompt_tokens = 3;
  submit.max_new_tokens = 4;
  const auto bad_token = mesh->submit(submit);
  submit.tokens.assign(250, 7);
  submit.prompt_tokens = 250;
  submit.max_new_tokens = 100;
  const auto too_long = mesh->submit(submit);
  ASSERT_TRUE(mesh->run());
  EXPECT_EQ(mesh->generation(bad_token).end.code, Code::invalid_argument);
  EXPECT_EQ(mesh->generation(bad_token).end.message,
            "token id 99999 is outside the vocabulary of 4096");
  EXPECT_EQ(mesh->generation(too_long).end.message, "350 tokens exceed this shard's KV capacity of 256");
}

}  // namespace
}  // namespace fulgur
