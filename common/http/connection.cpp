#include "common/http/connection.hpp"

#include <algorithm>
#include <utility>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/error.hpp>
#include <boost/beast/http/read.hpp>

#include "common/base/log.hpp"
#include "common/http/response_text.hpp"

namespace fulgur::http {
namespace asio = boost::asio;
namespace beast = boost::beast;
using boost::system::error_code;

namespace {

constexpr std::size_t kReadBytes = 16 * 1024;
constexpr std::size_t kLingerBytesMax = 64 * 1024 * 1024;
constexpr auto kLinger = std::chrono::seconds(2);
constexpr auto kHeaderTimeout = std::chrono::seconds(15);

auto into(error_code& ec) { return asio::redirect_error(asio::use_awaitable, ec); }

/// The status to answer a request that could not be read with; 0 when there is nobody to answer.
int status_of(const error_code& ec) {
  using beast::http::error;
  if (ec == error::body_limit) return 413;
  if (ec == error::header_limit) return 431;
  if (ec == error::end_of_stream) return 0;
  const bool parsing = ec.category() == beast::http::make_error_code(error::bad_target).category();
  return parsing ? 400 : 0;
}

std::string message_of(int status, const error_code& ec, const ServerOptions& options) {
  switch (status) {
    case 413: return fmt::format("the body is larger than {} bytes", options.body_bytes_max);
    case 431: return fmt::format("the header is larger than {} bytes", options.header_bytes_max);
    default: return "malformed HTTP request: " + ec.message();
  }
}

Request to_request(beast::http::request<beast::http::string_body> message, std::string peer) {
  Request request;
  request.method = std::string(message.method_string());
  request.target = std::string(message.target());
  for (const auto& field : message) {
    request.headers.push_back({std::string(field.name_string()), std::string(field.value())});
  }
  request.body = std::move(message.body());
  request.peer = std::move(peer);
  return request;
}

void run_handler(const Handler& handler, Request request, Responder responder) {
  try {
    handler(std::move(request), std::move(responder));
  } catch (const std::exception& failure) {
    log::error("http handler failed why=\"{}\"", failure.what());  // the responder answers 500
  }
}

}  // namespace

ErrorBody Core::error_body(int status, std::string_view message) const {
  if (options->error_body) return options->error_body(status, message);
  return {.body = std::string(message) + "\n"};
}

Connection::Connection(std::shared_ptr<Core> core, asio::ip::tcp::socket socket)
    : core_(std::move(core)), stream_(std::move(socket)), wake_(core_->io) {
  error_code ignored;
  stream_.socket().set_option(asio::ip::tcp::no_delay(true), ignored);
  const auto remote = stream_.socket().remote_endpoint(ignored);
  if (!ignored) peer_ = fmt::format("{}:{}", remote.address().to_string(), remote.port());
  core_->connections.insert(this);
  core_->connections_open.fetch_add(1);
}

Connection::~Connection() {
  core_->connections.erase(this);
  core_->connections_open.fetch_sub(1);
  if (core_->on_connection_closed) core_->on_connection_closed();
}

asio::awaitable<void> Connection::serve() {
  const auto self = shared_from_this();
  bool more = true;
  while (more) more = co_await serve_one();
  error_code ignored;
  stream_.socket().shutdown(asio::ip::tcp::socket::shutdown_both, ignored);
  stream_.close();
}

asio::awaitable<bool> Connection::serve_one() {
  Parser parser;
  parser.header_limit(static_cast<std::uint32_t>(core_->options->header_bytes_max));
  parser.body_limit(core_->options->body_bytes_max);
  ReadOutcome outcome = co_await read_request(parser);
  if (!outcome.ready) {
    if (outcome.status != 0) co_await refuse(outcome.status, std::move(outcome.message));
    co_return false;
  }
  co_return co_await answer(dispatch(parser));
}

asio::awaitable<Connection::ReadOutcome> Connection::read_request(Parser& parser) {
  const ServerOptions& options = *core_->options;
  error_code ec;
  if (buffer_.size() == 0) {
    if (*core_->draining) co_return ReadOutcome{};
    idle_ = true;
    stream_.expires_after(std::chrono::nanoseconds(options.idle_timeout));
    const std::size_t n = co_await stream_.async_read_some(buffer_.prepare(kReadBytes), into(ec));
    idle_ = false;
    if (ec) co_return ReadOutcome{};
    buffer_.commit(n);
  }
  stream_.expires_after(kHeaderTimeout);
  co_await beast::http::async_read_header(stream_, buffer_, parser, into(ec));
  if (!ec) {
    if (beast::iequals(parser.get()[beast::http::field::expect], "100-continue")) {
      constexpr std::string_view go_on = "HTTP/1.1 100 Continue\r\n\r\n";
      co_await asio::async_write(stream_, asio::buffer(go_on.data(), go_on.size()), into(ec));
    }
    stream_.expires_after(std::chrono::nanoseconds(options.body_timeout));
    if (!ec) co_await beast::http::async_read(stream_, buffer_, parser, into(ec));
  }
  if (!ec) co_return ReadOutcome{.ready = true, .status = 0, .message = {}};
  const int status = status_of(ec);
  co_return ReadOutcome{.ready = false, .status = status,
                        .message = message_of(status, ec, options)};
}

std::shared_ptr<Exchange> Connection::make_exchange(bool http_1_1, bool keep_alive,
                                                    bool head_only) {
  ExchangeContext context;
  context.options = core_->options;
  context.draining = core_->draining;
  context.post = [weak = std::weak_ptr<Core>(core_)](std::function<void()> work) {
    const auto core = weak.lock();
    if (core) asio::post(core->io, std::move(work));
    return core != nullptr;
  };
  context.wake = [weak = weak_from_this()] {
    if (const auto connection = weak.lock()) connection->wake();
  };
  context.http_1_1 = http_1_1;
  context.keep_alive = keep_alive;
  context.head_only = head_only;
  return std::make_shared<Exchange>(std::move(context));
}

std::shared_ptr<Exchange> Connection::dispatch(Parser& parser) {
  const bool http_1_1 = parser.get().version() >= 11;
  const bool keep_alive = parser.get().keep_alive();
  Request request = to_request(parser.release(), peer_);
  auto exchange = make_exchange(http_1_1, keep_alive, request.method == "HEAD");
  if (!parse_target(request.target, request.path, request.query)) {
    const ErrorBody error = core_->error_body(400, "malformed request target");
    exchange->respond(400, error.content_type, error.body, {});
    return exchange;
  }
  const Routes::Match match = core_->routes.find(request.method, request.path);
  if (match.route == nullptr) {
    answer_unrouted(*exchange, request.method, match);
    return exchange;
  }
  if (match.route->run_on == RunOn::server) {
    run_handler(match.route->handler, std::move(request), Responder(exchange));
  } else {
    asio::post(core_->workers, [&handler = match.route->handler, request = std::move(request),
                                responder = Responder(exchange)]() mutable {
      run_handler(handler, std::move(request), std::move(responder));
    });
  }
  return exchange;
}

void Connection::answer_unrouted(Exchange& exchange, const std::string& method,
                                 const Routes::Match& match) {
  if (match.allow.empty()) {
    const ErrorBody error = core_->error_body(404, "no such path");
    exchange.respond(404, error.content_type, error.body, {});
  } else if (method == "OPTIONS") {
    exchange.respond(204, "", "", {{"Allow", match.allow}});
  } else {
    const ErrorBody error = core_->error_body(405, method + " is not allowed here");
    exchange.respond(405, error.content_type, error.body, {{"Allow", match.allow}});
  }
}

asio::awaitable<bool> Connection::answer(std::shared_ptr<Exchange> exchange) {
  exchange_ = exchange;
  if (!exchange->complete()) {
    watching_ = true;
    asio::co_spawn(core_->io, watch(exchange), asio::detached);
  }
  const bool delivered = co_await write_out(*exchange);
  if (!delivered) exchange->disconnect();
  exchange->close();
  exchange_.reset();
  if (watching_) stream_.cancel();
  while (watching_) co_await wait_for_wake();
  const bool more = delivered && exchange->keep_alive() && stream_.socket().is_open();
  co_return more && !(*core_->draining && buffer_.size() == 0);
}

asio::awaitable<bool> Connection::write_out(Exchange& exchange) {
  for (;;) {
    while (!exchange.has_output() && !exchange.disconnected()) co_await wait_for_wake();
    if (exchange.disconnected()) co_return false;
    const Exchange::Output output = exchange.take();
    if (output.broken) co_return false;
    error_code ec;
    stream_.expires_after(std::chrono::nanoseconds(core_->options->write_timeout));
    co_await asio::async_write(stream_, asio::buffer(output.bytes), into(ec));
    if (ec) co_return false;
    exchange.sent();
    if (output.last) co_return true;
  }
}

/// Reads ahead while an answer is pending: a pipelined request is kept for later, the end of the
/// connection is told to whoever answers. Pausing at a full buffer bounds what a client can queue.
asio::awaitable<void> Connection::watch(std::shared_ptr<Exchange> exchange) {
  const auto self = shared_from_this();
  while (exchange == exchange_ && buffer_.size() < core_->options->header_bytes_max) {
    error_code ec;
    stream_.expires_never();
    const std::size_t n = co_await stream_.async_read_some(buffer_.prepare(kReadBytes), into(ec));
    if (ec) {
      // An answer that is already complete is still delivered to a half-closed client.
      if (ec != asio::error::operation_aborted && !exchange->complete()) exchange->disconnect();
      break;
    }
    buffer_.commit(n);
  }
  watching_ = false;
  wake();
}

asio::awaitable<void> Connection::wait_for_wake() {
  error_code ignored;
  wake_.expires_at(asio::steady_timer::time_point::max());
  co_await wake_.async_wait(into(ignored));
}

/// Answers a request that could not be read; the connection is unusable afterwards.
asio::awaitable<void> Connection::refuse(int status, std::string message) {
  auto exchange = make_exchange(true, false, false);
  const ErrorBody error = core_->error_body(status, message);
  exchange->respond(status, error.content_type, error.body, {});
  if (co_await write_out(*exchange)) co_await linger();
}

/// Closing with unread input would reset the connection and destroy the answer on its way.
asio::awaitable<void> Connection::linger() {
  error_code ec;
  stream_.socket().shutdown(asio::ip::tcp::socket::shutdown_send, ec);
  stream_.expires_after(kLinger);
  buffer_.clear();
  for (std::size_t total = 0; !ec && total < kLingerBytesMax;) {
    total += co_await stream_.async_read_some(buffer_.prepare(kReadBytes), into(ec));
  }
}

void Connection::close_if_idle() {
  if (idle_) stream_.close();
}

void Connection::break_off() {
  if (exchange_) exchange_->disconnect();
  stream_.close();
  wake();
}

asio::awaitable<void> refuse_connection(std::shared_ptr<Core> core, asio::ip::tcp::socket socket) {
  ++core->refusing;
  beast::tcp_stream stream(std::move(socket));
  const ErrorBody error = core->error_body(503, "too many connections");
  const std::vector<Header> headers{{"Retry-After", "1"}};
  const std::string text = format_head({.status = 503,
                                        .content_type = error.content_type,
                                        .headers = &headers,
                                        .keep_alive = false,
                                        .content_length = error.body.size()}) + error.body;
  error_code ec;
  stream.expires_after(kLinger);
  co_await asio::async_write(stream, asio::buffer(text), into(ec));
  if (!ec) stream.socket().shutdown(asio::ip::tcp::socket::shutdown_send, ec);
  beast::flat_buffer discarded;
  while (!ec) co_await stream.async_read_some(discarded.prepare(kReadBytes), into(ec));
  --core->refusing;
}

}  // namespace fulgur::http
