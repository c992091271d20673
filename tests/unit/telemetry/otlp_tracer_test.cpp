// The exporter against collectors that take spans, refuse them, are away, or never answer.
#include "common/telemetry/otlp_tracer.hpp"

#include <gtest/gtest.h>

#include <condition_variable>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>

#include "common/http/server.hpp"

namespace fulgur::telemetry {
namespace {

using nlohmann::json;

/// Counts what it takes; `answer` decides the status of the nth request, from 0.
class Collector {
 public:
  explicit Collector(
      std::function<int(int)> answer = [](int) { return 200; }, std::string body = "{}")
      : answer_(std::move(answer)), body_(std::move(body)) {
    server_ = std::move(*http::Server::listen("127.0.0.1", 0));
    server_->handle("POST", "/prefix/v1/traces",
                    [this](const http::Request& request, const http::Responder& responder) {
                      take(request, responder);
                    });
    server_->start();
  }
  ~Collector() {
    hanging_.clear();
    server_->shutdown(0);
  }

  std::string endpoint() const { return "http://" + server_->endpoint() + "/prefix"; }
  void wait_for_requests(int count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return requests_ >= count; });
  }
  std::size_t spans() {
    const std::lock_guard lock(mutex_);
    return spans_;
  }
  std::size_t largest() {
    const std::lock_guard lock(mutex_);
    return largest_;
  }

 private:
  void take(const http::Request& request, const http::Responder& responder) {
    const std::lock_guard lock(mutex_);
    const int status = answer_(requests_++);
    changed_.notify_all();
    EXPECT_EQ(request.header("Content-Type"), "application/json");
    const json body = json::parse(request.body);
    const std::size_t count = body["resourceSpans"][0]["scopeSpans"][0]["spans"].size();
    if (status == 200) spans_ += count;
    largest_ = std::max(largest_, count);
    if (status == 0)
      hanging_.push_back(responder);
    else
      responder.respond(status, "application/json", body_);
  }

  const std::function<int(int)> answer_;
  const std::string body_;
  std::mutex mutex_;
  std::condition_variable changed_;
  int requests_ = 0;
  std::size_t spans_ = 0;
  std::size_t largest_ = 0;
  std::vector<http::Responder> hanging_;
  std::unique_ptr<http::Server> server_;
};

class OtlpTracerTest : public testing::Test {
 protected:
  OtlpOptions options(const std::string& endpoint) {
    OtlpOptions options;
    options.endpoint = endpoint;
    options.resource = {"fulgur-router", "router-0"};
    options.period = 5 * kMillisecond;
    options.retry_min = 5 * kMillisecond;
    options.batch_max = 10;
    return options;
  }
  std::unique_ptr<OtlpTracer> start(const OtlpOptions& options) {
    auto tracer = OtlpTracer::start(options, clock_, metrics_);
    EXPECT_TRUE(tracer.is_ok()) << tracer.status().message();
    return std::move(*tracer);
  }
  static void record(Tracer& tracer, int count) {
    for (int i = 0; i < count; ++i) {
      Span span = tracer.open("span", SpanKind::internal, {1, 2, 0}, 0);
      tracer.close(span, 1);
    }
  }
  double exported() { return metrics_.counter("fulgur_trace_spans_exported_total", "").Value(); }
  double failures() { return metrics_.counter("fulgur_trace_export_failures_total", "").Value(); }
  double dropped(const std::string& reason) {
    return metrics_.counter("fulgur_trace_spans_dropped_total", "", {{"reason", reason}}).Value();
  }

  RealClock clock_;
  Metrics metrics_{"router", "router-0"};
};

TEST_F(OtlpTracerTest, NoEndpointIsNoTracer) {
  EXPECT_EQ(start(options("")), nullptr);
  EXPECT_EQ(OtlpTracer::start(options("collector:4318"), clock_, metrics_).status().code(),
            Code::invalid_argument);
}

TEST_F(OtlpTracerTest, ExportsInBatchesAndFlushesWhenItEnds) {
  Collector collector;
  auto tracer = start(options(collector.endpoint()));
  record(*tracer, 25);
  collector.wait_for_requests(1);
  record(*tracer, 7);
  tracer.reset();
  EXPECT_EQ(collector.spans(), 32U);
  EXPECT_LE(collector.largest(), 10U);
  EXPECT_EQ(exported(), 32);
  EXPECT_EQ(failures(), 0);
  EXPECT_EQ(dropped("queue_full") + dropped("not_taken"), 0);
}

TEST_F(OtlpTracerTest, ABusyCollectorGetsTheSameSpansAgain) {
  Collector collector([](int request) { return request < 2 ? 503 : 200; });
  auto tracer = start(options(collector.endpoint()));
  record(*tracer, 5);
  collector.wait_for_requests(3);
  tracer.reset();
  EXPECT_EQ(collector.spans(), 5U);
  EXPECT_EQ(exported(), 5);
  EXPECT_EQ(failures(), 2);
}

TEST_F(OtlpTracerTest, WhatACollectorRefusesForGoodIsDropped) {
  Collector collector([](int request) { return request == 0 ? 400 : 200; });
  auto tracer = start(options(collector.endpoint()));
  record(*tracer, 3);
  collector.wait_for_requests(1);
  record(*tracer, 4);
  tracer.reset();
  EXPECT_EQ(failures(), 1);
  EXPECT_EQ(exported() + dropped("not_taken"), 7);
  EXPECT_GE(dropped("not_taken"), 1);
}

TEST_F(OtlpTracerTest, PartialSuccessIsCounted) {
  Collector collector([](int) { return 200; }, R"({"partialSuccess":{"rejectedSpans":"2"}})");
  auto tracer = start(options(collector.endpoint()));
  record(*tracer, 5);
  tracer.reset();
  EXPECT_EQ(exported() + dropped("not_taken"), 5);
  EXPECT_GE(dropped("not_taken"), 2);
}

TEST_F(OtlpTracerTest, ACollectorThatIsAwayCostsABoundedQueue) {
  std::string endpoint;
  {
    const Collector gone;
    endpoint = gone.endpoint();
  }
  auto settings = options(endpoint);
  settings.queue_max = 64;
  auto tracer = start(settings);
  record(*tracer, 1'000);
  EXPECT_GE(dropped("queue_full"), 1'000 - 64 - 10);
  tracer.reset();
  EXPECT_EQ(exported(), 0);
  EXPECT_GE(failures(), 1);
  EXPECT_EQ(dropped("queue_full") + dropped("not_taken"), 1'000);
}

/// Ends although the collector never answers: not before `flush_max`, but the test would time out.
TEST_F(OtlpTracerTest, ACollectorThatHangsDoesNotKeepTheProcess) {
  Collector collector([](int) { return 0; });
  auto settings = options(collector.endpoint());
  settings.request_timeout = 3'600 * kSecond;
  settings.flush_max = 50 * kMillisecond;
  auto tracer = start(settings);
  record(*tracer, 12);
  collector.wait_for_requests(1);
  tracer.reset();
  EXPECT_EQ(exported(), 0);
  EXPECT_EQ(dropped("not_taken"), 12);
}

}  // namespace
}  // namespace fulgur::telemetry
