// A small blocking HTTP client (libcurl inside, kept out of this header) and a reader of
// server-sent events. For the command line's own use against a mesh; one thread a client.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "common/base/clock.hpp"
#include "common/base/status.hpp"

namespace fulgur::cli {

struct HttpResponse {
  int status = 0;
  std::string body;
};

class HttpClient {
 public:
  /// `base` is "http://host:port".
  explicit HttpClient(std::string base);
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  /// A line that goes with every post, e.g. "traceparent: 00-…".
  void add_header(const std::string& line);

  /// unavailable when nobody answers, deadline_exceeded after `timeout`. Any HTTP status is a
  /// value.
  Result<HttpResponse> get(const std::string& path, Nanoseconds timeout);
  Result<HttpResponse> post(const std::string& path, const std::string& json, Nanoseconds timeout);

  /// Posts and hands over the body as it arrives; a false from `on_bytes` ends the request
  /// (cancelled). A status other than 200 collects the body instead. Fails when nothing arrives for
  /// `silence`.
  Result<HttpResponse> post_stream(const std::string& path, const std::string& json,
                                   Nanoseconds silence,
                                   std::function<bool(std::string_view bytes)> on_bytes);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Cuts a byte stream into the `data:` payloads of server-sent events.
class SseReader {
 public:
  explicit SseReader(std::function<void(std::string_view data)> on_data)
      : on_data_(std::move(on_data)) {}
  void feed(std::string_view bytes);

 private:
  void line(std::string_view text);

  std::function<void(std::string_view)> on_data_;
  std::string partial_;
  std::string data_;
};

}  // namespace fulgur::cli
