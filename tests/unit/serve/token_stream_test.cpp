#include "bench/serve/token_stream.hpp"

#include <gtest/gtest.h>

namespace fulgur::bench::serve {
namespace {

constexpr std::string_view kAnswer =
    "data: {\"choices\":[{\"text\":\"\",\"token_ids\":[7]}],\"usage\":null}\n\n"
    ": a comment\n\n"
    "data: {\"choices\":[{\"text\":\"h\xc3\xa9\",\"token_ids\":[8,9]}]}\r\n\r\n"
    "data: {\"choices\":[{\"text\":\"\",\"token_ids\":[],\"finish_reason\":\"length\"}]}\n\n"
    "data: {\"choices\":[],\"usage\":{\"completion_tokens\":3}}\n\n"
    "data: [DONE]\n\n";

TEST(TokenStream, EveryCutIntoTwoGivesTheSameAnswer) {
  for (std::size_t cut = 0; cut <= kAnswer.size(); ++cut) {
    TokenStream stream;
    ASSERT_TRUE(stream.feed(kAnswer.substr(0, cut), 100));
    ASSERT_TRUE(stream.feed(kAnswer.substr(cut), 200));
    EXPECT_TRUE(stream.done()) << cut;
    EXPECT_EQ(stream.tokens(), 3U) << cut;
    EXPECT_EQ(stream.gaps().size(), 1U) << cut;
  }
}

TEST(TokenStream, ByteByByteTimesTheEventNotItsFirstByte) {
  TokenStream stream;
  Nanoseconds now = 0;
  for (const char byte : kAnswer) ASSERT_TRUE(stream.feed({&byte, 1}, ++now));
  const auto end_of = [](std::string_view text) {
    return static_cast<Nanoseconds>(kAnswer.find(text) + text.size());
  };
  EXPECT_EQ(stream.first_token(), end_of("null}\n\n"));
  EXPECT_EQ(stream.last_token(), end_of("\r\n\r\n"));
  ASSERT_EQ(stream.gaps().size(), 1U);
  EXPECT_EQ(stream.gaps()[0], stream.last_token() - stream.first_token());
}

TEST(TokenStream, WithoutTokenIdsCountsEventsWithText) {
  TokenStream stream;
  EXPECT_TRUE(stream.feed("data: {\"choices\":[{\"text\":\"a\"}]}\n\n", 1));
  EXPECT_TRUE(stream.feed("data: {\"choices\":[{\"text\":\"\"}]}\n\n", 2));
  EXPECT_TRUE(stream.feed("data: {\"choices\":[{\"text\":\"b\"}]}\n\n", 3));
  EXPECT_EQ(stream.tokens(), 2U);
  EXPECT_FALSE(stream.done());
}

TEST(TokenStream, AnErrorEventIsTheFailure) {
  TokenStream stream;
  EXPECT_FALSE(stream.feed("data: {\"error\":{\"message\":\"the shard was lost\"}}\n\n", 1));
  EXPECT_EQ(stream.failure(), "the shard was lost");
}

TEST(TokenStream, BrokenEventsFail) {
  TokenStream not_json;
  EXPECT_FALSE(not_json.feed("data: {\"choices\"\n\n", 1));
  TokenStream endless;
  const std::string piece(1 << 18, 'x');
  bool good = true;
  for (int i = 0; i < 6 && good; ++i) good = endless.feed(piece, i);
  EXPECT_FALSE(good);
  EXPECT_FALSE(endless.failure().empty());
}

}  // namespace
}  // namespace fulgur::bench::serve
