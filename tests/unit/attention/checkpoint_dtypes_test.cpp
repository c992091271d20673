// Checkpoints that store the same numbers as bf16, fp16 and fp32 are the same model, to the bit.
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>

#include "tests/unit/attention/exact_requests.hpp"
#include "tests/unit/model/scratch.hpp"

namespace fulgur {
namespace {

/// A bf16 number as fp16; nothing when fp16 has no such (normal) number.
std::uint16_t to_half(std::uint16_t bits) {
  const int exponent = (bits >> 7 & 0xff) - 127 + 15;
  if (exponent < 1 || exponent > 30) return 0;
  return static_cast<std::uint16_t>((bits & 0x8000) | exponent << 10 | (bits & 0x7f) << 3);
}

/// The tensors of fulgur-tiny that are bf16, less what fp16 cannot hold, stored as `dtype`. The
/// others, fp32 already, stay as they are.
void convert(const std::string& directory, const std::string& dtype) {
  std::filesystem::copy(test::source_path("models/fulgur-tiny"), directory);
  const std::string path = directory + "/model.safetensors";
  const std::string file = model::read_bytes(path);
  std::uint64_t length = 0;
  std::memcpy(&length, file.data(), sizeof length);
  auto header = nlohmann::ordered_json::parse(file.substr(8, length));
  std::string data;
  std::size_t converted = 0;
  for (auto& [name, tensor] : header.items()) {
    if (name == "__metadata__") continue;
    const std::uint64_t begin = tensor["data_offsets"][0];
    const std::uint64_t end = tensor["data_offsets"][1];
    const std::size_t start = data.size();
    if (tensor["dtype"] != "BF16") {
      data.append(file, 8 + length + begin, end - begin);
    } else {
      ++converted;
      tensor["dtype"] = dtype;
      for (std::uint64_t at = begin; at < end; at += 2) {
        std::uint16_t bits = 0;
        std::memcpy(&bits, file.data() + 8 + length + at, sizeof bits);
        const std::uint16_t half = to_half(bits);
        const std::uint16_t kept = half == 0 ? std::uint16_t{0} : bits;
        if (dtype == "F32") data.append(2, '\0');  // a bf16 number is the upper half of an fp32 one
        const std::uint16_t stored = dtype == "F16" ? half : kept;
        data.append(reinterpret_cast<const char*>(&stored), sizeof stored);
      }
    }
    tensor["data_offsets"] = {start, data.size()};
  }
  ASSERT_GT(converted, 100U);
  const std::string text = header.dump();
  model::write_bytes(path, model::length_prefix(text.size()) + text + data);
}

TEST(CheckpointDtypes, TheSameNumbersGiveTheSameBits) {
  const model::ScratchDirectory scratch;
  RealClock clock;
  for (const Dtype activations : {Dtype::bf16, Dtype::f32}) {
    std::vector<mesh::Generation> expected;
    for (const char* const dtype : {"BF16", "F16", "F32"}) {
      SCOPED_TRACE(dtype);
      const std::string directory = scratch.at(dtype);
      if (!std::filesystem::exists(directory)) convert(directory, dtype);
      auto checkpoint = model::Checkpoint::open(directory);
      ASSERT_TRUE(checkpoint.is_ok()) << checkpoint.status().message();
      auto mesh = mesh::LocalMesh::start(*checkpoint, backend(activations), clock, plain(activations));
      ASSERT_TRUE(mesh.is_ok()) << mesh.status().message();
      const auto all = requests();
      std::vector<std::uint64_t> ids;
      for (const std::size_t at : {0U, 1U, 4U}) ids.push_back((*mesh)->submit(all[at]));
      ASSERT_TRUE((*mesh)->run());
      for (std::size_t i = 0; i < ids.size(); ++i) {
        const auto& got = (*mesh)->generation(ids[i]);
        if (expected.size() <= i) expected.push_back(got);
        expect_same(got, expected[i], i);
      }
    }
  }
}

}  // namespace
}  // namespace fulgur
