// A blocking socket that speaks bytes, so that tests decide exactly what is on the wire.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace fulgur::http::testing {

class RawClient {
 public:
  /// receive_buffer_bytes > 0 shrinks the socket's buffer, for a client that reads slowly.
  explicit RawClient(std::uint16_t port, int receive_buffer_bytes = 0);
  ~RawClient();
  RawClient(const RawClient&) = delete;
  RawClient& operator=(const RawClient&) = delete;

  void send(std::string_view bytes);
  /// What is there, at least one byte; empty at the end of the stream or on a reset.
  std::string read_some();
  /// Reads until everything received contains `mark`, or to the end; returns it all.
  std::string read_until(std::string_view mark);
  std::string read_to_end();
  /// One response with Content-Length: status line to last byte of the body.
  std::string read_response(bool head = false);
  void half_close();
  void close();

 private:
  int fd_ = -1;
  std::string received_;
};

}  // namespace fulgur::http::testing
