// A request's trace over a mesh of real processes, as a collector receives it: one connected tree
// from the client's span to the expert workers, for sampled requests only, and not a token differs.
#include <gtest/gtest.h>
#include <signal.h>

#include <future>
#include <map>
#include <mutex>
#include <set>

#include "common/http/server.hpp"
#include "tests/integration/api.hpp"
#include "tests/integration/mesh.hpp"

namespace fulgur::integration {
namespace {

using nlohmann::json;

constexpr const char* kTraceId = "4bf92f3577b34da6a3ce929d0e0e4736";
constexpr const char* kCallersSpan = "00f067aa0ba902b7";

struct Received {
  std::string service;
  std::string instance;
  std::string trace;
  std::string id;
  std::string parent;
  std::string name;
  std::int64_t start = 0;
  std::int64_t end = 0;
  json attributes = json::object();  ///< key: the value as OTLP writes it
};

/// An OpenTelemetry collector that keeps what it gets.
class Collector {
 public:
  Collector() : server_(std::move(*http::Server::listen("127.0.0.1", 0))) {
    server_->handle("POST", "/v1/traces",
                    [this](const http::Request& request, const http::Responder& responder) {
                      take(json::parse(request.body));
                      responder.respond(200, "application/json", "{}");
                    });
    server_->start();
  }
  ~Collector() { server_->shutdown(0); }

  std::string endpoint() const { return "http://" + server_->endpoint(); }
  std::vector<Received> spans() {
    const std::lock_guard lock(mutex_);
    return spans_;
  }

 private:
  void take(const json& body) {
    const std::lock_guard lock(mutex_);
    for (const json& group : body.at("resourceSpans")) {
      const json of_process = keyed(group.at("resource").at("attributes"));
      for (const json& span : group.at("scopeSpans").at(0).at("spans")) {
        spans_.push_back({of_process.at("service.name").at("stringValue"),
                          of_process.at("service.instance.id").at("stringValue"),
                          span.at("traceId"), span.at("spanId"), span.value("parentSpanId", ""),
                          span.at("name"),
                          std::stoll(span.at("startTimeUnixNano").get<std::string>()),
                          std::stoll(span.at("endTimeUnixNano").get<std::string>()),
                          keyed(span.at("attributes"))});
      }
    }
  }
  static json keyed(const json& attributes) {
    json map = json::object();
    for (const json& attribute : attributes) map[attribute.at("key")] = attribute.at("value");
    return map;
  }

  std::mutex mutex_;
  std::vector<Received> spans_;
  std::unique_ptr<http::Server> server_;
};

/// For a look at a trace by eye: FULGUR_SHOW=1 prints the tree.
void print_tree(const std::vector<Received>& spans, const std::string& parent, int depth,
                std::int64_t origin) {
  std::vector<const Received*> children;
  for (const Received& span : spans)
    if (span.parent == parent) children.push_back(&span);
  std::ranges::sort(children, {}, [](const Received* span) { return span->start; });
  for (const Received* span : children) {
    std::printf("%8.3f %8.3f ms %*s%s [%s]", static_cast<double>(span->start - origin) / 1e6,
                static_cast<double>(span->end - span->start) / 1e6, 2 * depth, "",
                span->name.c_str(), span->instance.c_str());
    for (const auto& [key, value] : span->attributes.items())
      std::printf(" %s=%s", key.c_str(), value.begin()->dump().c_str());
    std::printf("\n");
    print_tree(spans, span->id, depth + 1, origin);
  }
}

/// Every span's parent exists and encloses it; all are of one trace, below the caller's span.
void expect_one_tree(const std::vector<Received>& spans) {
  std::map<std::string, const Received*> by_id;
  for (const Received& span : spans) EXPECT_TRUE(by_id.emplace(span.id, &span).second) << span.id;
  std::size_t roots = 0;
  for (const Received& span : spans) {
    EXPECT_EQ(span.trace, kTraceId) << span.name;
    EXPECT_LE(span.start, span.end) << span.name;
    if (span.parent == kCallersSpan) {
      ++roots;
      EXPECT_EQ(span.service, "fulgur-router");
      continue;
    }
    ASSERT_TRUE(by_id.contains(span.parent)) << span.name << " has no parent";
    const Received& parent = *by_id[span.parent];
    EXPECT_GE(span.start, parent.start) << span.name << " in " << parent.name;
    EXPECT_LE(span.end, parent.end) << span.name << " in " << parent.name;
  }
  EXPECT_EQ(roots, 1U);
}

std::vector<Received> named(const std::vector<Received>& spans, const std::string& name) {
  std::vector<Received> found;
  for (const Received& span : spans)
    if (span.name == name) found.push_back(span);
  return found;
}

std::set<std::string> instances(const std::vector<Received>& spans) {
  std::set<std::string> names;
  for (const Received& span : spans) names.insert(span.instance);
  return names;
}

MeshFlags traced(const Collector& collector, std::uint32_t attention, const std::string& ratio) {
  MeshFlags flags{2, attention, "auto", "bf16", {}};
  flags.more = {"--otlp-endpoint", collector.endpoint(), "--trace-sample", ratio};
  return flags;
}

std::string traceparent() {
  return std::string("traceparent: 00-") + kTraceId + "-" + kCallersSpan + "-01";
}

json request() {
  json request = mixed_requests(4, 12).back();
  request["max_tokens"] = 12;
  return request;
}

TEST(Tracing, ARequestIsOneTreeFromRouterToWorkers) {
  Collector collector;
  Mesh mesh(traced(collector, 1, "0"));
  const Status started = mesh.start();
  ASSERT_TRUE(started.is_ok()) << started.message();
  const Answer untraced = complete(mesh.url(), request());
  const Answer answer = complete(mesh.url(), request(), {traceparent()});
  expect_equal({answer}, {untraced});
  expect_equal({stream(mesh.url(), request())}, {untraced});
  EXPECT_EQ(mesh.stop(), 0);  // every process hands over what it has

  const auto spans = collector.spans();
  if (std::getenv("FULGUR_SHOW") != nullptr) {
    const auto root = named(spans, "POST /v1/completions");
    ASSERT_FALSE(root.empty());
    print_tree(spans, kCallersSpan, 0, root[0].start);
  }
  expect_one_tree(spans);
  EXPECT_EQ(instances(named(spans, "shard.sequence")), std::set<std::string>{"attention-0"});
  for (const Received& run : named(spans, "expert.run")) {
    EXPECT_EQ(run.service, "fulgur-expert");
    EXPECT_TRUE(run.instance == "expert-0" || run.instance == "expert-1") << run.instance;
  }
  for (const char* const name : {"POST /v1/completions", "router.tokenize", "router.submit",
                                 "shard.sequence", "shard.queue", "shard.prefill", "shard.decode"})
    EXPECT_EQ(named(spans, name).size(), 1U) << name;
  const auto root = named(spans, "POST /v1/completions").at(0);
  EXPECT_EQ(root.attributes["http.response.status_code"]["intValue"], "200");
  EXPECT_EQ(root.attributes["gen_ai.usage.output_tokens"]["intValue"], "12");
  EXPECT_EQ(named(spans, "shard.decode_step").size(), 4U);
  const auto dispatches = named(spans, "shard.dispatch");
  EXPECT_EQ(named(spans, "expert.run").size(), dispatches.size());
  EXPECT_GE(dispatches.size(), named(spans, "shard.layer").size());
}

TEST(Tracing, AllRequestsAtOnceAndNotATokenDiffers) {
  constexpr std::size_t kRequests = 8;
  const auto requests = mixed_requests(kRequests, 16);
  std::vector<Answer> plain;
  {
    Mesh mesh;
    const Status started = mesh.start();
    ASSERT_TRUE(started.is_ok()) << started.message();
    plain = at_once(mesh.url(), requests, true);
    EXPECT_EQ(mesh.stop(), 0);
  }
  Collector collector;
  Mesh mesh(traced(collector, 1, "1"));
  const Status started = mesh.start();
  ASSERT_TRUE(started.is_ok()) << started.message();
  expect_equal(at_once(mesh.url(), requests, true), plain);
  EXPECT_TRUE(eventually([&] {
    return metric(mesh.admin_of("router-0"), "fulgur_trace_spans_exported_total") >= 3 * kRequests;
  }));
  EXPECT_EQ(metric(mesh.admin_of("attention-0"), "fulgur_trace_spans_dropped_total"), 0);
  EXPECT_EQ(mesh.stop(), 0);
  const auto spans = collector.spans();
  std::set<std::string> ids;
  for (const Received& span : spans) ids.insert(span.id);
  std::set<std::string> traces;
  for (const Received& span : spans) {
    traces.insert(span.trace);
    EXPECT_TRUE(span.parent.empty() || ids.contains(span.parent)) << span.name;
  }
  EXPECT_EQ(traces.size(), kRequests);
  EXPECT_EQ(named(spans, "shard.sequence").size(), kRequests);
}

TEST(Tracing, ASequenceThatMovesStaysInItsTrace) {
  Collector collector;
  Mesh mesh(traced(collector, 2, "0"));
  const Status started = mesh.start();
  ASSERT_TRUE(started.is_ok()) << started.message();
  json long_request = request();
  long_request["max_tokens"] = 800;
  const Answer undisturbed = complete(mesh.url(), long_request);
  // The same prompt goes to the same shard again.
  std::string busy;
  ASSERT_TRUE(eventually([&] {
    for (const std::string shard : {"attention-0", "attention-1"})
      if (metric(mesh.admin_of(shard), "fulgur_requests_total") == 1) busy = shard;
    return !busy.empty();
  }));
  Progress progress = 0;
  auto moving = std::async(std::launch::async, [&] {
    return stream(mesh.url(), long_request, &progress, {traceparent()});
  });
  ASSERT_TRUE(eventually([&] { return progress >= 5; }));
  ASSERT_EQ(kill(mesh.pid_of(busy), SIGTERM), 0);
  expect_equal({moving.get()}, {undisturbed});
  EXPECT_EQ(mesh.stop(), 0);
  const auto spans = collector.spans();
  expect_one_tree(spans);
  auto stays = named(spans, "shard.sequence");
  ASSERT_EQ(stays.size(), 2U);
  std::ranges::sort(stays, {}, &Received::start);
  EXPECT_EQ(stays[0].instance, busy);
  EXPECT_EQ(instances(stays), (std::set<std::string>{"attention-0", "attention-1"}));
  EXPECT_EQ(stays[0].attributes["fulgur.finish_reason"]["stringValue"], "moved");
  EXPECT_EQ(named(spans, "router.submit").size(), 2U);
}

TEST(Tracing, BadFlagsAreOneLineAndExitCode2) {
  for (const std::vector<std::string>& bad : std::vector<std::vector<std::string>>{
           {"--otlp-endpoint", "collector:4318"}, {"--otlp-endpoint", "http://c:port"}}) {
    for (const char* const name : {"fulgur-router", "fulgur-attention", "fulgur-expert"}) {
      std::vector<std::string> arguments{
          "--name", "a", "--orchestrator", "tcp://127.0.0.1:1", "--model", tiny_model()};
      arguments.insert(arguments.end(), bad.begin(), bad.end());
      const Finished finished = run_program(program(name), arguments);
      EXPECT_EQ(finished.exit_code, 2) << name;
      EXPECT_EQ(std::ranges::count(finished.output, '\n'), 1) << finished.output;
      EXPECT_NE(finished.output.find("--otlp-endpoint"), std::string::npos) << finished.output;
    }
  }
  const Finished finished = run_program(
      program("fulgur-router"),
      {"--orchestrator", "tcp://127.0.0.1:1", "--model", tiny_model(), "--trace-sample", "1.5"});
  EXPECT_EQ(finished.exit_code, 2);
  EXPECT_EQ(std::ranges::count(finished.output, '\n'), 1) << finished.output;
}

}  // namespace
}  // namespace fulgur::integration
