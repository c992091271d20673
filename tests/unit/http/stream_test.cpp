#include <gtest/gtest.h>

#include <future>

#include "common/http/server.hpp"
#include "tests/unit/http/raw_client.hpp"

namespace fulgur::http {
namespace {

using testing::RawClient;

/// A server whose one route hands its responder to the test.
class HttpStream : public ::testing::Test {
 protected:
  void start(ServerOptions options = {}) {
    auto server = Server::listen("127.0.0.1", 0, std::move(options));
    ASSERT_TRUE(server.is_ok()) << server.status().to_string();
    server_ = std::move(*server);
    server_->handle("GET", "/", [this](const Request&, const Responder& responder) {
      pending_.set_value(responder);
    });
    server_->start();
  }

  Responder next_responder() {
    Responder responder = pending_.get_future().get();
    pending_ = {};
    return responder;
  }

  std::unique_ptr<Server> server_;
  std::promise<Responder> pending_;
};

TEST_F(HttpStream, SendsChunksAsTheyComeAndKeepsTheConnection) {
  start();
  RawClient client(server_->port());
  for (int round = 0; round < 2; ++round) {
    client.send("GET / HTTP/1.1\r\n\r\n");
    const Responder responder = next_responder();
    responder.start_stream(200, "text/event-stream", {{"Cache-Control", "no-cache"}});
    EXPECT_EQ(client.read_until("\r\n\r\n"),
              "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
              "Transfer-Encoding: chunked\r\n\r\n");
    for (const char* text : {"data: 1\n\n", "data: 2\n\n"}) {
      EXPECT_TRUE(responder.write(text).is_ok());
      EXPECT_EQ(client.read_until("\n\n\r\n"), std::string("9\r\n") + text + "\r\n");
    }
    responder.finish();
    EXPECT_EQ(client.read_until("0\r\n\r\n"), "0\r\n\r\n");
  }
}

TEST_F(HttpStream, Http10StreamsUntilClose) {
  start();
  RawClient client(server_->port());
  client.send("GET / HTTP/1.0\r\n\r\n");
  const Responder responder = next_responder();
  responder.start_stream(200, "text/event-stream");
  EXPECT_TRUE(responder.write("abc").is_ok());
  responder.finish();
  EXPECT_EQ(client.read_to_end(),
            "HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\nabc");
}

TEST_F(HttpStream, TellsADisconnectWhileWaitingAndWhileStreaming) {
  start();
  for (const bool streaming : {false, true}) {
    RawClient client(server_->port());
    client.send("GET / HTTP/1.1\r\n\r\n");
    const Responder responder = next_responder();
    if (streaming) {
      responder.start_stream(200, "text/plain");
      client.read_until("\r\n\r\n");
    }
    std::promise<void> told;
    responder.on_disconnect([&told] { told.set_value(); });
    client.close();
    told.get_future().get();
    EXPECT_TRUE(responder.disconnected());
    EXPECT_EQ(responder.write("x").code(), Code::unavailable);
    std::promise<void> again;  // a callback set too late is called all the same
    responder.on_disconnect([&again] { again.set_value(); });
    again.get_future().get();
  }
}

TEST_F(HttpStream, SeesADisconnectBehindAPipelinedRequest) {
  start();
  RawClient client(server_->port());
  client.send("GET / HTTP/1.1\r\n\r\n");
  const Responder responder = next_responder();
  std::promise<void> told;
  responder.on_disconnect([&told] { told.set_value(); });
  client.send("GET / HTTP/1.1\r\n\r\n");
  client.half_close();
  told.get_future().get();
}

TEST_F(HttpStream, BoundsWhatASlowClientLeavesUnread) {
  start({.stream_buffer_bytes_max = 100'000});
  RawClient client(server_->port(), 4096);
  client.send("GET / HTTP/1.1\r\n\r\n");
  const Responder responder = next_responder();
  responder.start_stream(200, "text/plain");
  client.read_until("\r\n\r\n");
  const std::string block(10'000, 'x');
  std::size_t taken = 0;
  Status last = Status::ok();
  for (int i = 0; i < 100'000 && last.is_ok(); ++i) {
    last = responder.write(block);
    if (last.is_ok()) taken += block.size();
  }
  EXPECT_EQ(last.code(), Code::resource_exhausted);
  responder.finish();
  std::size_t received = 0;
  for (const char c : client.read_until("0\r\n\r\n")) received += c == 'x' ? 1 : 0;
  EXPECT_EQ(received, taken);  // what was accepted arrives, what was refused does not
}

// What comes at once says nothing about how a client reads.
TEST_F(HttpStream, WhatIsExpectedMayBeLargerThanTheLimit) {
  start({.stream_buffer_bytes_max = 100'000});
  RawClient client(server_->port());
  client.send("GET / HTTP/1.1\r\n\r\n");
  const Responder responder = next_responder();
  responder.start_stream(200, "text/plain");
  client.read_until("\r\n\r\n");
  const std::string large(24'000'000, 'x');  // more than the sockets' buffers take
  EXPECT_EQ(responder.write(large).code(), Code::resource_exhausted);
  responder.expect(large.size());
  EXPECT_TRUE(responder.write(large).is_ok());
  EXPECT_TRUE(responder.write("y").is_ok());  // most of the first is still on its way
  EXPECT_EQ(responder.write(large).code(), Code::resource_exhausted);
  responder.finish();
  std::size_t received = 0;
  for (const char c : client.read_until("0\r\n\r\n")) received += c == 'x' ? 1 : 0;
  EXPECT_EQ(received, large.size());
}

TEST_F(HttpStream, AClientThatNeverReadsIsDropped) {
  start({.stream_buffer_bytes_max = 64 * 1024 * 1024, .write_timeout = kMillisecond});
  RawClient client(server_->port(), 4096);
  client.send("GET / HTTP/1.1\r\n\r\n");
  const Responder responder = next_responder();
  std::promise<void> told;
  responder.on_disconnect([&told] { told.set_value(); });
  responder.start_stream(200, "text/plain");
  EXPECT_TRUE(responder.write(std::string(32 * 1024 * 1024, 'x')).is_ok());
  told.get_future().get();
}

TEST_F(HttpStream, AbortAndAForgottenStreamEndWithoutTheLastChunk) {
  start();
  for (const bool forget : {false, true}) {
    RawClient client(server_->port());
    client.send("GET / HTTP/1.1\r\n\r\n");
    Responder responder = next_responder();
    responder.start_stream(200, "text/plain");
    EXPECT_TRUE(responder.write("abc").is_ok());
    client.read_until("abc\r\n");
    if (!forget) responder.abort();
    responder = {};
    EXPECT_EQ(client.read_to_end(), "");
  }
}

TEST_F(HttpStream, ShutdownWaitsForAnOpenStream) {
  start();
  RawClient client(server_->port());
  client.send("GET / HTTP/1.1\r\n\r\n");
  const Responder responder = next_responder();
  responder.start_stream(200, "text/plain");
  auto finished = std::async(std::launch::async, [this] { return server_->shutdown(kSecond * 20); });
  EXPECT_TRUE(responder.write("abc").is_ok());
  responder.finish();
  EXPECT_TRUE(client.read_to_end().ends_with("3\r\nabc\r\n0\r\n\r\n"));
  EXPECT_TRUE(finished.get());
}

TEST_F(HttpStream, ManyThreadsMayWriteToManyStreams) {
  start();
  constexpr int kStreams = 8;
  std::vector<std::unique_ptr<RawClient>> clients;
  std::vector<std::thread> writers;
  for (int s = 0; s < kStreams; ++s) {
    clients.push_back(std::make_unique<RawClient>(server_->port()));
    clients.back()->send("GET / HTTP/1.1\r\n\r\n");
    writers.emplace_back([responder = next_responder()] {
      responder.start_stream(200, "text/plain");
      for (int i = 0; i < 200; ++i) EXPECT_TRUE(responder.write("x").is_ok());
      responder.finish();
    });
  }
  for (auto& writer : writers) writer.join();
  for (auto& client : clients) {
    client->read_until("\r\n\r\n");
    std::size_t received = 0;
    for (const char c : client->read_until("0\r\n\r\n")) received += c == 'x' ? 1 : 0;
    EXPECT_EQ(received, 200U);
  }
}

}  // namespace
}  // namespace fulgur::http
