// Lightning attention: bits equal to the reference; any cut of a sequence into calls and any
// company in a call gives the same bits as one call.
#include "tests/unit/kernels/fixtures.hpp"

namespace fulgur::kernels::testing {
namespace {

LightningShape make_shape(std::uint32_t heads, std::uint32_t dim) {
  LightningShape shape{heads, dim, {}};
  for (std::uint32_t h = 0; h < heads; ++h) {
    shape.decay.push_back(std::exp2(-8.0F * static_cast<float>(h + 1) / static_cast<float>(heads)));
  }
  return shape;
}

/// A sequence's slot, full of NaN: contents must be ignored at position 0.
struct Slot {
  std::shared_ptr<std::byte> memory;
  Slot(Backend& backend, const LightningShape& shape) {
    const std::size_t bytes = backend.lightning_slot_bytes(shape);
    memory = backend.allocate(bytes);
    std::memset(memory.get(), 0xff, bytes);
  }
};

std::vector<float> whole(Backend& backend, const LightningShape& shape,
                         const std::vector<float>& qkv) {
  const std::size_t width = std::size_t{shape.heads} * shape.head_dim;
  const auto rows = static_cast<std::uint32_t>(qkv.size() / (3 * width));
  Slot slot(backend, shape);
  std::vector<float> out(rows * width, kPoison);
  const LightningSegment segment{0, rows, 0, slot.memory.get()};
  backend.lightning(shape, qkv.data(), {&segment, 1}, out.data());
  return out;
}

class LightningTest : public ::testing::TestWithParam<Precision> {};

TEST_P(LightningTest, EveryBackendHasTheReferencesBits) {
  Rng rng(31);
  auto reference = make_reference_backend(GetParam());
  const auto backends = backends_under_test(GetParam());
  for (const std::uint32_t dim : {64U, 96U, 128U, 24U}) {
    const LightningShape shape = make_shape(3, dim);
    const auto qkv = random_floats(rng, 150 * 3 * 3 * dim);
    const auto expected = whole(*reference, shape, qkv);
    for (const auto& backend : backends) {
      EXPECT_TRUE(same_bits(whole(*backend, shape, qkv), expected))
          << backend->name() << " head_dim " << dim;
    }
  }
}

TEST_P(LightningTest, AnyCutAndAnyCompanyGivesTheSameBits) {
  Rng rng(32);
  const LightningShape shape = make_shape(2, 64);
  const std::size_t width = 2 * 64;
  constexpr std::size_t kSequences = 3;
  std::vector<std::vector<float>> qkv;
  for (const std::size_t rows : {200U, 131U, 64U}) {
    qkv.push_back(random_floats(rng, rows * 3 * width));
  }
  for (const auto& backend : all_backends(GetParam())) {
    std::vector<Slot> slots(kSequences, Slot(*backend, shape));
    std::vector<std::vector<float>> got(kSequences), expected;
    for (std::size_t s = 0; s < kSequences; ++s) {
      slots[s] = Slot(*backend, shape);
      expected.push_back(whole(*backend, shape, qkv[s]));
    }
    for (bool more = true; more;) {
      std::vector<LightningSegment> segments;
      std::vector<std::size_t> owners;
      std::vector<float> input;
      std::uint32_t row = 0;
      for (std::size_t s = 0; s < kSequences; ++s) {
        const std::size_t done = got[s].size() / width;
        const std::size_t left = qkv[s].size() / (3 * width) - done;
        if (left == 0 || rng.below(3) == 0) continue;
        const std::size_t most = rng.below(2) == 0 ? 1 : 90;
        const auto rows = static_cast<std::uint32_t>(std::min(left, 1 + rng.below(most)));
        segments.push_back({row, rows, done, slots[s].memory.get()});
        owners.push_back(s);
        input.insert(input.end(), qkv[s].begin() + done * 3 * width,
                     qkv[s].begin() + (done + rows) * 3 * width);
        row += rows;
      }
      std::vector<float> out(row * width, kPoison);
      backend->lightning(shape, input.data(), segments, out.data());
      for (std::size_t i = 0; i < segments.size(); ++i) {
        const auto begin = out.begin() + segments[i].row * width;
        got[owners[i]].insert(got[owners[i]].end(), begin, begin + segments[i].rows * width);
      }
      more = false;
      for (std::size_t s = 0; s < kSequences; ++s) more |= got[s].size() * 3 < qkv[s].size();
    }
    for (std::size_t s = 0; s < kSequences; ++s) {
      EXPECT_TRUE(same_bits(got[s], expected[s])) << backend->name() << " sequence " << s;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Modes, LightningTest, ::testing::Values(Precision::f32, Precision::bf16),
                         [](const auto& info) { return name_of(info.param); });

}  // namespace
}  // namespace fulgur::kernels::testing
