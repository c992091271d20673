// Damaged, hostile and inconsistent checkpoints: every one is refused with one line that names the
// file and the tensor or key.
#include <gtest/gtest.h>

#include <ostream>

#include "common/model/checkpoint.hpp"
#include "common/model/synth.hpp"
#include "tests/unit/model/scratch.hpp"

namespace fulgur::model {
namespace {

using Json = nlohmann::ordered_json;

constexpr char kShard[] = "model-00000-of-00002.safetensors";
constexpr char kLastShard[] = "model-00001-of-00002.safetensors";
constexpr char kIndex[] = "model.safetensors.index.json";
constexpr char kEmbedding[] = "model.embed_tokens.weight";
constexpr char kRouter[] = "model.layers.0.block_sparse_moe.gate.weight";

struct Damage {
  const char* name;
  std::function<void(const std::string& directory)> apply;
  Code code;
  const char* file;  ///< must occur in the message
  const char* what;  ///< must occur in the message
};

void PrintTo(const Damage& damage, std::ostream* out) { *out << damage.name; }

/// Damage to one key of config.json.
Damage config(const char* name, const char* key, const Json& value, const char* what) {
  return {name,
          [key, value](const std::string& dir) {
            edit_json(dir + "/config.json", [&](Json& json) { json[key] = value; });
          },
          Code::invalid_argument, "config.json", what};
}

Damage without(const char* name, const char* key, const char* what) {
  return {name,
          [key](const std::string& dir) {
            edit_json(dir + "/config.json", [&](Json& json) { json.erase(key); });
          },
          Code::invalid_argument, "config.json", what};
}

/// Damage to the header of the first shard.
Damage header(const char* name, std::function<void(Json&)> edit, const char* what,
              Code code = Code::data_loss) {
  return {name, [edit](const std::string& dir) { edit_header(dir + "/" + kShard, edit); }, code,
          kShard, what};
}

Damage header_text(const char* name, std::function<std::string(std::string)> edit,
                   const char* what) {
  return {name, [edit](const std::string& dir) { edit_header_text(dir + "/" + kShard, edit); },
          Code::data_loss, kShard, what};
}

Damage bytes(const char* name, const char* file, std::function<std::string(std::string)> edit,
             Code code, const char* what) {
  return {name,
          [file, edit](const std::string& dir) {
            const std::string path = dir + "/" + file;
            write_bytes(path, edit(read_bytes(path)));
          },
          code, file, what};
}

Damage index(const char* name, std::function<void(Json&)> edit, Code code, const char* what) {
  return {name, [edit](const std::string& dir) { edit_json(dir + "/" + kIndex, edit); }, code,
          kIndex, what};
}

std::vector<Damage> config_damages() {
  return {
      {"NoConfig", [](const std::string& dir) { std::filesystem::remove(dir + "/config.json"); },
       Code::not_found, "config.json", "cannot open"},
      bytes(
          "ConfigEmpty", "config.json", [](auto) { return ""; }, Code::invalid_argument,
          "not valid JSON"),
      bytes(
          "ConfigCut", "config.json", [](auto text) { return text.substr(0, text.size() / 2); },
          Code::invalid_argument, "not valid JSON"),
      bytes(
          "ConfigIsAList", "config.json", [](auto) { return "[1]"; }, Code::invalid_argument,
          "JSON object"),
      bytes(
          "ConfigNotUtf8", "config.json", [](auto) { return "{\"model_type\": \"\xff\"}"; },
          Code::invalid_argument, "not valid JSON"),
      bytes(
          "ConfigDeep", "config.json", [](auto) { return std::string(100'000, '['); },
          Code::invalid_argument, "not valid JSON"),
      config("UnknownModelType", "model_type", "llama\n\x1b[31m", "model_type \"llama\\x0a"),
      config("ModelTypeNumber", "model_type", 3, "model_type must be a string"),
      without("NoModelType", "model_type", "model_type is missing"),
      without("NoHidden", "hidden_size", "hidden_size is missing"),
      without("NoLayerList", "attn_type_list", "attn_type_list is missing"),
      config("HiddenText", "hidden_size", "64", "hidden_size must be an integer"),
      config("HiddenNegative", "hidden_size", -64, "hidden_size must be an integer"),
      config("HiddenFraction", "hidden_size", 64.5, "hidden_size must be an integer"),
      config("HiddenZero", "hidden_size", 0, "hidden_size must be an integer from 1"),
      config("HiddenHuge", "hidden_size", 1ULL << 60, "hidden_size must be an integer"),
      config("LayersHuge", "num_hidden_layers", 1'000'000, "num_hidden_layers must be"),
      config("HeadsNotGrouped", "num_key_value_heads", 4, "num_key_value_heads 4 does not divide"),
      config("RotaryOdd", "rotary_dim", 9, "rotary_dim is 9"),
      config("RotaryWide", "rotary_dim", 26, "rotary_dim is 26"),
      config("LayerListShort", "attn_type_list", Json::array({0, 1}), "2 entries for 5 layers"),
      config("LayerListKind", "attn_type_list", Json::array({0, 0, 2, 0, 0}),
             "attn_type_list must hold only 0"),
      config("TopKHigh", "num_experts_per_tok", 8, "num_experts_per_tok 8 exceeds"),
      config("ExpertsPerLayer", "num_local_experts", Json::array({7, 7, 7, 7, 7}),
             "num_local_experts is a list"),
      config("SharedExpert", "shared_intermediate_size", 64, "shared experts are not supported"),
      config("SharedExpertList", "shared_intermediate_size", Json::array({0, 64}),
             "shared experts are not supported"),
      config("EpsText", "rms_norm_eps", "1e-5", "rms_norm_eps must be a number"),
      config("PostnormText", "postnorm", "yes", "postnorm must be true or false"),
      config("EosOutside", "eos_token_id", 251, "eos_token_id must hold token ids below"),
      config("EosText", "eos_token_id", Json::array({"</s>"}), "eos_token_id must hold token ids"),
      config("Quantised", "quantization_config", Json{{"quant_method", "fp8"}},
             "quantization_config is not supported"),
      config("ScaledRope", "rope_scaling", Json{{"type", "yarn"}}, "rope_scaling.rope_type"),
      config("OtherActivation", "hidden_act", "gelu", "hidden_act \"gelu\""),
      {"GenerationConfigBad",
       [](const std::string& dir) { write_bytes(dir + "/generation_config.json", "{"); },
       Code::invalid_argument, "generation_config.json", "not valid JSON"},
  };
}

std::vector<Damage> header_damages() {
  return {
      bytes(
          "FileEmpty", kShard, [](auto) { return ""; }, Code::data_loss, "truncated"),
      bytes(
          "PrefixCut", kShard, [](auto file) { return file.substr(0, 7); }, Code::data_loss,
          "truncated"),
      bytes(
          "HeaderCut", kShard, [](auto file) { return file.substr(0, 100); }, Code::data_loss,
          "truncated inside its header"),
      bytes(
          "HeaderHuge", kShard,
          [](auto file) { return length_prefix(1ULL << 62) + file.substr(8); }, Code::data_loss,
          "claims a header of"),
      bytes(
          "HeaderMinusOne", kShard,
          [](auto file) { return std::string(8, '\xff') + file.substr(8); }, Code::data_loss,
          "claims a header of"),
      bytes(
          "HeaderZero", kShard, [](auto file) { return length_prefix(0) + file.substr(8); },
          Code::data_loss, "not valid JSON"),
      bytes(
          "DataCut", kLastShard, [](auto file) { return file.substr(0, file.size() - 1); },
          Code::data_loss, "tensor lm_head.weight ends at byte"),
      header_text(
          "HeaderNotJson", [](auto text) { return text.substr(1); }, "not valid JSON"),
      header_text(
          "HeaderList", [](auto) { return "[]"; }, "JSON object"),
      header_text(
          "NameTwice",
          [](auto text) {
            return "{\"model.embed_tokens.weight\":{\"dtype\":\"U8\",\"shape\":[0],"
                   "\"data_offsets\":[0,0]}," +
                   text.substr(1);
          },
          "tensor model.embed_tokens.weight is listed twice"),
      header(
          "EntryNumber", [](Json& json) { json[kRouter] = 3; }, "has no description"),
      header(
          "NoDtype", [](Json& json) { json[kRouter].erase("dtype"); }, "has no dtype"),
      header(
          "DtypeUnknown", [](Json& json) { json[kRouter]["dtype"] = "F31"; }, "unknown dtype F31"),
      header(
          "NoShape", [](Json& json) { json[kRouter].erase("shape"); }, "has no shape"),
      header(
          "ShapeNegative",
          [](Json& json) {
            json[kRouter]["shape"] = {-7, -88};
          },
          "ill-formed shape"),
      header(
          "ShapeOverflow",
          [](Json& json) {
            json[kRouter]["shape"] = {1ULL << 33, 1ULL << 33, 616};
          },
          "too large a shape"),
      header(
          "ShapeWraps",
          [](Json& json) {
            json[kRouter]["shape"] = {1ULL << 62, 4};
          },
          "too large a shape"),
      header(
          "ManyDimensions", [](Json& json) { json[kRouter]["shape"] = std::vector<int>(1000, 1); },
          "more than 8 dimensions"),
      header(
          "ShapeNotBytes",
          [](Json& json) {
            json[kRouter]["shape"] = {7, 87};
          },
          "cannot fill 2464 bytes"),
      header(
          "OffsetsReversed",
          [](Json& json) {
            json[kRouter]["data_offsets"] = {2464, 0};
          },
          "ill-formed data_offsets"),
      header(
          "OffsetsOne", [](Json& json) { json[kRouter]["data_offsets"] = {0}; },
          "ill-formed data_offsets"),
      header(
          "OffsetsText",
          [](Json& json) {
            json[kRouter]["data_offsets"] = {"0", "2464"};
          },
          "ill-formed data_offsets"),
      header(
          "OffsetsOutside",
          [](Json& json) {
            json[kRouter]["data_offsets"] = {1ULL << 40, (1ULL << 40) + 2464};
          },
          "truncated or corrupt"),
      header(
          "OffsetsWrap",
          [](Json& json) {
            json[kRouter]["data_offsets"] = {~0ULL - 2464, ~0ULL};
          },
          "truncated or corrupt"),
      header(
          "Overlap",
          [](Json& json) {
            const std::uint64_t begin = json[kEmbedding]["data_offsets"][0];
            json[kRouter]["data_offsets"] = {begin, begin + 2464};
          },
          "overlap"),
      header(
          "ShapeTransposed",
          [](Json& json) {
            json[kRouter]["shape"] = {88, 7};
          },
          "tensor model.layers.0.block_sparse_moe.gate.weight has shape [88, 7]; "
          "config.json implies [7, 88]",
          Code::invalid_argument),
      header(
          "DtypeInteger", [](Json& json) { json[kRouter]["dtype"] = "I32"; },
          "has dtype I32; expected BF16, F16 or F32", Code::invalid_argument),
  };
}

std::vector<Damage> index_damages() {
  return {
      {"NoWeights", [](const std::string& dir) { std::filesystem::remove(dir + "/" + kIndex); },
       Code::not_found, "", "holds neither model.safetensors nor"},
      {"ShardMissing",
       [](const std::string& dir) { std::filesystem::remove(dir + "/" + kLastShard); },
       Code::not_found, kIndex, kLastShard},
      {"ShardIsADirectory",
       [](const std::string& dir) {
         std::filesystem::remove(dir + "/" + kLastShard);
         std::filesystem::create_directory(dir + "/" + kLastShard);
       },
       Code::invalid_argument, kLastShard, "not a regular file"},
      bytes(
          "IndexCut", kIndex, [](auto text) { return text.substr(0, 50); }, Code::invalid_argument,
          "not valid JSON"),
      index(
          "NoMap", [](Json& json) { json.erase("weight_map"); }, Code::invalid_argument,
          "weight_map is missing"),
      index(
          "MapList", [](Json& json) { json["weight_map"] = Json::array(); }, Code::invalid_argument,
          "weight_map must be an object"),
      index(
          "FileNumber", [](Json& json) { json["weight_map"][kEmbedding] = 1; },
          Code::invalid_argument, "must name a file"),
      index(
          "FileOutside", [](Json& json) { json["weight_map"][kEmbedding] = "../secret"; },
          Code::invalid_argument, "must name a file"),
      index(
          "FileUnknown", [](Json& json) { json["weight_map"][kEmbedding] = "other.safetensors"; },
          Code::not_found, "other.safetensors, which is missing"),
      index(
          "WrongShard", [](Json& json) { json["weight_map"][kEmbedding] = kLastShard; },
          Code::data_loss, "which does not hold it"),
      index(
          "TensorInvented", [](Json& json) { json["weight_map"]["model.layers.0.extra"] = kShard; },
          Code::data_loss, "lists tensor model.layers.0.extra"),
      {"TensorMissing",
       [](const std::string& dir) {
         edit_json(dir + "/" + kIndex, [](Json& json) { json["weight_map"].erase(kRouter); });
       },
       Code::invalid_argument, "", "tensor model.layers.0.block_sparse_moe.gate.weight is missing"},
      {"ExpertMissing",
       [](const std::string& dir) {
         edit_json(dir + "/" + kIndex, [](Json& json) {
           json["weight_map"].erase("model.layers.4.block_sparse_moe.experts.6.w2.weight");
         });
       },
       Code::invalid_argument, "", "tensor model.layers.4.block_sparse_moe.experts.6.w2.weight is"},
  };
}

/// A good checkpoint, made once and copied for each kind of damage.
const std::string& good_checkpoint() {
  static const ScratchDirectory kScratch;
  static const std::string kDirectory = [] {
    const auto written = synthesize({.preset = "odd", .directory = kScratch.at("good")});
    EXPECT_TRUE(written && Checkpoint::open(kScratch.at("good")));
    return kScratch.at("good");
  }();
  return kDirectory;
}

class HostileTest : public testing::TestWithParam<Damage> {};

TEST_P(HostileTest, IsRefusedInOneLine) {
  const ScratchDirectory scratch;
  const std::string directory = scratch.at("model");
  std::filesystem::copy(good_checkpoint(), directory);
  GetParam().apply(directory);
  const auto opened = Checkpoint::open(directory);
  ASSERT_FALSE(opened);
  const std::string& message = opened.status().message();
  EXPECT_EQ(opened.status().code(), GetParam().code) << message;
  EXPECT_NE(message.find(directory), std::string::npos) << message;
  EXPECT_NE(message.find(GetParam().file), std::string::npos) << message;
  EXPECT_NE(message.find(GetParam().what), std::string::npos) << message;
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  EXPECT_LT(message.size(), 800U) << message;
}

std::string damage_name(const testing::TestParamInfo<Damage>& info) { return info.param.name; }

INSTANTIATE_TEST_SUITE_P(Config, HostileTest, testing::ValuesIn(config_damages()), damage_name);
INSTANTIATE_TEST_SUITE_P(Header, HostileTest, testing::ValuesIn(header_damages()), damage_name);
INSTANTIATE_TEST_SUITE_P(Index, HostileTest, testing::ValuesIn(index_damages()), damage_name);

TEST(HostileFileTest, MissingDirectory) {
  const auto opened = Checkpoint::open("/nonexistent/model");
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.status().message(), "/nonexistent/model: is not a directory");
}

TEST(HostileFileTest, MisalignedTensorIsCopied) {
  const ScratchDirectory scratch;
  const std::string path = scratch.at("odd.safetensors");
  const std::string header = R"({"pad":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                             R"("x":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}})";
  const std::string values("\0\0\0\x80\x3f\0\0\0\x40", 9);  // pad, 1.0f, 2.0f
  write_bytes(path, length_prefix(header.size()) + header + values);
  const auto file = SafetensorsFile::open(path);
  ASSERT_TRUE(file) << file.status().to_string();
  const auto tensor = file->map(*file->find("x"));
  ASSERT_TRUE(tensor);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(tensor->data) % alignof(float), 0U);
  const auto* floats = reinterpret_cast<const float*>(tensor->data);
  EXPECT_EQ(floats[0], 1.0F);
  EXPECT_EQ(floats[1], 2.0F);
}

TEST(HostileFileTest, FileReplacedAfterOpenIsNotMapped) {
  const ScratchDirectory scratch;
  const std::string directory = scratch.at("model");
  std::filesystem::copy(good_checkpoint(), directory);
  const auto checkpoint = Checkpoint::open(directory);
  ASSERT_TRUE(checkpoint);
  const std::string path = directory + "/" + kShard;
  write_bytes(path, read_bytes(path).substr(0, 5000));
  const auto embedding = (*checkpoint)->embedding();
  ASSERT_FALSE(embedding);
  EXPECT_EQ(embedding.status().code(), Code::failed_precondition);
  EXPECT_NE(embedding.status().message().find("changed since"), std::string::npos);
}

/// Every truncation and every single-byte change of a header either opens or is refused; none may
/// crash or map outside the file.
TEST(HostileFileTest, AnyByteOfTheHeaderMayBeWrong) {
  const ScratchDirectory scratch;
  const std::string path = scratch.at("small.safetensors");
  const std::string header = R"({"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
                             R"("b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]}})";
  const std::string good = length_prefix(header.size()) + header + std::string(32, '\x01');
  const auto touch = [&](const std::string& bytes) {
    write_bytes(path, bytes);
    const auto file = SafetensorsFile::open(path);
    if (!file) return;
    for (const TensorInfo& info : file->tensors()) {
      if (!info.float_dtype()) continue;
      const auto tensor = file->map(info);
      ASSERT_TRUE(tensor);
      for (std::size_t i = 0; i < tensor->bytes; ++i) ASSERT_NE(tensor->data[i], std::byte{0xff});
    }
  };
  for (std::size_t size = 0; size <= good.size(); ++size) touch(good.substr(0, size));
  for (std::size_t at = 0; at < 8 + header.size(); ++at) {
    for (const char replacement : {'\0', '9', '"', ']', '\xff'}) {
      std::string bad = good;
      bad[at] = replacement;
      touch(bad);
    }
  }
}

}  // namespace
}  // namespace fulgur::model
