// Every golden case (ids from Hugging Face's tokenizers library) for both tokenizers.
#include "tests/unit/text/text_fixture.hpp"

namespace fulgur::text {
namespace {

void check_golden(const Tokenizer& tokenizer, const std::string& file) {
  const auto cases = read_golden(file);
  ASSERT_FALSE(cases.empty());
  for (const auto& item : cases) {
    const auto text = item["text"].get<std::string>();
    const auto ids = tokenizer.encode(text);
    ASSERT_TRUE(ids.is_ok()) << ids.status().to_string();
    EXPECT_EQ(*ids, item["ids"].get<std::vector<std::uint32_t>>()) << text;
    EXPECT_EQ(tokenizer.decode(*ids), text);
  }
}

TEST(TokenizerGolden, FulgurTiny) { check_golden(tiny_tokenizer(), "tokenizer/fulgur-tiny.json"); }
TEST(TokenizerGolden, MiniMaxM1) { check_golden(m1_tokenizer(), "tokenizer/minimax-m1.json"); }

void check_round_trip(const Tokenizer& tokenizer, std::uint64_t seed) {
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  Rng rng(seed);
  for (int i = 0; i < 200; ++i) {
    const std::string text = random_text(rng, rng.below(80));
    for (const bool parse_special : {false, true}) {
      const auto ids = tokenizer.encode(text, {.parse_special = parse_special});
      ASSERT_TRUE(ids.is_ok());
      ASSERT_EQ(tokenizer.decode(*ids), text);
    }
  }
}

TEST(TokenizerGolden, RandomTextRoundTrips) {
  check_round_trip(tiny_tokenizer(), 1);
  check_round_trip(m1_tokenizer(), 2);
}

TEST(TokenizerGolden, VocabularyOfM1) {
  const Tokenizer& m1 = m1_tokenizer();
  EXPECT_EQ(m1.vocab_size(), 200004U);
  EXPECT_EQ(m1.token_id("<end_of_sentence>"), 200003U);
  EXPECT_TRUE(m1.is_special(200003));
  EXPECT_FALSE(m1.is_special(19739));
  EXPECT_EQ(m1.token_bytes(19739), "Hello");
  EXPECT_EQ(m1.token_id(" the").has_value(), true);
  EXPECT_EQ(m1.token_bytes(300000), "");
}

TEST(TokenizerGolden, LongWordsStayCheap) {
  // A quadratic merge loop would need minutes for each of these.
  for (const std::string_view unit : {"a", "ab", "\xE4\xBD\xA0", " ", "/", "A", "1"}) {
    std::string text;
    while (text.size() < 1'000'000) text += unit;
    const auto ids = m1_tokenizer().encode(text);
    ASSERT_TRUE(ids.is_ok());
    EXPECT_EQ(m1_tokenizer().decode(*ids), text);
  }
}

}  // namespace
}  // namespace fulgur::text
