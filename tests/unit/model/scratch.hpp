// A private directory for one test, removed with it, and the edits that make a checkpoint hostile.
#pragma once

#include <stdlib.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>

namespace fulgur::model {

class ScratchDirectory {
 public:
  ScratchDirectory() {
    std::string pattern = (std::filesystem::temp_directory_path() / "fulgur-model-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp " + pattern);
    path_ = pattern;
  }
  ~ScratchDirectory() { std::filesystem::remove_all(path_); }
  ScratchDirectory(const ScratchDirectory&) = delete;
  ScratchDirectory& operator=(const ScratchDirectory&) = delete;

  std::string at(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

inline std::string read_bytes(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error("cannot read " + path);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

inline void write_bytes(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

inline void edit_json(const std::string& path,
                      const std::function<void(nlohmann::ordered_json&)>& edit) {
  auto json = nlohmann::ordered_json::parse(read_bytes(path));
  edit(json);
  write_bytes(path, json.dump());
}

inline std::string length_prefix(std::uint64_t length) {
  std::string out;
  for (int i = 0; i < 8; ++i) out += static_cast<char>(length >> (8 * i) & 0xff);
  return out;
}

/// Replaces the header text of a safetensors file, keeping its data.
inline void edit_header_text(const std::string& path,
                             const std::function<std::string(std::string)>& edit) {
  const std::string file = read_bytes(path);
  std::uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = length << 8 | static_cast<unsigned char>(file[i]);
  const std::string header = edit(file.substr(8, length));
  write_bytes(path, length_prefix(header.size()) + header + file.substr(8 + length));
}

inline void edit_header(const std::string& path,
                        const std::function<void(nlohmann::ordered_json&)>& edit) {
  edit_header_text(path, [&](const std::string& text) {
    auto json = nlohmann::ordered_json::parse(text);
    edit(json);
    return json.dump();
  });
}

}  // namespace fulgur::model
