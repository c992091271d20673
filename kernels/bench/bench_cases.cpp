// Cases of fulgur-bench-kernels: see bench_cases.hpp. Weights are walked in rotation over copies
// that exceed the last-level cache, so every call reads from memory as a model's layer does.
#include "kernels/bench/bench_cases.hpp"

#include <cmath>
#include <numeric>

#include "common/base/bf16.hpp"
#include "common/base/rng.hpp"

namespace fulgur::kernels::bench {
namespace {

constexpr std::size_t kHidden = 1024, kOut = 3072, kInner = 1536, kExperts = 16, kTop = 2;
constexpr std::uint32_t kHeads = 8, kKvHeads = 2, kDim = 128;
constexpr std::size_t kWeightBytes = 256UL << 20;  // of all copies of a weight together

std::vector<Bf16> random_bf16(Rng& rng, std::size_t count) {
  std::vector<Bf16> values(count);
  for (Bf16& value : values) value = to_bf16(static_cast<float>(rng.uniform() - 0.5) * 0.1F);
  return values;
}

std::shared_ptr<std::vector<float>> floats(std::size_t count) {
  Rng rng(count);
  auto values = std::make_shared<std::vector<float>>(count);
  for (float& value : *values) value = static_cast<float>(rng.uniform() - 0.5);
  return values;
}

/// Shared between cases: weights, and the backend they belong to.
struct Bench {
  Backend& backend;
  std::vector<std::shared_ptr<Matrix>> matrices;
  std::vector<std::shared_ptr<Expert>> experts;
  std::vector<Case> cases;
  std::string filter;

  bool wanted(const std::string& name) const { return name.find(filter) != std::string::npos; }
};

void add_matmul(Bench& bench, std::size_t rows) {
  const std::string name = "matmul M=" + std::to_string(rows) + " 1024x3072";
  if (!bench.wanted(name)) return;
  if (bench.matrices.empty()) {
    Rng rng(1);
    const auto values = random_bf16(rng, kHidden * kOut);
    const HostMatrix host{values.data(), Dtype::bf16, kOut, kHidden};
    while (bench.matrices.size() * kHidden * kOut * 2 < kWeightBytes) {
      bench.matrices.push_back(bench.backend.pack({&host, 1}));
    }
  }
  const auto x = floats(rows * kHidden);
  const auto out = floats(rows * kOut);
  auto next = std::make_shared<std::size_t>(0);
  Case c{name, kHidden * kOut * 2.0, 2.0 * static_cast<double>(rows * kHidden * kOut), 0, {}};
  c.run = [=, &backend = bench.backend, matrices = bench.matrices] {
    const Matrix& matrix = *matrices[(*next)++ % matrices.size()];
    backend.matmul(x->data(), rows, matrix, out->data());
  };
  bench.cases.push_back(std::move(c));
}

/// Top-2 routes of T tokens, seeded; the rows of each expert of one layer.
std::vector<std::vector<std::uint32_t>> routes(std::size_t tokens) {
  Rng rng(7);
  std::vector<std::vector<std::uint32_t>> rows(kExperts);
  for (std::uint32_t token = 0; token < tokens; ++token) {
    const std::size_t first = rng.below(kExperts);
    rows[first].push_back(token);
    rows[(first + 1 + rng.below(kExperts - 1)) % kExperts].push_back(token);
  }
  return rows;
}

void add_experts(Bench& bench, std::size_t tokens) {
  const std::string name = "experts T=" + std::to_string(tokens) + " 16 top-2 1024x1536";
  if (!bench.wanted(name)) return;
  if (bench.experts.empty()) {
    Rng rng(2);
    const auto values = random_bf16(rng, kInner * kHidden);
    const HostMatrix gate{values.data(), Dtype::bf16, kInner, kHidden};
    const HostMatrix down{values.data(), Dtype::bf16, kHidden, kInner};
    const std::size_t layers = kWeightBytes / (kExperts * kInner * kHidden * 6) + 1;
    for (std::size_t i = 0; i < layers * kExperts; ++i) {
      bench.experts.push_back(bench.backend.pack_expert(gate, gate, down));
    }
  }
  const auto x = floats(tokens * kHidden);
  const auto out = floats(tokens * kTop * kHidden);
  auto next = std::make_shared<std::size_t>(0);
  auto rows = std::make_shared<std::vector<std::vector<std::uint32_t>>>(routes(tokens));
  double active = 0;
  for (const auto& of_expert : *rows) active += of_expert.empty() ? 0 : 1;
  const double expert_bytes = kInner * kHidden * 6.0;
  Case c{name, active * expert_bytes, expert_bytes * static_cast<double>(tokens * kTop), 0, {}};
  c.run = [=, &backend = bench.backend, experts = bench.experts] {
    std::vector<ExpertGroup> groups;
    std::uint32_t output = 0;
    for (std::size_t e = 0; e < kExperts; ++e) {
      if ((*rows)[e].empty()) continue;
      groups.push_back({experts[(*next)++ % experts.size()].get(), (*rows)[e], output});
      output += static_cast<std::uint32_t>((*rows)[e].size());
    }
    backend.experts(reinterpret_cast<const std::byte*>(x->data()), Dtype::f32, kHidden, groups,
                    reinterpret_cast<std::byte*>(out->data()), Dtype::f32);
  };
  bench.cases.push_back(std::move(c));
}

/// One layer of `sequences` sequences, `rows` tokens each, from position `position` on.
void add_lightning(Bench& bench, std::size_t sequences, std::uint32_t rows,
                   std::uint64_t position) {
  const std::string name = "lightning " + std::to_string(sequences) + "x" + std::to_string(rows) +
                           " at " + std::to_string(position);
  if (!bench.wanted(name)) return;
  LightningShape shape{kHeads, kDim, {}};
  for (std::uint32_t h = 0; h < kHeads; ++h) shape.decay.push_back(0.1F);
  const std::size_t slot_bytes = bench.backend.lightning_slot_bytes(shape);
  const std::size_t layers = std::max<std::size_t>(1, (256UL << 20) / (slot_bytes * sequences));
  auto slots = bench.backend.allocate_state(slot_bytes * sequences * layers);
  const auto qkv = floats(sequences * rows * kHeads * 3 * kDim);
  const auto out = floats(sequences * rows * kHeads * kDim);
  auto next = std::make_shared<std::size_t>(0);
  // Decode reads the state and the open block's part that exists; prefill works in blocks of B:
  // q·S and k vᵀ 2 D² a token, q·k and w·v about B D a token.
  const double tokens = static_cast<double>(sequences * rows) * kHeads;
  const double open = static_cast<double>(position % kLightningBlock) + 1;
  const double element = bench.backend.precision() == Precision::bf16 ? 2 : 4;
  const double bytes = rows > 1 ? 0 : tokens * (kDim * kDim * 4.0 + open * 2 * kDim * element);
  const double operations = rows == 1 ? 0 : tokens * (4.0 * kDim * kDim + 2.0 * kDim * 65);
  Case c{name, bytes, 0, operations, {}};
  c.run = [=, &backend = bench.backend] {
    const std::size_t layer = (*next)++ % layers;
    std::vector<LightningSegment> segments;
    for (std::uint32_t s = 0; s < sequences; ++s) {
      segments.push_back(
          {s * rows, rows, position, slots.get() + (layer * sequences + s) * slot_bytes});
    }
    backend.lightning(shape, qkv->data(), segments, out->data());
  };
  bench.cases.push_back(std::move(c));
}

void add_softmax(Bench& bench, std::size_t sequences, std::uint32_t rows, std::uint64_t position) {
  const std::string name = "softmax " + std::to_string(sequences) + "x" + std::to_string(rows) +
                           " at " + std::to_string(position);
  if (!bench.wanted(name)) return;
  const SoftmaxShape shape{kHeads, kKvHeads, kDim, 64, 1e7};
  const std::size_t pages = (position + rows + kPageTokens - 1) / kPageTokens;
  const std::size_t layer_bytes = bench.backend.softmax_page_bytes(shape) * pages * sequences;
  const std::size_t layers = std::max<std::size_t>(1, (256UL << 20) / layer_bytes);
  auto pool = bench.backend.allocate_state(layer_bytes * layers);
  auto table = std::make_shared<std::vector<std::uint32_t>>(pages * sequences);
  std::iota(table->begin(), table->end(), 0);
  const auto qkv = floats(sequences * rows * (kHeads + 2 * kKvHeads) * kDim);
  const auto out = floats(sequences * rows * kHeads * kDim);
  auto next = std::make_shared<std::size_t>(0);
  const double context = static_cast<double>(position) + (rows + 1) / 2.0;
  const double element = bench.backend.precision() == Precision::bf16 ? 2 : 4;
  const double queries = static_cast<double>(sequences * rows);
  const double bytes = rows > 1 ? 0 : queries * context * kKvHeads * 2 * kDim * element;
  Case c{name, bytes, 0, queries * context * kHeads * 4 * kDim, {}};
  c.run = [=, &backend = bench.backend] {
    const std::size_t layer = (*next)++ % layers;
    std::vector<SoftmaxSegment> segments;
    for (std::uint32_t s = 0; s < sequences; ++s) {
      segments.push_back({s * rows, rows, position, table->data() + s * pages});
    }
    backend.softmax(shape, qkv->data(), segments, pool.get() + layer * layer_bytes, out->data());
  };
  bench.cases.push_back(std::move(c));
}

}  // namespace

std::vector<Case> make_cases(Backend& backend, const std::string& filter) {
  Bench bench{backend, {}, {}, {}, filter};
  for (const std::size_t rows : {1, 8, 32, 512}) add_matmul(bench, rows);
  for (const std::size_t tokens : {1, 8, 32, 512}) add_experts(bench, tokens);
  add_lightning(bench, 1, 1, 31);
  add_lightning(bench, 32, 1, 31);
  add_lightning(bench, 1, 512, 0);
  add_softmax(bench, 1, 1, 4095);
  add_softmax(bench, 32, 1, 1023);
  add_softmax(bench, 1, 512, 0);
  add_softmax(bench, 1, 512, 3584);
  return std::move(bench.cases);
}

}  // namespace fulgur::kernels::bench
