#include "kernels/cuda/stream_graph.hpp"

#include <algorithm>
#include <exception>
#include <mutex>

namespace fulgur::kernels::cuda {
namespace {

class StreamGraph final : public Graph {
 public:
  StreamGraph(cudaGraphExec_t graph, cudaStream_t stream) : graph_(graph), stream_(stream) {}
  /// A graph that is still running is freed when it ends.
  ~StreamGraph() override { (void)cudaGraphExecDestroy(graph_); }
  StreamGraph(const StreamGraph&) = delete;
  StreamGraph& operator=(const StreamGraph&) = delete;

  bool launch() override {
    const cudaError_t status = cudaGraphLaunch(graph_, stream_);
    if (status == cudaErrorMemoryAllocation) {
      (void)cudaGetLastError();  // the next launch must not find it
      return false;
    }
    check(status, "graph");
    return true;
  }
  std::size_t bytes() const override { return bytes_; }
  void took(std::size_t bytes) { bytes_ = bytes; }

 private:
  const cudaGraphExec_t graph_;
  const cudaStream_t stream_;
  std::size_t bytes_ = 0;
};

/// Bytes that the driver would still give.
std::size_t free_bytes() {
  std::size_t free = 0, total = 0;
  if (cudaMemGetInfo(&free, &total) == cudaSuccess) return free;
  (void)cudaGetLastError();  // the next launch must not find it
  return 0;
}

/// The launches as a graph, or null.
cudaGraph_t capture(cudaStream_t stream, const std::function<void()>& launches) {
  // Thread-local: other threads of this process go on asking the driver for memory.
  if (cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) != cudaSuccess) {
    (void)cudaGetLastError();  // the next launch must not find it
    return nullptr;
  }
  bool launched = true;
  try {
    launches();
  } catch (const std::exception&) {  // launched one by one, they say it again
    launched = false;
  }
  cudaGraph_t graph = nullptr;
  const cudaError_t ended = cudaStreamEndCapture(stream, &graph);
  if (ended == cudaSuccess && launched) return graph;
  (void)cudaGetLastError();
  if (graph != nullptr) (void)cudaGraphDestroy(graph);
  return nullptr;
}

}  // namespace

std::unique_ptr<Graph> record_graph(Workspace& work, const std::function<void()>& launches) {
  const std::size_t free_before = free_bytes();
  if (free_before < kGraphsLeaveBytes) return nullptr;
  cudaGraph_t graph = nullptr;
  {
    // A wait of another thread's for this stream would fail while it records, and not have waited.
    const std::unique_lock<std::mutex> nobody_waits = work.memory().try_to_stop_waits();
    if (!nobody_waits.owns_lock()) return nullptr;
    graph = capture(work.stream(), launches);
  }
  if (graph == nullptr) return nullptr;
  cudaGraphExec_t ready = nullptr;
  cudaError_t status = cudaGraphInstantiate(&ready, graph, 0);
  (void)cudaGraphDestroy(graph);
  if (status == cudaSuccess) {
    auto made = std::make_unique<StreamGraph>(ready, work.stream());
    // Now, so that what it takes of the device is refused here and not at its first launch.
    status = cudaGraphUpload(ready, work.stream());
    if (status == cudaSuccess) {
      made->took(free_before - std::min(free_before, free_bytes()));
      return made;
    }
  }
  (void)cudaGetLastError();  // the next launch must not find it
  return nullptr;
}

}  // namespace fulgur::kernels::cuda
