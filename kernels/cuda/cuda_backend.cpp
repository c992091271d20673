// Weights, products, rows and experts of the CUDA backend; attention is in
// cuda_attention.cpp, draws are in cuda_draw.cpp.
#include "kernels/cuda/cuda_backend.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

#include "common/base/assert.hpp"

namespace fulgur::kernels::cuda {
namespace {

template <class Own, class Interface>
const Own& own(const Interface& object) {
  const auto* mine = dynamic_cast<const Own*>(&object);
  FULGUR_ASSERT(mine != nullptr, "weights were packed by another backend or for another use");
  return *mine;
}

std::uint32_t narrow(std::size_t value) {
  FULGUR_ASSERT(value <= 0xffffffffU, "a size beyond 32 bits");
  return static_cast<std::uint32_t>(value);
}

/// Source rows may lie at any address; the device wants elements aligned.
void check_parts(std::span<const HostMatrix> parts) {
  FULGUR_ASSERT(!parts.empty(), "pack of no matrices");
  for (const HostMatrix& part : parts) {
    FULGUR_ASSERT(part.cols == parts[0].cols, "packed matrices need equal cols");
    FULGUR_ASSERT(part.rows > 0 && part.cols > 0, "an empty matrix cannot be packed");
  }
}

}  // namespace

// --- Memory ------------------------------------------------------------------------------------

std::shared_ptr<const Mark> CudaBackend::mark() {
  check(cudaSetDevice(work_.memory().device()), "cudaSetDevice");
  return EventMark::record(events_, stream());
}

std::shared_ptr<std::byte> CudaBackend::allocate(std::size_t bytes) {
  work_.begin();
  auto memory = work_.keep(bytes);
  check(cudaMemsetAsync(memory.get(), 0, bytes, stream()), "cudaMemset");
  work_.wait();
  return memory;
}

std::shared_ptr<std::byte> CudaBackend::allocate_host(std::size_t bytes) {
  return work_.keep_pinned(bytes);
}

/// Buffers and scratch that grow from call to call leave holes behind, which the largest of them
/// may not fit into: they go back to the driver.
void CudaBackend::rehearse(const std::function<void()>& calls) {
  struct Trimming {
    explicit Trimming(DeviceMemory& memory) : memory(memory) { memory.let_take_trim(true); }
    ~Trimming() { memory.let_take_trim(false); }
    DeviceMemory& memory;
  } trimming(work_.memory());
  {
#if defined(FULGUR_CUDA_EMULATION)
    const emulation::Idle idle;  // there the arithmetic takes minutes, and nobody reads it
#endif
    calls();
  }
  work_.begin();
  work_.wait();
  work_.settle();
  work_.memory().trim();
}

void CudaBackend::upload(std::byte* device, const void* host, std::size_t bytes) {
  work_.begin();
  work_.copy_in(device, host, bytes);
}

void CudaBackend::download(void* host, const std::byte* device, std::size_t bytes) {
  work_.begin();
  work_.copy_out(host, device, bytes);
}

const void* CudaBackend::on_device(const std::byte* rows, std::size_t bytes) {
  if (work_.memory().reaches(rows)) return rows;
  return work_.upload(std::span(rows, bytes));
}

void* CudaBackend::output_rows(std::byte* out, std::size_t bytes) {
  if (work_.memory().reaches(out)) return out;
  return work_.take<std::byte>(bytes);
}

void CudaBackend::deliver(std::byte* out, const void* computed, std::size_t bytes) {
  if (computed != out) work_.copy_out(out, computed, bytes);
}

// --- Weights -----------------------------------------------------------------------------------

std::unique_ptr<DeviceMatrix> CudaBackend::pack_as(std::span<const HostMatrix> parts, Dtype dtype) {
  check_parts(parts);
  std::size_t rows = 0;
  for (const HostMatrix& part : parts) rows += part.rows;
  const portable::Weight weight{nullptr, narrow(rows), narrow(parts[0].cols), dtype};
  auto memory = allocate(portable::weight_bytes(rows, weight.cols, dtype));
  std::size_t first = 0;
  for (const HostMatrix& part : parts) {
    for_each_slab(part, [&](std::size_t row, std::size_t count, const std::byte* slab) {
      check(portable::pack(slab, part.dtype, narrow(count), narrow(first + row), weight,
                           memory.get(), stream()),
            "pack");
    });
    first += part.rows;
  }
  work_.wait();  // another thread's stream may be the one that reads it
  return std::make_unique<DeviceMatrix>(std::move(memory), weight);
}

std::unique_ptr<Matrix> CudaBackend::pack(std::span<const HostMatrix> parts) {
  const bool narrow_parts = std::all_of(
      parts.begin(), parts.end(), [](const HostMatrix& part) { return part.dtype == Dtype::bf16; });
  return pack_as(parts, narrow_parts ? Dtype::bf16 : Dtype::f32);
}

std::unique_ptr<Matrix> CudaBackend::pack_table(const HostMatrix& table) {
  auto memory = allocate(table.rows * table.cols * size_of(table.dtype));
  upload(memory.get(), table.data, table.rows * table.cols * size_of(table.dtype));
  return std::make_unique<DeviceTable>(std::move(memory), table.rows, table.cols, table.dtype);
}

std::unique_ptr<Matrix> CudaBackend::pack_router(const HostMatrix& router) {
  return pack_as({&router, 1}, Dtype::f32);
}

std::unique_ptr<Expert> CudaBackend::pack_expert(const HostMatrix& gate, const HostMatrix& up,
                                                 const HostMatrix& down) {
  FULGUR_ASSERT(gate.rows == up.rows && gate.cols == up.cols && down.cols == gate.rows &&
                    down.rows == gate.cols,
                "shapes of an expert's matrices do not fit together");
  const HostMatrix both[] = {gate, up};
  const bool narrow_both = gate.dtype == Dtype::bf16 && up.dtype == Dtype::bf16;
  return std::make_unique<DeviceExpert>(
      pack_as(both, narrow_both ? Dtype::bf16 : Dtype::f32),
      pack_as({&down, 1}, down.dtype == Dtype::bf16 ? Dtype::bf16 : Dtype::f32));
}

std::unique_ptr<DeviceMatrix> CudaBackend::random_weight(std::size_t rows, std::size_t cols,
                                                         std::uint64_t seed, float deviation,
                                                         Dtype dtype) {
  FULGUR_ASSERT(cols % 2 == 0, "synthetic weights have an even number of columns");
  const portable::Weight weight{nullptr, narrow(rows), narrow(cols), dtype};
  auto memory = allocate(portable::weight_bytes(rows, cols, dtype));
  check(portable::fill(seed, deviation, rows * cols, dtype, memory.get(), stream()), "fill");
  work_.wait();
  return std::make_unique<DeviceMatrix>(std::move(memory), weight);
}

std::unique_ptr<Matrix> CudaBackend::random_matrix(std::size_t rows, std::size_t cols,
                                                   std::uint64_t seed, float deviation) {
  return random_weight(rows, cols, seed, deviation, Dtype::bf16);
}

std::unique_ptr<Matrix> CudaBackend::random_table(std::size_t rows, std::size_t cols,
                                                  std::uint64_t seed, float deviation) {
  auto memory = allocate(rows * cols * size_of(Dtype::bf16));
  check(portable::fill(seed, deviation, rows * cols, Dtype::bf16, memory.get(), stream()), "fill");
  work_.wait();
  return std::make_unique<DeviceTable>(std::move(memory), rows, cols, Dtype::bf16);
}

std::unique_ptr<Matrix> CudaBackend::random_router(std::size_t rows, std::size_t cols,
                                                   std::uint64_t seed, float deviation) {
  return random_weight(rows, cols, seed, deviation, Dtype::f32);
}

std::unique_ptr<Expert> CudaBackend::random_expert(std::size_t hidden, std::size_t inner,
                                                   std::uint64_t seed, float deviation) {
  return std::make_unique<DeviceExpert>(
      random_weight(2 * inner, hidden, seed, deviation, Dtype::bf16),
      random_weight(hidden, inner, seed + 1, deviation, Dtype::bf16));
}

// --- Rows --------------------------------------------------------------------------------------

void CudaBackend::embed(const Matrix& table, std::span<const std::uint32_t> ids, float* out) {
  const auto& matrix = own<DeviceTable>(table);
  for (const std::uint32_t id : ids) {
    FULGUR_ASSERT(id < matrix.rows(), "token id outside the embedding table");
  }
  work_.begin();
  check(embed_rows(matrix, work_.upload(ids), ids.size(), out), "embed");
}

cudaError_t CudaBackend::embed_rows(const DeviceTable& table, const std::uint32_t* ids,
                                    std::size_t count, float* out) {
  return portable::embed(table.data(), table.dtype(), ids, count, table.cols(), out, stream());
}

void CudaBackend::rms_norm(const float* x, const float* weight, float eps, std::size_t rows,
                           std::size_t dim, float* out) {
  work_.begin();
  check(portable::norm(x, nullptr, weight, eps, rows, dim, out, stream()), "rms_norm");
}

void CudaBackend::norm_gate(const float* o, const float* gate, const float* weight, float eps,
                            std::size_t rows, std::size_t dim, float* out) {
  work_.begin();
  check(portable::norm(o, gate, weight, eps, rows, dim, out, stream()), "norm_gate");
}

void CudaBackend::scale_add(float alpha, const float* x, float beta, const float* y,
                            std::size_t count, float* out) {
  work_.begin();
  check(portable::scale_add(alpha, x, beta, y, count, out, stream()), "scale_add");
}

/// The left operand of a product in the precision of the mode.
const float* CudaBackend::rounded(const float* x, std::size_t count) {
  if (!bf16()) return x;
  float* operand = work_.take<float>(count);
  check(portable::widen(x, Dtype::f32, true, count, operand, stream()), "round");
  return operand;
}

void CudaBackend::matmul(const float* x, std::size_t rows, const Matrix& weight, float* out) {
  const auto& matrix = own<DeviceMatrix>(weight);
  work_.begin();
  check(portable::product(rounded(x, rows * matrix.cols()), narrow(rows), matrix.weight(), out,
                          stream()),
        "matmul");
}

void CudaBackend::route(const float* y, std::size_t rows, const Matrix& router, std::uint32_t k,
                        std::uint16_t* experts, float* weights) {
  const auto& matrix = own<DeviceMatrix>(router);
  FULGUR_ASSERT(matrix.weight().dtype == Dtype::f32, "route needs a matrix from pack_router");
  const auto total = narrow(matrix.rows());
  FULGUR_ASSERT(k >= 1 && k <= total, "top-k outside the number of experts");
  if (rows == 0) return;
  work_.begin();
  float* logits = work_.take<float>(rows * total);
  // One block of memory, one copy: the weights, then the ids.
  const std::size_t routes = rows * k;
  auto* chosen = work_.take<std::byte>(routes * (sizeof(float) + sizeof(std::uint16_t)));
  auto* chosen_weights = reinterpret_cast<float*>(chosen);
  auto* ids = reinterpret_cast<std::uint16_t*>(chosen_weights + routes);
  check(portable::product(y, narrow(rows), matrix.weight(), logits, stream()), "route");
  check(portable::choose(logits, rows, total, k, ids, chosen_weights, stream()), "choose");
  deliver_routes(chosen, routes, experts, weights);
}

void CudaBackend::deliver_routes(const std::byte* both, std::size_t routes, std::uint16_t* experts,
                                 float* weights) {
  routes_.resize(routes * (sizeof(float) + sizeof(std::uint16_t)));
  work_.copy_out(routes_.data(), both, routes_.size());
  std::memcpy(weights, routes_.data(), routes * sizeof(float));
  std::memcpy(experts, routes_.data() + routes * sizeof(float), routes * sizeof(std::uint16_t));
}

void CudaBackend::argmax(const float* x, std::size_t rows, std::size_t cols, std::uint32_t* ids) {
  work_.begin();
  auto* chosen = work_.take<std::uint32_t>(rows);
  auto* partial = work_.take<portable::ArgmaxPart>(rows * portable::argmax_parts(cols));
  check(portable::argmax(x, rows, cols, partial, chosen, stream()), "argmax");
  work_.copy_out(ids, chosen, rows * sizeof(std::uint32_t));
}

void CudaBackend::gather(const float* y, std::span<const std::uint32_t> rows, std::size_t dim,
                         Dtype dtype, std::byte* out) {
  FULGUR_ASSERT(dtype != Dtype::f16, "f16 activations are not supported");
  if (rows.empty()) return;
  const std::size_t bytes = rows.size() * dim * size_of(dtype);
  work_.begin();
  void* gathered = output_rows(out, bytes);
  check(gather_rows(y, work_.upload(rows), rows.size(), dim, dtype, gathered), "gather");
  deliver(out, gathered, bytes);
}

cudaError_t CudaBackend::gather_rows(const float* y, const std::uint32_t* rows, std::size_t count,
                                     std::size_t dim, Dtype dtype, void* out) {
  return portable::gather(y, rows, count, dim, dtype, out, stream());
}

template <class Pointer>
std::vector<std::size_t> CudaBackend::in_host_memory(const std::vector<Pointer>& places) const {
  // Rows of one message lie together: the driver is asked once for each 2 MiB of addresses, which
  // no allocation of a GPU shares with host memory.
#if defined(FULGUR_CUDA_EMULATION)
  constexpr std::uintptr_t kRegion = 4096;
#else
  constexpr std::uintptr_t kRegion = std::uintptr_t{1} << 21;
#endif
  std::vector<std::size_t> foreign;
  std::uintptr_t region = 0;
  bool reached = false;
  for (std::size_t i = 0; i < places.size(); ++i) {
    const std::uintptr_t at = reinterpret_cast<std::uintptr_t>(places[i]) / kRegion + 1;
    if (at != region) reached = work_.memory().reaches(places[i]);
    region = at;
    if (!reached) foreign.push_back(i);
  }
  return foreign;
}

/// Brings the rows that are in host memory to the device; `places` names all of them there.
void CudaBackend::stage_host_rows(std::vector<const void*>& places, std::size_t row_bytes) {
  const std::vector<std::size_t> foreign = in_host_memory(places);
  if (foreign.empty()) return;
  std::byte* host = work_.pinned(foreign.size() * row_bytes);
  for (std::size_t n = 0; n < foreign.size(); ++n) {
    std::memcpy(host + n * row_bytes, places[foreign[n]], row_bytes);
  }
  const auto* device =
      static_cast<const std::byte*>(work_.upload_pinned(host, foreign.size() * row_bytes));
  for (std::size_t n = 0; n < foreign.size(); ++n) places[foreign[n]] = device + n * row_bytes;
}

void CudaBackend::copy_rows(std::span<const RowCopy> rows, std::size_t row_bytes) {
  if (rows.empty() || row_bytes == 0) return;
  std::vector<const void*> from;
  std::vector<void*> to;
  for (const RowCopy& row : rows) {
    from.push_back(row.from);
    to.push_back(row.to);
  }
  work_.begin();
  stage_host_rows(from, row_bytes);
  // Rows for host memory are gathered on the device and leave in one copy.
  const std::vector<std::size_t> leaving = in_host_memory(to);
  auto* gathered = leaving.empty() ? nullptr : work_.take<std::byte>(leaving.size() * row_bytes);
  for (std::size_t n = 0; n < leaving.size(); ++n) to[leaving[n]] = gathered + n * row_bytes;
  std::uintptr_t bits = row_bytes;
  for (const void* place : from) bits |= reinterpret_cast<std::uintptr_t>(place);
  for (const void* place : to) bits |= reinterpret_cast<std::uintptr_t>(place);
  const void* const* sources = nullptr;
  void* const* targets = nullptr;
  Lists lists(work_);
  lists.add(from, sources);
  lists.add(to, targets);
  lists.send();
  const std::size_t alignment = std::size_t{1} << std::countr_zero(bits);
  check(portable::copy_rows(sources, targets, rows.size(), row_bytes, alignment, stream()),
        "copy_rows");
  if (leaving.empty()) return;
  std::vector<std::byte> host(leaving.size() * row_bytes);
  work_.copy_out(host.data(), gathered, host.size());
  for (std::size_t n = 0; n < leaving.size(); ++n) {
    std::memcpy(rows[leaving[n]].to, host.data() + n * row_bytes, row_bytes);
  }
}

void CudaBackend::combine(const float* y, std::size_t rows, std::size_t hidden, std::uint32_t k,
                          const float* weights, std::span<const std::byte* const> outputs,
                          Dtype dtype, float alpha, float beta, float* out) {
  FULGUR_ASSERT(outputs.size() == rows * k, "combine needs rows * k outputs");
  FULGUR_ASSERT(dtype != Dtype::f16, "f16 activations are not supported");
  const std::size_t row_bytes = hidden * size_of(dtype);
  work_.begin();
  std::vector<const void*> places(outputs.begin(), outputs.end());
  stage_host_rows(places, row_bytes);
  const float* slot_weights = nullptr;
  const void* const* device_places = nullptr;
  Lists lists(work_);
  lists.add(std::span(weights, rows * k), slot_weights);
  lists.add(std::span<const void* const>(places), device_places);
  lists.send();
  check(combine_rows(y, rows, hidden, k, slot_weights, {places, device_places}, dtype, alpha, beta,
                     out),
        "combine");
}

cudaError_t CudaBackend::combine_rows(const float* y, std::size_t rows, std::size_t hidden,
                                      std::uint32_t k, const float* weights, const Places& outputs,
                                      Dtype dtype, float alpha, float beta, float* out) {
  return portable::combine(y, rows, hidden, k, weights, outputs.device, dtype, alpha, beta, out,
                           stream());
}

// --- Experts -----------------------------------------------------------------------------------

CudaBackend::ExpertCall CudaBackend::flatten(std::span<const ExpertGroup> groups) {
  ExpertCall call;
  std::size_t total = 0;
  for (const ExpertGroup& group : groups) total += group.rows.size();
  call.rows.resize(total);
  for (const ExpertGroup& group : groups) {
    FULGUR_ASSERT(group.expert != nullptr, "an expert group needs an expert");
    FULGUR_ASSERT(group.output + group.rows.size() <= total, "output rows of groups have gaps");
    std::copy(group.rows.begin(), group.rows.end(), call.rows.begin() + group.output);
    call.rows_max = std::max(call.rows_max, narrow(group.rows.size()));
    for (const std::uint32_t row : group.rows) {
      call.input_rows = std::max<std::size_t>(call.input_rows, row + 1);
    }
  }
  return call;
}

void CudaBackend::experts(const std::byte* x, Dtype x_dtype, std::size_t hidden,
                          std::span<const ExpertGroup> groups, std::byte* out, Dtype out_dtype) {
  FULGUR_ASSERT(x_dtype != Dtype::f16 && out_dtype != Dtype::f16,
                "f16 activations are not supported");
  const ExpertCall call = flatten(groups);
  const std::size_t total = call.rows.size();
  if (total == 0) return;
  std::vector<portable::ProductGroup> gate_up, down;
  std::size_t inner = 0;
  for (const ExpertGroup& group : groups) {
    if (group.rows.empty()) continue;
    const auto& expert = own<DeviceExpert>(*group.expert);
    FULGUR_ASSERT(expert.gate_up().cols == hidden, "hidden size does not fit the expert");
    FULGUR_ASSERT(inner == 0 || inner == expert.down().cols, "experts of one call differ in shape");
    inner = expert.down().cols;
    gate_up.push_back({expert.gate_up(), group.output, narrow(group.rows.size())});
    down.push_back({expert.down(), group.output, narrow(group.rows.size())});
  }
  work_.begin();
  const void* input = on_device(x, call.input_rows * hidden * size_of(x_dtype));
  float* operand = work_.take<float>(call.input_rows * hidden);
  float* wide = work_.take<float>(total * 2 * inner);
  float* narrow_rows = work_.take<float>(total * inner);
  float* result = work_.take<float>(total * hidden);
  const std::uint32_t count = narrow(gate_up.size());
  const std::uint32_t* list = nullptr;
  const portable::ProductGroup* gate_up_groups = nullptr;
  const portable::ProductGroup* down_groups = nullptr;
  Lists lists(work_);
  lists.add(call.rows, list);
  lists.add(gate_up, gate_up_groups);
  lists.add(down, down_groups);
  lists.send();
  check(portable::widen(input, x_dtype, bf16(), call.input_rows * hidden, operand, stream()),
        "experts: input");
  check(portable::product(operand, list, gate_up_groups, count, call.rows_max, narrow(hidden),
                          narrow(2 * inner), wide, stream()),
        "experts: gate and up");
  check(portable::swiglu(wide, total, inner, bf16(), narrow_rows, stream()), "experts: swiglu");
  check(portable::product(narrow_rows, nullptr, down_groups, count, call.rows_max, narrow(inner),
                          narrow(hidden), result, stream()),
        "experts: down");
  const std::size_t bytes = total * hidden * size_of(out_dtype);
  void* rows = output_rows(out, bytes);
  check(portable::narrow(result, total * hidden, out_dtype, rows, stream()), "experts: output");
  deliver(out, rows, bytes);
}

}  // namespace fulgur::kernels::cuda
