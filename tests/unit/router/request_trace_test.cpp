// Who is traced, and the router's spans of a request: alone, over a fake mesh, refused, and
// continued on another shard.
#include "services/router/request_trace.hpp"

#include <gtest/gtest.h>

#include "tests/unit/router/fake_mesh.hpp"
#include "tests/unit/telemetry/span_collector.hpp"

namespace fulgur::router {
namespace {

using telemetry::Span;
using telemetry::SpanCollector;
using telemetry::value_of;
using testing::Call;
using testing::FakeMesh;

constexpr const char* kParent =
    "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n";
constexpr const char* kUnsampledParent =
    "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00\r\n";
constexpr TraceContext kCaller{0x4bf92f3577b34da6, 0xa3ce929d0e0e4736, 0x00f067aa0ba902b7};

TEST(Sampling, IsDecidedByTheIdAloneAndMonotonic) {
  SpanCollector tracer;
  int sampled = 0;
  for (int i = 0; i < 20'000; ++i) {
    const TraceContext trace{0, tracer.new_id(), 0};
    EXPECT_EQ(sampled_at(0.25, trace), sampled_at(0.25, trace));
    EXPECT_LE(sampled_at(0.25, trace), sampled_at(0.5, trace));
    EXPECT_FALSE(sampled_at(0, trace));
    EXPECT_TRUE(sampled_at(1, trace));
    sampled += sampled_at(0.25, trace);
  }
  EXPECT_NEAR(sampled, 5'000, 300);
}

TEST(Sampling, TheCallersFlagDecides) {
  SpanCollector tracer;
  const std::string id = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0";
  EXPECT_NE(RequestTracing(&tracer, 0).begin(id + "1", "/", 0), nullptr);
  EXPECT_EQ(RequestTracing(&tracer, 1).begin(id + "0", "/", 0), nullptr);
  EXPECT_EQ(RequestTracing(&tracer, 0).begin("nonsense", "/", 0), nullptr);
  EXPECT_NE(RequestTracing(&tracer, 1).begin("nonsense", "/", 0), nullptr);
  EXPECT_EQ(RequestTracing(nullptr, 1).begin(id + "1", "/", 0), nullptr);
}

ServiceOptions traced(const std::shared_ptr<SpanCollector>& tracer, double ratio) {
  ServiceOptions options;
  options.tracer = tracer;
  options.trace_sample = ratio;
  return options;
}

TEST(RouterTrace, FollowsARequest) {
  const auto tracer = std::make_shared<SpanCollector>();
  FakeMesh mesh(traced(tracer, 0));
  Call call(mesh, "/v1/completions", R"({"prompt":"Tell me","max_tokens":4})", kParent);
  const wire::Submit submit = mesh.submitted("shard-0");
  mesh.generate("shard-0", submit, 0, 4);
  EXPECT_EQ(call.status(), 200);
  mesh.wait_until([&] { return tracer->spans().size() == 3; });
  const Span root = tracer->named("POST /v1/completions").at(0);
  EXPECT_EQ(root.parent, kCaller);
  EXPECT_EQ(root.kind, telemetry::SpanKind::server);
  EXPECT_EQ(value_of<std::int64_t>(root, "http.response.status_code"), 200);
  EXPECT_EQ(value_of<std::string>(root, "gen_ai.request.model"), "fulgur-tiny");
  EXPECT_EQ(value_of<std::int64_t>(root, "gen_ai.usage.input_tokens"),
            static_cast<std::int64_t>(submit.prompt_tokens));
  EXPECT_EQ(value_of<std::int64_t>(root, "gen_ai.usage.output_tokens"), 4);
  EXPECT_EQ(value_of<std::vector<std::string>>(root, "gen_ai.response.finish_reasons"),
            std::vector<std::string>{"length"});
  ASSERT_EQ(root.events.size(), 1U);
  EXPECT_EQ(root.events[0].name, "first token");
  EXPECT_FALSE(root.failed);
  const Span sent = tracer->named("router.submit").at(0);
  EXPECT_EQ(sent.parent, root.context());
  EXPECT_EQ(mesh.shard("shard-0").traces().at(0), sent.context());
  EXPECT_EQ(tracer->named("router.tokenize").at(0).parent, root.context());
  for (const Span& span : tracer->spans()) {
    EXPECT_GE(span.start, root.start);
    EXPECT_LE(span.end, root.end);
  }
}

TEST(RouterTrace, UnsampledRequestsLeaveNothingAnywhere) {
  const auto tracer = std::make_shared<SpanCollector>();
  FakeMesh mesh(traced(tracer, 0));
  Call plain(mesh, "/v1/completions", R"({"prompt":"Tell me","max_tokens":1})");
  mesh.generate("shard-0", mesh.submitted("shard-0", 0), 0, 1);
  EXPECT_EQ(plain.status(), 200);
  Call declined(mesh, "/v1/completions", R"({"prompt":"Tell me","max_tokens":1})",
                kUnsampledParent);
  mesh.generate("shard-0", mesh.submitted("shard-0", 1), 0, 1);
  EXPECT_EQ(declined.status(), 200);
  EXPECT_EQ(mesh.shard("shard-0").traces(), (std::vector<TraceContext>(2)));
  EXPECT_TRUE(tracer->spans().empty());
}

TEST(RouterTrace, RefusedRequestsAreTraces) {
  const auto tracer = std::make_shared<SpanCollector>();
  FakeMesh mesh(traced(tracer, 1));
  Call call(mesh, "/v1/chat/completions", R"({"messages":[]})");
  EXPECT_EQ(call.status(), 400);
  mesh.wait_until([&] { return !tracer->spans().empty(); });
  const Span root = tracer->named("POST /v1/chat/completions").at(0);
  EXPECT_EQ(root.parent.span, 0U);
  EXPECT_NE(root.parent.low, 0U);
  EXPECT_EQ(value_of<std::int64_t>(root, "http.response.status_code"), 400);
  EXPECT_FALSE(root.failed) << "the client's error, not the server's";
}

TEST(RouterTrace, GoesOnOnAnotherShard) {
  const auto tracer = std::make_shared<SpanCollector>();
  FakeMesh mesh(traced(tracer, 1), {"shard-0", "shard-1"});
  Call call(mesh, "/v1/completions", R"({"prompt":[5,6],"max_tokens":4})");
  std::string lost;
  mesh.wait_until([&] {
    for (const std::string name : {"shard-0", "shard-1"})
      if (!mesh.shard(name).heard<wire::Submit>().empty()) lost = name;
    return !lost.empty();
  });
  const std::string other = lost == "shard-0" ? "shard-1" : "shard-0";
  const TraceContext first = mesh.shard(lost).traces().at(0);
  mesh.generate(lost, mesh.submitted(lost), 0, 2);
  mesh.kill_shard(lost);
  mesh.generate(other, mesh.submitted(other), 2, 2);
  EXPECT_EQ(call.status(), 200);
  mesh.wait_until([&] { return !tracer->named("POST /v1/completions").empty(); });
  const Span root = tracer->named("POST /v1/completions").at(0);
  const auto sent = tracer->named("router.submit");
  ASSERT_EQ(sent.size(), 2U);
  EXPECT_EQ(sent[0].context(), first);
  EXPECT_TRUE(sent[0].failed);
  EXPECT_FALSE(sent[1].failed);
  EXPECT_EQ(sent[1].context(), mesh.shard(other).traces().at(0));
  for (const Span& span : sent) EXPECT_EQ(span.parent, root.context());
  EXPECT_EQ(value_of<std::int64_t>(sent[1], "fulgur.submission"), 2);
  ASSERT_EQ(root.events.size(), 2U);
  EXPECT_EQ(root.events[1].name, "submitted again");
}

}  // namespace
}  // namespace fulgur::router
