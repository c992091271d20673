#include "common/model/safetensors.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <new>
#include <unordered_set>

#include "common/base/memory.hpp"
#include "common/model/json_file.hpp"

namespace fulgur::model {
namespace {

constexpr std::size_t kPrefixBytes = 8;
constexpr std::size_t kDimensionsMax = 8;

struct StoredDtype {
  std::string_view name;
  std::uint64_t bytes;
};

constexpr std::array<StoredDtype, 16> kDtypes = {{{"BF16", 2},
                                                  {"F16", 2},
                                                  {"F32", 4},
                                                  {"F64", 8},
                                                  {"BOOL", 1},
                                                  {"U8", 1},
                                                  {"I8", 1},
                                                  {"F8_E5M2", 1},
                                                  {"F8_E4M3", 1},
                                                  {"F8_E8M0", 1},
                                                  {"I16", 2},
                                                  {"U16", 2},
                                                  {"I32", 4},
                                                  {"U32", 4},
                                                  {"I64", 8},
                                                  {"U64", 8}}};

/// Reads one header at a time; `name` is the tensor being read, for messages.
class HeaderReader {
 public:
  HeaderReader(std::uint64_t data_offset, std::uint64_t file_bytes, const std::string& path)
      : data_offset_(data_offset), file_bytes_(file_bytes), path_(path) {}

  Result<TensorInfo> read(std::string_view name, simdjson::dom::element element) {
    name_ = name;
    TensorInfo info;
    info.name = std::string(name);
    simdjson::dom::object fields;
    if (element.get(fields) != simdjson::SUCCESS) return bad("has no description object");
    FULGUR_ASSIGN_OR_RETURN(const StoredDtype dtype, read_dtype(fields));
    info.dtype = dtype.name;
    FULGUR_ASSIGN_OR_RETURN(const std::uint64_t elements, read_shape(fields, info.shape));
    FULGUR_RETURN_IF_ERROR(read_range(fields, info));
    if (static_cast<unsigned __int128>(elements) * dtype.bytes != info.bytes) {
      return bad(fmt::format("of shape {} and dtype {} cannot fill {} bytes",
                             shape_text(info.shape), info.dtype, info.bytes));
    }
    return info;
  }

 private:
  Status bad(std::string_view what) const {
    return error(Code::data_loss, "{}: tensor {} {}", path_, printable(name_), what);
  }

  Result<StoredDtype> read_dtype(simdjson::dom::object fields) const {
    std::string_view text;
    if (fields["dtype"].get(text) != simdjson::SUCCESS) return bad("has no dtype");
    for (const StoredDtype& each : kDtypes) {
      if (each.name == text) return each;
    }
    return bad(fmt::format("has the unknown dtype {}", printable(text)));
  }

  /// Fills `shape`; returns the number of elements.
  Result<std::uint64_t> read_shape(simdjson::dom::object fields,
                                   std::vector<std::uint64_t>& shape) const {
    simdjson::dom::array list;
    if (fields["shape"].get(list) != simdjson::SUCCESS) return bad("has no shape");
    if (list.size() > kDimensionsMax) {
      return bad(fmt::format("has more than {} dimensions", kDimensionsMax));
    }
    std::uint64_t elements = 1;
    for (const simdjson::dom::element each : list) {
      std::uint64_t extent = 0;
      if (each.get(extent) != simdjson::SUCCESS) return bad("has an ill-formed shape");
      if (__builtin_mul_overflow(elements, extent, &elements)) return bad("has too large a shape");
      shape.push_back(extent);
    }
    return elements;
  }

  Status read_range(simdjson::dom::object fields, TensorInfo& info) const {
    simdjson::dom::array list;
    std::uint64_t begin = 0;
    std::uint64_t end = 0;
    if (fields["data_offsets"].get(list) != simdjson::SUCCESS || list.size() != 2 ||
        list.at(0).get(begin) != simdjson::SUCCESS || list.at(1).get(end) != simdjson::SUCCESS ||
        end < begin) {
      return bad("has ill-formed data_offsets");
    }
    const std::uint64_t data_bytes = file_bytes_ - data_offset_;
    if (end > data_bytes) {
      return bad(
          fmt::format("ends at byte {} of {} in the file: truncated or corrupt", end, data_bytes));
    }
    info.offset = data_offset_ + begin;
    info.bytes = end - begin;
    return Status::ok();
  }

  std::uint64_t data_offset_;
  std::uint64_t file_bytes_;
  const std::string& path_;
  std::string_view name_;
};

Status check_disjoint(const std::vector<TensorInfo>& sorted, const std::string& path) {
  for (std::size_t i = 1; i < sorted.size(); ++i) {
    if (sorted[i - 1].offset + sorted[i - 1].bytes > sorted[i].offset) {
      return error(Code::data_loss, "{}: tensors {} and {} overlap", path,
                   printable(sorted[i - 1].name), printable(sorted[i].name));
    }
  }
  return Status::ok();
}

}  // namespace

std::string shape_text(const std::vector<std::uint64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

std::optional<Dtype> TensorInfo::float_dtype() const {
  if (dtype == "BF16") return Dtype::bf16;
  if (dtype == "F32") return Dtype::f32;
  if (dtype == "F16") return Dtype::f16;
  return std::nullopt;
}

Result<std::vector<TensorInfo>> SafetensorsFile::parse_header(std::string_view header,
                                                              std::uint64_t file_bytes,
                                                              const std::string& path) {
  const std::uint64_t data_offset = kPrefixBytes + header.size();
  FULGUR_ASSERT(file_bytes >= data_offset, "the file holds its header");
  FULGUR_ASSIGN_OR_RETURN(const JsonFile json, JsonFile::parse(header, path, Code::data_loss));
  HeaderReader reader(data_offset, file_bytes, path);
  std::vector<TensorInfo> tensors;
  std::unordered_set<std::string_view> names;
  for (const auto field : json.root().members()) {
    if (!names.insert(field.key).second) {
      return error(Code::data_loss, "{}: tensor {} is listed twice", path, printable(field.key));
    }
    if (field.key == "__metadata__") continue;
    FULGUR_ASSIGN_OR_RETURN(TensorInfo info, reader.read(field.key, field.value));
    tensors.push_back(std::move(info));
  }
  std::sort(tensors.begin(), tensors.end(), [](const TensorInfo& a, const TensorInfo& b) {
    return a.offset != b.offset ? a.offset < b.offset : a.bytes < b.bytes;
  });
  FULGUR_RETURN_IF_ERROR(check_disjoint(tensors, path));
  return tensors;
}

Result<SafetensorsFile> SafetensorsFile::open(const std::string& path) {
  SafetensorsFile out;
  FULGUR_ASSIGN_OR_RETURN(out.file_, ReadOnlyFile::open(path));
  std::array<unsigned char, kPrefixBytes> prefix{};
  if (out.file_.size() < kPrefixBytes) {
    return error(Code::data_loss, "{}: is truncated: {} bytes are no safetensors file", path,
                 out.file_.size());
  }
  FULGUR_RETURN_IF_ERROR(out.file_.read(0, prefix.data(), prefix.size()));
  std::uint64_t header_bytes = 0;
  for (std::size_t i = kPrefixBytes; i-- > 0;) header_bytes = (header_bytes << 8) | prefix[i];
  if (header_bytes > kHeaderBytesMax) {
    return error(Code::data_loss, "{}: claims a header of {} bytes; the limit is {}", path,
                 header_bytes, kHeaderBytesMax);
  }
  if (header_bytes > out.file_.size() - kPrefixBytes) {
    return error(Code::data_loss, "{}: is truncated inside its header of {} bytes", path,
                 header_bytes);
  }
  std::string header(static_cast<std::size_t>(header_bytes), '\0');
  FULGUR_RETURN_IF_ERROR(out.file_.read(kPrefixBytes, header.data(), header.size()));
  out.data_offset_ = kPrefixBytes + header_bytes;
  FULGUR_ASSIGN_OR_RETURN(out.tensors_, parse_header(header, out.file_.size(), path));
  for (std::size_t i = 0; i < out.tensors_.size(); ++i) out.by_name_[out.tensors_[i].name] = i;
  return out;
}

Result<Tensor> SafetensorsFile::map_range(const TensorInfo& info, std::uint64_t offset,
                                          std::uint64_t bytes,
                                          std::vector<std::uint64_t> shape) const {
  const auto dtype = info.float_dtype();
  FULGUR_ASSERT(dtype.has_value(), "only float tensors are mapped: " + info.name);
  Tensor tensor{info.name, *dtype, std::move(shape), nullptr, static_cast<std::size_t>(bytes), {}};
  if (bytes == 0) return tensor;
  FULGUR_ASSIGN_OR_RETURN(const auto mapping, file_.map(offset, tensor.bytes));
  tensor.data = mapping.get();
  tensor.mapping = mapping;
  if (reinterpret_cast<std::uintptr_t>(tensor.data) % size_of(*dtype) != 0) {
    auto copy = std::make_shared<AlignedBuffer<std::byte>>(tensor.bytes);
    std::memcpy(copy->data(), tensor.data, tensor.bytes);
    tensor.data = copy->data();
    tensor.mapping = std::move(copy);
  }
  return tensor;
}

const TensorInfo* SafetensorsFile::find(std::string_view name) const {
  const auto found = by_name_.find(std::string(name));
  return found == by_name_.end() ? nullptr : &tensors_[found->second];
}

Result<Tensor> SafetensorsFile::map(const TensorInfo& info) const {
  return map_range(info, info.offset, info.bytes, info.shape);
}

Result<Tensor> SafetensorsFile::map_slice(const TensorInfo& info, std::uint64_t index) const {
  FULGUR_ASSERT(!info.shape.empty() && index < info.shape[0], "slice inside the tensor");
  const std::uint64_t bytes = info.bytes / info.shape[0];
  return map_range(info, info.offset + index * bytes, bytes,
                   {info.shape.begin() + 1, info.shape.end()});
}

}  // namespace fulgur::model
