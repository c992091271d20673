#include "services/router/stop_scanner.hpp"

#include <gtest/gtest.h>

#include "common/base/rng.hpp"

namespace fulgur::router {
namespace {

struct Outcome {
  std::string text;
  bool found = false;
  friend bool operator==(const Outcome&, const Outcome&) = default;
};

/// The definition: the earliest end of any stop string, the longest one if several end there.
Outcome scan_whole(const std::string& text, const std::vector<std::string>& stops, bool include) {
  for (std::size_t end = 1; end <= text.size(); ++end) {
    std::size_t longest = 0;
    for (const auto& stop : stops) {
      if (stop.size() <= end && text.compare(end - stop.size(), stop.size(), stop) == 0) {
        longest = std::max(longest, stop.size());
      }
    }
    if (longest > 0) return {text.substr(0, include ? end : end - longest), true};
  }
  return {text, false};
}

TEST(StopScanner, AnyCutGivesTheSameAsTheWholeText) {
  constexpr std::uint64_t kSeed = 7;
  Rng rng(kSeed);
  const std::string letters = "aab";  // few letters, so that stop strings overlap and recur
  const auto random_text = [&](std::size_t length) {
    std::string text;
    for (std::size_t i = 0; i < length; ++i) text += letters[rng.below(letters.size())];
    return text;
  };
  for (int round = 0; round < 20'000; ++round) {
    SCOPED_TRACE("round " + std::to_string(round) + " of seed " + std::to_string(kSeed));
    std::vector<std::string> stops;
    for (std::uint64_t s = rng.below(4); s > 0; --s) stops.push_back(random_text(1 + rng.below(6)));
    const bool include = rng.below(2) == 0;
    const std::string text = random_text(rng.below(24));
    StopScanner scanner(stops, include);
    Outcome got;
    for (std::size_t at = 0; at < text.size() && !scanner.found();) {
      const std::size_t length = 1 + rng.below(5);
      got.text += scanner.push(std::string_view(text).substr(at, length));
      at += length;
    }
    got.found = scanner.found();
    got.text += scanner.flush();
    ASSERT_EQ(got, scan_whole(text, stops, include)) << text;
  }
}

TEST(StopScanner, HoldsBackOnlyWhatMayBecomeAStop) {
  StopScanner scanner({"END", "\n\n"});
  EXPECT_EQ(scanner.push("hello"), "hello");
  EXPECT_EQ(scanner.push(" E"), " ");
  EXPECT_EQ(scanner.push("N"), "");
  EXPECT_EQ(scanner.push("E"), "EN");
  EXPECT_EQ(scanner.push("x\n"), "Ex");
  EXPECT_EQ(scanner.flush(), "\n");
}

TEST(StopScanner, NothingFollowsAFoundStop) {
  StopScanner scanner({"stop"});
  EXPECT_EQ(scanner.push("go stop more"), "go ");
  EXPECT_TRUE(scanner.found());
  EXPECT_EQ(scanner.push("and more"), "");
  EXPECT_EQ(scanner.flush(), "");
}

TEST(StopScanner, NeverCutsACharacter) {
  const std::string euro = "\xe2\x82\xac";
  StopScanner scanner({euro + "!"});
  EXPECT_EQ(scanner.push("a" + euro), "a");
  EXPECT_EQ(scanner.push("?"), euro + "?");
}

}  // namespace
}  // namespace fulgur::router
