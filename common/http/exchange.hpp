// One request's answer on its way from any thread to the connection: a bounded buffer of response
// bytes, and the client's disappearance on its way back. Every method is thread-safe.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "common/http/server.hpp"

namespace fulgur::http {

/// What an exchange needs of its connection and server; it may outlive both.
struct ExchangeContext {
  std::shared_ptr<const ServerOptions> options;
  std::shared_ptr<const std::atomic<bool>> draining;
  /// Runs work on the server's thread; false when the server is gone.
  std::function<bool(std::function<void()>)> post;
  std::function<void()> wake;  ///< output is waiting; called through post
  bool http_1_1 = true;
  bool keep_alive = true;
  bool head_only = false;  ///< HEAD: no body
};

class Exchange : public std::enable_shared_from_this<Exchange> {
 public:
  explicit Exchange(ExchangeContext context) : context_(std::move(context)) {}

  // The responder's side.
  void respond(int status, std::string_view content_type, std::string_view body,
               const std::vector<Header>& headers);
  void start_stream(int status, std::string_view content_type, const std::vector<Header>& headers);
  void expect(std::size_t bytes);
  Status write(std::string_view bytes);
  void finish();
  void abort();
  /// Nobody can answer any more.
  void abandon();
  void on_disconnect(std::function<void()> callback);
  bool disconnected() const { return gone_.load(); }

  // The connection's side.
  struct Output {
    std::string bytes;
    bool last = false;   ///< nothing follows
    bool broken = false; ///< close without completing the response
  };
  bool has_output() const;
  bool complete() const;
  /// What is waiting; counts against the bound until sent().
  Output take();
  void sent();
  /// The client is gone: tells the callback, refuses further output.
  void disconnect();
  /// The answer is delivered: forgets the callback.
  void close();
  bool keep_alive() const;

 private:
  enum class Phase { waiting, streaming, complete };
  void schedule_wake();  // requires mutex_

  const ExchangeContext context_;
  std::atomic<bool> gone_{false};
  mutable std::mutex mutex_;
  Phase phase_ = Phase::waiting;
  bool chunked_ = false;
  bool keep_alive_ = true;
  bool broken_ = false;
  bool wake_posted_ = false;
  std::string output_;
  std::size_t in_flight_ = 0;
  std::size_t expected_bytes_ = 0;  ///< beyond what a client may leave unread
  std::function<void()> on_disconnect_;
};

}  // namespace fulgur::http
