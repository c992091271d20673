// Packing of host matrices into panels: see packed_weights.hpp.
#include "kernels/cpu/packed_weights.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <new>

#include "common/base/assert.hpp"
#include "common/base/bf16.hpp"
#include "common/base/memory.hpp"

namespace fulgur::kernels::cpu {
namespace {

constexpr std::size_t kMapBytes = 256 << 10;
constexpr std::size_t kPageBytes = 4096;
constexpr std::size_t kHugeBytes = 2 << 20;

/// Bits of element i of a checkpoint row as float32; rows may be unaligned.
float source_element(const PanelMatrix::RowSource& source, std::size_t i) {
  if (source.dtype == Dtype::f32) {
    float value;
    std::memcpy(&value, source.data + i * sizeof value, sizeof value);
    return value;
  }
  std::uint16_t bits;
  std::memcpy(&bits, source.data + i * sizeof bits, sizeof bits);
  return source.dtype == Dtype::bf16 ? to_float(Bf16{bits}) : half_to_float(bits);
}

bool fits_bf16(const PanelMatrix::RowSource& source, std::size_t cols) {
  if (source.data == nullptr || source.dtype == Dtype::bf16) return true;
  for (std::size_t i = 0; i < cols; ++i) {
    if ((std::bit_cast<std::uint32_t>(source_element(source, i)) & 0xffffU) != 0) return false;
  }
  return true;
}

/// Row k of column c for bf16 panels: 16-bit elements at [pair][column][2].
void fill_bf16(const PanelMatrix::RowSource& source, std::size_t cols, std::size_t width,
               std::uint16_t* column) {
  if (source.dtype == Dtype::bf16) {
    for (std::size_t k = 0; k < cols; ++k) {
      std::memcpy(column + k / 2 * width * 2 + (k & 1), source.data + k * 2, 2);
    }
    return;
  }
  for (std::size_t k = 0; k < cols; ++k) {
    column[k / 2 * width * 2 + (k & 1)] = to_bf16(source_element(source, k)).bits;
  }
}

/// Fresh pages, of 2 MiB where they fit and the kernel has them: a stream of weights then misses
/// the TLB once in 512 times, and the processor's own prefetch does not stop every 4 KiB.
std::byte* map_pages(std::size_t bytes, bool huge) {
  const std::size_t spare = huge && bytes >= kHugeBytes ? kHugeBytes : 0;
  void* mapped =
      mmap(nullptr, bytes + spare, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  auto* begin = static_cast<std::byte*>(mapped);
  if (spare == 0) return begin;
  // What lies before the first boundary and behind the end goes back.
  const std::size_t before = -reinterpret_cast<std::uintptr_t>(begin) % kHugeBytes;
  const std::size_t used = (bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
  if (before > 0) munmap(begin, before);
  if (before + used < bytes + spare) munmap(begin + before + used, bytes + spare - before - used);
  (void)madvise(begin + before, used, MADV_HUGEPAGE);  // small pages are right too
  return begin + before;
}

}  // namespace

std::shared_ptr<std::byte> allocate_pages(std::size_t bytes, bool populate, bool huge) {
  if (bytes < kMapBytes) {
    auto buffer = std::make_shared<AlignedBuffer<std::byte>>(std::max<std::size_t>(bytes, 1));
    std::memset(buffer->data(), 0, bytes);
    return {buffer, buffer->data()};
  }
  std::byte* pages = map_pages(bytes, huge);
  if (populate) {
    // A mapped page may still cost the hypervisor a fault: pay for it here, not in a step.
    for (std::size_t i = 0; i < bytes; i += kPageBytes) {
      *static_cast<volatile std::byte*>(pages + i) = std::byte{0};
    }
  }
  return {pages, [bytes](std::byte* p) { munmap(p, bytes); }};
}

PanelMatrix::PanelMatrix(std::size_t rows, std::size_t cols, std::span<const RowSource> sources,
                         bool keep_f32)
    : rows_(rows), cols_(cols), columns_(padded(sources.size())) {
  FULGUR_ASSERT(rows > 0 && cols > 0, "an empty matrix cannot be packed");
  const bool narrow =
      !keep_f32 && std::all_of(sources.begin(), sources.end(),
                               [&](const RowSource& s) { return fits_bf16(s, cols); });
  type_ = narrow ? PanelType::bf16 : PanelType::f32;
  const std::size_t element = narrow ? 2 : 4;
  panel_bytes_ = pairs() * 2 * kPanelColumns * element;
  bytes_ = pairs() * 2 * columns_ * element;
  data_ = allocate_pages(bytes_, true, true);
  fill(sources);
}

std::size_t PanelMatrix::vecs(std::size_t panel) const {
  return std::min(kPanelColumns, columns_ - panel * kPanelColumns) / kVector;
}

void PanelMatrix::fill(std::span<const RowSource> sources) {
  for (std::size_t c = 0; c < sources.size(); ++c) {
    if (sources[c].data == nullptr) continue;
    const std::size_t index = c / kPanelColumns;
    const std::size_t width = vecs(index) * kVector;
    std::byte* start = data_.get() + index * panel_bytes_;
    if (type_ == PanelType::bf16) {
      fill_bf16(sources[c], cols_, width,
                reinterpret_cast<std::uint16_t*>(start) + c % kPanelColumns * 2);
    } else {
      float* column = reinterpret_cast<float*>(start) + c % kPanelColumns;
      for (std::size_t k = 0; k < cols_; ++k) column[k * width] = source_element(sources[c], k);
    }
  }
}

std::vector<PanelMatrix::RowSource> stacked_rows(std::span<const HostMatrix> parts) {
  FULGUR_ASSERT(!parts.empty(), "pack of no matrices");
  std::vector<PanelMatrix::RowSource> sources;
  for (const HostMatrix& part : parts) {
    FULGUR_ASSERT(part.cols == parts[0].cols, "packed matrices need equal cols");
    const auto* data = static_cast<const std::byte*>(part.data);
    for (std::size_t row = 0; row < part.rows; ++row) {
      sources.push_back({data + row * part.cols * size_of(part.dtype), part.dtype});
    }
  }
  return sources;
}

std::vector<PanelMatrix::RowSource> interleaved_rows(const HostMatrix& gate, const HostMatrix& up) {
  constexpr std::size_t kHalf = kPanelColumns / 2;
  FULGUR_ASSERT(gate.rows == up.rows && gate.cols == up.cols, "gate and up differ in shape");
  const auto gates = stacked_rows({&gate, 1});
  const auto ups = stacked_rows({&up, 1});
  std::vector<PanelMatrix::RowSource> sources;
  for (std::size_t begin = 0; begin < gate.rows; begin += kHalf) {
    for (const auto* half : {&gates, &ups}) {
      for (std::size_t i = begin; i < begin + kHalf; ++i) {
        sources.push_back(i < half->size() ? (*half)[i] : PanelMatrix::RowSource{});
      }
    }
  }
  return sources;
}

TableMatrix::TableMatrix(const HostMatrix& table)
    : rows_(table.rows), cols_(table.cols), dtype_(table.dtype) {
  data_ = allocate_pages(bytes(), true, true);
  if (bytes() > 0) std::memcpy(data_.get(), table.data, bytes());
}

PackedExpert::PackedExpert(const HostMatrix& gate, const HostMatrix& up, const HostMatrix& down_in)
    : gate_up(gate.rows, gate.cols, interleaved_rows(gate, up), false),
      down(down_in.rows, down_in.cols, stacked_rows({&down_in, 1}), false) {
  FULGUR_ASSERT(down_in.cols == gate.rows && down_in.rows == gate.cols,
                "shapes of an expert's matrices do not fit together");
}

}  // namespace fulgur::kernels::cpu
