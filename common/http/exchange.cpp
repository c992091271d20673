#include "common/http/exchange.hpp"

#include <utility>

#include "common/http/response_text.hpp"

namespace fulgur::http {

void Exchange::schedule_wake() {
  if (wake_posted_ || gone_) return;
  wake_posted_ = context_.post([self = shared_from_this()] {
    {
      const std::lock_guard lock(self->mutex_);
      self->wake_posted_ = false;
    }
    self->context_.wake();
  });
}

void Exchange::respond(int status, std::string_view content_type, std::string_view body,
                       const std::vector<Header>& headers) {
  const std::lock_guard lock(mutex_);
  if (phase_ != Phase::waiting) return;
  keep_alive_ = context_.keep_alive && !context_.draining->load();
  output_ = format_head({.status = status,
                         .content_type = content_type,
                         .headers = &headers,
                         .http_1_1 = context_.http_1_1,
                         .keep_alive = keep_alive_,
                         .content_length = body.size()});
  if (!context_.head_only && status != 204) output_ += body;
  phase_ = Phase::complete;
  schedule_wake();
}

void Exchange::start_stream(int status, std::string_view content_type,
                            const std::vector<Header>& headers) {
  const std::lock_guard lock(mutex_);
  if (phase_ != Phase::waiting) return;
  chunked_ = context_.http_1_1;
  keep_alive_ = chunked_ && context_.keep_alive && !context_.draining->load();
  output_ = format_head({.status = status,
                         .content_type = content_type,
                         .headers = &headers,
                         .http_1_1 = context_.http_1_1,
                         .keep_alive = keep_alive_,
                         .chunked = chunked_,
                         .has_length = false});
  phase_ = Phase::streaming;
  schedule_wake();
}

void Exchange::expect(std::size_t bytes) {
  const std::lock_guard lock(mutex_);
  expected_bytes_ += bytes;
}

Status Exchange::write(std::string_view bytes) {
  if (gone_) return {Code::unavailable, "the client is gone"};
  const std::lock_guard lock(mutex_);
  if (phase_ != Phase::streaming) return {Code::failed_precondition, "no stream is open"};
  if (bytes.empty() || context_.head_only) return Status::ok();
  const std::size_t most = context_.options->stream_buffer_bytes_max + expected_bytes_;
  if (output_.size() + in_flight_ + bytes.size() > most) {
    return {Code::resource_exhausted, "the client reads too slowly"};
  }
  if (chunked_) {
    append_chunk(output_, bytes);
  } else {
    output_ += bytes;
  }
  schedule_wake();
  return Status::ok();
}

void Exchange::finish() {
  const std::lock_guard lock(mutex_);
  if (phase_ != Phase::streaming) return;
  if (chunked_ && !context_.head_only) output_ += kLastChunk;
  phase_ = Phase::complete;
  schedule_wake();
}

void Exchange::abort() {
  const std::lock_guard lock(mutex_);
  if (phase_ == Phase::complete) return;
  phase_ = Phase::complete;
  broken_ = true;
  schedule_wake();
}

void Exchange::abandon() {
  {
    const std::lock_guard lock(mutex_);
    if (phase_ == Phase::complete) return;
  }
  constexpr std::string_view message = "the request ended without an answer";
  const auto& format = context_.options->error_body;
  const ErrorBody error = format ? format(500, message) : ErrorBody{.body = std::string(message)};
  respond(500, error.content_type, error.body, {});
  abort();
}

void Exchange::on_disconnect(std::function<void()> callback) {
  {
    const std::lock_guard lock(mutex_);
    if (!gone_) {
      on_disconnect_ = std::move(callback);
      return;
    }
  }
  if (!context_.post(callback)) callback();
}

bool Exchange::has_output() const {
  const std::lock_guard lock(mutex_);
  return !output_.empty() || phase_ == Phase::complete;
}

bool Exchange::complete() const {
  const std::lock_guard lock(mutex_);
  return phase_ == Phase::complete;
}

Exchange::Output Exchange::take() {
  const std::lock_guard lock(mutex_);
  Output taken{std::exchange(output_, {}), phase_ == Phase::complete, broken_};
  in_flight_ = taken.bytes.size();
  return taken;
}

void Exchange::sent() {
  const std::lock_guard lock(mutex_);
  in_flight_ = 0;
}

void Exchange::disconnect() {
  std::function<void()> callback;
  {
    const std::lock_guard lock(mutex_);
    if (gone_.exchange(true)) return;
    callback = std::exchange(on_disconnect_, nullptr);
    output_.clear();
  }
  if (callback) callback();
}

void Exchange::close() {
  std::function<void()> callback;
  const std::lock_guard lock(mutex_);
  callback.swap(on_disconnect_);
}

bool Exchange::keep_alive() const {
  const std::lock_guard lock(mutex_);
  return keep_alive_ && !broken_;
}

}  // namespace fulgur::http
