// Every stage a tokenizer.json can ask for against ids from Hugging Face's library, marked text,
// and what broken files are answered with.
#include "tests/unit/text/text_fixture.hpp"

namespace fulgur::text {
namespace {

using Json = nlohmann::ordered_json;
using Ids = std::vector<std::uint32_t>;

const Json& tiny_json() {
  static const Json json =
      Json::parse(read_file(FULGUR_SOURCE_DIR "/models/fulgur-tiny/tokenizer.json"));
  return json;
}

Json patched(const Json& patch) {
  Json json = tiny_json();
  for (const auto& [key, value] : patch.items()) {
    if (key == "model") {
      json[key].update(value);
    } else {
      json[key] = value;
    }
  }
  if (json["model"].contains("string_merges")) {
    for (Json& merge : json["model"]["merges"]) {
      merge = merge[0].get<std::string>() + " " + merge[1].get<std::string>();
    }
  }
  return json;
}

Tokenizer make(const Json& patch) {
  auto tokenizer = Tokenizer::parse(patched(patch).dump(), "fixture");
  EXPECT_TRUE(tokenizer.is_ok()) << tokenizer.status().to_string();
  return *tokenizer;
}

Status failure(const Json& json) { return Tokenizer::parse(json.dump(), "fixture").status(); }

TEST(Tokenizer, EveryVariantGivesHuggingFaceIds) {
  for (const Json& variant : read_golden("tokenizer/variants.json")) {
    SCOPED_TRACE(variant["name"].get<std::string>());
    const Tokenizer tokenizer = make(variant["patch"]);
    for (const Json& item : variant["cases"]) {
      const auto text = item["text"].get<std::string>();
      const Ids expected = item["ids"];
      const auto ids = tokenizer.encode(text);
      ASSERT_TRUE(ids.is_ok()) << ids.status().to_string();
      EXPECT_EQ(*ids, expected) << text;
      const Ids with_special = item.value("with_special", expected);
      EXPECT_EQ(*tokenizer.encode(text, {.add_special_tokens = true}), with_special) << text;
      EXPECT_EQ(tokenizer.decode(expected, true), item["decoded"].get<std::string>());
    }
  }
}

TEST(Tokenizer, UnparsedSpecialTextIsPlainCharacters) {
  const Tokenizer& tiny = tiny_tokenizer();
  const std::string text = "a<end_of_sentence>b";
  const Ids parsed = *tiny.encode(text);
  const Ids plain = *tiny.encode(text, {.parse_special = false});
  EXPECT_EQ(std::count(parsed.begin(), parsed.end(), 3U), 1);
  EXPECT_EQ(std::count(plain.begin(), plain.end(), 3U), 0);
  EXPECT_EQ(tiny.decode(plain), text);
  EXPECT_EQ(tiny.decode(parsed, true), "ab");
}

TEST(Tokenizer, MarksDoNotChangeHowPlainTextIsCut) {
  Rng rng(11);
  for (int i = 0; i < 200; ++i) {
    MarkedText text;
    for (int part = 0; part < 6; ++part) text.append(random_text(rng, rng.below(8)), part % 2 == 0);
    ASSERT_EQ(*tiny_tokenizer().encode(text), *tiny_tokenizer().encode(text.text())) << text.text();
  }
}

TEST(Tokenizer, AControlTokenMustBeTrustedWhole) {
  const Tokenizer& tiny = tiny_tokenizer();
  MarkedText text("<end_of_", true);
  text.append("sentence>", false);
  text.append("<end_of_sentence>", true);
  const Ids ids = *tiny.encode(text);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), 3U), 1);
  EXPECT_EQ(ids.back(), 3U);
}

TEST(Tokenizer, NormalizationKeepsMarks) {
  const Tokenizer nfc =
      make({{"normalizer", {{"type", "NFC"}}},
            {"added_tokens",
             {{{"id", 4096}, {"content", "<n>"}, {"normalized", true}, {"special", true}}}}});
  MarkedText text("<n>", true);
  text.append("e\xCC\x81<n>\xC3\xA9", false);
  text.append("<n>", true);
  const Ids ids = *nfc.encode(text);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), 4096U), 2);
  EXPECT_EQ(nfc.decode(ids), "<n>\xC3\xA9<n>\xC3\xA9<n>");
}

TEST(Tokenizer, InvalidUtf8NamesTheByte) {
  for (const auto& [text, offset] :
       {std::pair{"\xFF", 0}, std::pair{"abc\xC3", 3}, std::pair{"abcdefghij\xED\xA0\x80", 10}}) {
    const auto ids = tiny_tokenizer().encode(std::string_view(text));
    EXPECT_EQ(ids.status().code(), Code::invalid_argument);
    EXPECT_EQ(ids.status().message(), fmt::format("text is not valid UTF-8 at byte {}", offset));
  }
}

TEST(Tokenizer, MissingFileIsNotFound) {
  const auto tokenizer = Tokenizer::load("/nonexistent/tokenizer.json");
  EXPECT_EQ(tokenizer.status().code(), Code::not_found);
  EXPECT_EQ(tokenizer.status().message(), "cannot open /nonexistent/tokenizer.json");
}

TEST(Tokenizer, MalformedFilesAreDataLoss) {
  EXPECT_EQ(Tokenizer::parse("{\"model\": ", "f.json").status().code(), Code::data_loss);
  EXPECT_EQ(Tokenizer::parse("[]", "f.json").status().message(),
            "f.json: the file must be a JSON object");
  const auto message_without = [](const char* key) {
    Json json = tiny_json();
    json["model"].erase(key);
    const Status status = failure(json);
    EXPECT_EQ(status.code(), Code::data_loss);
    return status.message();
  };
  EXPECT_EQ(message_without("vocab"), "fixture: model.vocab must be an object of token to id");
  EXPECT_EQ(message_without("merges"), "fixture: model.merges must be an array");
  Json json = tiny_json();
  json["model"]["merges"][5] = {"no", "suchtoken\xC4\xA0x"};
  EXPECT_NE(failure(json).message().find("model.merges[5]"), std::string::npos);
  json = tiny_json();
  json["model"]["merges"][7] = 3;
  EXPECT_NE(failure(json).message().find("model.merges[7]"), std::string::npos);
  json = tiny_json();
  json["model"]["vocab"]["zzz"] = -1;
  EXPECT_EQ(failure(json).code(), Code::data_loss);
}

TEST(Tokenizer, UnsupportedComponentsAreNamed) {
  const auto message = [](const Json& patch) {
    const Status status = failure(patched(patch));
    EXPECT_EQ(status.code(), Code::invalid_argument);
    return status.message();
  };
  EXPECT_EQ(message({{"model", {{"type", "Unigram"}}}}),
            "fixture: model type Unigram is not supported");
  EXPECT_EQ(message({{"model", {{"dropout", 0.1}}}}),
            "fixture: model option dropout is not supported");
  EXPECT_EQ(message({{"normalizer", {{"type", "Lowercase"}}}}),
            "fixture: normalizer Lowercase is not supported");
  EXPECT_EQ(message({{"pre_tokenizer", {{"type", "Metaspace"}}}}),
            "fixture: pre_tokenizer Metaspace is not supported");
  EXPECT_EQ(message({{"pre_tokenizer", nullptr}}),
            "fixture: pre_tokenizer without ByteLevel is not supported");
  EXPECT_EQ(message({{"decoder", {{"type", "WordPiece"}}}}),
            "fixture: decoder WordPiece is not supported");
  EXPECT_EQ(message({{"post_processor", {{"type", "Mystery"}}}}),
            "fixture: post_processor Mystery is not supported");
  const Json bad_pattern = {
      {"type", "Split"}, {"pattern", {{"Regex", "(a"}}}, {"behavior", "Isolated"}};
  EXPECT_NE(message({{"pre_tokenizer", bad_pattern}}).find("pattern (a"), std::string::npos);
}

}  // namespace
}  // namespace fulgur::text
