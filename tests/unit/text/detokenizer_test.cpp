// Streaming against decoding at once, on real encodings and on random ids.
#include "common/text/detokenizer.hpp"

#include "tests/unit/text/text_fixture.hpp"

namespace fulgur::text {
namespace {

using Ids = std::vector<std::uint32_t>;

void check_stream(const Tokenizer& tokenizer, const Ids& ids, bool skip_special) {
  Detokenizer stream(tokenizer, skip_special);
  std::string text;
  for (const auto id : ids) {
    const std::string piece = stream.push(id);
    ASSERT_EQ(utf8::valid_prefix(piece), piece.size());
    text += piece;
  }
  text += stream.flush();
  ASSERT_EQ(text, tokenizer.decode(ids, skip_special));
}

TEST(Detokenizer, HoldsBackHalfCharacters) {
  const Ids ids = *tiny_tokenizer().encode("\xF0\x9F\x98\x80!");
  ASSERT_EQ(ids.size(), 5U);
  Detokenizer stream(tiny_tokenizer());
  for (int i = 0; i < 3; ++i) EXPECT_EQ(stream.push(ids[i]), "");
  EXPECT_EQ(stream.push(ids[3]), "\xF0\x9F\x98\x80");
  EXPECT_EQ(stream.push(ids[4]), "!");
  EXPECT_EQ(stream.flush(), "");
}

TEST(Detokenizer, FlushReplacesAnUnfinishedCharacter) {
  const Ids ids = *tiny_tokenizer().encode("\xF0\x9F\x98\x80");
  Detokenizer stream(tiny_tokenizer());
  EXPECT_EQ(stream.push(ids[0]), "");
  EXPECT_EQ(stream.push(ids[1]), "");
  EXPECT_EQ(stream.flush(), utf8::kReplacement);
  EXPECT_EQ(stream.flush(), "");
}

TEST(Detokenizer, SkipsSpecialTokens) {
  Detokenizer stream(tiny_tokenizer(), true);
  EXPECT_EQ(stream.push(3), "");
  Detokenizer literal(tiny_tokenizer());
  EXPECT_EQ(literal.push(3), "<end_of_sentence>");
}

TEST(Detokenizer, UnknownIdsAreNothing) {
  Detokenizer stream(tiny_tokenizer());
  EXPECT_EQ(stream.push(4'000'000'000U), "");
}

TEST(Detokenizer, EqualsDecodeOfTheWhole) {
  for (const std::uint64_t seed : {21, 22, 23}) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    Rng rng(seed);
    for (const Tokenizer* tokenizer : {&tiny_tokenizer(), &m1_tokenizer()}) {
      for (int i = 0; i < 100; ++i) {
        check_stream(*tokenizer, *tokenizer->encode(random_text(rng, 40)), false);
        Ids random(rng.below(60));
        // Half of the ids are raw bytes, which seldom make valid text.
        for (auto& id : random) {
          id = static_cast<std::uint32_t>(
              rng.below(rng.below(2) == 0 ? 256 : tokenizer->vocab_size()));
        }
        check_stream(*tokenizer, random, i % 2 == 0);
      }
    }
  }
}

}  // namespace
}  // namespace fulgur::text
