// A bounded HTTP/1.1 server for APIs and admin endpoints: one thread, coroutines, keep-alive and
// pipelining, streamed responses with back-pressure, disconnects seen at once, graceful shutdown.
//
// Thread contract: handlers run on the server's thread and must not block (or on a worker thread, if
// they ask for it); they answer now or keep the Responder and answer later from any thread.
// handle() only before start().
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "common/base/clock.hpp"
#include "common/base/status.hpp"
#include "common/http/request.hpp"
#include "common/http/responder.hpp"

namespace fulgur::http {

using Handler = std::function<void(Request request, Responder responder)>;

struct ErrorBody {
  std::string content_type = "text/plain; charset=utf-8";
  std::string body;
};
/// Body of an error the server itself answers: 400, 404, 405, 413, 431, 500, 503.
using ErrorFormatter = std::function<ErrorBody(int status, std::string_view message)>;

struct ServerOptions {
  std::size_t connections_max = 1024;  ///< more are answered 503 and closed
  std::size_t header_bytes_max = 32 * 1024;
  std::size_t body_bytes_max = 8 * 1024 * 1024;
  std::size_t stream_buffer_bytes_max = 1024 * 1024;  ///< per stream, not yet read by the client; see Responder::expect
  std::size_t worker_threads = 1;  ///< run the handlers marked RunOn::worker
  Nanoseconds idle_timeout = 75 * kSecond;     ///< from one request to the header of the next
  Nanoseconds body_timeout = 60 * kSecond;     ///< for a whole body
  Nanoseconds write_timeout = 30 * kSecond;    ///< without progress towards the client
  ErrorFormatter error_body = {};              ///< plain text when empty
};

/// Where a handler runs: on the server's thread, which it must not block, or on a worker thread,
/// which may take its time.
enum class RunOn { server, worker };

class Server {
 public:
  /// Binds; port 0 takes any. invalid_argument or unavailable naming host and port.
  static Result<std::unique_ptr<Server>> listen(const std::string& host, std::uint16_t port,
                                                ServerOptions options = {});
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  /// `path` is exact, or a prefix when it ends in '*'; the longest match wins. GET handlers answer
  /// HEAD too; OPTIONS and wrong methods are answered by the server.
  void handle(std::string_view method, std::string_view path, Handler handler,
              RunOn run_on = RunOn::server);

  /// Starts accepting, on a thread of the server's own.
  void start();

  std::uint16_t port() const;
  /// "127.0.0.1:8000".
  std::string endpoint() const;
  std::size_t connections() const;

  /// Stops accepting, closes idle connections, lets running requests finish for at most `deadline`,
  /// then breaks what is left and joins the thread. Returns whether all finished. Not from a
  /// handler.
  bool shutdown(Nanoseconds deadline);

 private:
  struct Impl;
  explicit Server(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace fulgur::http
