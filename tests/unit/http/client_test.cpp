// Addresses as they are given on a command line, and posts to servers of every manner.
#include "common/http/client.hpp"

#include <gtest/gtest.h>

#include "common/http/server.hpp"

namespace fulgur::http {
namespace {

Patience wait() { return Patience::wait; }

TEST(BaseUrl, ReadsHostPortAndPath) {
  struct Case {
    const char* text;
    const char* host;
    std::uint16_t port;
    const char* path;
  };
  for (const Case& each :
       {Case{"http://collector:4318", "collector", 4318, ""},
        Case{"http://10.0.0.1", "10.0.0.1", 80, ""}, Case{"http://h:1/", "h", 1, ""},
        Case{"http://h:65535/a/b//", "h", 65535, "/a/b"},
        Case{"http://[::1]:4318/x", "::1", 4318, "/x"},
        Case{"http://[fe80::1]", "fe80::1", 80, ""}}) {
    const auto url = parse_base_url(each.text);
    ASSERT_TRUE(url.is_ok()) << each.text << ": " << url.status().message();
    EXPECT_EQ(url->host, each.host);
    EXPECT_EQ(url->port, each.port);
    EXPECT_EQ(url->path, each.path);
  }
}

TEST(BaseUrl, RefusesEverythingElse) {
  for (const char* const bad :
       {"", "collector:4318", "https://collector:4318", "http://", "http://:4318",
        "http://h:", "http://h:0", "http://h:65536", "http://h:4x", "http://h:-1", "http://h:43 18",
        "http://user@h:1", "http://h:1/a?b", "http://h:1/#a", "http://h\n:1", "http://h\"",
        "http://[]:1"}) {
    const auto url = parse_base_url(bad);
    ASSERT_FALSE(url.is_ok()) << bad;
    EXPECT_EQ(url.status().code(), Code::invalid_argument);
  }
}

TEST(PostJson, BringsTheAnswer) {
  auto server = std::move(*Server::listen("127.0.0.1", 0));
  server->handle("POST", "/base/echo", [](const Request& request, const Responder& responder) {
    EXPECT_EQ(request.header("Content-Type"), "application/json");
    responder.respond(418, "text/plain", request.body);
  });
  server->start();
  const std::string body(300'000, 'x');
  const BaseUrl base{"localhost", server->port(), "/base"};
  auto answer = post_json(base, "/echo", "{\"a\":1}", wait);
  ASSERT_TRUE(answer.is_ok()) << answer.status().message();
  EXPECT_EQ(answer->status, 418);
  EXPECT_EQ(answer->body, "{\"a\":1}");
  answer = post_json(base, "/echo", body, wait);
  EXPECT_EQ(answer.status().code(), Code::unavailable) << "the answer is larger than is taken";
}

TEST(PostJson, SaysWhyThereIsNoAnswer) {
  std::uint16_t port = 0;
  {
    auto server = std::move(*Server::listen("127.0.0.1", 0));
    port = server->port();
  }
  EXPECT_EQ(post_json({"127.0.0.1", port, ""}, "/", "{}", wait).status().code(), Code::unavailable);
  EXPECT_EQ(post_json({"no-such-host.invalid", 1, ""}, "/", "{}", wait).status().code(),
            Code::unavailable);
}

TEST(PostJson, EndsWithItsCallersPatience) {
  auto server = std::move(*Server::listen("127.0.0.1", 0));
  Responder kept;
  server->handle("POST", "/",
                 [&](const Request&, const Responder& responder) { kept = responder; });
  server->start();
  for (const Patience last : {Patience::give_up, Patience::abandon}) {
    int asked = 0;
    const auto answer = post_json({"127.0.0.1", server->port(), ""}, "/", "{}",
                                  [&] { return ++asked < 3 ? Patience::wait : last; });
    EXPECT_EQ(answer.status().code(), Code::deadline_exceeded);
  }
  server->shutdown(0);
}

}  // namespace
}  // namespace fulgur::http
