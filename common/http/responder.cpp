#include "common/http/responder.hpp"

#include <utility>

#include "common/http/exchange.hpp"

namespace fulgur::http {

/// Lives as long as anybody can still answer.
struct Responder::Guard {
  explicit Guard(std::shared_ptr<Exchange> held) : exchange(std::move(held)) {}
  ~Guard() { exchange->abandon(); }
  Guard(const Guard&) = delete;
  Guard& operator=(const Guard&) = delete;
  std::shared_ptr<Exchange> exchange;
};

Responder::Responder(std::shared_ptr<Exchange> exchange)
    : guard_(std::make_shared<Guard>(std::move(exchange))) {}

void Responder::respond(int status, std::string_view content_type, std::string body,
                        std::vector<Header> headers) const {
  if (guard_) guard_->exchange->respond(status, content_type, body, headers);
}

void Responder::start_stream(int status, std::string_view content_type,
                             std::vector<Header> headers) const {
  if (guard_) guard_->exchange->start_stream(status, content_type, headers);
}

void Responder::expect(std::size_t bytes) const {
  if (guard_) guard_->exchange->expect(bytes);
}

Status Responder::write(std::string_view bytes) const {
  if (!guard_) return {Code::failed_precondition, "no request"};
  return guard_->exchange->write(bytes);
}

void Responder::finish() const {
  if (guard_) guard_->exchange->finish();
}

void Responder::abort() const {
  if (guard_) guard_->exchange->abort();
}

void Responder::on_disconnect(std::function<void()> callback) const {
  if (guard_) guard_->exchange->on_disconnect(std::move(callback));
}

bool Responder::disconnected() const { return guard_ && guard_->exchange->disconnected(); }

}  // namespace fulgur::http
