#include "common/http/routes.hpp"

#include <gtest/gtest.h>

#include "common/http/request.hpp"
#include "common/http/response_text.hpp"

namespace fulgur::http {
namespace {

std::string found_by(const Routes& routes, std::string_view method, std::string_view path) {
  const auto match = routes.find(method, path);
  if (match.route == nullptr) return match.allow;
  match.route->handler(Request{}, Responder{});
  return "called";
}

TEST(Routes, ExactBeatsPrefixAndLongestPrefixWins) {
  std::string last;
  const auto named = [&last](std::string name) {
    return Routes::Route{[&last, name](const Request&, const Responder&) { last = name; }};
  };
  Routes routes;
  routes.add("GET", "/v1/models", named("list"));
  routes.add("GET", "/v1/models/*", named("one"));
  routes.add("GET", "/v1/*", named("any"));
  EXPECT_EQ(found_by(routes, "GET", "/v1/models"), "called");
  EXPECT_EQ(last, "list");
  found_by(routes, "GET", "/v1/models/org/name");
  EXPECT_EQ(last, "one");
  found_by(routes, "HEAD", "/v1/other");
  EXPECT_EQ(last, "any");
  EXPECT_EQ(found_by(routes, "POST", "/v1/models"), "GET, HEAD, OPTIONS");
  EXPECT_EQ(found_by(routes, "GET", "/v2"), "");
}

TEST(Target, SplitsAndDecodes) {
  std::string path;
  std::string query;
  ASSERT_TRUE(parse_target("/a%20b/%e2%82%AC?x=%20", path, query));
  EXPECT_EQ(path, "/a b/\xe2\x82\xac");
  EXPECT_EQ(query, "x=%20");
  ASSERT_TRUE(parse_target("/", path, query));
  EXPECT_EQ(query, "");
  for (const char* bad : {"", "a", "*", "http://host/", "/%", "/%4", "/%zz"}) {
    EXPECT_FALSE(parse_target(bad, path, query)) << bad;
  }
}

TEST(Request, HeaderNamesIgnoreCase) {
  Request request;
  request.headers = {{"Authorization", "Bearer x"}, {"authorization", "second"}};
  EXPECT_EQ(request.header("AUTHORIZATION"), "Bearer x");
  EXPECT_EQ(request.header("Accept"), "");
}

TEST(ResponseText, HeadersCannotBreakOut) {
  const std::vector<Header> headers{{"X-Name", "a\r\nInjected: b"}};
  const std::string head = format_head({.content_type = "text/plain", .headers = &headers});
  EXPECT_EQ(head,
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-Name: aInjected: b\r\n"
            "Content-Length: 0\r\n\r\n");
}

TEST(ResponseText, ChunksAreFramedInHexadecimal) {
  std::string out;
  append_chunk(out, std::string(26, 'x'));
  EXPECT_EQ(out, "1a\r\n" + std::string(26, 'x') + "\r\n");
}

}  // namespace
}  // namespace fulgur::http
