// Reads the expected results in tests/golden: safetensors files of named arrays and the greedy
// continuations in generation.json. For tests only: a damaged file throws.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace fulgur::test {

/// A row-major array. Floating dtypes (F64, F32, F16, BF16) fill `floats`, the others (I64, I32,
/// U8, BOOL) fill `ints`.
struct GoldenArray {
  std::vector<std::uint64_t> shape;
  std::vector<double> floats;
  std::vector<std::int64_t> ints;
};

/// One entry of generation.json.
struct GoldenGeneration {
  std::string text;  ///< empty when the prompt was given as ids
  std::vector<std::uint32_t> prompt_ids;
  std::vector<std::uint32_t> greedy;
  double min_gap = 0;  ///< smallest top-1/top-2 logit gap met on the way
};

/// name -> array of every tensor in one safetensors file.
std::map<std::string, GoldenArray> read_golden_arrays(const std::string& path);

std::vector<GoldenGeneration> read_golden_generations(const std::string& path);

/// The prefixes X of the names "X.ids", in order of name: the cases of a logits golden.
std::vector<std::string> golden_cases(const std::map<std::string, GoldenArray>& arrays);

}  // namespace fulgur::test
