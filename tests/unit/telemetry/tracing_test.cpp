// Ids, the bounded queue, the traceparent header and the JSON of OTLP.
#include "common/telemetry/tracing.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "common/telemetry/otlp.hpp"
#include "common/telemetry/span_queue.hpp"
#include "common/telemetry/traceparent.hpp"
#include "tests/unit/telemetry/span_collector.hpp"

namespace fulgur::telemetry {
namespace {

using nlohmann::json;

TEST(Tracer, IdsAreNeverZeroAndDiffer) {
  SpanCollector tracer;
  std::set<std::uint64_t> ids;
  for (int i = 0; i < 10'000; ++i) ids.insert(tracer.new_id());
  EXPECT_EQ(ids.size(), 10'000U);
  EXPECT_FALSE(ids.contains(0));
}

TEST(Tracer, AnOpenSpanIsRecordedWhenItIsClosed) {
  SpanCollector tracer;
  Span span = tracer.open("work", SpanKind::client, {1, 2, 3}, 10);
  EXPECT_TRUE(tracer.spans().empty());
  EXPECT_EQ(span.context(), (TraceContext{1, 2, span.id}));
  tracer.close(span, 15);
  ASSERT_EQ(tracer.spans().size(), 1U);
  EXPECT_EQ(tracer.spans()[0].end, 15);
}

TEST(SpanQueue, HoldsWhatItSaysAndNoMore) {
  SpanQueue queue(5);
  ASSERT_EQ(queue.capacity(), 8U);
  for (int round = 0; round < 3; ++round) {
    for (std::uint64_t id = 1; id <= 8; ++id) {
      Span span;
      span.id = id;
      EXPECT_TRUE(queue.push(std::move(span)));
    }
    EXPECT_FALSE(queue.push(Span{}));
    EXPECT_EQ(queue.size(), 8U);
    Span span;
    for (std::uint64_t id = 1; id <= 8; ++id) {
      ASSERT_TRUE(queue.pop(span));
      EXPECT_EQ(span.id, id);
    }
    EXPECT_FALSE(queue.pop(span));
  }
}

TEST(SpanQueue, LosesNothingBetweenThreads) {
  constexpr std::uint64_t kEach = 20'000;
  constexpr std::uint64_t kThreads = 3;
  SpanQueue queue(64);
  std::vector<std::thread> writers;
  for (std::uint64_t writer = 0; writer < kThreads; ++writer) {
    writers.emplace_back([&queue, writer] {
      for (std::uint64_t i = 1; i <= kEach; ++i) {
        Span span;
        span.id = writer * kEach + i;
        span.name = std::to_string(span.id);
        while (!queue.push(Span(span))) std::this_thread::yield();
      }
    });
  }
  std::vector<std::uint64_t> last(kThreads);
  std::uint64_t seen = 0;
  for (Span span; seen < kThreads * kEach;) {
    if (!queue.pop(span)) continue;
    ++seen;
    ASSERT_EQ(span.name, std::to_string(span.id));
    const std::uint64_t writer = (span.id - 1) / kEach;
    ASSERT_GT(span.id, last[writer]) << "out of order";
    last[writer] = span.id;
  }
  for (auto& writer : writers) writer.join();
  EXPECT_EQ(queue.size(), 0U);
}

TEST(TraceParent, ReadsWhatTheStandardSays) {
  const auto parsed = parse_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
  ASSERT_TRUE(parsed);
  EXPECT_EQ(parsed->context,
            (TraceContext{0x4bf92f3577b34da6, 0xa3ce929d0e0e4736, 0x00f067aa0ba902b7}));
  EXPECT_TRUE(parsed->sampled);
  EXPECT_EQ(trace_id_hex(parsed->context), "4bf92f3577b34da6a3ce929d0e0e4736");
  EXPECT_EQ(span_id_hex(parsed->context.span), "00f067aa0ba902b7");
  EXPECT_FALSE(
      parse_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00")->sampled);
  EXPECT_FALSE(
      parse_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-fe")->sampled);
  EXPECT_TRUE(
      parse_traceparent("00-00000000000000000000000000000001-00f067aa0ba902b7-03")->sampled);
  // A later version may have more behind what this one knows.
  EXPECT_TRUE(parse_traceparent("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what"));
}

TEST(TraceParent, MalformedIsAbsent) {
  const std::string good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
  for (std::size_t length = 0; length < good.size(); ++length)
    EXPECT_FALSE(parse_traceparent(good.substr(0, length))) << length;
  for (std::size_t at = 0; at < good.size(); ++at) {
    for (const char c : {'G', 'A', ' ', '\0', '\xff'}) {
      std::string bad = good;
      bad[at] = c;
      EXPECT_FALSE(parse_traceparent(bad)) << bad;
    }
  }
  for (const char* const bad : {"ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
                                "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
                                "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
                                "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what",
                                "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.what"})
    EXPECT_FALSE(parse_traceparent(bad)) << bad;
}

/// A clock whose two times are apart by what ManualClock says.
TEST(UnixTime, IsAnchoredOnce) {
  ManualClock clock;
  clock.advance(5 * kSecond);
  const Nanoseconds wall = clock.wall_now();
  const UnixTime time(clock);
  EXPECT_EQ(time.of(clock.now()), wall);
  EXPECT_EQ(time.of(clock.now() + 7), wall + 7);
}

TEST(Otlp, WritesASpanWithEverything) {
  const ManualClock clock;
  const UnixTime time(clock);
  const std::string origin = std::to_string(clock.wall_now() / kSecond);
  Span span;
  span.parent = {0x0123456789abcdef, 0xfedcba9876543210, 0x0a};
  span.id = 0xb;
  span.name = "a \"name\"\n";
  span.kind = SpanKind::client;
  span.start = 1;
  span.end = 20;
  span.set("bool", true);
  span.set("int", std::uint32_t{7});
  span.set("negative", std::int64_t{-1});
  span.set("double", 0.5);
  span.set("nan", std::nan(""));
  span.set("text", std::string("caf\xc3\xa9 \xff"));
  span.set("list", std::vector<std::string>{"a", "b"});
  span.events.push_back({"event", 3, {{"key", std::string("value")}}});
  span.events_dropped = 2;
  span.links.push_back({1, 2, 3});
  span.fail("why");
  const json expected = {
      {"traceId", "0123456789abcdeffedcba9876543210"},
      {"spanId", "000000000000000b"},
      {"parentSpanId", "000000000000000a"},
      {"name", "a \"name\"\n"},
      {"kind", 3},
      {"startTimeUnixNano", origin + "000000001"},
      {"endTimeUnixNano", origin + "000000020"},
      {"attributes",
       {{{"key", "bool"}, {"value", {{"boolValue", true}}}},
        {{"key", "int"}, {"value", {{"intValue", "7"}}}},
        {{"key", "negative"}, {"value", {{"intValue", "-1"}}}},
        {{"key", "double"}, {"value", {{"doubleValue", 0.5}}}},
        {{"key", "nan"}, {"value", {{"doubleValue", "NaN"}}}},
        {{"key", "text"}, {"value", {{"stringValue", "caf\xc3\xa9 \xef\xbf\xbd"}}}},
        {{"key", "list"},
         {"value",
          {{"arrayValue",
            {{"values", json::array({{{"stringValue", "a"}}, {{"stringValue", "b"}}})}}}}}}}},
      {"events",
       json::array({{{"timeUnixNano", origin + "000000003"},
                     {"name", "event"},
                     {"attributes",
                      json::array({{{"key", "key"}, {"value", {{"stringValue", "value"}}}}})}}})},
      {"droppedEventsCount", 2},
      {"links", json::array({{{"traceId", "00000000000000010000000000000002"},
                              {"spanId", "0000000000000003"}}})},
      {"status", {{"code", 2}, {"message", "why"}}}};
  const json body = json::parse(otlp_json({"fulgur-router", "router-0"}, {{span}}, time));
  ASSERT_EQ(body.size(), 1U);
  ASSERT_EQ(body["resourceSpans"].size(), 1U);
  const json& of_resource = body["resourceSpans"][0];
  EXPECT_EQ(of_resource.size(), 2U);
  const json& attributes = of_resource["resource"]["attributes"];
  EXPECT_EQ(attributes[0],
            json({{"key", "service.name"}, {"value", {{"stringValue", "fulgur-router"}}}}));
  EXPECT_EQ(attributes[1],
            json({{"key", "service.instance.id"}, {"value", {{"stringValue", "router-0"}}}}));
  EXPECT_EQ(attributes[2]["key"], "service.version");
  ASSERT_EQ(of_resource["scopeSpans"].size(), 1U);
  EXPECT_EQ(of_resource["scopeSpans"][0]["scope"]["name"], "fulgur");
  ASSERT_EQ(of_resource["scopeSpans"][0]["spans"].size(), 1U);
  EXPECT_EQ(of_resource["scopeSpans"][0]["spans"][0], expected);
}

TEST(Otlp, LeavesOutWhatASpanHasNot) {
  const ManualClock clock;
  Span root;
  root.parent = {0, 1, 0};
  root.id = 2;
  root.name = "root";
  const json body = json::parse(otlp_json({}, {{root, root}}, UnixTime(clock)));
  const json& spans = body["resourceSpans"][0]["scopeSpans"][0]["spans"];
  ASSERT_EQ(spans.size(), 2U);
  EXPECT_EQ(spans[0], spans[1]);
  std::set<std::string> keys;
  for (const auto& [key, value] : spans[0].items()) keys.insert(key);
  EXPECT_EQ(keys, (std::set<std::string>{"attributes", "endTimeUnixNano", "kind", "name", "spanId",
                                         "startTimeUnixNano", "traceId"}));
  EXPECT_EQ(spans[0]["attributes"], json::array());
}

}  // namespace
}  // namespace fulgur::telemetry
