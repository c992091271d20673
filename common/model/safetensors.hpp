// The safetensors container: an 8-byte little-endian header length, a JSON header of names, dtypes,
// shapes and byte ranges, then the data. Opening a file reads and checks the header only; tensors
// are mapped one at a time, so a process touches no bytes of tensors it does not use.
// Const methods are safe to call from several threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "common/base/dtype.hpp"
#include "common/base/status.hpp"
#include "common/model/file.hpp"

namespace fulgur::model {

/// A read-only view of tensor data, row-major, aligned for its dtype; copying shares the mapping.
struct Tensor {
  std::string name;
  Dtype dtype = Dtype::f32;
  std::vector<std::uint64_t> shape;
  const std::byte* data = nullptr;
  std::size_t bytes = 0;
  std::shared_ptr<const void> mapping;  ///< keeps `data` valid

  std::uint64_t elements() const { return bytes / size_of(dtype); }
};

/// "[8192, 6144]".
std::string shape_text(const std::vector<std::uint64_t>& shape);

/// One header entry.
struct TensorInfo {
  std::string name;
  std::string_view dtype;  ///< as stored, e.g. "BF16"; static storage
  std::vector<std::uint64_t> shape;
  std::uint64_t offset = 0;  ///< of the first byte, from the start of the file
  std::uint64_t bytes = 0;

  /// The element type when it is one the engine computes with.
  std::optional<Dtype> float_dtype() const;
};

class SafetensorsFile {
 public:
  /// Longest accepted header; the format's reference implementation has the same limit.
  static constexpr std::uint64_t kHeaderBytesMax = 100'000'000;

  /// Reads and checks the header: known dtypes, shape * dtype equal to the byte range, ranges
  /// inside the file and disjoint, no name twice. data_loss otherwise, naming file and tensor.
  static Result<SafetensorsFile> open(const std::string& path);

  /// The checks of open() on a header alone: `file_bytes` is the size of the whole file, `path`
  /// names it in messages.
  static Result<std::vector<TensorInfo>> parse_header(std::string_view header,
                                                      std::uint64_t file_bytes,
                                                      const std::string& path);

  const std::string& path() const { return file_.path(); }
  const std::vector<TensorInfo>& tensors() const { return tensors_; }  ///< by offset
  /// The entry of that name, or null.
  const TensorInfo* find(std::string_view name) const;
  std::uint64_t data_offset() const { return data_offset_; }
  std::uint64_t file_bytes() const { return file_.size(); }
  const ReadOnlyFile& file() const { return file_; }

  /// Maps the whole tensor; its dtype must be a float one the engine knows.
  Result<Tensor> map(const TensorInfo& info) const;
  /// Maps rows [index] of the first dimension only: the result has one dimension less.
  Result<Tensor> map_slice(const TensorInfo& info, std::uint64_t index) const;

 private:
  Result<Tensor> map_range(const TensorInfo& info, std::uint64_t offset, std::uint64_t bytes,
                           std::vector<std::uint64_t> shape) const;

  ReadOnlyFile file_;
  std::uint64_t data_offset_ = 0;
  std::vector<TensorInfo> tensors_;
  std::unordered_map<std::string, std::size_t> by_name_;
};

}  // namespace fulgur::model
