#include "common/http/server.hpp"

#include <gtest/gtest.h>

#include <future>
#include <thread>

#include "common/http/admin_routes.hpp"
#include "tests/unit/http/raw_client.hpp"

namespace fulgur::http {
namespace {

using testing::RawClient;

constexpr std::string_view kText = "text/plain";

class HttpServer : public ::testing::Test {
 protected:
  void start(ServerOptions options = {}) {
    auto server = Server::listen("127.0.0.1", 0, std::move(options));
    ASSERT_TRUE(server.is_ok()) << server.status().to_string();
    server_ = std::move(*server);
    server_->handle("GET", "/hello", [](const Request& request, const Responder& responder) {
      responder.respond(200, kText, "hello " + request.query);
    });
    server_->handle("POST", "/echo", [](const Request& request, const Responder& responder) {
      responder.respond(200, kText, request.body);
    });
    server_->handle("GET", "/later", [this](const Request&, const Responder& responder) {
      pending_.set_value(responder);
    });
    server_->handle("GET", "/lost", [](const Request&, const Responder&) {});
    server_->handle("GET", "/throws", [](const Request&, const Responder&) {
      throw std::runtime_error("broken handler");
    });
    server_->start();
  }

  std::unique_ptr<Server> server_;
  std::promise<Responder> pending_;
};

TEST_F(HttpServer, KeepsConnectionsAlive) {
  start();
  RawClient client(server_->port());
  for (int i = 0; i < 3; ++i) {
    client.send("GET /hello?" + std::to_string(i) + " HTTP/1.1\r\nHost: x\r\n\r\n");
    EXPECT_EQ(client.read_response(),
              "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 7\r\n\r\nhello " +
                  std::to_string(i));
  }
  EXPECT_EQ(server_->connections(), 1U);
}

TEST_F(HttpServer, AnswersPipelinedRequestsInOrder) {
  start();
  RawClient client(server_->port());
  std::string burst;
  for (int i = 0; i < 20; ++i) {
    burst += "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n" + std::to_string(10 + i);
  }
  client.send(burst);
  for (int i = 0; i < 20; ++i) {
    EXPECT_TRUE(client.read_response().ends_with("\r\n\r\n" + std::to_string(10 + i)));
  }
}

TEST_F(HttpServer, ServesARequestPipelinedBehindAPendingOne) {
  start();
  RawClient client(server_->port());
  client.send("GET /later HTTP/1.1\r\n\r\n");
  const Responder responder = pending_.get_future().get();
  client.send("GET /hello?b HTTP/1.1\r\n\r\n");
  responder.respond(200, kText, "first");
  EXPECT_TRUE(client.read_response().ends_with("first"));
  EXPECT_TRUE(client.read_response().ends_with("hello b"));
}

TEST_F(HttpServer, AcceptsARequestByteByByteAndChunked) {
  start();
  RawClient client(server_->port());
  for (const char c : std::string("GET /hello?x HTTP/1.1\r\nHost: x\r\n\r\n")) {
    client.send(std::string(1, c));
  }
  EXPECT_TRUE(client.read_response().ends_with("hello x"));
  client.send("POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n");
  EXPECT_TRUE(client.read_response().ends_with("\r\n\r\nabcde"));
}

TEST_F(HttpServer, MalformedRequestsGet400AndTheConnectionEnds) {
  start();
  const char* const bad[] = {
      "nonsense\r\n\r\n", "GET /hello HTTP/9.9\r\n\r\n", "GET  /hello HTTP/1.1\r\n\r\n",
      "GET /hello HTTP/1.1\r\nno colon\r\n\r\n", "GET /%zz HTTP/1.1\r\n\r\n",
      "POST /echo HTTP/1.1\r\nContent-Length: x\r\n\r\n",
      "POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"};
  for (const char* text : bad) {
    RawClient client(server_->port());
    client.send(text);
    EXPECT_TRUE(client.read_response().starts_with("HTTP/1.1 400 Bad Request\r\n")) << text;
  }
}

TEST_F(HttpServer, OversizedBodyGets413EvenWhileItIsStillSent) {
  start({.body_bytes_max = 1000});
  RawClient declared(server_->port());
  declared.send("POST /echo HTTP/1.1\r\nContent-Length: 1001\r\n\r\n" + std::string(1001, 'x'));
  EXPECT_TRUE(declared.read_response().starts_with("HTTP/1.1 413 "));
  RawClient chunked(server_->port());
  chunked.send("POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
  for (int i = 0; i < 20; ++i) chunked.send("64\r\n" + std::string(100, 'x') + "\r\n");
  EXPECT_TRUE(chunked.read_response().starts_with("HTTP/1.1 413 "));
  RawClient fits(server_->port());
  fits.send("POST /echo HTTP/1.1\r\nContent-Length: 1000\r\n\r\n" + std::string(1000, 'x'));
  EXPECT_TRUE(fits.read_response().starts_with("HTTP/1.1 200 "));
}

TEST_F(HttpServer, OversizedHeaderGets431) {
  start({.header_bytes_max = 1024});
  RawClient client(server_->port());
  client.send("GET /hello HTTP/1.1\r\nX: " + std::string(2000, 'x') + "\r\n\r\n");
  EXPECT_TRUE(client.read_response().starts_with("HTTP/1.1 431 "));
}

TEST_F(HttpServer, ContinuesOnExpectation) {
  start();
  RawClient client(server_->port());
  client.send("POST /echo HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
  EXPECT_EQ(client.read_until("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
  client.send("hi");
  EXPECT_TRUE(client.read_response().ends_with("\r\n\r\nhi"));
}

TEST_F(HttpServer, HeadOptionsAndWrongMethods) {
  start();
  RawClient client(server_->port());
  client.send("HEAD /hello HTTP/1.1\r\n\r\n");
  EXPECT_EQ(client.read_response(true),
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 6\r\n\r\n");
  client.send("OPTIONS /echo HTTP/1.1\r\n\r\n");
  EXPECT_EQ(client.read_response(), "HTTP/1.1 204 No Content\r\nAllow: POST, OPTIONS\r\n\r\n");
  client.send("DELETE /hello HTTP/1.1\r\n\r\n");
  const std::string wrong = client.read_response();
  EXPECT_TRUE(wrong.starts_with("HTTP/1.1 405 ")) << wrong;
  EXPECT_NE(wrong.find("Allow: GET, HEAD, OPTIONS\r\n"), std::string::npos);
  client.send("GET /nowhere HTTP/1.1\r\n\r\n");
  EXPECT_TRUE(client.read_response().starts_with("HTTP/1.1 404 "));
}

TEST_F(HttpServer, ErrorsUseTheServicesFormat) {
  ServerOptions options;
  options.error_body = [](int status, std::string_view) {
    return ErrorBody{"application/json", "{" + std::to_string(status) + "}"};
  };
  start(std::move(options));
  RawClient client(server_->port());
  client.send("GET /nowhere HTTP/1.1\r\n\r\n");
  EXPECT_TRUE(client.read_response().ends_with("{404}"));
}

TEST_F(HttpServer, AHandlerThatForgetsOrThrowsAnswers500) {
  start();
  RawClient client(server_->port());
  client.send("GET /lost HTTP/1.1\r\n\r\n");
  EXPECT_TRUE(client.read_response().starts_with("HTTP/1.1 500 "));
  client.send("GET /throws HTTP/1.1\r\n\r\n");
  EXPECT_TRUE(client.read_response().starts_with("HTTP/1.1 500 "));
}

TEST_F(HttpServer, ConnectionCloseAndHttp10EndTheConnection) {
  start();
  RawClient close(server_->port());
  close.send("GET /hello HTTP/1.1\r\nConnection: close\r\n\r\n");
  EXPECT_NE(close.read_to_end().find("Connection: close\r\n"), std::string::npos);
  RawClient old(server_->port());
  old.send("GET /hello HTTP/1.0\r\n\r\n");
  EXPECT_TRUE(old.read_to_end().starts_with("HTTP/1.0 200 OK\r\n"));
}

TEST_F(HttpServer, ConnectionsOverTheLimitAreTold503) {
  start({.connections_max = 1});
  RawClient first(server_->port());
  first.send("GET /hello HTTP/1.1\r\n\r\n");
  first.read_response();
  RawClient second(server_->port());
  EXPECT_TRUE(second.read_to_end().starts_with("HTTP/1.1 503 Service Unavailable\r\n"));
  first.send("GET /hello HTTP/1.1\r\n\r\n");
  EXPECT_TRUE(first.read_response().starts_with("HTTP/1.1 200 "));
}

TEST_F(HttpServer, IdleConnectionsTimeOut) {
  start({.idle_timeout = kMillisecond});
  RawClient client(server_->port());
  EXPECT_EQ(client.read_to_end(), "");
}

TEST_F(HttpServer, AnswersAHalfClosedClientWhoseAnswerIsReady) {
  start();
  RawClient client(server_->port());
  client.send("GET /hello?x HTTP/1.1\r\n\r\n");
  client.half_close();
  EXPECT_TRUE(client.read_to_end().ends_with("hello x"));
}

TEST_F(HttpServer, AWorkerHandlerDoesNotHoldUpOthers) {
  auto server = Server::listen("127.0.0.1", 0);
  ASSERT_TRUE(server.is_ok());
  std::promise<void> entered;
  std::promise<void> release;
  (*server)->handle(
      "GET", "/slow",
      [&](const Request&, const Responder& responder) {
        entered.set_value();
        release.get_future().get();
        responder.respond(200, kText, "slow");
      },
      RunOn::worker);
  (*server)->handle("GET", "/quick", [](const Request&, const Responder& responder) {
    responder.respond(200, kText, "quick");
  });
  (*server)->start();
  RawClient slow((*server)->port());
  slow.send("GET /slow HTTP/1.1\r\n\r\n");
  entered.get_future().get();
  RawClient quick((*server)->port());
  quick.send("GET /quick HTTP/1.1\r\n\r\n");
  EXPECT_TRUE(quick.read_response().ends_with("quick"));
  release.set_value();
  EXPECT_TRUE(slow.read_response().ends_with("slow"));
}

TEST_F(HttpServer, BusyPortIsAnErrorNamingIt) {
  start();
  const auto second = Server::listen("127.0.0.1", server_->port());
  ASSERT_FALSE(second.is_ok());
  EXPECT_NE(second.status().message().find("127.0.0.1:" + std::to_string(server_->port())),
            std::string::npos);
}

TEST_F(HttpServer, ShutdownLetsTheRunningRequestFinishAndClosesIdleOnes) {
  start();
  RawClient idle(server_->port());
  idle.send("GET /hello HTTP/1.1\r\n\r\n");
  idle.read_response();
  RawClient running(server_->port());
  running.send("GET /later HTTP/1.1\r\n\r\n");
  const Responder responder = pending_.get_future().get();
  auto finished = std::async(std::launch::async, [this] { return server_->shutdown(kSecond * 20); });
  EXPECT_EQ(idle.read_to_end(), "");
  responder.respond(200, kText, "done");
  const std::string answer = running.read_to_end();
  EXPECT_TRUE(answer.ends_with("done"));
  EXPECT_NE(answer.find("Connection: close"), std::string::npos);
  EXPECT_TRUE(finished.get());
}

TEST_F(HttpServer, ShutdownBreaksWhatDoesNotFinish) {
  start();
  RawClient running(server_->port());
  running.send("GET /later HTTP/1.1\r\n\r\n");
  const Responder responder = pending_.get_future().get();
  std::promise<void> told;
  responder.on_disconnect([&told] { told.set_value(); });
  EXPECT_FALSE(server_->shutdown(kMillisecond));
  told.get_future().get();
  EXPECT_EQ(running.read_to_end(), "");
  server_.reset();
  responder.respond(200, kText, "too late");  // a responder may outlive the server
  EXPECT_TRUE(responder.disconnected());
}

TEST(AdminRoutes, ServeMetricsHealthAndReadiness) {
  auto server = Server::listen("127.0.0.1", 0);
  ASSERT_TRUE(server.is_ok());
  std::atomic<bool> ready{false};
  add_admin_routes(**server, {.metrics = [] { return std::string("x_total 1\n"); },
                              .readiness = [&ready] {
                                return Readiness{ready, ready ? "ok" : "no shard"};
                              }});
  (*server)->start();
  RawClient client((*server)->port());
  client.send("GET /metrics HTTP/1.1\r\n\r\n");
  EXPECT_TRUE(client.read_response().ends_with("\r\n\r\nx_total 1\n"));
  client.send("GET /healthz HTTP/1.1\r\n\r\n");
  EXPECT_TRUE(client.read_response().ends_with("\r\n\r\nok\n"));
  client.send("GET /readyz HTTP/1.1\r\n\r\n");
  const std::string not_ready = client.read_response();
  EXPECT_TRUE(not_ready.starts_with("HTTP/1.1 503 ")) << not_ready;
  EXPECT_TRUE(not_ready.ends_with("no shard\n"));
  ready = true;
  client.send("GET /readyz HTTP/1.1\r\n\r\n");
  EXPECT_TRUE(client.read_response().starts_with("HTTP/1.1 200 "));
}

}  // namespace
}  // namespace fulgur::http
