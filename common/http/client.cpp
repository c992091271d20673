#include "common/http/client.hpp"

#include <charconv>
#include <chrono>
#include <memory>
#include <utility>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/beast/http/write.hpp>

namespace fulgur::http {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
using boost::system::error_code;

constexpr std::size_t kAnswerBytesMax = 64 * 1024;
constexpr auto kSlice = std::chrono::milliseconds(20);

/// One request in progress. The coroutine holds it, so it may outlive a caller that gave up.
struct Post {
  BaseUrl base;
  beast::http::request<beast::http::string_body> request;
  Result<Answer> result = Status(Code::unavailable, "not answered");
  bool resolving = true;
  bool done = false;
};

Status failure(const char* what, const error_code& ec) {
  return error(Code::unavailable, "{}: {}", what, ec.message());
}

asio::awaitable<Result<Answer>> run(Post& post, asio::io_context& io) {
  error_code ec;
  auto to_error = asio::redirect_error(asio::use_awaitable, ec);
  asio::ip::tcp::resolver resolver(io);
  const auto places =
      co_await resolver.async_resolve(post.base.host, std::to_string(post.base.port), to_error);
  post.resolving = false;
  if (ec) co_return failure("cannot resolve", ec);
  beast::tcp_stream stream(io);
  co_await stream.async_connect(places, to_error);
  if (ec) co_return failure("cannot connect", ec);
  co_await beast::http::async_write(stream, post.request, to_error);
  if (ec) co_return failure("cannot send", ec);
  beast::http::response_parser<beast::http::string_body> parser;
  parser.body_limit(kAnswerBytesMax);
  beast::flat_buffer buffer;
  co_await beast::http::async_read(stream, buffer, parser, to_error);
  if (ec) co_return failure("no answer", ec);
  co_return Answer{static_cast<int>(parser.get().result_int()), std::move(parser.get().body())};
}

asio::awaitable<void> run_into(std::shared_ptr<Post> post, asio::io_context& io) {
  post->result = co_await run(*post, io);
  post->done = true;
}

bool valid_character(char c) { return c > ' ' && c <= '~' && c != '"' && c != '\\'; }

}  // namespace

Result<BaseUrl> parse_base_url(std::string_view text) {
  constexpr std::string_view kScheme = "http://";
  const auto bad = [&](std::string_view why) {
    return error(Code::invalid_argument, "'{}' {}", text, why);
  };
  if (!text.starts_with(kScheme)) return bad("does not begin with http://");
  for (const char c : text)
    if (!valid_character(c)) return bad("has a character that no address has");
  std::string_view rest = text.substr(kScheme.size());
  BaseUrl url;
  const std::size_t slash = std::min(rest.find('/'), rest.size());
  url.path = rest.substr(slash);
  while (url.path.ends_with('/')) url.path.pop_back();
  if (url.path.find_first_of("?#") != std::string::npos) return bad("has a query or fragment");
  std::string_view place = rest.substr(0, slash);
  if (place.find_first_of("@?#") != std::string_view::npos) return bad("is not http://host:port");
  // A colon inside the brackets of an IPv6 address is not the port's.
  const std::size_t colon = place.ends_with(']') ? std::string_view::npos : place.rfind(':');
  if (colon != std::string_view::npos) {
    const std::string_view digits = place.substr(colon + 1);
    const auto [end, ec] = std::from_chars(digits.data(), digits.data() + digits.size(), url.port);
    if (ec != std::errc() || end != digits.data() + digits.size() || url.port == 0)
      return bad("has no port from 1 to 65535");
    place = place.substr(0, colon);
  }
  if (place.starts_with('[') && place.ends_with(']')) place = place.substr(1, place.size() - 2);
  if (place.empty()) return bad("names no host");
  url.host = place;
  return url;
}

Result<Answer> post_json(const BaseUrl& base, std::string_view path, std::string json,
                         const std::function<Patience()>& patience) {
  auto post = std::make_shared<Post>();
  post->base = base;
  auto& request = post->request;
  request = {beast::http::verb::post, base.path + std::string(path), 11, std::move(json)};
  const bool ipv6 = base.host.find(':') != std::string::npos;
  request.set(beast::http::field::host,
              fmt::format(fmt::runtime(ipv6 ? "[{}]:{}" : "{}:{}"), base.host, base.port));
  request.set(beast::http::field::content_type, "application/json");
  request.set(beast::http::field::user_agent, "fulgur");
  request.keep_alive(false);
  request.prepare_payload();
  auto io = std::make_unique<asio::io_context>(1);
  asio::co_spawn(*io, run_into(post, *io), asio::detached);
  while (!post->done && patience() == Patience::wait) io->run_for(kSlice);
  if (post->done) return std::move(post->result);
  // An io_context waits for its resolver's thread, which may hang in getaddrinfo().
  if (post->resolving && patience() == Patience::abandon) static_cast<void>(io.release());
  return error(Code::deadline_exceeded, "no answer in time");
}

}  // namespace fulgur::http
