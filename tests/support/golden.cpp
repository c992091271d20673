#include "tests/support/golden.hpp"

#include <cstring>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string_view>

#include "common/base/bf16.hpp"

namespace fulgur::test {
namespace {

std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error("cannot open " + path);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

template <class T, class Out, class Convert>
void unpack(std::string_view bytes, std::vector<Out>& out, Convert convert) {
  out.reserve(bytes.size() / sizeof(T));
  for (std::size_t at = 0; at + sizeof(T) <= bytes.size(); at += sizeof(T)) {
    T value;
    std::memcpy(&value, bytes.data() + at, sizeof(T));
    out.push_back(convert(value));
  }
}

void fill(GoldenArray& array, const std::string& dtype, std::string_view bytes) {
  const auto to_double = [](auto value) { return static_cast<double>(value); };
  const auto to_int = [](auto value) { return static_cast<std::int64_t>(value); };
  if (dtype == "F64") {
    unpack<double>(bytes, array.floats, to_double);
  } else if (dtype == "F32") {
    unpack<float>(bytes, array.floats, to_double);
  } else if (dtype == "F16") {
    unpack<std::uint16_t>(bytes, array.floats,
                          [](std::uint16_t h) { return double{half_to_float(h)}; });
  } else if (dtype == "BF16") {
    unpack<std::uint16_t>(bytes, array.floats,
                          [](std::uint16_t h) { return double{to_float(Bf16{h})}; });
  } else if (dtype == "I64") {
    unpack<std::int64_t>(bytes, array.ints, to_int);
  } else if (dtype == "I32") {
    unpack<std::int32_t>(bytes, array.ints, to_int);
  } else if (dtype == "U8" || dtype == "BOOL") {
    unpack<std::uint8_t>(bytes, array.ints, to_int);
  } else {
    throw std::runtime_error("golden dtype " + dtype);
  }
}

}  // namespace

std::map<std::string, GoldenArray> read_golden_arrays(const std::string& path) {
  const std::string file = read_file(path);
  std::uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, file.data(), sizeof header_bytes);
  const std::string_view view(file);
  const auto header = nlohmann::json::parse(view.substr(8, header_bytes));
  const std::string_view data = view.substr(8 + header_bytes);
  std::map<std::string, GoldenArray> out;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    GoldenArray& array = out[name];
    array.shape = entry.at("shape").get<std::vector<std::uint64_t>>();
    const auto range = entry.at("data_offsets").get<std::vector<std::uint64_t>>();
    fill(array, entry.at("dtype").get<std::string>(),
         data.substr(range.at(0), range.at(1) - range.at(0)));
  }
  return out;
}

std::vector<GoldenGeneration> read_golden_generations(const std::string& path) {
  std::vector<GoldenGeneration> out;
  for (const auto& entry : nlohmann::json::parse(read_file(path))) {
    out.push_back({entry.value("text", std::string()),
                   entry.at("prompt_ids").get<std::vector<std::uint32_t>>(),
                   entry.at("greedy").get<std::vector<std::uint32_t>>(),
                   entry.at("min_gap").get<double>()});
  }
  return out;
}

std::vector<std::string> golden_cases(const std::map<std::string, GoldenArray>& arrays) {
  static constexpr std::string_view kEnding = ".ids";
  std::vector<std::string> out;
  for (const auto& [name, array] : arrays) {
    if (name.size() > kEnding.size() &&
        name.compare(name.size() - kEnding.size(), kEnding.size(), kEnding) == 0) {
      out.push_back(name.substr(0, name.size() - kEnding.size()));
    }
  }
  return out;
}

}  // namespace fulgur::test
