// A mesh on the emulated GPU that runs short of memory: serving takes none, a machine that is too
// small is refused before serving, and whichever request for memory is refused in the middle, every
// sequence ends with the tokens it has on its own.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "kernels/cuda/emulation/emulated_backend.hpp"
#include "kernels/cuda/emulation/emulation.hpp"
#include "tests/unit/attention/exact_requests.hpp"

namespace fulgur {
namespace {

namespace emulation = kernels::emulation;

std::shared_ptr<const model::Checkpoint> small_model() {
  static const auto checkpoint =
      model::Checkpoint::open(test::source_path("tests/golden/models/m1-random-small")).value();
  return checkpoint;
}

/// Requests for that model; many grow into another KV page while they generate.
std::vector<wire::Submit> small_requests() {
  std::vector<wire::Submit> all = requests();
  const std::size_t lengths[] = {3, 60, 64, 61, 130, 200, 17, 1, 62, 90, 128, 5};
  for (std::size_t at = 0; at < all.size(); ++at) {
    all[at].tokens.resize(lengths[at], static_cast<std::uint32_t>(at));
    for (std::uint32_t& token : all[at].tokens) token %= 256;
    all[at].prompt_tokens = static_cast<std::uint32_t>(lengths[at]);
  }
  return all;
}

/// What each gives alone on the CPU.
std::vector<mesh::Generation> alone(const std::vector<wire::Submit>& all) {
  RealClock clock;
  auto mesh = mesh::LocalMesh::start(small_model(), backend(Dtype::bf16), clock, plain(Dtype::bf16))
                  .value();
  std::vector<mesh::Generation> done;
  for (const wire::Submit& submit : all) {
    const auto id = mesh->submit(submit);
    EXPECT_TRUE(mesh->run());
    done.push_back(mesh->generation(id));
  }
  return done;
}

/// Another machine for the length of a test.
class DeviceMemoryTest : public testing::Test {
 protected:
  void TearDown() override { emulation::machine() = {}; }

  static std::unique_ptr<kernels::Backend> device(bool strict) {
    return kernels::make_emulated_cuda_backend(
               {.precision = kernels::Precision::bf16, .shape = {}, .strict = strict})
        .value();
  }
};

// Mixed work beyond what fits at once: prompts in chunks, preemption, two lanes.
TEST_F(DeviceMemoryTest, ServingToTheLimitsTakesNothing) {
  const auto all = small_requests();
  const auto expected = alone(all);
  for (const std::uint32_t workers : {0U, 2U}) {
    RealClock clock;
    const auto backend = device(false);
    auto options = plain(Dtype::bf16);
    options.workers = workers;
    options.scheduler.slots = 4;
    options.scheduler.pages = 6;
    options.scheduler.batch_tokens = 64;
    options.scheduler.lanes = 2;
    options.scheduler.lane_rows_min = 1;
    auto mesh = mesh::LocalMesh::start(small_model(), *backend, clock, options).value();
    const std::uint64_t taken = backend->allocations_total();
    const std::uint64_t requested = emulation::requests_total();
    const std::size_t free = backend->memory_available();
    std::vector<std::uint64_t> ids;
    for (const wire::Submit& submit : all) ids.push_back(mesh->submit(submit));
    ASSERT_TRUE(mesh->run());
    EXPECT_GT(mesh->shard(0).engine->scheduler().preemptions(), 0U);
    for (std::size_t at = 0; at < all.size(); ++at) {
      expect_same(mesh->generation(ids[at]), expected[at], at);
    }
    EXPECT_EQ(backend->allocations_total(), taken);
    EXPECT_EQ(emulation::requests_total(), requested);
    EXPECT_EQ(backend->memory_available(), free);
  }
}

// A GPU that grows from nothing: it is refused with a line that says what to lower, until it
// serves.
TEST_F(DeviceMemoryTest, TooLittleIsRefusedBeforeServing) {
  const std::vector<std::string> reasons = {
      "the attention weights do not fit: cuda: GPU 0 has no memory for",
      ": lower --max-sequences or --kv-tokens",
      ": lower --batch-tokens, --micro-batches, --max-sequences or --kv-tokens",
      ": lower --batch-rows", "cuda: GPU 0 has no memory for"};
  std::map<std::string, int> seen;
  const auto start = [] {
    RealClock clock;
    auto backend = kernels::make_emulated_cuda_backend({.shape = {}});
    if (!backend.is_ok()) return backend.status();
    auto options = plain(Dtype::bf16);
    options.scheduler.slots = 64;
    options.scheduler.batch_tokens = 4096;
    return mesh::LocalMesh::start(small_model(), **backend, clock, options).status();
  };
  std::size_t mib = 2;
  for (;; mib += 3) {
    ASSERT_LT(mib, 1024U);
    emulation::machine().memory = mib << 20;
    const Status why = start();
    if (why.is_ok()) break;
    const auto reason = std::ranges::find_if(reasons, [&](const std::string& text) {
      return why.message().find(text) != std::string::npos;
    });
    ASSERT_NE(reason, reasons.end()) << why.message();
    ++seen[*reason];
    EXPECT_NE(why.message().find("GiB"), std::string::npos) << why.message();
    EXPECT_EQ(why.message().find('\n'), std::string::npos) << why.message();
  }
  for (const std::string& reason : reasons) EXPECT_GT(seen[reason], 0) << reason;
}

/// A strict backend asks for each array of each call, so that there is much to refuse.
class RefusedStep : public DeviceMemoryTest {
 protected:
  static std::vector<wire::Submit> few() {
    const auto all = small_requests();
    std::vector<wire::Submit> some = {all[0], all[11]};  // 3 and 5 tokens
    for (wire::Submit& submit : some) submit.max_new_tokens = 2;
    some[1].prompt_logprobs = true;
    return some;
  }

  /// Time passes with the mesh's steps: nothing waits for what is tried again a little later.
  mesh::LocalMeshOptions small() {
    auto options = plain(Dtype::bf16);
    options.on_step = [this] { clock_.advance(kMillisecond); };
    options.scheduler.slots = 3;
    options.scheduler.pages = 8;
    options.scheduler.batch_tokens = 4;
    options.dispatch.wait_max = 600 * kSecond;
    return options;
  }

  /// All of `few()` on `mesh`, the n-th request for memory from now on refused; 0: none.
  static std::vector<mesh::Generation> run(mesh::LocalMesh& mesh, std::uint64_t n) {
    emulation::machine().refuse_in = n;
    std::vector<std::uint64_t> ids;
    for (const wire::Submit& submit : few()) ids.push_back(mesh.submit(submit));
    EXPECT_TRUE(mesh.run());
    std::vector<mesh::Generation> done;
    for (const std::uint64_t id : ids) done.push_back(mesh.generation(id));
    return done;
  }

  ManualClock clock_;
};

TEST_F(RefusedStep, AnyOneRefusalChangesNothing) {
  const auto backend = device(true);
  auto mesh = mesh::LocalMesh::start(small_model(), *backend, clock_, small()).value();
  const std::uint64_t before = emulation::requests_total();
  const auto expected = run(*mesh, 0);
  const std::uint64_t requests = emulation::requests_total() - before;
  EXPECT_GT(requests, 200U);
  const auto& stats = mesh->shard(0).engine->stats();
  for (std::uint64_t n = 1; n <= requests; ++n) {
    const auto got = run(*mesh, n);
    EXPECT_EQ(emulation::machine().refuse_in, 0U) << "the run has asked less often";
    for (std::size_t at = 0; at < got.size(); ++at) expect_same(got[at], expected[at], at);
    ASSERT_FALSE(HasFailure()) << "request " << n << " of " << requests << " was refused";
  }
  EXPECT_GT(stats.memory_refusals_total, 0U);
  EXPECT_GT(mesh->shard(0).dispatch_stats.nacks_total, 0U) << "runs of experts are refused, too";
}

// Where there is none at all requests end with an error, and the shard serves again afterwards.
TEST_F(RefusedStep, WithoutAnyMemoryRequestsEndAndTheShardStays) {
  const auto backend = device(true);
  auto mesh = mesh::LocalMesh::start(small_model(), *backend, clock_, small()).value();
  const auto expected = run(*mesh, 0);
  const std::size_t memory = std::exchange(emulation::machine().memory, 0);
  for (const mesh::Generation& refused : run(*mesh, 0)) {
    EXPECT_EQ(refused.end.reason, wire::FinishReason::error);
    EXPECT_EQ(refused.end.code, Code::unavailable);
    EXPECT_EQ(refused.end.message.find("this shard is out of memory: "), 0U) << refused.end.message;
  }
  emulation::machine().memory = memory;
  const auto again = run(*mesh, 0);
  for (std::size_t at = 0; at < again.size(); ++at) expect_same(again[at], expected[at], at);
}

}  // namespace
}  // namespace fulgur
