// Feeds arbitrary bytes to the safetensors header parser and to the config parser. The first byte
// chooses the parser; for headers the next eight are the claimed size of the data section.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "common/base/assert.hpp"
#include "common/model/model_config.hpp"
#include "common/model/safetensors.hpp"

namespace {

using fulgur::model::SafetensorsFile;

void fuzz_header(std::string_view input) {
  std::uint64_t data_bytes = 0;
  if (input.size() < sizeof data_bytes) return;
  std::memcpy(&data_bytes, input.data(), sizeof data_bytes);
  data_bytes >>= 1;  // a file size is at most 2^63 - 1
  const std::string_view header = input.substr(sizeof data_bytes);
  const std::uint64_t data_offset = 8 + header.size();
  if (data_bytes > INT64_MAX - data_offset) return;
  const auto tensors = SafetensorsFile::parse_header(header, data_offset + data_bytes, "fuzz");
  if (!tensors) return;
  std::uint64_t end = data_offset;
  for (const auto& info : *tensors) {
    FULGUR_ASSERT(info.offset >= end && info.bytes <= data_offset + data_bytes - info.offset,
                  "ranges are ordered, disjoint and inside the file");
    end = info.offset + info.bytes;
  }
}

void fuzz_config(std::string_view input) {
  const auto config = fulgur::model::ModelConfig::parse(input, "fuzz");
  if (!config) {
    FULGUR_ASSERT(config.status().message().find('\n') == std::string::npos, "one line");
    return;
  }
  FULGUR_ASSERT(config->heads % config->kv_heads == 0 && config->rotary_dim <= config->head_dim &&
                    config->attention.size() == config->layers &&
                    config->active_params() <= config->total_params(),
                "accepted configs are consistent");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view input(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] % 2 == 0) {
    fuzz_header(input);
  } else {
    fuzz_config(input);
  }
  return 0;
}
