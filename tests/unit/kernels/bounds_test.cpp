// No kernel reads or writes past its arrays: every input and output ends at a page that may not be
// touched, so that one byte beyond ends the test. Sizes are odd on purpose.
#include <sys/mman.h>

#include "tests/unit/kernels/fixtures.hpp"

namespace fulgur::kernels::testing {
namespace {

constexpr std::size_t kPage = 4096;

/// Memory whose last byte lies before a forbidden page.
class Guarded {
 public:
  explicit Guarded(std::size_t bytes) : mapped_((bytes + kPage - 1) / kPage * kPage + kPage) {
    base_ = static_cast<std::byte*>(
        mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    EXPECT_NE(static_cast<void*>(base_), MAP_FAILED);
    EXPECT_EQ(mprotect(base_ + mapped_ - kPage, kPage, PROT_NONE), 0);
    data_ = base_ + mapped_ - kPage - bytes;
  }
  Guarded(Rng& rng, std::size_t floats) : Guarded(floats * sizeof(float)) {
    const auto values = random_floats(rng, floats);
    std::memcpy(data_, values.data(), floats * sizeof(float));
  }
  ~Guarded() { munmap(base_, mapped_); }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;

  float* floats() { return reinterpret_cast<float*>(data_); }
  std::byte* bytes() { return data_; }

 private:
  std::size_t mapped_;
  std::byte* base_ = nullptr;
  std::byte* data_ = nullptr;
};

class BoundsTest : public ::testing::TestWithParam<Precision> {};

TEST_P(BoundsTest, ProductsAndRowOperations) {
  for (const auto& backend : backends_under_test(GetParam())) {
    Rng rng(61);
    constexpr std::size_t kRows = 7, kIn = 77, kOut = 131;
    Guarded x(rng, kRows * kIn), y(rng, kRows * kIn), out(kRows * kOut * 4);
    Guarded weight(rng, kIn), normed(kRows * kIn * 4), weights(rng, kRows);
    const HostWeight host = random_weight(rng, kOut, kIn, Dtype::bf16);
    Guarded raw(host.bytes.size());
    std::memcpy(raw.bytes(), host.bytes.data(), host.bytes.size());
    const HostMatrix part{raw.bytes(), Dtype::bf16, kOut, kIn};
    backend->matmul(x.floats(), kRows, *backend->pack({&part, 1}), out.floats());
    backend->rms_norm(x.floats(), weight.floats(), 1e-5F, kRows, kIn, normed.floats());
    backend->norm_gate(x.floats(), y.floats(), weight.floats(), 1e-5F, kRows, kIn, normed.floats());
    backend->scale_add(1, x.floats(), 2, y.floats(), kRows * kIn, normed.floats());
    Guarded chosen(kRows * 2 * sizeof(std::uint16_t)), chosen_weights(kRows * 2 * 4);
    backend->route(x.floats(), kRows, *backend->pack_router(part), 2,
                   reinterpret_cast<std::uint16_t*>(chosen.bytes()), chosen_weights.floats());
    const std::vector<std::uint32_t> rows = {6, 0};
    for (const Dtype dtype : {Dtype::f32, Dtype::bf16}) {
      Guarded gathered(2 * kIn * size_of(dtype));
      backend->gather(x.floats(), rows, kIn, dtype, gathered.bytes());
      const std::byte* outputs[] = {gathered.bytes(), gathered.bytes() + kIn * size_of(dtype)};
      Guarded combined(kIn * 4);
      backend->combine(x.floats(), 1, kIn, 2, weights.floats(), outputs, dtype, 1, 1,
                       combined.floats());
    }
    Guarded embedded(kIn * 4);
    const std::vector<std::uint32_t> ids = {kOut - 1};
    backend->embed(*backend->pack_table(part), ids, embedded.floats());
  }
}

TEST_P(BoundsTest, Experts) {
  for (const auto& backend : backends_under_test(GetParam())) {
    Rng rng(62);
    constexpr std::size_t kHidden = 77, kInner = 45;
    const HostWeight gate = random_weight(rng, kInner, kHidden, Dtype::bf16);
    const HostWeight down = random_weight(rng, kHidden, kInner, Dtype::bf16);
    const auto expert = backend->pack_expert(gate.matrix(), gate.matrix(), down.matrix());
    const std::vector<std::uint32_t> rows = {0, 4, 2};
    const ExpertGroup group{expert.get(), rows, 0};
    for (const Dtype dtype : {Dtype::f32, Dtype::bf16}) {
      Guarded x(5 * kHidden * size_of(dtype)), out(3 * kHidden * size_of(dtype));
      backend->experts(x.bytes(), dtype, kHidden, {&group, 1}, out.bytes(), dtype);
    }
  }
}

TEST_P(BoundsTest, Attention) {
  for (const auto& backend : backends_under_test(GetParam())) {
    Rng rng(63);
    for (const std::uint32_t dim : {40U, 64U}) {
      constexpr std::uint32_t kTokens = 75;
      const LightningShape lightning{2, dim, {0.5F, 0.01F}};
      Guarded qkv(rng, kTokens * 6 * dim), out(kTokens * 2 * dim * 4);
      Guarded slot((backend->lightning_slot_bytes(lightning) + 63) / 64 * 64);
      const LightningSegment first{0, 70, 0, slot.bytes()}, next{70, 5, 70, slot.bytes()};
      backend->lightning(lightning, qkv.floats(), {&first, 1}, out.floats());
      backend->lightning(lightning, qkv.floats(), {&next, 1}, out.floats());
      const SoftmaxShape softmax{2, 1, dim, 20, 1e6};
      Guarded queries(rng, kTokens * 4 * dim), pool(2 * backend->softmax_page_bytes(softmax));
      const std::uint32_t pages[] = {1, 0};
      const SoftmaxSegment segment{0, kTokens, 0, pages};
      backend->softmax(softmax, queries.floats(), {&segment, 1}, pool.bytes(), out.floats());
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Modes, BoundsTest, ::testing::Values(Precision::f32, Precision::bf16),
                         [](const auto& info) { return name_of(info.param); });

}  // namespace
}  // namespace fulgur::kernels::testing
