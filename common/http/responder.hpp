// The answer to one HTTP request: a handle that may be copied, kept and called from any thread.
// Either one whole response or a stream of chunks. When the last copy goes without an answer the
// client gets a 500 (or, inside a stream, a broken connection): a request never hangs.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/status.hpp"
#include "common/http/request.hpp"

namespace fulgur::http {

class Exchange;

class Responder {
 public:
  Responder() = default;
  explicit Responder(std::shared_ptr<Exchange> exchange);

  /// Sends one whole response. Ignored after the first respond() or start_stream().
  void respond(int status, std::string_view content_type, std::string body,
               std::vector<Header> headers = {}) const;

  /// Sends the head of a streamed response (chunked, or until close for HTTP/1.0).
  void start_stream(int status, std::string_view content_type,
                    std::vector<Header> headers = {}) const;

  /// `bytes` of the stream come at once, whatever the client's pace: it may leave as many more unread.
  void expect(std::size_t bytes) const;
  /// Queues bytes of the stream. resource_exhausted, and nothing is taken, when the client reads
  /// so slowly that its bounded buffer is full; unavailable when it is gone.
  Status write(std::string_view bytes) const;
  /// Ends the stream after what was written.
  void finish() const;
  /// Breaks the connection, so that the client sees a truncated stream.
  void abort() const;

  /// Calls back once, on the server's thread, when the client goes away before the answer is
  /// complete; at once when it already has. A half-closed connection counts as gone.
  void on_disconnect(std::function<void()> callback) const;
  bool disconnected() const;

 private:
  struct Guard;
  std::shared_ptr<Guard> guard_;
};

}  // namespace fulgur::http
