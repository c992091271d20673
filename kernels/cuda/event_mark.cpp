#include "kernels/cuda/event_mark.hpp"

#include "kernels/cuda/device_memory.hpp"

namespace fulgur::kernels::cuda {

EventPool::~EventPool() {
  for (const cudaEvent_t event : free_) (void)cudaEventDestroy(event);
}

cudaEvent_t EventPool::take() {
  {
    const std::lock_guard lock(mutex_);
    if (!free_.empty()) {
      const cudaEvent_t event = free_.back();
      free_.pop_back();
      return event;
    }
  }
  cudaEvent_t event = nullptr;
  check(cudaEventCreate(&event), "cudaEventCreate");
  return event;
}

void EventPool::give_back(cudaEvent_t event) {
  const std::lock_guard lock(mutex_);
  free_.push_back(event);
}

std::shared_ptr<const Mark> EventMark::record(const std::shared_ptr<EventPool>& events,
                                              cudaStream_t stream) {
  auto mark = std::make_shared<const EventMark>(events, events->take());
  check(cudaEventRecord(mark->event_, stream), "cudaEventRecord");
  return mark;
}

Nanoseconds EventMark::since(const Mark& earlier) const {
  float milliseconds = 0;
  const auto start = static_cast<cudaEvent_t>(earlier.event());
  if (cudaEventElapsedTime(&milliseconds, start, event_) != cudaSuccess) {
    (void)cudaGetLastError();  // not reached yet; the next launch must not find it
    return 0;
  }
  return static_cast<Nanoseconds>(static_cast<double>(milliseconds) * kMillisecond);
}

}  // namespace fulgur::kernels::cuda
