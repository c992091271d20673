// A Doorbell between threads of one process.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>

#include "common/transport/transport.hpp"

namespace fulgur::transport {

class ThreadBell final : public Doorbell {
 public:
  void ring() override {
    {
      const std::lock_guard lock(mutex_);
      if (std::exchange(rung_, true)) return;
    }
    wake_.notify_one();
  }

  void wait(Nanoseconds timeout) override {
    std::unique_lock lock(mutex_);
    wake_.wait_for(lock, std::chrono::nanoseconds(timeout), [this] { return rung_; });
    rung_ = false;
  }

 private:
  std::mutex mutex_;
  std::condition_variable wake_;
  bool rung_ = false;
};

}  // namespace fulgur::transport
