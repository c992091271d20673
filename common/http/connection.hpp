// One client connection: reads requests one after the other, dispatches them, writes the answers,
// and listens for the client's departure meanwhile. Lives on the server's thread only.
#pragma once

#include <algorithm>
#include <atomic>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>

#include "common/http/exchange.hpp"
#include "common/http/routes.hpp"

namespace fulgur::http {

class Connection;

/// What the connections of a server share.
struct Core {
  explicit Core(ServerOptions server_options)
      : options(std::make_shared<const ServerOptions>(std::move(server_options))),
        draining(std::make_shared<std::atomic<bool>>(false)),
        workers(std::max<std::size_t>(options->worker_threads, 1)) {}

  ErrorBody error_body(int status, std::string_view message) const;

  boost::asio::io_context io{1};
  std::shared_ptr<const ServerOptions> options;
  std::shared_ptr<std::atomic<bool>> draining;
  boost::asio::thread_pool workers;
  Routes routes;
  std::set<Connection*> connections;
  std::atomic<std::size_t> connections_open{0};
  std::size_t refusing = 0;  ///< connections over the limit being told so
  std::function<void()> on_connection_closed;
};

class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(std::shared_ptr<Core> core, boost::asio::ip::tcp::socket socket);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  /// Serves until the connection ends.
  boost::asio::awaitable<void> serve();
  /// Closes now if no request is being read or answered.
  void close_if_idle();
  /// Breaks the connection, whatever it does.
  void break_off();

 private:
  using Parser = boost::beast::http::request_parser<boost::beast::http::string_body>;
  /// How reading a request ended: ready, the connection is over, or an error status to answer.
  struct ReadOutcome {
    bool ready = false;
    int status = 0;
    std::string message;
  };

  boost::asio::awaitable<bool> serve_one();
  boost::asio::awaitable<ReadOutcome> read_request(Parser& parser);
  boost::asio::awaitable<bool> answer(std::shared_ptr<Exchange> exchange);
  boost::asio::awaitable<bool> write_out(Exchange& exchange);
  boost::asio::awaitable<void> watch(std::shared_ptr<Exchange> exchange);
  boost::asio::awaitable<void> wait_for_wake();
  boost::asio::awaitable<void> refuse(int status, std::string message);
  boost::asio::awaitable<void> linger();
  std::shared_ptr<Exchange> dispatch(Parser& parser);
  std::shared_ptr<Exchange> make_exchange(bool http_1_1, bool keep_alive, bool head_only);
  void answer_unrouted(Exchange& exchange, const std::string& method, const Routes::Match& match);
  void wake() { wake_.cancel(); }

  std::shared_ptr<Core> core_;
  boost::beast::tcp_stream stream_;
  boost::beast::flat_buffer buffer_;
  boost::asio::steady_timer wake_;
  std::string peer_;
  std::shared_ptr<Exchange> exchange_;
  bool idle_ = false;
  bool watching_ = false;
};

/// Tells a client over the connection limit to come back later.
boost::asio::awaitable<void> refuse_connection(std::shared_ptr<Core> core,
                                               boost::asio::ip::tcp::socket socket);

}  // namespace fulgur::http
