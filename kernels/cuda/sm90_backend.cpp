#include "kernels/cuda/sm90_backend.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "common/base/assert.hpp"
#include "common/base/bf16.hpp"
#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/layout.hpp"
#include "kernels/cuda/sizes.hpp"
#include "kernels/cuda/stream_graph.hpp"

namespace fulgur::kernels::cuda {
namespace {

constexpr std::uint32_t kRoutedMax = 32;  // experts of launch.hpp's route()
constexpr std::uint32_t kSlotsMax = 8;
constexpr std::uint32_t kNormDimMax = 8192;

std::size_t padded_rows(std::size_t rows) {
  return (rows + kPackedRows - 1) / kPackedRows * kPackedRows;
}

/// For kernels that move 4 elements at a time.
bool is_aligned(const void* rows) { return reinterpret_cast<std::uintptr_t>(rows) % 16 == 0; }

}  // namespace

// --- Weights -----------------------------------------------------------------------------------

/// A matrix in the layout of product() (packed_byte), or a router [rows, cols] float32 row-major.
class Sm90Backend::PackedMatrix final : public Matrix {
 public:
  PackedMatrix(std::shared_ptr<std::byte> memory, std::size_t rows, std::size_t cols, bool router)
      : memory_(std::move(memory)), rows_(rows), cols_(cols), router_(router) {}
  std::size_t rows() const override { return rows_; }
  std::size_t cols() const override { return cols_; }
  std::size_t bytes() const override { return rows_ * cols_ * (router_ ? 4 : 2); }
  const std::byte* data() const { return memory_.get(); }

  static const PackedMatrix& of(const Matrix& matrix, bool router) {
    const auto* mine = dynamic_cast<const PackedMatrix*>(&matrix);
    FULGUR_ASSERT(mine != nullptr && mine->router_ == router,
                  "weights were packed by another backend or for another use");
    return *mine;
  }

 private:
  std::shared_ptr<std::byte> memory_;
  std::size_t rows_;
  std::size_t cols_;
  bool router_;
};

class Sm90Backend::PackedExpert final : public Expert {
 public:
  PackedExpert(std::shared_ptr<std::byte> gate_up, std::shared_ptr<std::byte> down,
               std::size_t hidden, std::size_t inner, bool fp8)
      : gate_up_(std::move(gate_up)),
        down_(std::move(down)),
        hidden_(hidden),
        inner_(inner),
        fp8_(fp8) {}
  std::size_t bytes() const override {
    if (!fp8_) return 3 * hidden_ * inner_ * 2;
    return packed8_bytes(2 * inner_, hidden_) + packed8_bytes(hidden_, inner_);
  }
  const void* gate_up() const { return gate_up_.get(); }
  const void* down() const { return down_.get(); }
  std::size_t hidden() const { return hidden_; }
  std::size_t inner() const { return inner_; }

  static const PackedExpert& of(const Expert& expert, bool fp8) {
    const auto* mine = dynamic_cast<const PackedExpert*>(&expert);
    FULGUR_ASSERT(mine != nullptr && mine->fp8_ == fp8, "expert was packed by another backend");
    return *mine;
  }

 private:
  std::shared_ptr<std::byte> gate_up_;
  std::shared_ptr<std::byte> down_;
  std::size_t hidden_;
  std::size_t inner_;
  bool fp8_;
};

Sm90Backend::Sm90Backend(std::shared_ptr<DeviceMemory> memory, const CudaOptions& options)
    : CudaBackend(std::move(memory), options),
      fp8_(options.expert_weights == ExpertWeights::fp8_e4m3),
      sums_(options.sums) {
  if (sums_ == Sums::free) partials_ = CudaBackend::allocate(product_partials_bytes());
  if (options.strict || options.graphs_max == 0) return;
  graphs_ = std::make_unique<GraphCache>(
      options.graphs_max,
      [this](const std::function<void()>& launches) { return record_graph(work(), launches); });
}

/// Graphs of the rehearsal name scratch that has moved since.
void Sm90Backend::rehearse(const std::function<void()>& calls) {
  CudaBackend::rehearse(calls);
  if (graphs_) graphs_->clear();
}

std::string Sm90Backend::misfit(const ModelShape& shape) {
  const std::uint32_t width = shape.heads * shape.head_dim;
  if (shape.head_dim != kHeadDim) return fmt::format("head_dim is {}, not 128", shape.head_dim);
  if (shape.kv_heads == 0 || shape.heads != 8 * shape.kv_heads) {
    return fmt::format("{} heads on {} KV heads are not 8 a KV head", shape.heads, shape.kv_heads);
  }
  if (shape.hidden == 0 || shape.hidden % 256 != 0 || shape.inner == 0 || shape.inner % 128 != 0) {
    return fmt::format("hidden {} and inner {} are not multiples of 256 and 128", shape.hidden,
                       shape.inner);
  }
  if (shape.hidden > kNormDimMax || width > kNormDimMax) {
    return fmt::format("hidden {} or attention width {} is above {}", shape.hidden, width,
                       kNormDimMax);
  }
  if (shape.experts > kRoutedMax || shape.experts_per_token > kSlotsMax) {
    return fmt::format("{} experts top-{} are more than {} top-{}", shape.experts,
                       shape.experts_per_token, kRoutedMax, kSlotsMax);
  }
  return "";
}

std::shared_ptr<std::byte> Sm90Backend::packed_memory(std::size_t rows, std::size_t cols) {
  FULGUR_ASSERT(cols % kAtomCols == 0, "columns of a packed matrix are a multiple of 64");
  return allocate(padded_rows(rows) * cols * 2);
}

/// Rows of other types are rounded to bf16: what this family computes with.
void Sm90Backend::pack_rows(const HostMatrix& part, std::size_t first, int interleave,
                            std::byte* packed) {
  for_each_slab(part, [&](std::size_t row, std::size_t count, const std::byte* slab) {
    const void* source = slab;
    if (part.dtype != Dtype::bf16) {
      float* wide = work().take<float>(count * part.cols);
      auto* rounded = work().take<std::byte>(count * part.cols * 2);
      check(portable::widen(slab, part.dtype, false, count * part.cols, wide, stream()), "widen");
      check(to_bf16(wide, count * part.cols, rounded, stream()), "round");
      source = rounded;
    }
    // Interleaved: feature f goes to row gate_row(f), so a slab that begins at feature `row` (a
    // multiple of 8) begins at packed row 2 row.
    const std::size_t to = interleave == 0 ? first + row : 2 * row;
    check(pack_weight(source, to_int(count), to_int(part.cols), to_int(to), interleave, packed,
                      stream()),
          "pack");
  });
}

std::unique_ptr<Matrix> Sm90Backend::pack(std::span<const HostMatrix> parts) {
  FULGUR_ASSERT(!parts.empty(), "pack of no matrices");
  std::size_t rows = 0;
  for (const HostMatrix& part : parts) rows += part.rows;
  auto memory = packed_memory(rows, parts[0].cols);
  std::size_t first = 0;
  for (const HostMatrix& part : parts) {
    FULGUR_ASSERT(part.cols == parts[0].cols, "packed matrices need equal cols");
    pack_rows(part, first, 0, memory.get());
    first += part.rows;
  }
  work().wait();
  return std::make_unique<PackedMatrix>(std::move(memory), rows, parts[0].cols, false);
}

std::unique_ptr<Matrix> Sm90Backend::pack_router(const HostMatrix& router) {
  auto memory = allocate(router.rows * router.cols * sizeof(float));
  for_each_slab(router, [&](std::size_t row, std::size_t count, const std::byte* slab) {
    check(portable::widen(slab, router.dtype, false, count * router.cols,
                          reinterpret_cast<float*>(memory.get()) + row * router.cols, stream()),
          "pack router");
  });
  work().wait();
  return std::make_unique<PackedMatrix>(std::move(memory), router.rows, router.cols, true);
}

std::unique_ptr<Expert> Sm90Backend::pack_expert(const HostMatrix& gate, const HostMatrix& up,
                                                 const HostMatrix& down) {
  FULGUR_ASSERT(gate.rows == up.rows && gate.cols == up.cols && down.cols == gate.rows &&
                    down.rows == gate.cols,
                "shapes of an expert's matrices do not fit together");
  if (fp8_) return pack_fp8_expert(gate, up, down);
  auto gate_up = packed_memory(2 * gate.rows, gate.cols);
  pack_rows(gate, 0, 1, gate_up.get());
  pack_rows(up, 0, 2, gate_up.get());
  auto down_packed = packed_memory(down.rows, down.cols);
  pack_rows(down, 0, 0, down_packed.get());
  work().wait();
  return std::make_unique<PackedExpert>(std::move(gate_up), std::move(down_packed), gate.cols,
                                        gate.rows, false);
}

std::shared_ptr<std::byte> Sm90Backend::packed8_memory(std::size_t rows, std::size_t cols) {
  FULGUR_ASSERT(rows % kQuadRows == 0 && cols % kAtomCols8 == 0,
                "e4m3 experts have sizes in multiples of 256 and 128");
  return allocate(packed8_bytes(rows, cols));
}

/// Any source type, 128 rows or a multiple at a time; bf16 and float32 are quantised as they are.
void Sm90Backend::quantize_rows(const HostMatrix& part, int interleave, std::size_t packed_rows,
                                std::byte* packed) {
  for_each_slab(part, [&](std::size_t row, std::size_t count, const std::byte* slab) {
    const void* source = slab;
    if (part.dtype == Dtype::f16) {
      float* wide = work().take<float>(count * part.cols);
      check(portable::widen(slab, part.dtype, false, count * part.cols, wide, stream()), "widen");
      source = wide;
    }
    check(quantize_weight(source, part.dtype != Dtype::bf16, to_int(count), to_int(part.cols),
                          to_int(row), interleave, to_int(packed_rows), packed, stream()),
          "quantize");
  });
}

std::unique_ptr<Expert> Sm90Backend::pack_fp8_expert(const HostMatrix& gate, const HostMatrix& up,
                                                     const HostMatrix& down) {
  const std::size_t hidden = gate.cols, inner = gate.rows;
  auto gate_up = packed8_memory(2 * inner, hidden);
  quantize_rows(gate, 1, 2 * inner, gate_up.get());
  quantize_rows(up, 2, 2 * inner, gate_up.get());
  auto down_packed = packed8_memory(hidden, inner);
  quantize_rows(down, 0, hidden, down_packed.get());
  work().wait();
  return std::make_unique<PackedExpert>(std::move(gate_up), std::move(down_packed), hidden, inner,
                                        true);
}

/// Random values need no particular order, but the padding rows must be zero.
std::shared_ptr<std::byte> Sm90Backend::random_packed(std::size_t rows, std::size_t cols,
                                                      std::uint64_t seed, float deviation) {
  auto memory = packed_memory(rows, cols);
  // Whole strips of 64 rows are contiguous; those beyond the last full one stay zero but for
  // theirs.
  const std::size_t strips = (rows + kStripRows - 1) / kStripRows;
  check(portable::fill(seed, deviation, strips * kStripRows * cols, Dtype::bf16, memory.get(),
                       stream()),
        "fill");
  work().wait();
  return memory;
}

std::unique_ptr<Matrix> Sm90Backend::random_matrix(std::size_t rows, std::size_t cols,
                                                   std::uint64_t seed, float deviation) {
  return std::make_unique<PackedMatrix>(random_packed(rows, cols, seed, deviation), rows, cols,
                                        false);
}

std::unique_ptr<Matrix> Sm90Backend::random_router(std::size_t rows, std::size_t cols,
                                                   std::uint64_t seed, float deviation) {
  auto memory = allocate(rows * cols * sizeof(float));
  check(portable::fill(seed, deviation, rows * cols, Dtype::f32, memory.get(), stream()), "fill");
  work().wait();
  return std::make_unique<PackedMatrix>(std::move(memory), rows, cols, true);
}

std::unique_ptr<Expert> Sm90Backend::random_expert(std::size_t hidden, std::size_t inner,
                                                   std::uint64_t seed, float deviation) {
  if (fp8_) return random_fp8_expert(hidden, inner, seed, deviation);
  return std::make_unique<PackedExpert>(random_packed(2 * inner, hidden, seed, deviation),
                                        random_packed(hidden, inner, seed + 1, deviation), hidden,
                                        inner, false);
}

void Sm90Backend::quantize_random(std::size_t rows, std::size_t cols, std::uint64_t seed,
                                  float deviation, int interleave, std::size_t packed_rows,
                                  std::byte* packed) {
  work().begin();
  auto* values = work().take<std::byte>(rows * cols * size_of(Dtype::bf16));
  check(portable::fill(seed, deviation, rows * cols, Dtype::bf16, values, stream()), "fill");
  check(quantize_weight(values, false, to_int(rows), to_int(cols), 0, interleave,
                        to_int(packed_rows), packed, stream()),
        "quantize");
}

std::unique_ptr<Expert> Sm90Backend::random_fp8_expert(std::size_t hidden, std::size_t inner,
                                                       std::uint64_t seed, float deviation) {
  // Numbers that no other seed of a caller who counts by one or two comes to.
  constexpr std::uint64_t kUp = std::uint64_t{1} << 63;
  auto gate_up = packed8_memory(2 * inner, hidden);
  quantize_random(inner, hidden, seed, deviation, 1, 2 * inner, gate_up.get());
  quantize_random(inner, hidden, seed ^ kUp, deviation, 2, 2 * inner, gate_up.get());
  auto down = packed8_memory(hidden, inner);
  quantize_random(hidden, inner, seed + 1, deviation, 0, hidden, down.get());
  work().wait();
  return std::make_unique<PackedExpert>(std::move(gate_up), std::move(down), hidden, inner, true);
}

// --- Rows and products ---------------------------------------------------------------------------

void Sm90Backend::rms_norm(const float* x, const float* weight, float eps, std::size_t rows,
                           std::size_t dim, float* out) {
  work().begin();
  check(residual_norm(x, nullptr, 1, 0, weight, eps, to_int(rows), to_int(dim), out, nullptr, 8,
                      stream()),
        "rms_norm");
}

void Sm90Backend::norm_gate(const float* o, const float* gate_rows, const float* weight, float eps,
                            std::size_t rows, std::size_t dim, float* out) {
  rms_norm(o, weight, eps, rows, dim, out);
  check(gate(gate_rows, rows * dim, out, stream()), "gate");
}

Sm90Backend::Tiled Sm90Backend::tiled(std::size_t rows, std::size_t cols) {
  const int capacity = tiled_capacity(to_int(rows), 1);
  return {narrow_rows(static_cast<std::size_t>(capacity), cols), to_int(rows), capacity};
}

void Sm90Backend::multiply(const Tiled& x, const Matrix& weight, Store store, void* out) {
  const PackedMatrix& matrix = PackedMatrix::of(weight, false);
  Product p{};
  p.x = x.data;
  p.capacity = x.capacity;
  p.cols = to_int(matrix.cols());
  p.weight_rows = to_int(padded_rows(matrix.rows()));
  p.weight = matrix.data();
  p.rows = x.rows;
  p.groups = 1;
  p.store = store;
  p.out = out;
  p.features = to_int(matrix.rows());
  p.early = true;  // weights are packed and waited for when they are loaded
  p.sums = sums_;
  p.partials = partials_.get();
  check(product(p, stream()), "product");
}

void Sm90Backend::add_weight(GraphKey& key, const Matrix& weight) {
  const PackedMatrix& matrix = PackedMatrix::of(weight, false);
  key.add(matrix.data(), matrix.rows(), matrix.cols());
}

void Sm90Backend::matmul(const float* x, std::size_t rows, const Matrix& weight, float* out) {
  if (rows == 0) return;
  work().begin();
  const Tiled operand = tiled(rows, weight.cols());
  check(tile_rows(x, true, operand.rows, to_int(weight.cols()), operand.capacity, operand.data,
                  stream()),
        "tile");
  multiply(operand, weight, Store::f32_rows, out);
}

cudaError_t Sm90Backend::embed_rows(const DeviceTable& table, const std::uint32_t* ids,
                                    std::size_t count, float* out) {
  if (table.dtype() != Dtype::bf16) return CudaBackend::embed_rows(table, ids, count, out);
  return cuda::embed(table.data(), ids, to_int(count), to_int(table.cols()), out, stream());
}

cudaError_t Sm90Backend::gather_rows(const float* y, const std::uint32_t* rows, std::size_t count,
                                     std::size_t dim, Dtype dtype, void* out) {
  if (!is_aligned(out)) return CudaBackend::gather_rows(y, rows, count, dim, dtype, out);
  return cuda::gather_rows(y, rows, to_int(count), to_int(dim), dtype == Dtype::f32, out, stream());
}

cudaError_t Sm90Backend::combine_rows(const float* y, std::size_t rows, std::size_t hidden,
                                      std::uint32_t k, const float* weights, const Places& outputs,
                                      Dtype dtype, float alpha, float beta, float* out) {
  if (dtype != Dtype::bf16) {
    return CudaBackend::combine_rows(y, rows, hidden, k, weights, outputs, dtype, alpha, beta, out);
  }
  FULGUR_ASSERT(std::all_of(outputs.host.begin(), outputs.host.end(), is_aligned),
                "rows of expert outputs on a GPU begin at multiples of 16 bytes");
  return combine_places(y, to_int(rows), to_int(hidden), to_int(k), weights, outputs.device, alpha,
                        beta, out, stream());
}

void Sm90Backend::route(const float* y, std::size_t rows, const Matrix& router, std::uint32_t k,
                        std::uint16_t* experts, float* weights) {
  if (rows == 0) return;
  const PackedMatrix& matrix = PackedMatrix::of(router, true);
  work().begin();
  const std::size_t routes = rows * k;
  auto* both = work().take<std::byte>(routes * (sizeof(float) + sizeof(std::uint16_t)));
  auto* chosen_weights = reinterpret_cast<float*>(both);
  auto* chosen = reinterpret_cast<std::uint16_t*>(chosen_weights + routes);
  check(cuda::route(y, to_int(rows), to_int(matrix.cols()),
                    reinterpret_cast<const float*>(matrix.data()), to_int(matrix.rows()), to_int(k),
                    chosen, chosen_weights, stream()),
        "route");
  deliver_routes(both, routes, experts, weights);
}

// --- Experts -------------------------------------------------------------------------------------

void* Sm90Backend::take_tiled(std::size_t capacity, std::size_t cols) {
  return work().take<std::byte>(fp8_ ? tiled8_bytes(capacity, cols) : capacity * cols * 2);
}

void Sm90Backend::experts(const std::byte* x, Dtype x_dtype, std::size_t hidden,
                          std::span<const ExpertGroup> groups, std::byte* out, Dtype out_dtype) {
  FULGUR_ASSERT(x_dtype != Dtype::f16 && out_dtype != Dtype::f16,
                "f16 activations are not supported");
  const ExpertCall call = flatten(groups);
  const std::size_t total = call.rows.size();
  if (total == 0) return;
  // Tiled rows: each group begins at a multiple of 8; what lies between has no source.
  std::vector<int> counts, offsets;
  std::vector<const void*> gate_up, down;
  std::size_t inner = 0;
  int next = 0;
  const int capacity = tiled_capacity(to_int(total), to_int(groups.size()));
  std::vector<int> source(static_cast<std::size_t>(capacity), -1);
  std::vector<int> target(static_cast<std::size_t>(capacity), 0);
  for (const ExpertGroup& group : groups) {
    if (group.rows.empty()) continue;
    const PackedExpert& expert = PackedExpert::of(*group.expert, fp8_);
    FULGUR_ASSERT(expert.hidden() == hidden, "hidden size does not fit the expert");
    FULGUR_ASSERT(inner == 0 || inner == expert.inner(), "experts of one call differ in shape");
    inner = expert.inner();
    gate_up.push_back(expert.gate_up());
    down.push_back(expert.down());
    counts.push_back(to_int(group.rows.size()));
    offsets.push_back(next);
    for (std::size_t i = 0; i < group.rows.size(); ++i) {
      source[static_cast<std::size_t>(next) + i] = static_cast<int>(group.rows[i]);
      target[static_cast<std::size_t>(next) + i] = to_int(group.output + i);
    }
    next += (counts.back() + kAtomRows - 1) / kAtomRows * kAtomRows;
  }
  FULGUR_ASSERT(counts.size() <= kMaxGroups, "more experts in a call than the kernels take");
  work().begin();
  const void* input = on_device(x, call.input_rows * hidden * size_of(x_dtype));
  const int *device_counts = nullptr, *device_offsets = nullptr, *device_source = nullptr,
            *device_target = nullptr;
  const void* const* device_gate_up = nullptr;
  const void* const* device_down = nullptr;
  Lists lists(work());
  lists.add(counts, device_counts);
  lists.add(offsets, device_offsets);
  lists.add(source, device_source);
  lists.add(target, device_target);
  lists.add(std::span<const void* const>(gate_up), device_gate_up);
  lists.add(std::span<const void* const>(down), device_down);
  lists.send();
  // The plan's arrays are written by plan_groups() only, which is not called here.
  const RouteGroups plan{const_cast<int*>(device_counts), const_cast<int*>(device_offsets),
                         const_cast<int*>(device_source), const_cast<int*>(device_target),
                         to_int(counts.size()),           capacity};
  const auto rows = static_cast<std::size_t>(capacity);
  const Experts weights{
      device_gate_up,          device_down, to_int(hidden), to_int(inner), take_tiled(rows, hidden),
      take_tiled(rows, inner), sums_,       partials_.get()};
  const std::size_t bytes = total * hidden * size_of(out_dtype);
  void* result = output_rows(out, bytes);
  void* computed = out_dtype == Dtype::bf16 ? result : work().take<std::byte>(total * hidden * 2);
  const auto compute = fp8_ ? experts_fp8 : cuda::experts;
  check(compute(input, x_dtype == Dtype::f32, to_int(total), plan, weights, computed, stream()),
        "experts");
  if (computed != result) {
    check(to_f32(computed, total * hidden, static_cast<float*>(result), stream()),
          "experts: widen");
  }
  deliver(out, result, bytes);
}

}  // namespace fulgur::kernels::cuda
