#include "common/transport/loopback.hpp"

#include <chrono>
#include <condition_variable>
#include <mutex>

namespace fulgur::transport {
namespace {

constexpr LinkId kLink = 1;

}  // namespace

class LoopbackTransport::LocalDoorbell final : public Doorbell {
 public:
  void ring() override {
    {
      const std::lock_guard lock(mutex_);
      rung_ = true;
    }
    changed_.notify_one();
  }
  void wait(Nanoseconds timeout) override {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::nanoseconds(timeout), [this] { return rung_; });
    rung_ = false;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool rung_ = false;
};

LoopbackTransport::LoopbackTransport(Identity identity, std::size_t queue_max)
    : identity_(std::move(identity)),
      queue_max_(queue_max),
      doorbell_(std::make_unique<LocalDoorbell>()) {}

LoopbackTransport::~LoopbackTransport() = default;

Result<LinkId> LoopbackTransport::connect(const std::string& endpoint, Carrier) {
  if (endpoint != kEndpoint) return error(Code::invalid_argument, "not a loopback: {}", endpoint);
  open_ = true;
  announce_ = true;
  return kLink;
}

Status LoopbackTransport::send(LinkId link, wire::Frames frames) {
  if (!open_ || link != kLink) return error(Code::unavailable, "the loopback link is closed");
  if (queue_.size() >= queue_max_) {
    ++stats_.refused_busy;
    return error(Code::resource_exhausted, "the loopback queue is full");
  }
  ++stats_.messages_sent;
  for (const auto& frame : frames) stats_.bytes_sent += frame.size;
  queue_.push_back(std::move(frames));
  return Status::ok();
}

void LoopbackTransport::close(LinkId) {
  open_ = false;
  queue_.clear();
}

std::size_t LoopbackTransport::poll(Handler& handler, std::size_t max_events) {
  std::size_t events = 0;
  if (announce_) {
    announce_ = false;
    ++events;
    handler.on_link_up(kLink, {identity_.kind, identity_.name, identity_.incarnation, Carrier::inproc});
  }
  while (events < max_events && !queue_.empty()) {
    wire::Frames frames = std::move(queue_.front());
    queue_.pop_front();
    ++events;
    ++stats_.messages_received;
    for (const auto& frame : frames) stats_.bytes_received += frame.size;
    handler.on_message(kLink, std::move(frames));
  }
  return events;
}

Doorbell& LoopbackTransport::doorbell() { return *doorbell_; }

}  // namespace fulgur::transport
