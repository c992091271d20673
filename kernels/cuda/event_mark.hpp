// A backend's mark on a GPU: an event of its stream. Events are reused, since making one costs as
// much as a launch. Any thread.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>
#include <mutex>
#include <vector>

#include "kernels/include/fulgur/kernels/backend.hpp"

namespace fulgur::kernels::cuda {

class EventPool {
 public:
  EventPool() = default;
  ~EventPool();
  EventPool(const EventPool&) = delete;
  EventPool& operator=(const EventPool&) = delete;

  /// An event of the current device; throws CudaFailure.
  cudaEvent_t take();
  void give_back(cudaEvent_t event);

 private:
  std::mutex mutex_;
  std::vector<cudaEvent_t> free_;
};

class EventMark final : public Mark {
 public:
  static std::shared_ptr<const Mark> record(const std::shared_ptr<EventPool>& events,
                                            cudaStream_t stream);

  EventMark(std::shared_ptr<EventPool> events, cudaEvent_t event)
      : events_(std::move(events)), event_(event) {}
  ~EventMark() override { events_->give_back(event_); }
  EventMark(const EventMark&) = delete;
  EventMark& operator=(const EventMark&) = delete;

  bool reached() const override { return cudaEventQuery(event_) != cudaErrorNotReady; }
  void wait() const override { (void)cudaEventSynchronize(event_); }
  Nanoseconds since(const Mark& earlier) const override;
  void* event() const override { return event_; }

 private:
  const std::shared_ptr<EventPool> events_;
  const cudaEvent_t event_;
};

}  // namespace fulgur::kernels::cuda
