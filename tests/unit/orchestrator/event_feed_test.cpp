// Server-sent events: framing, what is said when, resuming, bounds on watchers.
#include "services/orchestrator/event_feed.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace fulgur::orchestrator {
namespace {

TEST(Sse, FramesEveryLine) {
  EXPECT_EQ(format_sse("log", "7.1", "{}"), "event: log\nid: 7.1\ndata: {}\n\n");
  EXPECT_EQ(format_sse("mesh", "", "a\nb"), "event: mesh\ndata: a\ndata: b\n\n");
  EXPECT_EQ(format_sse("mesh", "", ""), "event: mesh\ndata: \n\n");
  EXPECT_EQ(format_sse("mesh", "", "x\revent: fake"),
            "event: mesh\ndata: x\ndata: event: fake\n\n");
}

TEST(Sse, PositionsNameALog) {
  EXPECT_EQ(format_position({18446744073709551615U, 3}), "18446744073709551615.3");
  EXPECT_EQ(parse_position("12.34")->log, 12U);
  EXPECT_EQ(parse_position("12.34")->id, 34U);
  EXPECT_EQ(parse_position("")->id, 0U);
  EXPECT_EQ(parse_position("0")->log, 0U);
  for (const char* const bad :
       {"1", ".", "1.", ".1", "a.b", "1.2.3", "-1.2", "1.2 ", "1 .2", "99999999999999999999.1"})
    EXPECT_EQ(parse_position(bad).status().code(), Code::invalid_argument) << bad;
}

TEST(Sse, EventsAreJsonWhateverTheNameIs) {
  Event event;
  event.id = 4;
  event.at = 1'500 * kMillisecond;
  event.severity = Severity::warning;
  event.kind = "refused";
  event.member = "\xff<b>\"\n";
  event.text = "why";
  const std::string text = event_json(event, 9);
  EXPECT_EQ(text.find('\n'), std::string::npos);
  const auto json = nlohmann::json::parse(text);
  EXPECT_EQ(json["id"], "9.4");
  EXPECT_EQ(json["at_ms"], 1500);
  EXPECT_EQ(json["severity"], "warning");
  EXPECT_EQ(json["member"], "\xEF\xBF\xBD<b>\"\n");
  EXPECT_EQ(json["replaces"], "");
}

struct FakeWatcher final : Watcher {
  void refuse() override { refused = true; }
  void open() override { opened = true; }
  Status write(std::string_view bytes) override {
    if (stuck) return {Code::resource_exhausted, "the client reads too slowly"};
    heard += bytes;
    ++writes;
    return Status::ok();
  }
  void finish() override { finished = true; }
  void drop() override { dropped = true; }
  bool gone() const override { return left; }

  /// What it heard since the last call.
  std::string take() { return std::exchange(heard, {}); }

  bool refused = false, opened = false, finished = false, dropped = false, stuck = false;
  bool left = false;
  int writes = 0;
  std::string heard;
};

class EventFeedTest : public testing::Test {
 protected:
  std::shared_ptr<FakeWatcher> join(EventPosition position = {}) {
    auto watcher = std::make_shared<FakeWatcher>();
    feed_.add(watcher, position);
    return watcher;
  }
  void tick(Nanoseconds passed = 100 * kMillisecond) {
    clock_.advance(passed);
    feed_.tick(log_, [this] {
      ++looks_;
      return Topics{{"mesh", mesh_}, {"load", load_}};
    });
  }

  ManualClock clock_;
  EventLog log_{clock_};
  EventFeed feed_{clock_, 7, {.watchers = 2}};
  std::string mesh_ = "m1";
  std::string load_ = "l1";
  int looks_ = 0;
};

TEST_F(EventFeedTest, NobodyWatchingCostsNothing) {
  for (int i = 0; i < 50; ++i) tick();
  EXPECT_EQ(looks_, 0);
}

TEST_F(EventFeedTest, StartsWithEverythingThenSaysWhatChanged) {
  log_.add(Severity::info, "joined", "expert-0", "");
  const auto watcher = join();
  EXPECT_TRUE(watcher->opened);
  tick();
  const std::string first = watcher->take();
  EXPECT_EQ(first.find("retry: 1000\n\nevent: mesh\ndata: m1\n\nevent: load\ndata: l1\n\n"), 0U)
      << first;
  EXPECT_NE(first.find("event: log\nid: 7.1\ndata: {"), std::string::npos) << first;
  for (int i = 0; i < 9; ++i) tick();
  EXPECT_EQ(looks_, 1) << "once a second";
  mesh_ = "m2";
  tick();
  EXPECT_EQ(watcher->take(), "event: mesh\ndata: m2\n\n") << "the load has not changed";
  EXPECT_EQ(looks_, 2);
}

TEST_F(EventFeedTest, EventsAreSaidAtOnceAndBringALook) {
  const auto watcher = join();
  tick();
  watcher->take();
  log_.add(Severity::error, "lost", "expert-0", "");
  tick();
  EXPECT_EQ(watcher->take().find("event: log\nid: 7.1\n"), 0U);
  mesh_ = "m2";
  tick();
  EXPECT_EQ(watcher->take(), "") << "not more than four looks a second";
  tick();
  EXPECT_EQ(watcher->take(), "event: mesh\ndata: m2\n\n");
}

TEST_F(EventFeedTest, ALaterWatcherHearsWhatHasNotChangedToo) {
  const auto first = join();
  tick();
  first->take();
  const auto second = join();
  tick();
  EXPECT_NE(second->take().find("data: l1"), std::string::npos);
  EXPECT_EQ(first->take(), "");
}

TEST_F(EventFeedTest, ResumesWhereItWas) {
  for (int i = 0; i < 5; ++i) log_.add(Severity::info, "joined", std::to_string(i), "");
  const auto resumed = join({7, 4});
  const auto stranger = join({6, 4});
  tick();
  EXPECT_EQ(resumed->heard.find("id: 7.4\n"), std::string::npos);
  EXPECT_NE(resumed->heard.find("id: 7.5\n"), std::string::npos);
  EXPECT_NE(stranger->heard.find("id: 7.1\n"), std::string::npos) << "another log's numbers";
  const auto list = nlohmann::json::parse(events_json(log_, 7, {7, 3}));
  EXPECT_EQ(list["last"], "7.5");
  EXPECT_EQ(list["events"].size(), 2U);
  EXPECT_EQ(nlohmann::json::parse(events_json(log_, 7, {6, 3}))["events"].size(), 5U);
}

TEST_F(EventFeedTest, SilenceIsBrokenByHeartbeats) {
  const auto watcher = join();
  tick();
  watcher->take();
  tick(9 * kSecond);
  EXPECT_EQ(watcher->take(), "");
  tick(kSecond);
  EXPECT_EQ(watcher->take(), ": still here\n\n");
}

TEST_F(EventFeedTest, RefusesBeyondItsSeatsUntilOneIsFree) {
  const auto a = join();
  const auto b = join();
  const auto refused = join();
  EXPECT_TRUE(refused->refused);
  EXPECT_FALSE(refused->opened);
  a->left = true;
  EXPECT_TRUE(join()->opened);
  tick();
  EXPECT_EQ(feed_.watchers(), 2U);
  EXPECT_EQ(a->writes, 0);
  EXPECT_EQ(b->writes, 1);
}

TEST_F(EventFeedTest, DropsWhoDoesNotReadAndServesTheOthers) {
  const auto slow = join();
  const auto quick = join();
  tick();
  quick->take();
  slow->stuck = true;
  mesh_ = "m2";
  tick(kSecond);
  EXPECT_TRUE(slow->dropped);
  EXPECT_EQ(quick->take(), "event: mesh\ndata: m2\n\n");
  EXPECT_EQ(feed_.watchers(), 1U);
  EXPECT_EQ(feed_.dropped_total(), 1U);
  feed_.close();
  EXPECT_TRUE(quick->finished);
  EXPECT_EQ(feed_.watchers(), 0U);
}

}  // namespace
}  // namespace fulgur::orchestrator
